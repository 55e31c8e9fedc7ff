"""Which records are read, how their conditions are found, and what is held out."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_cv2
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.demo.segmenter import PALETTE
from controlnet_pp.tests.train.folders import circles, pictures_with_captions
from controlnet_pp.train.data import data_of, finder_of, read_records
from controlnet_pp.train.models import demo_model
from controlnet_pp.train.options import Options
from PIL import Image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return demo_model(CPU, named=False)


def options(data, **settings):
    return Options(data=str(data), resolution=64, batch=2, **settings)


def made(settings, model, problems=None):
    problems = problems or Problems(settings.skip_bad)
    records = read_records(settings, problems)
    finder = finder_of(settings, CPU, needed=True)
    return data_of(records, settings, model, finder, problems, CPU)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_layout_follows_from_what_is_there(tmp_path):
    listed = circles(tmp_path / "listed")
    folder = pictures_with_captions(tmp_path / "folder")
    with tarfile.open(tmp_path / "set-0.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    for data, found in (
        (listed, True),
        (folder, False),
        (tmp_path / "set-0.tar", False),
        (tmp_path / "set-{0..0}.tar", False),
    ):
        records = read_records(options(data), Problems())
        assert [r.condition is not None for r in records] == [found] * 6
    settings = options(folder, conditions=tmp_path / "folder-source" / "source")
    assert all(r.condition is not None for r in read_records(settings, Problems()))


@pytest.mark.parametrize(
    ("thresholds", "method", "find"),
    [
        ((), "", canny_cnpp),
        ((50, 120), "", lambda p: canny_cnpp(p, low=0.05, high=0.12)),
        ((20, 60), "cv2", lambda p: canny_cv2(p, 20, 60)),
    ],
)
def test_conditions_that_are_not_there_are_found(thresholds, method, find, tmp_path, model):
    folder = pictures_with_captions(tmp_path / "folder", count=4)
    settings = options(folder, thresholds=thresholds, method=method, held_out=3)
    record_of = {r.caption: r for r in read_records(settings, Problems())}
    data = made(settings, model)
    batch = data.draw(seeded())
    (left,) = data.draw.records
    expected = find(record_of[left.caption].picture()).expand(-1, 3, -1, -1)
    assert torch.equal(batch.hint, expected.repeat(2, 1, 1, 1))


def test_random_thresholds_are_drawn_for_training_and_fixed_to_judge(tmp_path, model):
    folder = pictures_with_captions(tmp_path / "folder")
    generator = np.random.default_rng(0)
    for file in folder.glob("*.png"):
        noise = generator.integers(0, 90, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(np.asarray(Image.open(file)) // 2 + noise).save(file)
    settings = options(folder, method="cv2", thresholds=(20, 100, 100, 400), held_out=5)
    data = made(settings, model)
    hints = [data.draw(seeded(n)).hint for n in range(6)]
    assert len({float(one.sum()) for hint in hints for one in hint}) > 6
    trained = {r.name for r in data.draw.records}
    away = [r for r in read_records(settings, Problems()) if r.name not in trained]
    expected = {float(canny_cv2(record.picture()).sum()) for record in away}
    assert {float(one[0].sum()) for batch in data.held_out for one in batch.hint} == expected


def test_what_is_held_out_is_not_trained_with_and_the_same_each_time(tmp_path, model):
    settings = options(circles(tmp_path / "set"), held_out=2, seed=3)
    first, second = made(settings, model), made(settings, model)
    away = [r.name for r in read_records(settings, Problems())]
    for record in first.draw.records:
        away.remove(record.name)
    assert len(away) == 2
    assert [r.name for r in first.draw.records] == [r.name for r in second.draw.records]
    (batch,) = first.held_out
    assert len(batch) == 2
    assert not torch.equal(batch.context[0], batch.empty[0])  # captions are not left out
    others = made(options(tmp_path / "set", held_out=2, seed=4), model)
    assert {r.name for r in others.draw.records} != {r.name for r in first.draw.records}


def test_none_need_to_be_held_out_but_not_all(tmp_path, model):
    set_ = circles(tmp_path / "set")
    assert made(options(set_, held_out=0), model).held_out == []
    with pytest.raises(ValueError, match="6 of 6 records were to be held out"):
        made(options(set_, held_out=6), model)


def test_the_demo_s_own_annotator_finds_its_segments(tmp_path, model):
    folder = pictures_with_captions(tmp_path / "folder", size=128)
    settings = Options(data=str(folder), resolution=128, batch=2, condition="seg")
    batch = made(settings, model).draw(seeded())
    colours = (batch.hint * 255).round().movedim(1, -1).reshape(-1, 3).int()
    assert {tuple(c) for c in colours.tolist()} <= set(PALETTE)
    assert finder_of(settings, CPU, True).measure.name


def test_colours_that_stand_for_classes_are_not_mixed_when_conditions_are_resized(tmp_path, model):
    pictures = pictures_with_captions(tmp_path / "pictures", size=96)
    conditions = tmp_path / "conditions"
    conditions.mkdir()
    for file in pictures.glob("*.png"):
        classes = np.random.default_rng(len(file.name)).integers(0, 2, (96, 96))
        Image.fromarray(np.array(PALETTE, np.uint8)[classes]).save(conditions / file.name)
    settings = options(pictures, conditions=conditions, condition="seg")
    batch = made(settings, model).draw(seeded())
    assert batch.hint.shape[-2:] == (64, 64)
    colours = (batch.hint * 255).round().movedim(1, -1).reshape(-1, 3).int()
    assert {tuple(c) for c in colours.tolist()} == set(PALETTE)


def test_a_record_that_can_t_be_used_ends_it_or_is_left_out_and_counted(tmp_path, model):
    folder = pictures_with_captions(tmp_path / "folder")
    sorted(folder.glob("*.txt"))[2].unlink()
    with pytest.raises(ValueError, match=r"its caption .*00002\.txt is missing.*skip"):
        made(options(folder), model)
    problems = Problems(skip=True)
    data = made(options(folder, skip_bad=True, held_out=1), model, problems)
    assert len(data.draw) == 4
    assert len(problems.found) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"condition": "depth", "thresholds": (1.0, 2.0)}, "only canny has them"),
        ({"thresholds": (1.0, 2.0, 3.0)}, "takes 2 or 4"),
        ({"thresholds": (1.0, 2.0, 3.0, 4.0)}, "set method to cv2"),
        ({"method": "cv3"}, "no method cv3"),
        ({"condition": "softedge"}, "hed|HED"),
    ],
)
def test_annotators_that_can_t_be_had_are_refused(settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    error = (ValueError, FileNotFoundError)
    with pytest.raises(error, match=said):
        finder_of(options(tmp_path, **settings), CPU, needed=True)


def test_poses_from_files_are_not_mirrored(tmp_path, model):
    """Their colours know left from right."""
    settings = options(circles(tmp_path / "set"), condition="pose", mirror=True, score=False)
    records = read_records(settings, Problems())
    finder = finder_of(settings, CPU, needed=False)
    with pytest.raises(ValueError, match="knows left from right"):
        data_of(records, settings, model, finder, Problems(), CPU)


def test_data_that_say_where_conditions_are_take_no_folder_of_them(tmp_path):
    settings = options(circles(tmp_path / "set"), conditions=tmp_path)
    with pytest.raises(ValueError, match="leave out conditions"):
        read_records(settings, Problems())
    with pytest.raises(ValueError, match="give data"):
        read_records(Options(), Problems())
