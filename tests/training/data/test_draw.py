"""Batches of records: what is in them, what is random about them, what is encoded and when."""

from dataclasses import fields, replace

import pytest
import torch
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.network.blocks import timestep_embedding
from controlnet_pp.cnpp_core.training.data.cache import Cache
from controlnet_pp.cnpp_core.training.data.draw import DataSettings
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.cnpp_core.training.processes import OneProcess
from controlnet_pp.tests.training.data.given import Counted, drawn, record, seeded, value_of
from torch.nn.functional import avg_pool2d

MANY = [record(f"{n}", 128 + n % 3, 128) for n in range(12)]


def equal(a, b) -> bool:
    values = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in values)


def test_a_batch_has_what_a_training_takes():
    draw = drawn(MANY, Counted(y=True), batch=3)
    batch = draw(seeded())
    assert batch.x0.shape == (3, 3, 16, 16)
    assert batch.hint is not None
    assert batch.hint.shape == (3, 3, 128, 128)
    assert batch.context.shape == (3, 2, 4)
    assert batch.y is not None
    assert batch.y.shape == (3, 3)
    assert batch.empty is not None
    assert batch.empty.abs().max() == 0
    assert len(draw) == 12


@pytest.mark.parametrize("mirror", [False, True])
def test_picture_condition_and_caption_of_a_row_belong_together(mirror):
    """The condition marks the pixels of the picture, so that its means are the latents."""
    draw = drawn(MANY, mirror=mirror, batch=4)
    values = {value_of(r.caption): r for r in MANY}
    generator = seeded()
    sides = set()
    for _ in range(8):
        batch = draw(generator)
        torch.testing.assert_close(avg_pool2d(batch.hint, 8), batch.x0)
        for row, hint in zip(batch.context[:, 0, 0].tolist(), batch.hint, strict=True):
            original = values[row].picture()
            middle = (original.shape[-1] - 128) // 2
            picture = original[0, ..., middle : middle + 128]
            if original.shape[-1] == 128:
                sides.add(bool(torch.equal(hint, picture)))
                assert any(torch.equal(hint, p) for p in (picture, picture.flip(-1)))
    assert sides == ({True, False} if mirror else {True})


def test_the_state_of_the_generator_decides_the_batch():
    first, second = drawn(MANY, mirror=True, drop_text=0.5), drawn(MANY, mirror=True, drop_text=0.5)
    generator = seeded(3)
    for _ in range(5):
        first(generator)
    state = generator.get_state()
    batch = first(generator)
    assert equal(batch, second(generator.set_state(state)))
    assert not equal(batch, second(generator))


def test_processes_draw_their_own_parts():
    batches = []
    for index in range(2):
        process = OneProcess()
        process.index = index
        batches.append(drawn(MANY, batch=8)(process.generator(0)))
    assert not torch.equal(batches[0].context, batches[1].context)


def test_every_record_is_as_likely_and_a_batch_is_of_one_size():
    records = [record(f"a{n}") for n in range(6)] + [record(f"b{n}", 256, 400) for n in range(3)]
    draw, generator, seen = drawn(records, resolution=256), seeded(), {}
    assert len(draw.buckets) == 2
    for _ in range(600):
        for value in draw(generator).context[:, 0, 0].tolist():
            seen[value] = seen.get(value, 0) + 1
    # 1200 rows over 9 records; rows of one batch are not independent, hence the width.
    assert len(seen) == 9
    assert all(80 < count < 190 for count in seen.values())


def test_captions_are_dropped_as_often_as_asked_for():
    for probability, low, high in ((0.0, 0, 0), (1.0, 400, 400), (0.25, 70, 130)):
        draw, generator = drawn(MANY, Counted(y=True), batch=4, drop_text=probability), seeded()
        batches = [draw(generator) for _ in range(100)]
        assert low <= sum(int(batch.dropped.sum()) for batch in batches) <= high
        assert all((batch.context[:, 0, 0] != 0).all() for batch in batches)
        for batch in batches:
            learnt = batch.without_dropped()
            assert torch.equal(learnt.context[:, 0, 0] == 0, batch.dropped)
            assert torch.equal(learnt.y[:, 0] == 0, batch.dropped)


def test_contexts_of_different_lengths_are_repeated():
    counted = Counted()

    def text(captions):
        value = float(len(captions[0]))
        return torch.full((1, 3 if captions[0] else 2, 4), value), None

    counted.text = text
    batch = drawn(MANY, counted)(seeded())
    assert batch.context.shape == batch.empty.shape == (2, 6, 4)


