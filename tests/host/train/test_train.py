"""Train ControlNet inside the host: what comes out, and that nothing else has changed."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, TINY_XL, prompt
from controlnet_pp.tests.host.train.given import begun, data_of, trained


def place(host, name) -> Path:
    return host.folder / "output" / "controlnet_training" / name


def checkpoints(host, name) -> list[str]:
    folder = place(host, name)
    return sorted(p.name for p in folder.glob("step-*")) if folder.is_dir() else []


def shown(monkeypatch, host) -> list[str]:
    """The texts that appear on the node."""
    texts: list[str] = []
    nodes = host.pack("nodes.train.training")
    original = nodes.show_text
    monkeypatch.setattr(
        nodes, "show_text", lambda cls, text: texts.append(text) or original(cls, text)
    )
    return texts


def unet_of(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(host, given):
    """A training without an interruption."""
    return trained(host, given, "whole")


def test_the_network_learns_and_all_that_was_connected_is_as_before(host, given, parts):
    model, begins = unet_of(parts[0]), dict(given["control_net"].control_model.named_parameters())
    before = {name: weight.clone() for name, weight in begins.items()}
    patches = parts[0].patches_uuid
    found = trained(host, given, "learns")
    assert not same(found.weights, before)
    assert same(begins, before)
    assert same(unet_of(parts[0]), model)
    assert parts[0].patches_uuid == patches
    assert found.model is parts[0]
    assert checkpoints(host, "learns") == []


def test_it_gives_out_course_pictures_plan_and_how_it_was_trained(host, whole):
    losses = whole.loss_map["loss"]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    assert 0 <= whole.score <= 1
    assert whole.validation.shape[-1] == whole.plot.shape[-1] == 3
    assert min(whole.validation.shape[1:3]) > 100
    assert "trains " in whole.plan
    assert "the model's UNet is a copy for the training" in whole.plan
    assert "trained for seg from" in whole.report
    assert "4 steps" in whole.report
    assert whole.control.control_model.trained.condition == "seg"
    assert [kind.key for kind in whole.control.control_model.kinds] == ["seg"]


def test_it_goes_straight_into_apply_and_acts(host, given, parts, whole):
    (positive,) = host.call("CLIPTextEncode", clip=parts[1], text="red circle on a blue ground")
    hint, _ = host.call(
        "CNPP_Annotate", image=parts[4], condition="canny", resolution=0, other_annotator=parts[6]
    )

    def sampled(control):
        applied = host.call(
            "CNPP_Apply", positive=positive, negative=positive, control_net=control, image=hint,
            strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return host.sample(parts[0], *applied)

    assert not torch.equal(sampled(whole.control), sampled(given["control_net"]))


def test_twice_the_same_is_the_same(host, given, whole):
    again = trained(host, given, "again")
    assert again.loss_map == whole.loss_map
    assert again.score == whole.score
    assert same(again.weights, whole.weights)


def test_cancelled_it_keeps_a_checkpoint_says_where_and_goes_on_exactly(
    host, given, whole, stop_at, monkeypatch
):
    from comfy import model_management

    texts = shown(monkeypatch, host)
    stop_at(3)
    with pytest.raises(model_management.InterruptProcessingException):
        trained(host, given, "cancelled")
    monkeypatch.undo()
    model_management.interrupt_current_processing(False)
    (kept,) = checkpoints(host, "cancelled")
    assert kept == "step-00000003.safetensors"
    assert "stopped at step 3 of 4" in texts[-1]
    assert str(place(host, "cancelled") / kept) in texts[-1]
    found = trained(host, given, "cancelled")
    assert found.loss_map == whole.loss_map
    assert found.score == whole.score
    assert same(found.weights, whole.weights)
    assert checkpoints(host, "cancelled") == []


def test_cancel_is_heard_between_two_batches_of_a_step(host, given, monkeypatch):
    from comfy import model_management

    whole = trained(host, given, "batches", accumulate=2, steps=2)
    denoiser = host.pack("cnpp_core.training.denoiser").Denoiser
    original, looks = denoiser._decode, []

    def decode(*args):
        looks.append(1)
        if len(looks) == 6:  # past the plan, two of a validation, the first step, and half another
            model_management.interrupt_current_processing()
        return original(*args)

    monkeypatch.setattr(denoiser, "_decode", decode)
    with pytest.raises(model_management.InterruptProcessingException):
        trained(host, given, "batches", accumulate=2, steps=2)
    monkeypatch.undo()
    assert len(looks) == 6
    assert checkpoints(host, "batches") == ["step-00000001.safetensors"]
    again = trained(host, given, "batches", accumulate=2, steps=2)
    assert same(again.weights, whole.weights)
    assert again.loss_map == whole.loss_map


def test_after_an_error_the_next_run_goes_on(host, given, whole, monkeypatch):
    measure = host.pack("cnpp_core.training.validation").Validation
    original, calls = measure.__call__, []

    def failing(self, step, parts):
        calls.append(step)
        if step == 2:
            raise RuntimeError("somewhere inside")
        return original(self, step, parts)

    monkeypatch.setattr(measure, "__call__", failing)
    with pytest.raises(RuntimeError, match="somewhere inside"):
        trained(host, given, "error")
    monkeypatch.undo()
    assert checkpoints(host, "error") == ["step-00000002.safetensors"]
    assert same(trained(host, given, "error").weights, whole.weights)


def test_a_full_disk_is_said_and_the_last_checkpoint_survives(host, given, monkeypatch):
    module = host.pack("cnpp_core.training.checkpoints")
    original, calls = module.save_file, []

    def full(tensors, path, **options):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"the beginning")
            raise OSError(28, "No space left on device")
        return original(tensors, path, **options)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device.*that of step 1 stays"):
        trained(host, given, "full", checkpoint_every=1)
    assert checkpoints(host, "full") == ["step-00000001.safetensors"]


def test_other_settings_do_not_go_on_unless_asked_to(host, given, stop_at, monkeypatch):
    from comfy import model_management

    stop_at(2)
    with pytest.raises(model_management.InterruptProcessingException):
        trained(host, given, "changed")
    monkeypatch.undo()
    model_management.interrupt_current_processing(False)
    with pytest.raises(ValueError, match=r"learning_rate was 0.0001 and is 0.001.*'start over'"):
        trained(host, given, "changed", learning_rate=1e-3)
    found = trained(
        host, given, "changed", learning_rate=1e-3, unfinished="go on, whatever changed",
        keep_checkpoints=True,
    )  # fmt: skip
    assert len(found.loss_map["loss"]) == 4
    assert "checkpoints stay in" in found.report
    assert checkpoints(host, "changed")
    again = trained(host, given, "changed", unfinished="start over", steps=2)
    assert len(again.loss_map["loss"]) == 2


def test_everything_is_freed_afterwards_and_after_cancel(host, given, stop_at, monkeypatch):
    from comfy import model_management

    session = host.pack("cnpp_core.training.session").Session
    original, seen = session.__init__, []

    def remembered(self, denoiser, *rest, **more):
        original(self, denoiser, *rest, **more)
        parts = (self, self.trainer, denoiser, denoiser.unet, denoiser.controlnet)
        seen.extend(weakref.ref(part) for part in parts)

    monkeypatch.setattr(session, "__init__", remembered)
    trained(host, given, "freed")
    assert len(seen) == 5
    assert not [ref() for ref in seen if ref() is not None]
    seen.clear()
    stop_at(2)
    with pytest.raises(model_management.InterruptProcessingException) as caught:
        trained(host, given, "freed")
    model_management.interrupt_current_processing(False)
    del caught
    gc.collect()
    assert len(seen) == 5
    assert not [ref() for ref in seen if ref() is not None]


def test_a_lora_of_the_model_takes_part(host, given, parts, whole):
    key = "diffusion_model.output_blocks.2.0.out_layers.3.weight"
    weight = parts[0].model.state_dict()[key]
    patched = parts[0].clone()
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    patched.add_patches({key: ("diff", (0.1 * change,))})
    before = unet_of(parts[0])
    found = trained(host, given | {"model": patched}, "lora")
    assert found.loss_map["loss"][0] != whole.loss_map["loss"][0]
    assert same(unet_of(parts[0]), before)
    host.sample(patched, *[host.call("CLIPTextEncode", clip=parts[1], text="")[0]] * 2, steps=1)
    again = trained(host, given | {"model": patched}, "lora")  # now that the host has patched it
    assert again.loss_map == found.loss_map


@pytest.mark.parametrize("layout", [TINY, TINY_XL], ids=["tiny", "xl"])
def test_models_of_other_families_train(host, layout):
    """Latents and prompts in their shapes, with pooled prompts and sizes where there are any."""
    model = host.model(layout)
    generator = torch.Generator().manual_seed(0)
    latents = [{"samples": torch.randn(1, 4, 8, 8, generator=generator)} for _ in range(3)]
    hints = [torch.rand(1, 64, 64, 3, generator=generator) for _ in range(3)]
    data = data_of(
        host, (None, Clip(layout), None, None, None, None, None), source="lists", kind="other",
        latents=latents, conditioning=[prompt(layout, n) for n in range(3)], conditions=hints,
        held_out=0, annotator=None, vae=None,
    )  # fmt: skip
    name = f"family {layout['adm_in_channels']}"
    found = trained(
        host, {"model": model, "control_net": begun(host, model=model), "data": data}, name
    )
    assert all(math.isfinite(loss) for loss in found.loss_map["loss"])
    assert math.isnan(found.score)
    assert any(p.abs().max() > 0 for n, p in found.weights.items() if n.startswith("zero_convs"))


class Clip:
    """A text encoder that gives random prompts of a layout."""

    def __init__(self, layout):
        self.layout = layout

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, _text):
        return prompt(self.layout, 99)


def test_velocity_is_predicted_where_the_model_says_so(host, parts):
    from comfy import model_sampling

    networks = host.pack("nodes.host.train.networks")
    kind = host.pack("cnpp_core.training.denoiser").PredictionType

    class Velocity(model_sampling.ModelSamplingDiscrete, model_sampling.V_PREDICTION):
        pass

    class Denoised(model_sampling.ModelSamplingDiscrete, model_sampling.X0):
        pass

    model = parts[0].clone()
    found, schedule = networks.prediction_of(model)
    assert found is kind.EPS
    wanted = host.pack("cnpp_core.diffusion.schedule").NoiseSchedule.scaled_linear()
    torch.testing.assert_close(schedule.alphas_cumprod, wanted.alphas_cumprod, rtol=1e-5, atol=0)
    model.add_object_patch("model_sampling", Velocity(model.model.model_config))
    assert networks.prediction_of(model)[0] is kind.V
    model.add_object_patch("model_sampling", Denoised(model.model.model_config))
    with pytest.raises(ValueError, match=r"samples by .*X0.*predicts noise \(eps\)"):
        networks.prediction_of(model)


def test_an_unlocked_decoder_comes_out_as_a_model_and_the_given_one_stays(host, given, parts):
    before = unet_of(parts[0])
    found = trained(host, given, "unlocked", mode="SD decoder unlocked")
    assert found.model is not parts[0]
    assert {key.split(".")[1] for key in found.model.patches} == {"output_blocks", "out"}
    own = host.pack("nodes.host.train.networks").unet_of(found.model, "cpu", torch.float32)
    changed = {name for name, weight in own.state_dict().items() if not weight.equal(before[name])}
    assert {name.split(".")[0] for name in changed} == {"output_blocks", "out"}
    empty = host.call("CLIPTextEncode", clip=parts[1], text="")[0]
    ours, theirs = (host.sample(m, empty, empty, steps=1) for m in (found.model, parts[0]))
    assert not torch.equal(ours, theirs)
    assert same(unet_of(parts[0]), before)


def test_the_middle_can_be_trained_first(host, given, whole):
    begins = dict(given["control_net"].control_model.named_parameters())
    alone = trained(host, given, "middle", mode="middle only")
    both = trained(host, given, "both", middle_first=2)
    skips = [name for name in begins if name.startswith("zero_convs.")]
    assert all(torch.equal(alone.weights[name], begins[name]) for name in skips)
    assert not all(torch.equal(both.weights[name], begins[name]) for name in skips)
    assert "middle only" in both.report


def test_progress_and_pictures_are_shown_while_it_trains(host, given, monkeypatch):
    from comfy import utils

    seen = []

    def hook(value, total, preview, **_):
        seen.append((value, total, preview))

    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", hook)
    for name in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(utils, name, 0.0, raising=False)
    texts = shown(monkeypatch, host)
    trained(host, given, "shown")
    steps = [entry for entry in seen if entry[1] == 4]
    assert {value for value, *_ in steps} == {0, 1, 2, 3, 4}
    previews = [(value, preview) for value, _, preview in steps if preview]
    assert [value for value, _ in previews] == [0, 2, 4]
    assert previews[0][1][0] == "JPEG"
    assert previews[0][1][1].width > 200
    assert "the plan" in texts[0]
    assert any("step 4 of 4, loss" in text and "before" in text for text in texts)


def test_without_a_vae_or_held_out_pictures_it_trains_all_the_same(host, given, parts):
    data = data_of(host, parts, pictures=4, held_out=0)
    found = trained(host, given | {"data": data}, "blind", steps=2)
    assert math.isnan(found.score)


def test_gradient_checkpointing_gives_the_same(host, given, whole):
    found = trained(host, given, "recomputed", gradient_checkpointing=True)
    assert found.loss_map["loss"] == pytest.approx(whole.loss_map["loss"], rel=1e-5)
