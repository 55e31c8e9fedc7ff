"""Scores on disk: lines that come back as they went, shares of the work, and waiting for others."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
import torch
from controlnet_pp.evaluate import records as module
from controlnet_pp.evaluate.command import main
from controlnet_pp.evaluate.pairs import find_pairs
from controlnet_pp.evaluate.paper import SampleScore
from controlnet_pp.evaluate.records import Record, Records, Shard
from controlnet_pp.tests.source import thawed
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    for name in ("ape", "bee", "cat"):
        for folder in ("pictures", "conditions"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("L", (64, 64), 255).save(tmp_path / folder / f"{name}.png")
    return tmp_path / "pictures", tmp_path / "conditions"


def record(name: str, stamp: list[int], counts: torch.Tensor | None = None) -> Record:
    return Record(name, stamp, SampleScore(0.5, (0.25, 0.75), counts), ["a line", "another"])


def test_results_cannot_be_changed():
    assert not thawed("evaluate")


# Lines


def test_a_record_comes_back_as_it_went():
    counts = torch.zeros(3, 4, dtype=torch.int64)
    counts[0, 3], counts[2, 1] = 7, 2**40
    there = record("ape", [1, 2, 3, 4, 5, 6], counts)
    back = Record.from_json(json.loads(json.dumps(there.to_json())))
    assert torch.equal(back.score.counts, counts)
    assert back.score.counts.dtype == torch.int64
    assert back.score[:2] == (0.5, (0.25, 0.75))
    assert (back.name, back.stamp, back.lines) == (there.name, there.stamp, there.lines)
    without = record("ape", [1, 2, 3, 4, 5, 6])
    assert Record.from_json(without.to_json()) == without


@pytest.mark.parametrize(
    "change",
    [
        *({"lines": ["one"]}, {"per_picture": [0.5]}),
        *({"stamp": [1, 2, 3, 4]}, {"stamp": [1, 2, 3, 4, 5, 6, 7]}),
    ],
    ids=str,
)
def test_a_record_has_a_score_a_line_and_a_stamp_for_each_picture(change):
    entry = record("ape", [1, 2, 3, 4, 5, 6]).to_json()
    Record.from_json(entry)
    with pytest.raises(ValueError, match="a score and a line for each picture"):
        Record.from_json(entry | change)


def test_a_line_is_on_the_disk_at_once(tmp_path):
    with Records(tmp_path, {}).open(Shard()) as file:
        Records.add(file, record("ape", [1, 2, 3, 4, 5, 6]))
        assert (tmp_path / "scores-0-of-1.jsonl").read_text().count("\n") == 1


def test_the_settings_are_written_to_be_read(tmp_path):
    Records(tmp_path / "a" / "b", {"kind": "canny", "a": ""})
    text = (tmp_path / "a" / "b" / "settings.json").read_text()
    assert text == '{\n  "a": "",\n  "kind": "canny"\n}\n'
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["settings.json"]


# Shares


def test_torchrun_says_which_share_of_the_work_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Shard.of_environment() == Shard(0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "6"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert Shard.of_environment() == Shard(5, 6, 1)


@pytest.mark.parametrize("rank", ["-1", "2"])
def test_a_rank_beyond_the_processes_is_refused(monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"RANK is {rank} and WORLD_SIZE 2; ranks are 0 to 1"):
        Shard.of_environment()


# Waiting


class Clock:
    """Stands for `time`; each sleep may bring a line of another process."""

    def __init__(self, lines: dict[int, str], file: io.TextIOBase) -> None:
        self.now, self.sleeps, self.lines, self.file = 100.0, 0, lines, file

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        self.file.write(self.lines.get(self.sleeps, ""))
        self.file.flush()


@pytest.mark.parametrize(
    ("arrivals", "patience", "found", "told", "seconds"),
    [
        ({3: "ape", 6: "bee", 9: "cat"}, 2.0, ["ape", "bee", "cat"], [3, 2, 1], 4.5),
        ({3: "ape", 9: "cat"}, 2.0, ["ape"], [3, 2], 4.0),
        ({}, 1.0, [], [3], 1.5),
        ({}, 0.0, [], [3], 0.5),
    ],
    ids=["all come", "one is late", "none", "no patience"],
)
def test_it_waits_as_long_as_scores_keep_coming(
    folders, tmp_path, monkeypatch, arrivals, patience, found, told, seconds
):
    pairs, heard = find_pairs(*folders), []
    records = Records(tmp_path / "out", {})
    stamps = {pair.name: pair.stamp for pair in pairs}
    score = SampleScore(1.0, (1.0,))
    lines = {
        at: json.dumps(Record(name, stamps[name], score, ["x"]).to_json()) + "\n"
        for at, name in arrivals.items()
    }
    with records.open(Shard(1, 2)) as file:
        clock = Clock(lines, file)
        monkeypatch.setattr(module, "time", clock)
        assert sorted(records.wait(pairs, patience, heard.append)) == found
    assert heard == told
    assert clock.now - 100 == seconds


# The command


def test_only_so_many_conditions_are_scored_and_shown(folders, tmp_path, capsys):
    paths = [*map(str, folders), "--out", str(tmp_path / "out"), "--patience", "0"]
    assert main(["canny", *paths, "--limit", "2", "--show", "1"]) == 0
    assert re.search(r"^conditions +2$", capsys.readouterr().out, re.MULTILINE)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>The worst 1</h2>" in page
    assert "<p>1. <b>ape</b>" in page


def test_progress_is_told_after_a_while(folders, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("controlnet_pp.evaluate.command.EVERY", 0.0)
    caplog.set_level(logging.INFO)
    paths = [*map(str, folders), "--out", str(tmp_path / "out"), "--patience", "0"]
    main(["canny", *paths])
    assert [f"process 0: {number} of 3" in caplog.text for number in (1, 2, 3)] == [True] * 3
    main(["canny", *paths])
    assert "3 scores are there already" in caplog.text


def test_quality_beside_consistency_is_in_the_table(folders, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "controlnet_pp.evaluate.command.fid", lambda _, real, __: asked.append(real) or 12.3456
    )
    monkeypatch.setattr(
        "controlnet_pp.evaluate.command.clip_score", lambda _, said, __: asked.append(said) or 31.0
    )
    paths = [*map(str, folders), "--out", str(tmp_path / "out"), "--patience", "0"]
    main(["canny", *paths, "--fid", str(tmp_path / "real"), "--clip", str(tmp_path / "said")])
    printed = capsys.readouterr().out
    assert re.search(r"^FID +12\.35$", printed, re.MULTILINE)
    assert re.search(r"^CLIP score +31$", printed, re.MULTILINE)
    assert asked == [tmp_path / "real", tmp_path / "said"]
    main(["canny", *paths])
    assert "FID" not in capsys.readouterr().out
