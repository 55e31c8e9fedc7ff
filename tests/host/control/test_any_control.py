"""Controls of other loaders and families: shaped as their own residuals edited by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from foreign import (
    FOUR_LEVELS,
    KINDS,
    THREE_LEVELS,
    TRANSFORMERS,
    PoolingVAE,
    by_hand,
    host_apply,
    of_host,
    our_apply,
    sampled,
)
from harness import TINY, picture

CLOSE = 2e-4  # rows computed in a smaller batch
# The rest differ from one of these in their network alone.
SHAPED = [
    name
    for name in KINDS
    if name not in ("shuffle", "sdxl controlnet", "t2i light", "t2i sketch", "flux inpaint")
]


@pytest.fixture
def kind_of(host):
    def of(name):
        try:
            return of_host(host, name)
        except ImportError as error:
            pytest.skip(f"this ComfyUI has no {name}: {error}")

    return of


def mode(host, control, name="balanced"):
    return host.call(
        "CNPP_ControlMode", control_net=control, mode=name, cond_strength=1.0, uncond_strength=1.0
    )[0]


def masked(host, control, mask):
    return host.call(
        "CNPP_BlockMasks",
        control_net=control,
        mask=mask,
        blocks="all blocks",
        block=0,
        invert=False,
        feather=0.0,
    )[0]


def speed(host, control, **changes):
    settings = {
        "reuse_every": 1,
        "fresh_steps": 1,
        "max_drift": 0.0,
        "lazy": False,
        "overlap": False,
        "channels_last": False,
        "compile": False,
    }
    return host.call("CNPP_ControlSpeed", control_net=control, **settings | changes)[0]


def schedule(host, text):
    return host.call("CNPP_ScaleSchedule", schedule=text, interpolation="step")[0]


def explicit(host, *values):
    return host.pack("cnpp_core.control.scales").BlockScales(values)


def times(blocks, factors):
    return [
        None if block is None or factor == 0.0 else block * factor
        for block, factor in zip(blocks, factors, strict=True)
    ]


def untouched(host, name, kind, control):
    """What the host's own class gives, without us."""
    return host.once(
        ("untouched", name), lambda: sampled(host, kind, host_apply(host, kind, control))
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_neutral_shape_is_the_host_bit_for_bit(host, kind_of, name):
    kind, control = kind_of(name)
    wanted = untouched(host, name, kind, control)
    conditioning = our_apply(host, kind, mode(host, control))
    assert type(conditioning[0][0][1]["control"]).__name__ == "ControlNetPlusPlus"
    assert (sampled(host, kind, conditioning) - wanted).abs().max() == 0.0
    bare = sampled(host, kind, kind.prompts())
    assert (bare - wanted).abs().max() > 0.01  # the control does act


@pytest.mark.parametrize("name", SHAPED)
def test_scales_go_by_position_from_shallow_to_deep(host, kind_of, name):
    kind, control = kind_of(name)
    factors = [(0.25, 1.0, 0.0, 2.0, 0.5)[i % 5] for i in range(len(kind.places))]
    wanted = by_hand(host_apply(host, kind, control), kind, lambda b, *_: times(b, factors))
    got = sampled(host, kind, our_apply(host, kind, control, scales=explicit(host, *factors)))
    assert (got - sampled(host, kind, wanted)).abs().max() == 0.0
    assert (got - untouched(host, name, kind, control)).abs().max() > 0.01


@pytest.mark.parametrize("name", SHAPED)
def test_a_preset_that_a_schedule_switches_on_fits_any_number_of_positions(host, kind_of, name):
    kind, control = kind_of(name)
    count = len(kind.places)
    calls = []

    def edit(blocks, _x, t, _options):
        calls.append(float(t[0]))
        late = calls[-1] < calls[0]
        return times(blocks, [0.5 if i < count // 2 or not late else 0.0 for i in range(count)])

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    scales = schedule(host, "0%: 0.5; 5%: detail*0.5")
    got = sampled(host, kind, our_apply(host, kind, control, scales=scales))
    assert (got - sampled(host, kind, wanted)).abs().max() == 0.0


@pytest.mark.parametrize("name", SHAPED)
def test_rows_and_a_mask_act_on_the_residuals_of_each_image(host, kind_of, name):
    kind, control = kind_of(name)
    mask = torch.zeros(2, 16, 16)
    mask[0, :, :6], mask[1, 5:] = 1.0, 0.5  # one for each image

    def edit(blocks, x, _t, options):
        sides = options["cond_or_uncond"]
        rows = torch.cat([mask * float(side == 0) for side in sides])
        edits = []
        for block in blocks:
            if block is None:
                edits.append(None)
            elif block.ndim == 4:
                small = F.interpolate(rows[:, None], size=block.shape[-2:], mode="area")
                edits.append(block * small)
            else:  # tokens of 2x2 latent pixels, row by row
                small = F.avg_pool2d(rows[:, None], 2).flatten(2).transpose(1, 2)
                edits.append(block * small)
        return edits

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    wanted = sampled(host, kind, wanted, latent=kind.latents(2))
    shaped = masked(host, mode(host, control, "cond rows only"), mask)
    got = sampled(host, kind, our_apply(host, kind, shaped), latent=kind.latents(2))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("name", SHAPED)
def test_residuals_are_reused_over_steps(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    kept = []

    def edit(blocks, _x, t, _options):
        kept.append([None if b is None else b.clone() for b in blocks])
        return [None if b is None else b.clone() for b in kept[len(kept) - 1 - (len(kept) - 1) % 2]]

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    wanted = sampled(host, kind, wanted, steps=4)
    asked = []
    original = type(control).get_control

    def counted(self, *args):
        asked.append(1)
        return original(self, *args)

    monkeypatch.setattr(type(control), "get_control", counted)
    shaped = speed(host, control, reuse_every=2)
    got = sampled(host, kind, our_apply(host, kind, shaped), steps=4)
    assert len(asked) == 2
    assert (got - wanted).abs().max() == 0.0


@pytest.mark.parametrize("name", ["t2i full", "control-lora", "flux instantx", "qwen instantx"])
def test_batches_and_split_calls_change_nothing(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    shaped = speed(host, masked(host, control, torch.full((1, 4, 4), 0.5)), reuse_every=2)
    settings = {"latent": kind.latents(3), "steps": 3}
    conditioning = our_apply(host, kind, shaped, image=picture(batch=3))
    together = sampled(host, kind, conditioning, **settings)
    base = kind.model(host).model
    monkeypatch.setattr(base, "memory_required", lambda shape, **_: 1e20 if shape[0] > 3 else 0.0)
    apart = sampled(host, kind, conditioning, **settings)
    assert (together - apart).abs().max() < CLOSE * together.abs().max()


@pytest.mark.parametrize("name", ["control-lora", "t2i full", "t2i xl", "flux xlabs", "sd3.5"])
@pytest.mark.parametrize("first", ["foreign", "other"])
def test_a_chain_equals_the_hosts_own(host, kind_of, name, first):
    """T2I answers in `input` and a ControlNet in `output`: lists of unlike length meet."""
    kind, control = kind_of(name)
    others = {"control-lora": TINY, "t2i full": FOUR_LEVELS, "t2i xl": THREE_LEVELS}
    if name in others:
        ours, theirs = host.pair(others[name])
        ours = speed(host, ours, lazy=True)
    else:
        theirs = kind_of({"flux xlabs": "flux instantx", "sd3.5": "sd3"}[name])[1]
        ours = mode(host, theirs)
    wrapped = mode(host, control)

    def chain(*links):
        conditioning = kind.prompts()
        vae = {"vae": PoolingVAE(kind.latent)} if name in TRANSFORMERS else {}
        for seed, (node, link) in enumerate(links):
            conditioning = host.call(
                node,
                positive=conditioning[0], negative=conditioning[1], control_net=link,
                image=picture(seed), strength=0.5 + 0.25 * seed,
                start_percent=0.0, end_percent=1.0, **vae,
            )  # fmt: skip
        return sampled(host, kind, conditioning)

    def ordered(a, b):
        return (a, b) if first == "foreign" else (b, a)

    apply_theirs, apply_ours = "ControlNetApplyAdvanced", "CNPP_Apply"
    wanted = chain(*ordered((apply_theirs, control), (apply_theirs, theirs)))
    assert torch.equal(chain(*ordered((apply_ours, wrapped), (apply_ours, ours))), wanted)
    mixed = ordered((apply_ours, wrapped), (apply_theirs, theirs))
    assert torch.equal(chain(*mixed), wanted)


def test_the_window_strength_and_schedule_hold_together(host, kind_of):
    kind, control = kind_of("flux instantx")
    settings = {"start_percent": 0.2, "end_percent": 0.7, "strength": 0.75}

    def half(blocks, *_):
        return times(blocks, [0.5] * len(blocks))

    wanted = by_hand(host_apply(host, kind, control, **settings), kind, half)
    conditioning = our_apply(host, kind, control, scales=schedule(host, "0%: 0.5"), **settings)
    got = sampled(host, kind, conditioning, steps=6)
    assert torch.equal(got, sampled(host, kind, wanted, steps=6))


def test_a_residual_at_many_places_is_held_once(host, kind_of, monkeypatch):
    """Qwen's ControlNets say the same at neighbouring blocks: sixty places, five tensors."""
    kind, control = kind_of("qwen instantx")
    shaped = masked(host, mode(host, control, "cond rows only"), torch.full((1, 4, 4), 0.5))
    shaped = speed(host, shaped, reuse_every=2)
    conditioning = our_apply(host, kind, shaped, scales=schedule(host, "0%: 0.5"))
    object_of = conditioning[0][0][1]["control"]
    lists = []
    original = type(object_of).get_control

    def noted(self, *args):
        lists.append(original(self, *args))
        return lists[-1]

    monkeypatch.setattr(type(object_of), "get_control", noted)
    sampled(host, kind, conditioning)
    assert len(lists) == 2
    for answer in lists:
        assert len(answer["input"]) == 4
        assert len({block.untyped_storage().data_ptr() for block in answer["input"]}) == 2


@pytest.mark.parametrize("name", ["flux instantx", "sd3", "qwen instantx", "t2i full"])
def test_a_lazy_control_is_the_same_and_skipped_with_the_model(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    lazy = our_apply(host, kind, speed(host, control, lazy=True))
    assert torch.equal(sampled(host, kind, lazy), untouched(host, name, kind, control))
    twice = our_apply(
        host, kind, speed(host, control, lazy=True), positive=lazy[0], negative=lazy[1]
    )
    eager = host_apply(host, kind, control)
    eager = host_apply(host, kind, control, positive=eager[0], negative=eager[1])
    assert torch.equal(sampled(host, kind, twice), sampled(host, kind, eager))

    asked = []
    original = type(control).get_control

    def counted(self, *args):
        asked.append(1)
        return original(self, *args)

    def skipped(_apply_model, given):
        return given["input"] * 0.9

    monkeypatch.setattr(type(control), "get_control", counted)
    model = kind.model(host).clone()
    model.set_model_unet_function_wrapper(skipped)
    host.sample(model, *lazy, latent=kind.latents(), steps=3)
    # A UNet asks adapters for `input` at once; what they say is kept over the steps anyway. A hint
    # that goes through a VAE is encoded before the model first runs, not in the middle of it.
    assert len(asked) == (3 if name == "t2i full" else 1)


@pytest.mark.parametrize("name", ["t2i full", "control-lora", "flux instantx", "qwen instantx"])
def test_a_hint_of_another_aspect_is_fitted_as_said(host, kind_of, name):
    kind, control = kind_of(name)
    image = picture(height=96, width=200)
    (shaped,) = host.call(
        "CNPP_HintFit", control_net=control, fit="stretch", resampling="nearest", follow_area=True
    )
    place = host.pack("cnpp_core.control.hints").HintFit("stretch").place
    by_hand = place(image.movedim(-1, 1), (128, 128)).movedim(1, -1)
    wanted = sampled(host, kind, host_apply(host, kind, control, image=by_hand))
    assert torch.equal(sampled(host, kind, our_apply(host, kind, shaped, image=image)), wanted)


# Control-LoRA


def test_a_control_lora_lends_the_models_weights_for_one_run_only(host, kind_of):
    kind, control = kind_of("control-lora")
    conditioning = our_apply(host, kind, mode(host, control))
    ours = conditioning[0][0][1]["control"]
    assert ours.control_model is None
    assert ours.get_models() == []
    first = sampled(host, kind, conditioning)
    assert ours.control_model is None
    assert torch.equal(sampled(host, kind, conditioning), first)
    needed = ours.inner.inference_memory_requirements(torch.float32)
    assert ours.inference_memory_requirements(torch.float32) == needed > 0
    assert torch.equal(sampled(host, kind, our_apply(host, kind, ours)), first)


# The host's own nodes on our controls


def test_the_hosts_apply_nodes_take_a_shaped_control(host, kind_of):
    kind, control = kind_of("flux inpaint")
    shaped = mode(host, control)
    settings = {
        "image": picture(),
        "mask": torch.ones(1, 128, 128).triu(),
        "strength": 0.5,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "vae": PoolingVAE(kind.latent),
    }
    positive, negative = kind.prompts()

    def inpainted(control_net):
        conditioning = host.call(
            "ControlNetInpaintingAliMamaApply",
            positive=positive, negative=negative, control_net=control_net, **settings,
        )  # fmt: skip
        return sampled(host, kind, conditioning)

    assert torch.equal(inpainted(shaped), inpainted(control))
    unmasked = untouched(host, "flux inpaint", kind, control)
    assert (inpainted(shaped) - unmasked).abs().max() > 0.01
    assert torch.equal(sampled(host, kind, host_apply(host, kind, shaped)), unmasked)


def test_the_hosts_union_node_sets_the_type_of_a_wrapped_control(host, kind_of):
    kind, control = kind_of("flux instantx")
    wanted = {}
    for name in ("openpose", "depth"):
        plain, wrapped = (
            host.call("SetUnionControlNetType", control_net=c, type=name)[0]
            for c in (control, mode(host, control))
        )
        wanted[name] = sampled(host, kind, host_apply(host, kind, plain))
        assert torch.equal(sampled(host, kind, our_apply(host, kind, wrapped)), wanted[name])
    assert (wanted["openpose"] - wanted["depth"]).abs().max() > 0.001


@pytest.mark.parametrize("name", ["controlnet", "t2i full", "flux xlabs", "qwen fun"])
def test_a_copy_and_a_clone_for_another_device_keep_the_kind(host, kind_of, name):
    kind, control = kind_of(name)
    shaped = our_apply(host, kind, mode(host, control))[0][0][1]["control"]
    assert type(shaped.copy().inner) is type(control)
    if not hasattr(control, "deepclone_multigpu"):
        pytest.skip("this ComfyUI has no clones per device")
    clone = shaped.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert shaped.get_instance_for_device(torch.device("cpu")) is clone
    assert type(clone.inner) is type(control)
    assert (clone.strength, clone.shape) == (shaped.strength, shaped.shape)
    network = next(
        value
        for value in (getattr(clone.inner, n, None) for n in ("control_model", "t2i_model"))
        if value is not None
    )
    assert network is not getattr(control, "control_model", None)
    assert network is not getattr(control, "t2i_model", None)


# What can't apply


def refused(host, kind, conditioning, match):
    """ValueError before the control's network has run."""
    with pytest.raises(ValueError, match=match):
        sampled(host, kind, conditioning)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("t2i full", 12, 13), ("t2i xl", 13, 10), ("control-lora", 4, 5), ("flux instantx", 19, 7)],
)
def test_scales_of_another_length_are_refused_with_both(host, kind_of, name, count, expected):
    kind, control = kind_of(name)
    conditioning = our_apply(host, kind, control, scales=explicit(host, *[0.5] * count))
    refused(host, kind, conditioning, f"hold {count} numbers, the ControlNet has {expected} ")


def test_scales_that_leave_a_control_nothing_to_say_are_refused(host, kind_of):
    kind, control = kind_of("t2i full")
    (middle,) = host.call("CNPP_BlockScalePreset", preset="mid only", strength=1.0)
    conditioning = our_apply(host, kind, control, scales=middle)
    refused(host, kind, conditioning, "leave only block 12, where this control says nothing")


WRONG_MODEL = {
    "t2i of SD1.5 on SDXL": ("t2i full", "t2i xl"),
    "t2i on Flux": ("t2i full", "flux xlabs"),
    "control-lora on SDXL": ("control-lora", "sdxl controlnet"),
    "control-lora on Flux": ("control-lora", "flux xlabs"),
    "Flux on SD1.5": ("flux xlabs", "controlnet"),
    "Flux on SD3": ("flux instantx", "sd3"),
    "SD3.5 on Flux": ("sd3.5", "flux xlabs"),
    "SD3.5 on SD1.5": ("sd3.5", "controlnet"),
    "Qwen on SD3": ("qwen instantx", "sd3"),
}


@pytest.mark.parametrize("case", WRONG_MODEL)
def test_a_control_of_another_family_than_the_model_is_refused_by_name(host, kind_of, case):
    theirs, models = WRONG_MODEL[case]
    control_kind, control = kind_of(theirs)
    kind, _ = kind_of(models)
    extra = {"vae": PoolingVAE(control_kind.latent)} if control_kind.reads_latents else {}
    conditioning = our_apply(host, kind, mode(host, control), **extra)
    refused(host, kind, conditioning, "another family|made for|made from")


def test_a_control_that_reads_latents_asks_for_the_vae_before_sampling(host, kind_of):
    kind, control = kind_of("flux instantx")
    for given in (control, mode(host, control)):
        with pytest.raises(ValueError, match="connect the model's VAE to vae"):
            our_apply(host, kind, given, vae=None)


@pytest.mark.parametrize("switch", ["overlap", "compile"])
def test_a_switch_for_controlnets_of_sd_is_refused_by_name(host, kind_of, switch):
    _, control = kind_of("t2i full")
    with pytest.raises(ValueError, match=f"'{switch}' needs a ControlNet.*T2IAdapter"):
        speed(host, control, **{switch: True})


def test_a_mask_is_refused_where_the_place_of_the_residuals_is_unknown(host, kind_of, monkeypatch):
    kind, control = kind_of("flux xlabs")
    forward = control.control_model.forward

    def with_tokens_of_its_own(**inputs):
        answer = forward(**inputs)["input"]
        return {"input": [torch.cat([tokens, tokens[:, :5]], dim=1) for tokens in answer]}

    monkeypatch.setattr(control.control_model, "forward", with_tokens_of_its_own)
    conditioning = our_apply(host, kind, masked(host, control, torch.full((1, 4, 4), 0.5)))
    refused(host, kind, conditioning, "a mask can't be applied. Disconnect Block Masks")


def test_our_union_node_leaves_flux_to_the_hosts(host, kind_of):
    _, control = kind_of("flux instantx")
    with pytest.raises(ValueError, match="Set Union ControlNet Type"):
        host.call("CNPP_UnionControlType", control_net=control, type="depth", weight=1.0)


def test_a_control_lora_is_refused_on_several_gpus(host, kind_of):
    _, control = kind_of("control-lora")
    shaped = mode(host, control)
    with pytest.raises(ValueError, match="control-LoRA borrows"):
        shaped.deepclone_multigpu(torch.device("cpu"), autoregister=True)


# The lists of a control


def lists_of(host, **keys):
    return {"input": [], "middle": [], "output": []} | keys


def test_a_muted_place_holds_zeros_where_the_model_adds_whatever_it_finds(host):
    """HunyuanDiT adds each control to a skip connection without looking whether there is one."""
    module = host.pack("nodes.host.control.lists")
    answer = lists_of(host, output=[torch.ones(2, 6, 4) for _ in range(3)])
    layout = module.Layout.of(answer, unet=None)
    residuals = layout.read(answer, 2).scaled(explicit(host, 1.0, 0.0, 2.0))
    written = layout.write(residuals)["output"]
    assert [float(block.mean()) for block in written] == [1.0, 0.0, 2.0]
    skip = torch.ones(2, 6, 4)
    assert torch.equal(skip + written[1], skip)


def test_places_that_a_control_leaves_empty_stay_empty(host):
    module = host.pack("nodes.host.control.lists")
    answer = lists_of(host, input=[torch.ones(1, 6, 4), None])
    layout = module.Layout.of(answer, unet=None)
    written = layout.write(layout.read(answer, 1).scaled(explicit(host, 0.0, 1.0)))
    assert written["input"] == [None, None]
