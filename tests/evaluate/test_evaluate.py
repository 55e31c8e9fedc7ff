"""The command `evaluate`, from folders of files to the reports."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.annotators.scribble import scribble_xdog
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.cnpp_core.consistency.check import check_consistency
from controlnet_pp.evaluate.command import main
from controlnet_pp.evaluate.pairs import find_pairs
from controlnet_pp.evaluate.records import Shard
from controlnet_pp.pictures.files import read_condition
from PIL import Image
from sklearn.metrics import f1_score
from torch.nn.functional import interpolate

ROOT = Path(__file__).resolve().parents[2]
SIZE = 96
NAMES = ("ape", "bee", "cat", "dog")
NOISE = (0.0, 0.003, 0.006, 0.2)


def picture(seed: int, noise: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = interpolate(torch.rand(1, 3, 6, 6, generator=generator), (SIZE, SIZE), mode="bicubic")
    rough = noise * torch.randn(smooth.shape, generator=generator)
    return ((smooth + rough).clamp(0, 1) * 255).round() / 255


def save(tensor: torch.Tensor, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = (tensor[0] * 255).round().byte().movedim(0, -1).numpy()
    Image.fromarray(np.squeeze(pixels)).save(file)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four conditions with two pictures each, in groups; `dog` follows worst."""
    for index, name in enumerate(NAMES):
        save(canny_cnpp(picture(index), drop_ties=True), tmp_path / "conditions" / f"{name}.png")
        for group in range(2):
            made = picture(index, noise=NOISE[index] * (group + 1))
            save(made, tmp_path / "pictures" / f"group_{group}" / f"{name}.png")
    return tmp_path / "pictures", tmp_path / "conditions"


# One process waits for nobody; where it does, a score is missing that should be there.
ALONE = ("--patience", "0")


def run(folders, *options: str) -> int:
    pictures, conditions = folders
    out = pictures.parent / "out"
    return main(["canny", str(pictures), str(conditions), "--out", str(out), *ALONE, *options])


