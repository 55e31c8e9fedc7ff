"""Consistency Search while it runs: progress, interrupts, errors that name the trial."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from controlnet_pp.tests.host.harness import picture
from controlnet_pp.tests.host.select.searched import entries, run


class Bar:
    """What ProgressBar reports to the page."""

    def __init__(self, monkeypatch):
        from comfy import utils

        self.seen = []
        monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", self._note)
        monkeypatch.setattr(utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)
        monkeypatch.setattr(utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0.0, raising=False)

    def _note(self, value, total, preview, node_id=None):
        self.seen.append((value, total, preview))


def test_one_bar_goes_over_the_steps_of_all_trials_with_previews(host, world, monkeypatch):
    import latent_preview

    class Previewer:
        def decode_latent_to_preview_image(self, form, x0):
            return form, x0.shape

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Previewer())
    bar = Bar(monkeypatch)
    run(host, world, seeds=4, strengths="1")
    steps = [(value, total, preview) for value, total, preview in bar.seen if total == 12]
    values = [value for value, *_ in steps]
    assert values == sorted(values)
    assert set(values) == set(range(13))
    assert [preview for *_, preview in steps if preview] == [("JPEG", (1, 4, 16, 16))] * 12


@pytest.mark.parametrize("at", [2, 3, 4], ids=["inside", "at the end of", "behind"])
def test_an_interrupt_stops_a_trial_and_leaves_nothing_behind(host, world, monkeypatch, at):
    from comfy import model_management

    apply = host.pack("nodes.host.select.search")
    kept = []
    original = apply.apply_control

    def remembered(*args, **kwargs):
        out = original(*args, **kwargs)
        kept.extend(weakref.ref(options["control"]) for side in out for _, options in side)
        return out

    monkeypatch.setattr(apply, "apply_control", remembered)
    fresh = run(host, world, seeds=1)
    assert kept
    kept.clear()

    class Stopping(Bar):
        def _note(self, value, total, preview, node_id=None):
            super()._note(value, total, preview)
            if total == 6 and value == at:
                model_management.interrupt_current_processing()

    bar = Stopping(monkeypatch)
    with pytest.raises(model_management.InterruptProcessingException):
        run(host, world, seeds=1)
    assert max(value for value, total, _ in bar.seen if total == 6) in (at, at + 1)
    model_management.interrupt_current_processing(False)
    gc.collect()
    assert kept
    assert not [ref for ref in kept if ref() is not None]
    monkeypatch.undo()
    assert torch.equal(run(host, world, seeds=1)["image"], fresh["image"])


def test_running_out_of_memory_names_the_trial_and_stays_such_an_error(host, world, monkeypatch):
    calls = []

    def decode(*_, **__):
        calls.append(1)
        if len(calls) == 3:
            raise torch.cuda.OutOfMemoryError("no room for 3 GiB")
        return picture()

    monkeypatch.setattr(world["vae"], "decode", decode)
    with pytest.raises(torch.cuda.OutOfMemoryError) as error:
        run(host, world, steps=1)
    assert "decoding trial 3 of 4 (seed 6, strength 0.4) ran out of memory" in str(error.value)
    assert "no room for 3 GiB" in str(error.value)
    monkeypatch.undo()
    run(host, world, seeds=1, strengths="1", steps=1)


def test_another_error_names_the_trial_too(host, world, monkeypatch):
    nan = torch.full((1, 128, 128, 3), float("nan"))
    monkeypatch.setattr(world["vae"], "decode", lambda *_: nan)
    with pytest.raises(ValueError, match=r"scoring trial 1 of 4 \(seed 5.*NaN or infinite"):
        run(host, world, steps=1)


def test_the_table_grows_on_the_node_while_it_runs(host, world, monkeypatch):
    select = host.pack("nodes.consistency.select")
    shown = []
    original = select.show_text
    monkeypatch.setattr(
        select, "show_text", lambda cls, text: shown.append(text) or original(cls, text)
    )
    found = run(host, world, steps=1)
    assert [len(entries(text)) for text in shown] == [1, 2, 3, 4, 4]
    assert shown[-1] == found["table"]