def test_sdxl_is_told_original_size_what_was_cut_off_and_trained_size():
    draw = drawn([record("a", 300, 200)], Counted(y=True), batch=2, resolution=256, sizes=True)
    batch = draw(seeded())
    assert batch.hint.shape == (2, 3, 192, 320)
    numbers = torch.tensor([200, 300, 11, 0, 192, 320])  # of 320 x 213 pixels, 192 rows are left
    expected = timestep_embedding(numbers, 256).flatten()
    assert batch.y.shape == batch.empty_y.shape == (2, 3 + 1536)
    for row in (*batch.y, *batch.empty_y):
        torch.testing.assert_close(row[3:], expected)
    assert batch.empty_y[0, :3].tolist() == [0, 0, 0]


# What is encoded and when


def test_pictures_and_captions_are_encoded_once():
    counted, generator = Counted(), seeded()
    draw = drawn(MANY, counted, mirror=True, drop_text=0.5)
    draw.encode_all()
    assert len(counted.pictures) == 24
    assert sorted(counted.captions) == sorted({"", *(r.caption for r in MANY)})
    for _ in range(20):
        draw(generator)
    assert len(counted.pictures) == 24
    assert len(counted.captions) == 13


def test_encoding_all_before_changes_no_batch():
    before, later = drawn(MANY, mirror=True), drawn(MANY, mirror=True)
    before.encode_all()
    assert equal(before(seeded()), later(seeded()))


NAMES = ("vae 1", "clip 1")


@pytest.mark.parametrize(
    ("names", "resolution", "pictures", "captions"),
    [
        (NAMES, 128, 0, 0),
        (("vae 2", "clip 1"), 128, 12, 0),
        (("vae 1", "clip 2"), 128, 0, 13),
        (NAMES, 64, 12, 0),
    ],
)
def test_a_changed_encoder_or_resolution_is_noticed(
    tmp_path, names, resolution, pictures, captions
):
    drawn(MANY, names=NAMES, cache=Cache(tmp_path)).encode_all()
    counted = Counted()
    draw = drawn(MANY, counted, names, cache=Cache(tmp_path), resolution=resolution)
    draw.encode_all()
    assert (len(counted.pictures), len(counted.captions)) == (pictures, captions)


def test_a_changed_picture_is_noticed(tmp_path):
    drawn([record("a")], names=NAMES, cache=Cache(tmp_path)).encode_all()
    counted = Counted()
    changed = [record("a", stamp="a, later", caption="about a")]
    drawn(changed, counted, NAMES, cache=Cache(tmp_path)).encode_all()
    assert len(counted.pictures) == 1


def test_a_folder_needs_names_of_the_encoders(tmp_path):
    for names in (("", "clip"), ("vae", "")):
        with pytest.raises(ValueError, match="the encoders need names"):
            drawn(MANY, names=names, cache=Cache(tmp_path))


# Conditions that are found when they are needed


def shaded(pictures, generator):
    return pictures[:, :1] * torch.rand(len(pictures), 1, 1, 1, generator=generator)


def test_a_condition_is_found_anew_and_the_latents_stay():
    counted, generator = Counted(), seeded()
    draw = drawn([record("a", found=False)], counted, annotate=shaded, mirror=True)
    batches = [draw(generator) for _ in range(10)]
    shades = {round(float(hint.max()), 5) for batch in batches for hint in batch.hint}
    assert len(shades) == 20
    assert len(counted.pictures) == 2  # as it is, and mirrored
    for batch in batches:
        shade = batch.hint.amax((1, 2, 3), keepdim=True)
        torch.testing.assert_close(avg_pool2d(batch.hint / shade, 8), batch.x0)


def test_a_random_condition_too_is_decided_by_the_generator():
    records = [record(f"{n}", found=False) for n in range(5)]
    batches = [drawn(records, annotate=shaded)(seeded(7)) for _ in range(2)]
    assert equal(*batches)


def test_a_batch_is_the_same_in_whatever_precision_the_training_computes():
    def mixed(pictures, _):
        return torch.einsum("bchw,dc->bdhw", pictures, torch.full((3, 3), 0.3))

    batches = []
    for half in (False, True):
        draw = drawn([record("a", found=False)], annotate=mixed)
        draw.encoders = replace(draw.encoders, image=lambda pictures: mixed(pictures, None))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            batches.append(draw(seeded()))
    assert equal(*batches)


def test_without_conditions_and_annotator_the_record_is_named():
    with pytest.raises(ValueError, match=r"^b has no condition"):
        drawn([record("a"), record("b", found=False)])


SIDED = (Condition.POSE, Condition.NORMAL)


