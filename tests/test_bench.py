"""The measurements of bench/: what they compute from times, and that they run."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from controlnet_pp.bench import _pairs, adherence, annotators, control
from controlnet_pp.bench._host import Counted, randomise, truncated
from controlnet_pp.bench._pairs import PairedTimes, Spread, interleaved, merge, parsed, save
from controlnet_pp.bench._steering import Experiment, Outcome
from controlnet_pp.bench._targets import summary
from controlnet_pp.bench.adherence import COND_ROWS, NEUTRAL, Adherence, Setting
from controlnet_pp.cnpp_core.control.reuse import ReusePolicy
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.demo.pipeline import generate
from controlnet_pp.demo.world import HELD_OUT_SEED

ROOT = Path(__file__).resolve().parent.parent
TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=16,
)


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(_pairs, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def held_out():
    torch.set_num_threads(1)
    return Experiment(HELD_OUT_SEED, range(2), steps=4)


def test_every_turn_begins_with_the_next_one():
    called = []
    runs = {name: lambda name=name: called.append(name) for name in "abc"}
    times = interleaved(runs, 4)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab" + "abc"  # the first to warm up
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_comparison_is_above_one_where_ours_is_faster():
    assert PairedTimes((1.0, 2.0), (2.0, 3.0)).ratios == (2.0, 1.5)


def test_a_spread_is_the_median_and_the_middle_half():
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0])
    assert (spread.low, spread.median, spread.high, spread.count) == (2.0, 4.0, 6.0, 7)


def test_results_of_earlier_runs_stay_until_measured_anew(results):
    first = {"spread": {"a_256": {"pairs": 7}}, "table": {"old way": 1}}
    merge("some", {"a_256": 1.0, "b_256": 2.0, **first}, inside=["spread"])
    then = {"spread": {"c_512": {"pairs": 9}}, "table": {"new way": 2}}
    file = merge("some", {"a_256": 3.0, **then}, inside=["spread"])
    read = json.loads(file.read_text())
    assert (read["a_256"], read["b_256"]) == (3.0, 2.0)
    assert read["spread"] == {"a_256": {"pairs": 7}, "c_512": {"pairs": 9}}
    assert read["table"] == {"new way": 2}
    assert {"machine", "date"} <= set(read)


def test_a_run_with_other_options_never_replaces_published_results(results):
    parser = ArgumentParser()
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--only", nargs="+")
    assert not parsed(parser, ["--only", "edges"], "only").trial
    trial = parsed(parser, ["--scenes", "4", "--only", "edges"], "only").trial
    assert trial
    published = merge("some", {"a": 1.0})
    for write in (merge, save):
        assert write("some", {"a": 2.0}, trial=trial) != published
    assert json.loads(published.read_text())["a"] == 1.0


@pytest.mark.parametrize(
    ("module", "few"),
    [
        (adherence, ["--scenes", "4"]),
        (annotators, ["--pairs", "2"]),
        (control, ["--quick"]),
        (control, ["--pairs", "2"]),
    ],
)
def test_every_measurement_knows_a_trial(module, few):
    assert not module.parse([]).trial
    assert module.parse(few).trial


def test_a_sampling_is_composed_of_counted_calls():
    counted = Counted(steps=20, rows=(2,) * 5)
    times = {"fresh": (4.0, 5.0), "again": (0.2, 0.0), "hint": (1.0, 0.0), "whole": (8.0, 5.0)}
    found = control.composed(counted, times, "whole")
    assert found == pytest.approx([(5 * 4 + 15 * 0.2 + 1) / (20 * 8), 5 * 5 / (20 * 5)])


def test_the_summary_names_what_is_beyond_its_target():
    def lost(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.001, "high": value + 0.001}

    lines, missed = summary(
        {
            "neutral_256": 1.01,
            "neutral_512": 1.03,
            "overhead_neutral_512": 0.48,
            "overhead_fast_512": 0.2,
            "spread": {"neutral_512": {"quartiles": [1.0, 1.1]}},
            "adherence": {"fast": {"loss": {"f1": lost(0.004), "iou": lost(-0.02)}}},
        }
    )
    assert missed == ["neutral_512", "overhead_fast_512"]
    assert any("1.000 to 1.100" in line for line in lines)
    priced = next(line for line in lines if "F1 0.4% (0.3% to 0.5%), IoU -2.0%" in line)
    assert priced.startswith("overhead_fast")


def test_losses_are_relative_to_the_neutral_setting():
    images = torch.zeros(2, 3, 8, 8)

    def judged(f1: list[float], iou: list[float]) -> Outcome:
        return Outcome(torch.tensor([iou]), torch.tensor([f1]), torch.zeros(1, 2))

    neutral = Adherence(judged([0.8, 0.6], [0.5, 0.5]), 1.0, images)
    fast = Adherence(judged([0.7, 0.6], [0.6, 0.6]), 0.2, images + 0.25)
    losses = fast.losses(neutral)
    assert losses["f1"].value == pytest.approx(0.05 / 0.7, rel=1e-5)
    # Where a draw takes the first scene twice, or the second.
    assert (losses["f1"].low, losses["f1"].high) == pytest.approx((0, 0.125), abs=1e-6)
    assert losses["iou"].value == pytest.approx(-0.2, rel=1e-5)
    assert fast.loss(neutral) == losses["f1"].value
    assert fast.change(neutral) == pytest.approx(0.25)


def test_the_neutral_setting_draws_what_the_demo_draws(held_out):
    found = adherence.measure(held_out, NEUTRAL)
    captions = list(held_out.batch.captions)
    drawn = generate(held_out.demo, captions, seed=0, steps=4, hints=held_out.hints)
    assert found.computed == 1.0
    assert (found.images - drawn).abs().max() == 0.0


@pytest.mark.parametrize(
    ("setting", "computed"),
    [
        (Setting(ReusePolicy(2, 1)), 2 / 4),
        (Setting(ReusePolicy(4, 2)), 2 / 4),
        (Setting(ReusePolicy(4, 1), COND_ROWS), 1 / 8),
        (Setting(mode=COND_ROWS), 1 / 2),
    ],
    ids=str,
)
def test_the_share_of_computed_rows_is_counted(held_out, setting, computed):
    assert adherence.measure(held_out, setting).computed == pytest.approx(computed)


def test_the_sweep_holds_every_setting_once():
    grid = adherence.sweep()
    assert len(grid) == len(set(grid)) == 2 * (1 + 5 * 2 + 2 * 3)
    assert NEUTRAL in grid


def test_a_truncated_network_gives_the_first_residuals_of_the_whole_one():
    class Lists(ControlNet):
        """Answers as ComfyUI's does, and like it takes its blocks as they come."""

        def forward(self, x, hint, timesteps, context):  # type: ignore[override]
            emb, h = self.embed(timesteps, None, x.dtype, None), x
            out = []
            for i, (block, zero_conv) in enumerate(
                zip(self.input_blocks, self.zero_convs, strict=True)
            ):
                h = block(h, emb, context) + (self.input_hint_block(hint) if i == 0 else 0)
                out.append(zero_conv(h))
            h = self.middle_block(h, emb, context)
            return [*out, self.middle_block_out(h)]

    network = randomise(Lists(TINY), seed=0)
    inputs = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64), torch.tensor([5])
    context = torch.randn(1, 4, 16)
    seen = []
    handle = network.input_blocks[2].register_forward_hook(lambda *_: seen.append(1))
    first = truncated(network, 2)(*inputs, context)
    assert seen == []
    whole = network(*inputs, context)
    handle.remove()
    assert len(first) == 3  # the last one is what goes through in place of the middle block
    assert all((a - b).abs().max() == 0.0 for a, b in zip(first[:2], whole[:2], strict=True))
    assert len(network.input_blocks) == 4, "the network itself stays whole"


def test_without_a_host_the_measurement_says_so(monkeypatch, capsys, results):
    monkeypatch.setattr(control, "why_not", lambda: "no ComfyUI found")
    assert control.main() == 0
    assert "SKIPPED, nothing was measured: no ComfyUI found" in capsys.readouterr().out
    assert not list(results.iterdir())


@pytest.mark.parametrize("arguments", [["--quick"], ["network", "adherence", "--quick"]])
def test_options_without_one_measurement_are_refused(arguments: list[str]):
    command = [sys.executable, str(ROOT / "cli.py"), "bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--quick needs one measurement" in done.stderr


@pytest.mark.host
def test_single_calls_are_measured_inside_the_host():
    figures = ("neutral", "cond_rows", "first_four")
    command = [sys.executable, str(ROOT / "cli.py"), "bench", "control", "--quick", "--only"]
    done = subprocess.run([*command, *figures], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert all(f"{name}_64: " in done.stdout for name in figures)
