"""The check for every kind of condition, on maps that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.ade20k import to_colours
from controlnet_pp.annotators.kinds import ADE20K
from controlnet_pp.annotators.normal import normal_image
from controlnet_pp.annotators.openpose import Keypoint, Person, Pose, draw_poses
from controlnet_pp.annotators.openpose import draw as drawing
from controlnet_pp.annotators.openpose.limbs import DRAWN_LIMBS
from controlnet_pp.annotators.openpose.limbs import LIMBS as ANNOTATOR_LIMBS
from controlnet_pp.annotators.tile import tile_resample
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.agreement import skeletons
from controlnet_pp.cnpp_core.consistency.agreement.labels import LabelMeasure
from controlnet_pp.cnpp_core.consistency.agreement.measure import INVENTED, KEPT, LOST
from controlnet_pp.cnpp_core.consistency.check import CheckResult, check_consistency
from controlnet_pp.cnpp_core.consistency.metrics import mean_iou, ms_ssim
from skimage import data
from torch.nn.functional import interpolate

SIZE = 192


def photo(name: str = "astronaut") -> torch.Tensor:
    pixels = getattr(data, name)()
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    square = pixels[: min(pixels.shape[:2]), : min(pixels.shape[:2])]
    whole = torch.from_numpy(square.copy()).movedim(-1, 0)[None].float() / 255
    return interpolate(whole, (SIZE, SIZE), mode="area")


def soft_lines(shift: int = 0) -> torch.Tensor:
    """Soft white curves on black, (1, 1, SIZE, SIZE)."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    radius = ((x - 90 - shift) ** 2 + (y - 100) ** 2).float().sqrt()
    return (1 - ((radius - 60).abs() / 5)).clamp(0, 1)[None, None]