@pytest.mark.parametrize("kind", [None, *Condition])
def test_conditions_from_files_that_know_left_from_right_are_not_mirrored(kind):
    if kind in SIDED:
        with pytest.raises(ValueError, match=rf"^0 has .* left from right, {kind.value.label}: "):
            drawn(MANY, mirror=True, kind=kind)
    else:
        drawn(MANY, mirror=True, kind=kind)
    drawn(MANY, kind=kind)


@pytest.mark.parametrize("kind", SIDED)
def test_conditions_that_are_found_in_the_mirrored_picture_may_be_of_any_kind(kind):
    bare = [record(f"{n}", found=False) for n in range(3)]
    draw = drawn(bare, mirror=True, kind=kind, annotate=lambda pictures, _: pictures)
    batch = draw(seeded())
    torch.testing.assert_close(avg_pool2d(batch.hint, 8), batch.x0)
    given = [*bare, record("found")]
    with pytest.raises(ValueError, match=r"^found has .* left from right"):
        drawn(given, mirror=True, kind=kind, annotate=lambda pictures, _: pictures)


# What turns out to be bad when it is drawn


def broken(name: str, error: Exception | None = None, **changes):
    def read():
        raise error or ValueError("b.png can't be read")

    return record(name, **({"picture": read, "condition": read} | changes))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (broken("b"), "b: b.png can't be read"),
        (broken("b", OSError("gone")), "b: gone"),
        (broken("b", picture=record("b").picture), "b: b.png can't be read"),
        (record("b", picture=record("c", 64, 64).picture), "b: it is 64x64 pixels now"),
        (record("b", condition=record("c", 64, 96).condition), "b: it is 64x96 pixels now"),
    ],
)
def test_a_record_that_proves_bad_ends_the_draw_or_is_left_out(bad, words):
    records = [record("a"), bad, record("c")]
    draw = drawn(records, problems=Problems(), batch=16)
    with pytest.raises(ValueError, match=f"^{words}.*Mend it, or choose to skip"):
        draw(seeded())
    problems = Problems(skip=True)
    batch = drawn(records, problems=problems, batch=16)(seeded())
    values = {value_of(r.caption) for r in (records[0], records[2])}
    assert set(batch.context[:, 0, 0].tolist()) == values
    assert len(problems.found) == 1
    assert problems.found[0].startswith(words)


def test_what_is_known_to_be_bad_changes_no_batch():
    records = [*MANY[:3], broken("b")]
    draw = drawn(records, problems=Problems(skip=True), mirror=True)
    fresh = drawn(records, problems=Problems(skip=True), mirror=True)
    fresh.encode_all()
    assert fresh.problems.found
    generator, other = seeded(1), seeded(1)
    assert all(equal(draw(generator), fresh(other)) for _ in range(10))


def test_nothing_that_can_be_used_is_an_error_and_no_endless_loop():
    draw = drawn([broken("a"), broken("b")], problems=Problems(skip=True))
    with pytest.raises(ValueError, match="None of the 2 records to draw from can be used"):
        draw(seeded())


def test_an_encoder_that_fails_is_no_bad_record():
    counted = Counted()

    def fails(pictures):
        raise ValueError("out of sorts")

    counted.image = fails
    problems = Problems(skip=True)
    with pytest.raises(ValueError, match=r"^out of sorts$"):
        drawn(MANY, counted, problems=problems)(seeded())
    assert not problems.found


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"drop_text": 1.5}, {"drop_text": -0.1}])
def test_a_setting_out_of_its_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"The setting {next(iter(wrong))} is"):
        DataSettings(**wrong)


def test_conditions_of_other_channels_than_a_picture_s_stay_as_they_are():
    four = torch.rand(1, 4, 128, 128)
    batch = drawn([record("a", condition=lambda: four)])(seeded())
    assert torch.equal(batch.hint, four.repeat(2, 1, 1, 1))


def test_the_whole_is_every_record_once_with_its_caption_and_a_batch_for_each_size():
    records = [record("a"), record("b", 256, 128), record("c")]
    draw = drawn(records, mirror=True, drop_text=1.0, batch=1, resolution=256)
    batches = draw.whole(seeded())
    captions = [batch.context[:, 0, 0].tolist() for batch in batches]
    assert captions == [
        [value_of(records[n].caption) for n in numbers] for numbers in ([0, 2], [1])
    ]
    assert [len(batch) for batch in batches] == [2, 1]


def test_the_whole_leaves_out_what_cannot_be_read():
    def broken():
        raise ValueError("it is broken")

    problems = Problems(skip=True)
    draw = drawn([record("a"), record("b", picture=broken)], problems=problems)
    (batch,) = draw.whole(seeded())
    assert len(batch) == 1
    assert problems.found == ["b: it is broken"]
