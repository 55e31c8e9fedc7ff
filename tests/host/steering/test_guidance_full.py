"""The full gradient of Consistency Guidance in the real host: through UNet and ControlNet."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import mode
from controlnet_pp.tests.host.harness import TINY, apply, prompt
from controlnet_pp.tests.host.steering.guided import edges, guide, sample, vae


@pytest.fixture(scope="module")
def condition():
    return edges()


def asking(model):
    return sum(p.requires_grad for p in model.model.parameters())


def graphs():
    gc.collect()
    found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.grad_fn is not None]
    return len(found)


def test_x0_moves_along_the_gradient_by_the_noisy_latent(host, condition):
    """Against a UNet of its own, CFG 1, by autograd from x_t to the loss in one piece."""
    inputs = []
    model = host.model(TINY).clone()

    def note(args):
        inputs.append((args["input"].clone(), args["denoised"].clone(), args["sigma"].clone()))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(note)
    decoder = vae(host, "taesd")
    guided, behind = noted_around(guide(host, model, decoder, condition, full_gradient=True))
    sample(host, guided, cfg=1.0)
    base = host.model(TINY).model
    with torch.inference_mode(False), torch.enable_grad():
        unet = copy.deepcopy(base.diffusion_model)
        network = copy.deepcopy(decoder.first_stage_model)
        x, plain, sigma = (t.detach().clone() for t in inputs[0])
        point = x.requires_grad_()
        timestep = base.model_sampling.timestep(sigma).float()
        scaled = point / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5
        noise = unet(scaled, timestep, context=prompt(TINY, 1)[0][0])
        x0 = point - noise * sigma.view(-1, 1, 1, 1)
        picture = network.decode(x0 / 0.18215) / 2 + 0.5
        picture = picture + (picture.clamp(0, 1) - picture).detach()
        soft = host.pack("annotators.canny").canny_strength(picture)
        wanted = condition[..., :1].movedim(-1, 1) > 0.5
        loss = host.pack("cnpp_core.consistency.losses").line_loss(soft, wanted)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
    moved = behind[0] - plain
    likeness = torch.nn.functional.cosine_similarity(moved.flatten(), -gradient.flatten(), dim=0)
    assert likeness > 0.999
    # As far as guidance without it goes, in another direction.
    short, seen = noted_around(guide(host, host.model(TINY), decoder, condition))
    sample(host, short, cfg=1.0)
    other = seen[0] - plain
    assert moved.norm() == pytest.approx(float(other.norm()), rel=1e-3)
    assert torch.nn.functional.cosine_similarity(moved.flatten(), other.flatten(), dim=0) < 0.99


def noted_around(model):
    """A copy of a model, and a list that gets every x0 that its sampler sees."""
    from comfy.patcher_extension import WrappersMP

    seen = []

    def note(predict, *args, **kwargs):
        out = predict(*args, **kwargs)
        seen.append(out.clone())
        return out

    twin = model.clone()
    # The first wrapper is the outermost one.
    wrappers = twin.wrappers.setdefault(WrappersMP.PREDICT_NOISE, {})
    twin.wrappers[WrappersMP.PREDICT_NOISE] = {"noted": [note], **wrappers}
    return twin, seen


@pytest.mark.parametrize("speed", [{}, {"reuse_every": 2}])
def test_it_goes_through_a_controlnet_and_leaves_nothing_behind(host, condition, speed):
    ours, _ = host.pair(TINY)
    if speed:
        settings = {"fresh_steps": 1, "max_drift": 0.0, "lazy": True, "overlap": False}
        settings |= {"channels_last": False, "compile": False}
        (ours,) = host.call("CNPP_ControlSpeed", control_net=ours, **settings | speed)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    positive, negative = apply(host, ours, image=image)
    model, decoder = host.model(TINY), vae(host, "taesd")
    latent = torch.zeros(1, 4, 8, 8)
    plain = host.sample(model, positive, negative, latent=latent)
    before = asking(model), graphs()
    guided = guide(host, model, decoder, condition, full_gradient=True)
    once, again = (host.sample(guided, positive, negative, latent=latent) for _ in range(2))
    assert torch.equal(once, again)
    assert (once - plain).abs().max() > 1e-3
    assert asking(model) <= before[0]
    assert graphs() == before[1]
    assert torch.equal(host.sample(model, positive, negative, latent=latent), plain)


def test_control_takes_part_in_the_gradient(host, condition):
    """With the control held back from the graph the correction is another one."""
    ours, _ = host.pair(TINY)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    guided = guide(host, host.model(TINY), vae(host, "taesd"), condition, full_gradient=True)
    guided, seen = noted_around(guided)
    residuals = host.pack("cnpp_core.control.residuals").ControlResiduals
    each, found = residuals.each, []
    for held_back in (False, True):
        positive, negative = apply(host, mode(host, ours), image=image)
        if held_back:
            init = residuals.__init__
            residuals.__init__ = lambda self, blocks, init=init: init(
                self, [b if b is None else b.detach() for b in blocks]
            )
        try:
            host.sample(guided, positive, negative, latent=torch.zeros(1, 4, 8, 8), steps=1)
        finally:
            if held_back:
                residuals.__init__ = init
        found.append(seen.pop())
    assert residuals.each is each
    assert (found[0] - found[1]).abs().max() > 1e-5
    # Without a shape the control is ComfyUI's own, and takes part just so.
    host.sample(guided, *apply(host, ours, image=image), latent=torch.zeros(1, 4, 8, 8), steps=1)
    assert (seen.pop() - found[0]).abs().max() < 1e-6 * found[0].abs().max()


def test_only_steps_in_the_window_pay_for_it(host, condition, monkeypatch):
    through = host.pack("nodes.host.steering.through")
    acted = []
    original = through.FullGuidedRun.look_through
    monkeypatch.setattr(
        through.FullGuidedRun,
        "look_through",
        lambda self, x, ask: acted.append(1) or original(self, x, ask),
    )
    guided = guide(
        host, host.model(TINY), vae(host, "taesd"), condition, full_gradient=True, start_percent=0.5
    )
    out = sample(host, guided, steps=6)
    assert 0 < len(acted) < 6
    assert out.isfinite().all()


def test_what_no_gradient_passes_is_refused_by_name(host, condition, monkeypatch):
    decoder = vae(host, "taesd")

    def full(model):
        return guide(host, model, decoder, condition, full_gradient=True)

    compiled = host.model(TINY).clone()
    compiled.model_options.setdefault("transformer_options", {})["wrappers"] = {
        "apply_model": {"torch.compile": [lambda *a, **k: None]}
    }
    with pytest.raises(ValueError, match="compiled"):
        full(compiled)

    model = host.model(TINY)
    weight = model.model.diffusion_model.out[2].weight
    quantised = torch.nn.Parameter(weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    with monkeypatch.context() as patch:
        patch.setitem(model.model.diffusion_model.out[2]._parameters, "weight", quantised)
        with pytest.raises(ValueError, match=r"quantised \(float8_e4m3fn in out.2.weight\)"):
            full(model)

    def no_file():
        raise RuntimeError("Cannot create non-dynamic delegate: cached_patcher_init ...")

    moving = host.model(TINY).clone()
    monkeypatch.setattr(moving, "is_dynamic", lambda: True, raising=False)
    monkeypatch.setattr(moving, "get_non_dynamic_delegate", no_file, raising=False)
    with pytest.raises(ValueError, match="dynamic VRAM"):
        full(moving)


def test_a_model_that_does_not_fit_whole_is_refused_before_the_first_step(
    host, condition, monkeypatch
):
    from comfy import model_management as management

    load, model, steps = management.load_models_gpu, host.model(TINY), []

    def partly(*args, **kwargs):
        load(*args, **kwargs)
        model.model.model_lowvram = True

    guided = guide(host, model, vae(host, "taesd"), condition, full_gradient=True)
    guided.set_model_sampler_pre_cfg_function(lambda args: steps.append(1) or args["conds_out"])
    with monkeypatch.context() as patch:
        patch.setattr(management, "load_models_gpu", partly)
        with pytest.raises(ValueError, match="does not fit whole"):
            sample(host, guided)
    model.model.model_lowvram = False
    assert not steps
