"""Control that differs between the prompts, against the host's own residuals edited by hand."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import CLOSE, mode, sampled, schedule
from controlnet_pp.tests.host.harness import TINY, apply, prompt
from controlnet_pp.tests.host.residuals import edited, evaluations


def by_side(cond, uncond):
    """An edit that multiplies the rows of each side; index 1 is the negative prompt's."""

    def edit(blocks, x, _t, options):
        sides = options["cond_or_uncond"]
        rows = x.shape[0] // len(sides)
        edits = []
        for i, block in enumerate(blocks):
            factors = torch.tensor([(uncond if s else cond)(i) for s in sides])
            edits.append(block * factors.repeat_interleave(rows).view(-1, 1, 1, 1))
        return edits

    return edit


SOFT = [0.825 ** (12 * (1 - i / 4)) for i in range(5)]
MODES = {
    "balanced": (lambda i: 1.0, lambda i: 1.0),
    "prompt is more important": (lambda i: SOFT[i], lambda i: SOFT[i]),
    "control is more important": (lambda i: SOFT[i], lambda i: 0.0),
    "cond rows only": (lambda i: 1.0, lambda i: 0.0),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODES)
def test_a_mode_is_its_formula_on_the_hosts_residuals(host, name, batch):
    ours, _ = host.pair(TINY)
    latent = torch.zeros(batch, 4, 16, 16)
    got = sampled(host, apply(host, mode(host, ours, name)), latent=latent)
    wanted = sampled(host, edited(host, by_side(*MODES[name])), latent=latent)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_balanced_is_the_host_bit_for_bit(host):
    ours, theirs = host.pair(TINY)
    wanted = sampled(host, apply(host, theirs, node="ControlNetApplyAdvanced"))
    assert torch.equal(sampled(host, apply(host, mode(host, ours))), wanted)


def test_each_side_takes_scales_of_its_own(host):
    ours, _ = host.pair(TINY)
    (detail,) = host.call("CNPP_BlockScalePreset", preset="detail", strength=1.0)
    shaped = mode(host, ours, cond=0.5, uncond=0.25, uncond_scales=detail)
    edit = by_side(lambda i: 0.5, lambda i: 0.25 * (i < 2))
    wanted = sampled(host, edited(host, edit))
    got = sampled(host, apply(host, shaped))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
def test_muted_rows_are_not_computed(host, batch):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours, "cond rows only"))
    with evaluations(ours.control_model) as rows:
        sampled(host, conditioning, latent=torch.zeros(batch, 4, 16, 16), steps=3)
    assert rows == [batch] * 3


def split_calls(monkeypatch, host, when):
    """Let the host find too little memory for one batch of both sides, at the calls `when` says."""
    base, calls = host.model(TINY).model, []

    def memory_required(shape, **_options):
        if shape[0] > 1:
            calls.append(1)
        return 1e20 if shape[0] > 1 and when(len(calls)) else 0.0

    monkeypatch.setattr(base, "memory_required", memory_required)
    return calls


@pytest.mark.parametrize("name", ["balanced", "control is more important"])
@pytest.mark.parametrize(
    "when", [lambda n: True, lambda n: n % 2 == 0], ids=["always", "every other step"]
)
def test_the_result_does_not_depend_on_how_the_host_splits_the_batch(host, monkeypatch, name, when):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours, name), scales=schedule(host, "0%: 1; 90%: 0.3"))
    together = sampled(host, conditioning, steps=6)
    calls = split_calls(monkeypatch, host, when)
    apart = sampled(host, conditioning, steps=6)
    assert len(calls) > 3
    assert (together - apart).abs().max() < CLOSE * together.abs().max()


def test_the_negative_prompt_is_known_by_name_where_it_comes_first(host):
    """A guider of two conditionings puts the negative prompt at index 0."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    ours, theirs = host.pair(TINY)
    model = host.model(TINY)

    def guided(positive, negative):
        guider = Guider_DualCFG(model)
        guider.set_conds(positive, prompt(TINY, 5), negative)
        guider.set_cfg(2.0, 3.0)
        sampler = comfy.samplers.sampler_object("euler")
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", 3
        )
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True)

    got = guided(*apply(host, mode(host, ours, "cond rows only")))
    # The same thing in the host's words: the control on the positive prompt alone.
    positive, _ = apply(host, theirs, node="ControlNetApplyAdvanced")
    wanted = guided(positive, prompt(TINY, 2))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_cfg_one_drops_the_uncond_rows_and_nothing_else(host):
    ours, _ = host.pair(TINY)
    shaped = mode(host, ours, "cond rows only")
    plain = sampled(host, apply(host, ours), cfg=1.0)
    assert torch.equal(sampled(host, apply(host, shaped), cfg=1.0), plain)


@pytest.mark.parametrize("batch", [1, 2])
def test_without_marks_index_0_is_the_positive_prompt(host, batch):
    """The host's own Apply marks no prompt; then the sampler's index has to tell."""
    ours, _ = host.pair(TINY)
    shaped = mode(host, ours, "cond rows only")
    latent = torch.zeros(batch, 4, 16, 16)
    got = sampled(host, apply(host, shaped, node="ControlNetApplyAdvanced"), latent=latent)
    wanted = sampled(host, edited(host, by_side(*MODES["cond rows only"])), latent=latent)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("indices", [None, [0], [1], [0, 1], [1, 0], [1, 0, 0, 1]], ids=str)
def test_a_call_without_marks_reads_its_sides_from_the_indices(host, indices):
    read = host.pack("nodes.host.control.call").Call.read
    rows = 2 * len(indices or [0])
    options = {} if indices is None else {"cond_or_uncond": indices}
    call = read(torch.zeros(rows, 4, 8, 8), torch.ones(rows), {}, rows // 2, options)
    assert [chunk.side for chunk in call.chunks] == [
        "uncond" if index else "cond" for index in indices or [0]
    ]