def scores(folder: Path) -> list[list[str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.reader(file))


def read(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).movedim(-1, 0)[None] / 255


def expected_f1(folders, name: str) -> float:
    """Over both pictures at once, by scikit-learn."""
    pictures, conditions = folders
    wanted = np.array(Image.open(conditions / f"{name}.png")).flatten() > 127
    found = [
        canny_cnpp(read(pictures / f"group_{g}" / f"{name}.png"), drop_ties=True) for g in (0, 1)
    ]
    flat = np.concatenate([one.numpy().flatten() > 0 for one in found])
    return f1_score(np.concatenate([wanted, wanted]), flat)


def test_the_total_is_the_mean_over_conditions_of_the_published_f1(folders, capsys):
    assert run(folders) == 0
    expected = 100 * np.mean([expected_f1(folders, name) for name in NAMES])
    printed = capsys.readouterr().out
    assert f"canny F1 x 100               {expected:.2f}\n" in printed
    assert "published, ControlNet++    37.04" in printed


def test_the_csv_has_every_picture_the_worst_first(folders):
    run(folders)
    header, *rows = scores(folders[0].parent / "out")
    assert header == ["condition", "picture", "canny F1 x 100", "details"]
    assert len(rows) == 8
    values = [float(row[2]) for row in rows]
    assert values == sorted(values)
    assert rows[0][0] == "dog"
    assert rows[-1][0] == "ape"


def test_the_page_shows_the_worst_cases_and_needs_no_other_file(folders):
    run(folders, "--show", "3")
    page = (folders[0].parent / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="case">') == 3
    assert page.count("data:image/png;base64,") == 12  # picture, condition, found, difference
    assert page.index("<b>dog</b>") < page.index("<b>cat</b>")
    assert "http" not in page
    assert "src=" in page
    assert 'src="data:' in page


def test_the_protocol_of_the_check_gives_what_the_check_gives(folders, capsys):
    run(folders, "--protocol", "check", "--tolerance", "2")
    results = []
    for name in NAMES:
        made = torch.cat([read(folders[0] / f"group_{g}" / f"{name}.png") for g in (0, 1)])
        condition = read_condition(folders[1] / f"{name}.png")
        results += check_consistency(made, condition, canny_cnpp, EdgeMeasure(2)).per_image
    printed = capsys.readouterr().out
    assert f"Edge F1 (within 2 pixels)  {np.mean(results):.1%}" in printed


def test_a_kind_without_published_protocol_is_scored_by_the_check(tmp_path, capsys):
    made = picture(1)
    save(made, tmp_path / "pictures" / "one.png")
    save(scribble_xdog(made), tmp_path / "conditions" / "one.png")
    arguments = [str(tmp_path / name) for name in ("pictures", "conditions")]
    done = main(
        ["scribble", *arguments, "--method", "xdog", "--out", str(tmp_path / "out"), *ALONE]
    )
    assert done == 0
    assert "Stroke F1 (exact pixels)  100.0%" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no protocol for scribble"):
        main(["scribble", *arguments, "--protocol", "paper", "--out", str(tmp_path / "x")])


# Going on


def test_a_second_run_scores_nothing_again(folders, monkeypatch):
    run(folders)
    before = scores(folders[0].parent / "out")
    monkeypatch.setattr(
        "controlnet_pp.evaluate.scoring.PaperScoring.sample",
        lambda *_: pytest.fail("scored again"),
    )
    run(folders)
    assert scores(folders[0].parent / "out") == before


def test_a_run_that_broke_off_goes_on_after_the_last_whole_line(folders):
    run(folders)
    out = folders[0].parent / "out"
    before = scores(out)
    (file,) = out.glob("scores-*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])
    run(folders)
    assert scores(out) == before


def score_of(folders, group: int, name: str) -> float:
    rows = scores(folders[0].parent / "out")
    (row,) = (row for row in rows if row[1] == str(folders[0] / f"group_{group}" / f"{name}.png"))
    return float(row[2])


def test_a_picture_that_changed_is_scored_again(folders):
    run(folders)
    assert score_of(folders, 0, "dog") < 50
    save(picture(NAMES.index("dog")), folders[0] / "group_0" / "dog.png")
    run(folders)
    assert score_of(folders, 0, "dog") == 100
    assert score_of(folders, 1, "dog") < 50


def test_a_condition_that_changed_is_scored_again(folders):
    run(folders)
    assert score_of(folders, 0, "ape") == 100
    save(canny_cnpp(picture(99), drop_ties=True), folders[1] / "ape.png")
    run(folders)
    assert score_of(folders, 0, "ape") < 50


def test_a_condition_that_got_another_picture_is_scored_again(folders):
    run(folders)
    save(picture(0), folders[0] / "group_2" / "ape.png")
    run(folders)
    assert len(scores(folders[0].parent / "out")) == 1 + 9
    assert score_of(folders, 2, "ape") == 100


@pytest.mark.parametrize("which", ["condition", "picture"])
def test_the_stamp_changes_with_the_time_and_with_the_size_of_each_file(folders, which):
    pair = find_pairs(*folders)[0]
    path = pair.condition if which == "condition" else pair.pictures[1]
    before, times = pair.stamp, (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    os.utime(path, ns=(times[0], times[1] + 1_000_000_000))
    assert pair.stamp != before
    os.utime(path, ns=times)
    assert pair.stamp == before
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, ns=times)
    assert pair.stamp != before


def test_other_settings_in_the_same_folder_are_refused(folders):
    run(folders)
    with pytest.raises(ValueError, match=r"other settings \(method: cnpp\).*--out"):
        run(folders, "--method", "cv2")


# Sharing the work


def test_every_pair_belongs_to_exactly_one_process(monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        parts += Shard.of_environment().part(list(range(10)))
    assert sorted(parts) == list(range(10))


def command(folders, out: Path) -> list[str]:
    paths = [*map(str, folders), "--out", str(out)]
    return [str(ROOT / "cli.py"), "evaluate", "canny", *paths, "--patience", "60"]


def test_processes_started_by_torchrun_share_the_work_and_one_of_them_reports(folders):
    out = folders[0].parent / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "--master_port", "0", *command(folders, out)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the worst cases") == 1
    names = [
        [json.loads(line)["name"] for line in file.read_text().splitlines()]
        for file in sorted(out.glob("scores-*-of-2.jsonl"))
    ]
    assert names == [["ape", "cat"], ["bee", "dog"]]
    alone = folders[0].parent / "alone"
    main(command(folders, alone)[2:])
    assert scores(alone) == scores(out)


def test_scores_that_never_come_are_named_and_the_exit_code_says_so(folders, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(folders, "--patience", "0.1") == 1
    assert "2 of 4 conditions have no score, such as bee" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run(folders) == 0


# Files


def test_a_flat_folder_of_pictures_has_one_for_each_condition(folders):
    pairs = find_pairs(folders[0] / "group_0", folders[1])
    assert [len(pair.pictures) for pair in pairs] == [1, 1, 1, 1]


def test_other_files_beside_the_pictures_are_left_alone(folders):
    shutil.copy(folders[0] / "group_0" / "ape.png", folders[0] / "group_0" / "ape_edge.png")
    (folders[0] / "notes.txt").write_text("hello")
    assert [len(pair.pictures) for pair in find_pairs(*folders)] == [2, 2, 2, 2]


def test_conditions_without_pictures_and_unequal_groups_are_told(folders, caplog):
    caplog.set_level("INFO")
    (folders[0] / "group_0" / "ape.png").unlink()
    (folders[0] / "group_0" / "bee.png").unlink()
    (folders[0] / "group_1" / "bee.png").unlink()
    assert [pair.name for pair in find_pairs(*folders)] == ["ape", "cat", "dog"]
    assert "1 of 4 conditions have no picture" in caplog.text
    assert "conditions have 1 to 2 pictures each" in caplog.text


def test_two_files_of_one_name_are_refused(folders):
    shutil.copy(folders[1] / "ape.png", folders[1] / "ape.JPG")
    with pytest.raises(ValueError, match=r"ape\.JPG and .*ape\.png have one name"):
        find_pairs(*folders)


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_that_is_not_there_is_named(folders, which):
    paths = list(folders)
    paths[which] = paths[which] / "gone"
    with pytest.raises(ValueError, match=r"no folder .*gone with (pictures|conditions)"):
        find_pairs(*paths)


def test_names_that_do_not_match_are_refused_with_examples(folders, tmp_path):
    save(picture(0), tmp_path / "else" / "zebra.png")
    with pytest.raises(ValueError, match=r"such as ape.*such as zebra"):
        find_pairs(folders[0], tmp_path / "else")


def test_a_bad_condition_is_named_with_its_file(folders):
    save(picture(0), folders[1] / "bee.png")
    with pytest.raises(ValueError, match=r"bee\.png: .*neither black nor white"):
        run(folders)


def test_pictures_of_different_sizes_are_named(folders):
    small = picture(1)[..., :64, :64]
    save(small, folders[0] / "group_1" / "bee.png")
    with pytest.raises(ValueError, match=r"bee\.png is 64x64.*96x96"):
        run(folders)


def test_missing_weights_say_what_to_get_and_how(folders):
    with pytest.raises(FileNotFoundError, match=r"ControlNetHED\.pth.*--download.*https://"):
        main(["softedge", *map(str, folders), "--out", str(folders[0] / "x"), "--weights", "."])
