"""Weights to begin a training with, inside the host."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, TINY_XL, apply, picture, prompt
from controlnet_pp.tests.host.train.given import begun


def weights(control):
    return dict(control.control_model.named_parameters())


@pytest.mark.parametrize("layout", [TINY, TINY_XL], ids=["tiny", "xl"])
def test_one_begun_from_a_model_changes_nothing_until_it_is_trained(host, layout):
    model = host.model(layout)
    control = begun(host, model=model)
    plain = host.sample(model, prompt(layout, 1), prompt(layout, 2))
    assert torch.equal(host.sample(model, *apply(host, control, layout)), plain)
    encoder = model.model.diffusion_model.state_dict()
    copied = [name for name in weights(control) if name in encoder]
    assert len(copied) > 20
    assert all(torch.equal(weights(control)[name], encoder[name]) for name in copied)


def test_one_begun_from_a_controlnet_acts_like_it_and_is_a_copy(host):
    ours, theirs = host.pair(TINY)
    model = host.model(TINY)
    for source in (ours, theirs):
        control = begun(host, control_net=source)
        found = host.sample(model, *apply(host, control))
        assert torch.equal(found, host.sample(model, *apply(host, source)))
        pointers = {p.data_ptr() for p in source.control_model.parameters()}
        assert not pointers & {p.data_ptr() for p in weights(control).values()}


def test_only_what_reads_the_hint_is_new_for_hints_of_other_channels_by_the_seed(host):
    ours, _ = host.pair(TINY)
    first, again, other = (
        begun(host, control_net=ours, hint_channels=4, seed=seed) for seed in (1, 1, 2)
    )
    new = [
        name
        for name, weight in weights(first).items()
        if weight.shape != weights(ours)[name].shape or not torch.equal(weight, weights(ours)[name])
    ]
    assert new == ["input_hint_block.0.weight", "input_hint_block.0.bias"]
    assert torch.equal(weights(first)[new[0]], weights(again)[new[0]])
    assert not torch.equal(weights(first)[new[0]], weights(other)[new[0]])


def test_loras_of_the_model_are_in_the_copy_and_the_model_is_as_before(host):
    model = host.model(TINY)
    before = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    key = "input_blocks.1.0.in_layers.2.weight"
    change = torch.randn(before[key].shape, generator=torch.Generator().manual_seed(0))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{key}": ("diff", (change,))}, 0.5)
    made = weights(begun(host, model=patched))
    torch.testing.assert_close(made[key], before[key] + 0.5 * change)
    untouched = [name for name in made if name in before and name != key]
    assert all(torch.equal(made[name], before[name]) for name in untouched)
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_weights_can_learn_although_the_node_runs_in_inference_mode(host):
    sources = {"model": host.model(TINY)}, {"control_net": host.pair(TINY)[0]}
    for control in (begun(host, **source) for source in sources):
        assert not any(p.is_inference() for p in control.control_model.parameters())
        assert {p.dtype for p in control.control_model.parameters()} == {torch.float32}


def test_neither_and_both_are_refused(host):
    with pytest.raises(ValueError, match="neither is connected"):
        begun(host)
    with pytest.raises(ValueError, match="both are connected"):
        begun(host, model=host.model(TINY), control_net=host.pair(TINY)[0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("t2i full", r"a T2IAdapter \(Adapter\)"),
        ("control-lora", "a control-LoRA, which holds only the difference"),
        ("flux instantx", r"a ControlNet \(ControlNetFlux\)"),
    ],
)
def test_controls_without_an_encoder_to_train_are_refused_by_name(host, control_of, name, words):
    with pytest.raises(ValueError, match=words):
        begun(host, control_net=control_of(name))


def test_a_union_network_is_refused(host):
    control, _ = host.pair(TINY)
    union = begun(host, control_net=control)
    config = union.control_model.config
    union.control_model.config = type(config)(**{**vars(config), "union_types": 6})
    with pytest.raises(ValueError, match="a union network of 6 types"):
        begun(host, control_net=union)


def test_an_inpaint_model_is_refused_in_words(host):
    model = host.model(TINY | {"in_channels": 9})
    with pytest.raises(ValueError, match=r"latents of 9 channels.*inpaint.*plain model"):
        begun(host, model=model)


def test_a_model_of_another_family_is_refused_by_name(host, control_of):
    from controlnet_pp.tests.host.control.foreign import of_host

    try:
        kind, _ = of_host(host, "flux instantx")
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=r"model is .*Flux.*can't be trained here"):
        begun(host, model=kind.model(host))


def test_apply_takes_it_and_so_does_the_hosts_own_node(host):
    control = begun(host, control_net=host.pair(TINY)[0])
    inputs = {"image": picture(), "strength": 0.8}
    ours, theirs = (
        host.sample(host.model(TINY), *apply(host, control, node=node, **inputs))
        for node in ("CNPP_Apply", "ControlNetApplyAdvanced")
    )
    assert torch.equal(ours, theirs)