def slope(turn: float = 0.0) -> torch.Tensor:
    """Depth of a tilted plane with a ball before it, 8-bit values."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE), torch.linspace(0, 1, SIZE), indexing="ij")
    ball = (0.09 - (x - 0.5) ** 2 - (y - 0.5) ** 2).clamp(min=0).sqrt()
    depth = 0.5 * ((1 - turn) * y + turn * x) + ball
    return ((depth / depth.max() * 255).floor() / 255)[None, None]


def normal_map(turn: float = 0.0) -> torch.Tensor:
    return normal_image(slope(turn), background=0.0, strength=500)


def regions(*numbers: int) -> torch.Tensor:
    """Vertical stripes of these classes of ADE20K, as colours."""
    classes = torch.tensor(numbers).repeat_interleave(SIZE // len(numbers))
    return to_colours(classes.expand(1, SIZE, -1))


def person(x: float, y: float, size: float = 60.0) -> Person:
    """Someone standing, all joints visible."""
    places = (
        *((0, -1), (0, -0.7)),
        *((-0.3, -0.7), (-0.45, -0.4), (-0.5, -0.1)),
        *((0.3, -0.7), (0.45, -0.4), (0.5, -0.1)),
        *((-0.2, 0), (-0.22, 0.5), (-0.25, 1)),
        *((0.2, 0), (0.22, 0.5), (0.25, 1)),
        *((-0.12, -1.1), (0.12, -1.1), (-0.25, -1.05), (0.25, -1.05)),
    )
    return Person(tuple(Keypoint(x + size * dx, y + size * dy) for dx, dy in places))


def pose(*people: Person) -> torch.Tensor:
    return draw_poses([Pose(people, SIZE, SIZE)])


def coarse() -> torch.Tensor:
    """A photograph without its detail."""
    return tile_resample(photo())


SOUND = {
    Condition.CANNY: (soft_lines() > 0.8).float(),
    Condition.SOFTEDGE: soft_lines(),
    Condition.LINEART: soft_lines(),
    Condition.MLSD: (soft_lines() > 0.8).float(),
    Condition.SCRIBBLE: (soft_lines() > 0.1).float(),
    Condition.POSE: pose(person(90, 100)),
    Condition.DEPTH: slope(),
    Condition.NORMAL: normal_map(),
    Condition.SEG: regions(2, 4, 12),
    Condition.TILE: coarse(),
}
OTHER = {
    Condition.CANNY: (soft_lines(20) > 0.8).float(),
    Condition.SOFTEDGE: soft_lines(20),
    Condition.LINEART: soft_lines(20),
    Condition.MLSD: (soft_lines(20) > 0.8).float(),
    Condition.SCRIBBLE: (soft_lines(20) > 0.1).float(),
    Condition.POSE: pose(person(130, 100)),
    Condition.DEPTH: slope(1.0),
    Condition.NORMAL: normal_map(1.0),
    Condition.SEG: regions(2, 4, 13),
    Condition.TILE: coarse().flip(-1),
}


def check(
    kind: Condition, condition: torch.Tensor, recovered: torch.Tensor, tolerance=0, **options
) -> CheckResult:
    measure = kind.measure(tolerance, ADE20K)
    image = torch.zeros(len(recovered), 3, *recovered.shape[-2:])
    return check_consistency(image, condition, lambda _: recovered, measure, **options)


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_the_same_map_is_perfect_and_another_one_worse(kind):
    same = check(kind, SOUND[kind], SOUND[kind])
    other = check(kind, SOUND[kind], OTHER[kind])
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert same.score == pytest.approx(perfect, abs=2e-2 if kind is Condition.NORMAL else 1e-5)
    assert abs(other.score - perfect) > 0.05
    assert same.higher_is_better == kind.measure(classes=ADE20K).higher_is_better


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_a_batch_has_a_score_for_each_a_total_a_ranking_and_a_report(kind):
    recovered = torch.cat([OTHER[kind], SOUND[kind]])
    result = check(kind, SOUND[kind], recovered)
    assert result.score == pytest.approx(sum(result.per_image) / 2)
    assert result.ranking == [1, 0]
    assert result.difference.shape == (2, 3, SIZE, SIZE)
    assert 0 <= result.difference.min() <= result.difference.max() <= 1
    heading, *lines = result.report.splitlines()
    assert "over 2 pictures" in heading
    assert [line.split(":")[0] for line in lines[:2]] == ["picture 1", "picture 2"]


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_the_difference_picture_shows_more_where_the_maps_differ(kind):
    """Red, blue or hot pixels appear with another map and not with the same one."""

    def marked(result: CheckResult) -> float:
        picture = result.difference[0]
        return (picture.amax(0) - picture.amin(0) > 0.5).float().mean().item()

    assert marked(check(kind, SOUND[kind], OTHER[kind])) > 0.002
    assert marked(check(kind, SOUND[kind], SOUND[kind])) == 0


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_with_a_mask_only_its_inside_counts(kind):
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    half = torch.cat([SOUND[kind][..., : SIZE // 2], OTHER[kind][..., SIZE // 2 :]], dim=-1)
    whole = check(kind, SOUND[kind], half)
    inside = check(kind, SOUND[kind], half, mask=mask)
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert abs(inside.score - perfect) < 0.5 * abs(whole.score - perfect)
    outside = inside.difference[..., SIZE // 2 :]
    assert (outside == outside.flatten()[0]).all()


@pytest.mark.parametrize(
    "kind", [kind for kind in Condition if kind is not Condition.TILE], ids=lambda kind: kind.name
)
def test_a_photograph_is_refused_and_the_right_node_named(kind):
    node = {
        Condition.POSE: "OpenPose",
        Condition.DEPTH: r"Depth \(MiDaS\)",
        Condition.SEG: "Segmentation",
        Condition.SOFTEDGE: r"Soft Edge \(HED\)",
    }.get(kind, kind.value.label)
    with pytest.raises(ValueError, match=rf"The condition is not a.*{node}"):
        check(kind, photo(), SOUND[kind])


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_values_up_to_255_are_refused(kind):
    with pytest.raises(ValueError, match=r"values reach 255.*0\.\.1"):
        check(kind, (SOUND[kind] / SOUND[kind].max()) * 255, SOUND[kind])


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_a_condition_of_twice_the_size_scores_nearly_the_same(kind):
    double = SOUND[kind].repeat_interleave(2, 2).repeat_interleave(2, 3)
    result = check(kind, double, SOUND[kind])
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert abs(result.score - perfect) < (1.0 if perfect == 0 else 0.05)
    assert "384x384, was brought to the picture's 192x192" in result.report


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_half_precision_and_inference_mode_change_next_to_nothing(kind):
    expected = check(kind, SOUND[kind], OTHER[kind]).score
    with torch.inference_mode():
        found = check(kind, SOUND[kind].half(), OTHER[kind].half())
    assert found.score == pytest.approx(expected, rel=1e-3)
    assert found.difference.dtype == torch.float32


WRONG = [
    (Condition.CANNY, slope(), "shades of grey"),
    (Condition.SOFTEDGE, slope(), "dark|light"),
    (Condition.SOFTEDGE, 1 - soft_lines(), "inverted"),
    (Condition.LINEART, 1 - soft_lines(), "inverted"),
    (Condition.SOFTEDGE, normal_map(), "colour"),
    (Condition.DEPTH, (soft_lines() > 0.8).float(), "like a drawing"),
    (Condition.DEPTH, torch.full((1, 1, SIZE, SIZE), 0.5), "one value"),
    (Condition.DEPTH, regions(2, 4), "colour"),
    (Condition.NORMAL, slope(), "one channel"),
    (Condition.NORMAL, slope().expand(-1, 3, -1, -1), "stand for a direction"),
    (Condition.NORMAL, torch.zeros(1, 3, SIZE, SIZE), "black"),
    (Condition.SEG, torch.zeros(1, 3, SIZE, SIZE), "black"),
    (Condition.SEG, normal_map(), "other colours"),
    (Condition.POSE, soft_lines().expand(-1, 3, -1, -1), "has a colour"),
    (Condition.POSE, regions(2, 4), "black, as in a photograph"),
    (Condition.SCRIBBLE, 1 - (soft_lines() > 0.1).float(), "inverted"),
]


@pytest.mark.parametrize(("kind", "condition", "words"), WRONG)
def test_a_condition_of_another_kind_is_refused_with_what_it_looks_like(kind, condition, words):
    with pytest.raises(ValueError, match=words):
        check(kind, condition, SOUND[kind])


# Each kind's own numbers


def test_soft_maps_are_scored_by_ms_ssim():
    result = check(Condition.SOFTEDGE, soft_lines(), soft_lines(4))
    assert result.score == pytest.approx(ms_ssim(soft_lines(4), soft_lines()).item())


def test_fainter_lines_are_red_and_added_ones_blue():
    faint = check(Condition.SOFTEDGE, soft_lines(), soft_lines() * 0.25).difference[0]
    peak = soft_lines()[0, 0] == soft_lines().max()
    expected = 0.25 * torch.tensor(KEPT) + 0.75 * torch.tensor(LOST)
    torch.testing.assert_close(faint[:, peak].mean(1), expected, atol=0.01, rtol=0)
    added = check(Condition.SOFTEDGE, soft_lines() * 0.5, soft_lines()).difference[0]
    assert added[2, peak].mean() > added[0, peak].mean()


def test_a_small_picture_is_scored_at_fewer_scales_and_says_so():
    small = interpolate(soft_lines(), (64, 64), mode="area")
    result = check(Condition.SOFTEDGE, small, small)
    assert result.score == pytest.approx(1)
    assert "at 3 scale(s)" in result.report


def test_depth_is_scored_in_levels_of_8_bits_after_stretching():
    offset = slope() * 0.5 + 0.25
    assert check(Condition.DEPTH, offset, slope()).score == pytest.approx(0, abs=1e-3)
    result = check(Condition.DEPTH, slope(), slope(1.0))
    a, b = ((s - s.min()) / (s.max() - s.min()) for s in (slope(), slope(1.0)))
    assert result.score == pytest.approx(255 * (a - b).square().mean().sqrt().item(), rel=1e-5)


def test_too_far_is_red_and_too_near_blue():
    picture = check(Condition.DEPTH, slope(), slope(1.0)).difference[0]
    lower_left, upper_right = picture[:, -10, 10], picture[:, 10, -10]
    torch.testing.assert_close(lower_left, torch.tensor(LOST))
    torch.testing.assert_close(upper_right, torch.tensor(INVENTED))


def test_normals_in_the_reverse_order_of_channels_are_recognised():
    result = check(Condition.NORMAL, normal_map().flip(1), normal_map())
    assert result.score > 30
    assert "if red and blue were swapped" in result.report


def test_black_has_no_normal_and_is_not_compared():
    condition = normal_map()
    condition[..., :90] = 0
    recovered = normal_map()
    recovered[..., :90] = normal_map(1.0)[..., :90]
    assert check(Condition.NORMAL, condition, recovered).score < 0.02


def test_regions_are_scored_by_the_mean_iou_and_the_worst_class_is_named():
    wanted, found = regions(2, 4, 12, 12), regions(2, 4, 4, 12)
    result = check(Condition.SEG, wanted, found)
    classes = [
        torch.tensor(n).repeat_interleave(48).expand(1, 192, -1)
        for n in ((2, 4, 12, 12), (2, 4, 4, 12))
    ]
    assert result.score == pytest.approx(mean_iou(classes[1], classes[0], 150).item())
    assert "least overlap: tree 50%, person 50%" in result.report
    third = result.difference[0, :, :, 100:140]
    assert torch.equal(third, torch.tensor(LOST).view(3, 1, 1).expand_as(third))


def test_black_is_no_class_and_classes_of_one_colour_are_one():
    wanted = regions(6, 6, 2)
    wanted[..., 128:] = 0
    assert check(Condition.SEG, wanted, regions(48, 48, 12)).score == 1


def test_a_segmentation_resized_with_interpolation_is_accepted_with_a_remark():
    soft = interpolate(regions(2, 4, 12), scale_factor=1.5, mode="bilinear")
    result = check(Condition.SEG, soft, regions(2, 4, 12))
    assert result.score > 0.97
    assert "between the classes'" in result.report


def test_any_palette_can_be_given():
    measure = LabelMeasure([(0, 0, 0), (255, 255, 255)], ["ground", "figure"], "black and white")
    mask = (soft_lines() > 0.5).float()
    result = check_consistency(
        torch.zeros(1, 3, SIZE, SIZE), mask.expand(-1, 3, -1, -1), lambda _: mask, measure
    )
    assert result.score == 1
    assert "over 2 classes" in result.report


# Skeletons


def test_colours_and_limbs_are_those_of_the_annotator():
    assert skeletons.COLOURS == drawing.COLOURS
    assert [limb[:2] for limb in ANNOTATOR_LIMBS[:DRAWN_LIMBS]] == list(skeletons.LIMBS)
    assert skeletons.LIMB_BRIGHTNESS == drawing.LIMB_BRIGHTNESS
    assert skeletons.COLOURS[skeletons.HAND_POINT] == drawing.HAND_POINT


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_joints_are_read_off_a_drawing_to_a_pixel(scale):
    own = [person(60 * scale, 90 * scale, 50 * scale), person(140 * scale, 100 * scale, 45 * scale)]
    size = SIZE * scale
    picture = draw_poses([Pose(tuple(own), size, size)])[0]
    found = skeletons.read_skeletons(picture)
    assert len(found) == 2
    for one in found:
        whose = min(own, key=lambda p: abs(p.body[1].x - one[1, 0].item()))
        assert (one[:, 2] > 0).sum() >= 16  # discs may cover each other
        for joint, point in zip(one, whose.body, strict=True):
            if joint[2] > 0:
                assert abs(joint[0] - point.x) < 3
                assert abs(joint[1] - point.y) < 3


def test_hands_and_faces_are_no_joints():
    hand = tuple(Keypoint(100 + 4 * (k % 5), 30 + 5 * (k // 5)) for k in range(21))
    face = tuple(Keypoint(20 + k % 10, 150 + k // 10) for k in range(70))
    nobody = Person((None,) * 18, left_hand=hand, face=face)
    assert len(skeletons.read_skeletons(pose(nobody)[0])) == 0
    someone = Person(person(90, 100).body, left_hand=hand)
    found = skeletons.read_skeletons(pose(someone)[0])
    assert len(found) == 1


def test_a_moved_arm_loses_its_joints_only():
    moved = list(person(90, 100).body)
    moved[4] = Keypoint(20, 20)
    result = check(Condition.POSE, pose(person(90, 100)), pose(Person(tuple(moved))))
    assert result.score == pytest.approx(17 / 18)
    assert check(Condition.POSE, pose(person(90, 100)), pose(person(94, 100))).score == 1
    shifted = check(Condition.POSE, pose(person(90, 100)), pose(person(94, 100)), tolerance=2)
    assert shifted.score == 0


def test_a_person_too_many_is_reported():
    result = check(
        Condition.POSE, pose(person(60, 100, 50)), pose(person(60, 100, 50), person(140, 100, 50))
    )
    assert result.score == 1
    assert "1 that nobody wanted" in result.report


def test_a_pose_without_anyone_wants_no_one():
    empty = torch.zeros(1, 3, SIZE, SIZE)
    assert check(Condition.POSE, empty, empty).score == 1
    assert check(Condition.POSE, empty, pose(person(90, 100))).score == 0
