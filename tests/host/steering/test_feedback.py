"""Consistency Feedback in the running host, against the host's own control scaled by hand."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control import foreign
from controlnet_pp.tests.host.control.foreign import of_host
from controlnet_pp.tests.host.harness import TINY, apply
from controlnet_pp.tests.host.residuals import edited, evaluations
from controlnet_pp.tests.host.steering.looped import by_content, feedback, run


def plain(host, batch=1, **sampling):
    return run(host, host.model(TINY), host.pair(TINY)[0], batch, **sampling)


def by_hand(host, *records):
    """Conditioning whose residuals are multiplied with the factors that records tell."""

    def multiply(blocks, _x, _t, options):
        planned = options["sample_sigmas"]
        step = int((planned - options["sigmas"][0]).abs().argmin())
        for record in records:
            before = [look for look in record.feedback.steps if look.step < step]
            if before:
                factors = torch.tensor(before[-1].factors * 2)[: blocks[0].shape[0]]
                blocks = [block * factors.view(-1, 1, 1, 1) for block in blocks]
        return blocks

    return edited(host, multiply)


def steps(record):
    return [look.step for look in record.feedback.steps]


@pytest.mark.parametrize("batch", [1, 3])
def test_each_picture_has_its_residuals_multiplied_by_its_factor(host, batch):
    model, control, record = feedback(host)
    latent = run(host, model, control, batch)
    factors = [look.factors for look in record.feedback.steps]
    assert len(set(sum(factors, ()))) > 2 * batch  # by picture, and by step
    wanted = run(host, host.model(TINY), None, batch, conditioning=by_hand(host, record))
    assert (latent - wanted).abs().max() == 0.0
    assert (latent - plain(host, batch)).abs().max() > 0.01


def test_scores_and_factors_are_those_of_the_check(host):
    model, control, record = feedback(host, share=lambda _: 0.5)
    run(host, model, control, 2)
    for look in record.feedback.steps:
        # Half of the edges found and none invented: precision 1, recall 1/2.
        assert look.scores == pytest.approx((2 / 3, 2 / 3))
        assert look.factors == pytest.approx((5 / 3, 5 / 3))
    assert steps(record) == [0, 1, 2, 3]
    assert record.feedback.steps[0].percent == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    "changes", [{"gain": 0.0}, {"min_factor": 1.0, "max_factor": 1.0}], ids=["gain 0", "bounds 1"]
)
def test_feedback_that_only_measures_changes_no_bit(host, changes):
    model, control, record = feedback(host, **changes)
    assert (run(host, model, control, 2) - plain(host, 2)).abs().max() == 0.0
    assert steps(record) == [0, 1, 2, 3]


def test_a_factor_of_0_for_all_pictures_saves_the_network(host):
    model, control, _ = feedback(host, max_factor=0.0)
    with evaluations(control.control_model) as rows:
        latent = run(host, model, control)
    assert rows == [2]  # the first step, before anything is known
    after = (apply(host, host.pair(TINY)[0], end_percent=0.01), plain)
    assert (latent - run(host, host.model(TINY), None, conditioning=after[0])).abs().max() == 0.0


@pytest.mark.parametrize(
    ("changes", "looked"),
    [
        ({"every": 2}, [0, 2, 4]),
        ({"start_percent": 0.5}, [3, 4, 5]),
        ({"end_percent": 0.5}, [0, 1, 2]),
    ],
)
def test_it_looks_within_its_window_every_so_many_steps(host, changes, looked):
    model, control, record = feedback(host, **changes)
    run(host, model, control, steps=6)
    assert steps(record) == looked


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_every_sampler_is_looked_at_once_a_step(host, sampler):
    model, control, record = feedback(host)
    run(host, model, control, steps=5, sampler=sampler)
    assert steps(record) == sorted(set(steps(record)))
    assert {0, 1, 2, 3} <= set(steps(record)) <= {0, 1, 2, 3, 4}


def test_it_works_at_cfg_1(host):
    model, control, record = feedback(host)
    latent = run(host, model, control, cfg=1.0)
    wanted = run(host, host.model(TINY), None, conditioning=by_hand(host, record), cfg=1.0)
    assert (latent - wanted).abs().max() == 0.0


def test_of_a_chain_only_its_own_control_moves(host):
    model, control, record = feedback(host)
    _, other = host.pair(TINY, seed=2)

    def chained(conditioning):
        positive, negative = conditioning
        return apply(
            host, other, node="ControlNetApplyAdvanced", positive=positive, negative=negative
        )

    latent = run(host, model, None, conditioning=chained(apply(host, control)))
    wanted = run(host, host.model(TINY), None, conditioning=chained(by_hand(host, record)))
    assert (latent - wanted).abs().max() == 0.0


def test_two_loops_on_one_model_move_a_control_each(host):
    ours = [host.pair(TINY, seed=seed)[0] for seed in (1, 2)]
    model, first, one = feedback(host, ours[0])
    model, second, two = feedback(host, ours[1], model=model, gain=0.0)
    positive, negative = apply(host, first)
    both = apply(host, second, positive=positive, negative=negative)
    latent = run(host, model, None, conditioning=both)
    positive, negative = by_hand(host, one)
    wanted = apply(host, ours[1], positive=positive, negative=negative)
    assert (latent - run(host, host.model(TINY), None, conditioning=wanted)).abs().max() == 0.0
    assert steps(one) == steps(two) == [0, 1, 2, 3]


def test_two_loops_may_move_the_same_control(host):
    model, control, one = feedback(host)
    model, control, two = feedback(host, control, model=model, gain=1.0)
    latent = run(host, model, control)
    wanted = run(host, host.model(TINY), None, conditioning=by_hand(host, one, two))
    assert torch.allclose(latent, wanted, rtol=1e-4, atol=1e-3)  # (a b) r and a (b r)


def speed(host, control, every, lazy):
    return host.call(
        "CNPP_ControlSpeed", control_net=control, reuse_every=every, fresh_steps=1, max_drift=0.0,
        lazy=lazy, overlap=False, channels_last=False, compile=False,
    )[0]  # fmt: skip


def test_residuals_are_kept_for_reuse_without_the_factor(host):
    """With a constant score the factor is a step in time, which a schedule can say as well."""
    control = speed(host, host.pair(TINY)[0], 3, False)
    model, moved, record = feedback(host, control, share=lambda _: 0.5, gain=1.5)
    with evaluations(control.control_model) as rows:
        latent = run(host, model, moved, steps=7)
    assert len(rows) == 3
    (factors,) = {look.factors for look in record.feedback.steps}
    (factor,) = factors
    assert factor == pytest.approx(1.5)
    (scales,) = host.call(
        "CNPP_ScaleSchedule", schedule=f"0%: 1; 5%: {factor!r}", interpolation="step"
    )
    wanted = run(
        host, host.model(TINY), None, conditioning=apply(host, control, scales=scales), steps=7
    )
    assert torch.allclose(latent, wanted, rtol=1e-4, atol=1e-3)


def test_lazy_control_takes_the_factor_of_its_own_call(host):
    model, control, _ = feedback(host, speed(host, host.pair(TINY)[0], 1, True))
    again, eager, _ = feedback(host)
    assert (run(host, model, control, 2) - run(host, again, eager, 2)).abs().max() == 0.0


FOREIGN = ("shuffle", "control-lora", "t2i full", "sdxl controlnet", "flux instantx", "sd3.5")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_control_of_any_loader_takes_factors(host, name):
    """The factors themselves, without a VAE of each family."""
    try:
        kind, theirs = of_host(host, name)
    except ImportError as missing:
        pytest.skip(str(missing))
    said = (0.5, 1.75)

    class Run:
        def __init__(self, guider):
            live = host.pack("nodes.host.control.factors").LiveFactors()
            live.values = said
            live.publish("a", guider.model_options)

        def look(self, moment):
            return moment.x0

    def multiply(blocks, x, _t, _options):
        factors = torch.tensor(said * (x.shape[0] // 2), dtype=x.dtype)
        return [
            None if block is None else block * factors.view(-1, *[1] * (block.ndim - 1))
            for block in blocks
        ]

    model = host.pack("nodes.host.steering.sampling").steered(kind.model(host), "test", Run)
    ours = host.pack("nodes.host.control.control").as_ours(theirs).shaped(feedback=("a",))
    latent = kind.latents(2)
    found = host.sample(model, *foreign.our_apply(host, kind, ours), latent=latent, steps=2)
    conditioning = foreign.by_hand(foreign.host_apply(host, kind, theirs), kind, multiply)
    wanted = foreign.sampled(host, kind, conditioning, latent=latent)
    assert (found - wanted).abs().max() < 1e-5
    unmoved = foreign.sampled(host, kind, foreign.host_apply(host, kind, theirs), latent=latent)
    assert (found - unmoved).abs().max() > 1e-3


def test_two_queued_runs_are_equal_and_leave_nothing_behind(host):
    model, control, record = feedback(host)
    positive, negative = apply(host, control)
    first = run(host, model, None, 2, conditioning=(positive, negative))
    looks = record.feedback.steps
    second = run(host, model, None, 2, conditioning=(positive, negative))
    assert (first - second).abs().max() == 0.0
    assert record.feedback.steps == looks
    assert positive[0][1]["control"].strength == 0.8
    options = model.model_options.get("transformer_options", {})
    assert not any("cnpp_factors" in str(key) for key in options)
    assert (plain(host, 2) - run(host, host.model(TINY), control, 2)).abs().max() == 0.0


def test_after_an_interrupt_in_its_midst_the_next_run_is_as_ever(host):
    from comfy.model_management import InterruptProcessingException

    wanted = run(host, *feedback(host)[:2])
    broken = []

    def share(picture):
        if len(broken) == 2:
            broken.append(True)
            raise InterruptProcessingException
        broken.append(False)
        return by_content(picture)

    model, control, _ = feedback(host, share=share)
    with pytest.raises(InterruptProcessingException):
        run(host, model, control)
    assert (run(host, model, control) - wanted).abs().max() == 0.0


def test_every_copy_of_a_control_keeps_its_name(host):
    _, control, _ = feedback(host)
    (name,) = control.shape.feedback
    assert control.copy().shape.feedback == (name,)
    assert control.shaped(scales=None).shape.feedback == (name,)
    assert not hasattr(host.pair(TINY)[0], "shape")
    assert feedback(host)[1].shape.feedback != (name,)


def test_a_window_takes_the_factors_of_its_frames(host):
    factors = host.pack("nodes.host.control.factors")
    call_type = host.pack("nodes.host.control.call").Call
    live = factors.LiveFactors()
    live.values = (1.0, 2.0, 3.0, 4.0)
    options = {}
    live.publish("a", options)
    given = options["transformer_options"] | {"cond_or_uncond": [0, 1]}
    x = torch.zeros(4, 4, 8, 8)
    call = call_type.read(x, torch.ones(4), {}, 2, given, frames=(3, 1))
    assert factors.Factors(("a",)).of(call) == (4.0, 2.0)
    assert live.asked
