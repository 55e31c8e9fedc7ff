"""Several conditions in one union network, each with an image and a weight of its own."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, apply, picture, randomise
from controlnet_pp.tests.host.residuals import evaluations
from safetensors.torch import save_file

CLOSE = 2e-4
# The host's union network is 320 channels wide whatever its layout says.
UNION = TINY | {
    "model_channels": 320,
    "channel_mult": [1],
    "num_res_blocks": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "num_head_channels": 64,
    "num_heads": -1,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 64 + 6 * 256,
}
DEPTH, CANNY, TILE = 1, 3, 6


def union_file(host, types):
    path = host.controlnets / f"union_{types}.safetensors"
    if not path.exists():
        network = randomise(host.network(UNION, union_controlnet_num_control_type=types), seed=1)
        save_file(network.state_dict(), path)
    return path.name


def loaded(host, types=8):
    name = union_file(host, types)
    load = lambda: host.call("CNPP_LoadControlNet", control_net_name=name, dtype="auto")[0]  # noqa: E731
    return host.once(("union", types), load)


def hosts_own(host, types=8):
    """The host's own union control with the weights of the same file."""
    import comfy.controlnet
    from comfy import model_management

    def make():
        network = randomise(host.network(UNION, union_controlnet_num_control_type=types), seed=1)
        device = model_management.get_torch_device()
        return comfy.controlnet.ControlNet(network, load_device=device)

    return host.once(("host's union", types), make)


def typed(host, control, kind, weight=1.0, image=None):
    names = host.pack("cnpp_core.network.union").UNION_TYPES
    inputs = {} if image is None else {"image": image}
    return host.call(
        "CNPP_UnionControlType", control_net=control, type=names[kind], weight=weight, **inputs
    )[0]


def sample(host, control, **changes):
    return host.sample(host.model(UNION), *apply(host, control, UNION, **changes), steps=2)


def with_summed_hints(host, monkeypatch, *terms):
    """One condition's latent, its hint embedding replaced by the weighted sum of several."""
    network = loaded(host).control_model
    parts = [
        weight * network.embed_hint(image.movedim(-1, 1), [kind]) for kind, weight, image in terms
    ]
    kinds = [kind for kind, _, _ in terms]
    core = host.pack("cnpp_core.network.controlnet").ControlNet
    original = core.forward

    def forward(self, x, hint, timesteps, context, y=None, control_type=(), control_weights=None):
        monkeypatch.setattr(core, "embed_hint", lambda *_: sum(parts[1:], start=parts[0]))
        return original(self, x, [hint[0]] * len(kinds), timesteps, context, y, kinds)

    monkeypatch.setattr(core, "forward", forward)
    latent = sample(host, typed(host, loaded(host), kinds[0]))
    monkeypatch.undo()
    return latent


@pytest.mark.parametrize("kind", [DEPTH, CANNY])
def test_one_type_is_the_hosts_own_union_type(host, kind):
    names = {DEPTH: "depth", CANNY: "canny/lineart/anime_lineart/mlsd"}
    (theirs,) = host.call("SetUnionControlNetType", control_net=hosts_own(host), type=names[kind])
    wanted = sample(host, theirs, node="ControlNetApplyAdvanced")
    assert torch.equal(sample(host, typed(host, loaded(host), kind)), wanted)


def test_two_types_read_an_image_each_and_their_features_add_up(host, monkeypatch):
    a, b = picture(seed=31), picture(seed=32)
    both = typed(host, typed(host, loaded(host), CANNY), DEPTH, image=b)
    wanted = with_summed_hints(host, monkeypatch, (CANNY, 1.0, a), (DEPTH, 1.0, b))
    got = sample(host, both, image=a)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    alone = sample(host, typed(host, loaded(host), CANNY), image=a)
    assert (got - alone).abs().max() > 0.001


def test_weights_multiply_the_share_of_their_condition(host, monkeypatch):
    a, b = picture(seed=31), picture(seed=32)
    control = typed(host, typed(host, loaded(host), CANNY, 0.4), TILE, 1.5, image=b)
    wanted = with_summed_hints(host, monkeypatch, (CANNY, 0.4, a), (TILE, 1.5, b))
    got = sample(host, control, image=a)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_three_types_with_images_of_other_sizes(host):
    control = loaded(host)
    for i, kind in enumerate((CANNY, DEPTH, TILE)):
        control = typed(host, control, kind, image=picture(seed=i, height=96 + 32 * i, width=80))
    with evaluations(control.control_model) as rows:
        assert sample(host, control).isfinite().all()
    assert rows == [2, 2]


def test_batches_of_unequal_size_go_round(host):
    control = typed(host, typed(host, loaded(host), CANNY), DEPTH, image=picture(batch=1))
    latent = host.sample(
        host.model(UNION),
        *apply(host, control, UNION, image=picture(seed=5, batch=2)),
        latent=torch.zeros(2, 4, 16, 16),
        steps=2,
    )
    single = host.sample(
        host.model(UNION),
        *apply(host, control, UNION, image=picture(seed=5, batch=2)[:1]),
        latent=torch.zeros(2, 4, 16, 16),
        steps=2,
    )
    assert (latent[0] - single[0]).abs().max() < CLOSE * single.abs().max()
    assert (latent[1] - single[1]).abs().max() > 0.001


def test_weight_zero_leaves_a_condition_out(host):
    one = typed(host, loaded(host), CANNY)
    assert torch.equal(sample(host, typed(host, one, DEPTH, 0.0)), sample(host, one))


def test_weight_zero_everywhere_is_no_control(host):
    nothing = typed(host, typed(host, loaded(host), DEPTH, 0.0), CANNY, 0.0)
    positive, negative = apply(host, nothing, UNION)
    assert "control" not in positive[0][1]
    assert "control" not in negative[0][1]
    assert "control" in apply(host, typed(host, nothing, CANNY, 0.5), UNION)[0][0][1]


def test_the_given_control_keeps_its_types(host):
    one = typed(host, loaded(host), CANNY)
    typed(host, one, DEPTH, 0.5, image=picture())
    assert one.extra_args["control_type"] == [CANNY]
    assert "control_type" not in loaded(host).extra_args


def test_a_type_that_the_file_lacks_is_refused_by_name(host):
    with pytest.raises(ValueError, match=r"type 6 \(tile\).*load the ProMax file"):
        typed(host, loaded(host, types=6), TILE)


def test_a_network_of_one_kind_is_refused(host):
    ours, theirs = host.pair(TINY)
    for control in (ours, theirs):
        with pytest.raises(ValueError, match="no union network"):
            typed(host, control, CANNY)


def test_a_union_network_of_another_loader_reads_one_condition(host):
    theirs = hosts_own(host)
    assert torch.equal(
        sample(host, typed(host, theirs, CANNY)), sample(host, typed(host, loaded(host), CANNY))
    )
    with pytest.raises(ValueError, match=r"another loader.*Load ControlNet\+\+"):
        typed(host, typed(host, theirs, CANNY), DEPTH)


def test_an_image_that_is_no_hint_is_refused_with_the_nodes_name(host):
    with pytest.raises(ValueError, match="Union Control Type: image has 1 channel"):
        typed(host, loaded(host), CANNY, image=torch.zeros(1, 64, 64, 1))
