"""What goes wrong in one run never shows in the next, and nothing is shared that should not be."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import control_in, fitted, masked, mode, speed
from controlnet_pp.tests.host.harness import TINY, apply, picture, prompt

CLOSE = 5e-4


def shaped(host, control, every=2):
    """A control with everything switched on that keeps something between two steps."""
    control = speed(host, control, reuse_every=every, lazy=True)
    mask = torch.ones(1, 64, 64)
    mask[:, :20] = 0.0
    control = masked(host, control, mask, "detail", feather=4.0)
    return fitted(host, control, "pad", resampling="smooth", follow_area=True)


def failing(error, at):
    """A hook that raises when a module runs for the `at`-th time."""
    runs = []

    def hook(*_):
        runs.append(1)
        if len(runs) == at:
            raise error

    return hook


@pytest.mark.parametrize("kind", ["interrupt", "error", "memory"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_run_that_breaks_off_leaves_the_next_one_as_if_it_had_not_been(host, kind, at):
    from comfy import model_management

    errors = {
        "interrupt": model_management.InterruptProcessingException(),
        "error": RuntimeError("somewhere inside"),
        "memory": torch.OutOfMemoryError("CUDA out of memory"),
    }
    ours, _ = host.pair(TINY)
    conditioning = apply(host, shaped(host, ours))
    model = host.model(TINY)
    fresh = host.sample(model, *conditioning, steps=6)
    handle = ours.control_model.middle_block.register_forward_hook(failing(errors[kind], at))
    try:
        with pytest.raises(type(errors[kind])):
            host.sample(model, *conditioning, steps=6, latent=torch.zeros(2, 4, 24, 8), seed=99)
    finally:
        handle.remove()
    assert torch.equal(host.sample(model, *conditioning, steps=6), fresh)


def test_two_queued_runs_give_the_same(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, shaped(host, ours, every=3))
    first = host.sample(host.model(TINY), *conditioning, steps=7)
    host.sample(host.model(TINY), *conditioning, steps=4, seed=3, latent=torch.zeros(3, 4, 8, 24))
    assert torch.equal(host.sample(host.model(TINY), *conditioning, steps=7), first)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_residual_that_is_no_number_is_reported_with_its_block(host, value):
    ours, _ = host.pair(TINY)

    def spoil(_module, _inputs, output):
        output[0, 0, 0, 0] = value

    handle = ours.control_model.zero_convs[2].register_forward_hook(spoil)
    try:
        with pytest.raises(ValueError, match="NaN or infinite residuals at input block 2"):
            host.sample(host.model(TINY), *apply(host, ours))
    finally:
        handle.remove()


def test_a_hint_that_is_no_number_is_reported_by_every_apply_node(host):
    ours, _ = host.pair(TINY)
    image = picture()
    image[0, 5, 5, 1] = float("nan")
    for node in ("CNPP_Apply", "ControlNetApplyAdvanced"):
        with pytest.raises(ValueError, match="image contains NaN"):
            apply(host, mode(host, ours), image=image, node=node)
    with pytest.raises(ValueError, match="image contains NaN"):
        apply(host, ours, image=image)
    # Without a shape it is ComfyUI's own control, whose node looks at nothing: our network does.
    theirs = apply(host, ours, image=image, node="ControlNetApplyAdvanced")
    with pytest.raises(ValueError, match="image contains NaN"):
        host.sample(host.model(TINY), *theirs)


def test_nothing_is_written_into_what_the_graph_holds(host):
    ours, _ = host.pair(TINY)
    image, mask = picture(), torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
    control = masked(host, ours, mask, invert=True, feather=2.0)
    positive = prompt(TINY, 1)
    held = [image, mask, positive[0][0], *ours.control_model.parameters()]
    before = [tensor.clone() for tensor in held]
    options = dict(positive[0][1])
    host.sample(
        host.model(TINY), *apply(host, shaped(host, control), image=image, positive=positive)
    )
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))
    assert positive[0][1] == options


def test_residuals_are_not_those_that_another_pack_multiplies_in_place(host):
    """Reuse must survive somebody who writes into the lists that the UNet gets."""
    ours, _ = host.pair(TINY)
    control = speed(host, ours, reuse_every=3)

    def doubled(apply_model, given):
        control = given["c"]["control"]
        for key in ("output", "middle"):
            for block in control[key]:
                block *= 2.0
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = host.model(TINY).clone()
    model.set_model_unet_function_wrapper(doubled)
    got = host.sample(model, *apply(host, control, strength=0.4), steps=6)
    wanted = host.sample(host.model(TINY), *apply(host, control, strength=0.8), steps=6)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_one_control_may_serve_two_samplings_of_other_shapes_by_turns(host):
    ours, _ = host.pair(TINY)
    a = apply(host, shaped(host, ours), image=picture(seed=1))
    b = apply(host, shaped(host, ours), image=picture(seed=2))
    model, wide = host.model(TINY), torch.zeros(1, 4, 8, 24)
    first = host.sample(model, *a), host.sample(model, *b, latent=wide)
    again = host.sample(model, *a), host.sample(model, *b, latent=wide)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "setting",
    [
        {"cond_hint_original": picture(seed=9).movedim(-1, 1)},
        {"strength": 0.3},
        {"timestep_percent_range": (0.0, 0.5)},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_other_packs_set_on_a_copy_is_heard(host, setting):
    """Upscalers that work in tiles cut the hint of a copied control, and the like."""

    def changed(control):
        positive, negative = apply(host, control, node="ControlNetApplyAdvanced")
        copy = control_in((positive, negative)).copy()
        for name, value in setting.items():
            setattr(copy, name, value)
        sides = [[[c, {**o, "control": copy}] for c, o in side] for side in (positive, negative)]
        return host.sample(host.model(TINY), *sides, steps=4)

    ours, theirs = host.pair(TINY)
    assert torch.equal(changed(ours), changed(theirs))


def test_a_broken_run_keeps_nothing(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, shaped(host, ours))
    handle = ours.control_model.middle_block.register_forward_hook(failing(RuntimeError("no"), 1))
    try:
        with pytest.raises(RuntimeError):
            host.sample(host.model(TINY), *conditioning)
    finally:
        handle.remove()
    control = control_in(conditioning)
    control.get_models()  # what the host asks first when it samples again
    assert control._run is None


def test_a_clone_for_another_device_answers_as_the_original(host):
    ours, _ = host.pair(TINY)
    if not hasattr(ours, "multigpu_clones"):
        pytest.skip("this ComfyUI has no clones per device")
    control = control_in(apply(host, shaped(host, ours)))
    control.set_previous_controlnet(control_in(apply(host, ours)))
    clone = control.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert control.get_instance_for_device(torch.device("cpu")) is clone
    assert clone.control_model is not control.control_model
    clone.set_previous_controlnet(
        control.previous_controlnet.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    )
    model = host.model(TINY).model
    answers = []
    for link in (control, clone):
        link.pre_run(model, model.model_sampling.percent_to_sigma)
        with torch.inference_mode():
            lists = link.get_control(
                torch.ones(1, 4, 8, 8),
                torch.ones(1),
                {"c_crossattn": prompt(TINY, 1)[0][0]},
                1,
                {"cond_or_uncond": [0], "uuids": ["a"], "sample_sigmas": torch.tensor([1.0, 0.0])},
            )
        answers.append([block for key in ("output", "middle") for block in lists[key]])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    # The two links share their weights, their clones have weights of their own.
    assert len(set(map(id, control.get_models()))) == 3
