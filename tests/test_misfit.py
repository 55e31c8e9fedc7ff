"""What a ControlNet is guessed to read, and pictures that are plainly no condition of that kind.

A remark that is wrong is worse than none: every map that an annotator finds in a photograph passes,
at its own size, made smaller or larger, and through JPEG. Tests marked `weights` hold it for HED
and M-LSD as trained, on more pictures.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.kinds import ADE20K, KINDS
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.misfit import PICTURE_READERS, kinds_named, kinds_of_file, misfit
from controlnet_pp.cnpp_core.network.union import UNION_TYPES
from controlnet_pp.tests.consistency.agreement.known import SOUND, person, pose, regions
from controlnet_pp.tests.trained import photo, trained
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

SIDES = (256, 512)
COLOURED = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket", "immunohistochemistry")
TEXTURES = ("grass", "gravel", "brick")  # more lines than any other picture
EVERY = (*COLOURED, *TEXTURES, "camera", "coins", "moon", "page", "retina", "text")
SPEAKING = [kind for kind in Condition if kind is not Condition.TILE]
by_name = {"ids": lambda value: getattr(value, "name", None)}


def said(kind: Condition, picture: Tensor) -> str:
    return misfit(picture[0], (kind,), ADE20K)


def variants(maps: Tensor) -> Iterator[Tensor]:
    """A map as it is, and as files and other nodes hand it on."""
    maps = maps.expand(-1, 3, -1, -1).clamp(0, 1)
    side = maps.shape[-1]
    yield maps
    yield interpolate(maps, (side * 3 // 2,) * 2, mode="bilinear")
    yield interpolate(maps, (side // 2,) * 2, mode="bilinear", antialias=True)
    yield jpeg(maps)


def jpeg(maps: Tensor, quality: int = 80) -> Tensor:
    pixels = (maps[0] * 255).round().byte().movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0)[None].float() / 255


FREE = [
    (Condition.named(key), method.name)
    for key, row in KINDS.items()
    for method in row.without_weights
]


@pytest.mark.parametrize(("kind", "method"), FREE, **by_name)
@pytest.mark.parametrize("side", SIDES)
def test_nothing_is_said_of_what_an_annotator_finds(kind, method, side):
    ways = KINDS[kind.key].method(method).ways()
    for name in (*COLOURED[:2], *TEXTURES[:2]):
        for maps in variants(ways.find(photo(name, side))):
            assert said(kind, maps) == "", name


@pytest.mark.parametrize("thresholds", [(20, 60), (50, 100)])
@pytest.mark.parametrize("method", ["cnpp", "cv2"])
def test_nothing_is_said_of_edges_at_low_thresholds(method, thresholds):
    low, high = thresholds
    ways = KINDS["canny"].method(method).ways(low=low, high=high)
    for name in TEXTURES:
        for maps in variants(ways.find(photo(name))):
            assert said(Condition.CANNY, maps) == "", name


def test_nothing_is_said_of_normals_that_were_made_smaller():
    """Of rough surfaces neighbours mix to vectors of any length; they still face the viewer."""
    ways = KINDS["normal"].method("depth").ways()
    for name in TEXTURES:
        as_found, larger, smaller, _ = variants(ways.find(photo(name)))
        for maps in (as_found, larger, smaller):
            assert said(Condition.NORMAL, maps) == "", name


@pytest.mark.weights
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("kind", "method", "read_as"),
    [
        ("softedge", "hed", Condition.SOFTEDGE),
        ("softedge", "hed", Condition.LINEART),  # likewise soft lines, whose networks are not here
        ("scribble", "hed", Condition.SCRIBBLE),
        ("mlsd", "mlsd", Condition.MLSD),
    ],
    **by_name,
)
def test_nothing_is_said_of_what_trained_networks_find(kind, method, read_as, name, side):
    ways, _ = trained(kind, method)
    with torch.no_grad():
        for maps in variants(ways.find(photo(name, side))):
            assert said(read_as, maps) == ""


@pytest.mark.parametrize("kind", Condition, **by_name)
def test_nothing_is_said_of_a_sound_condition(kind):
    for maps in variants(SOUND[kind]):
        assert said(kind, maps) == ""


GREYS = {name: photo(name).mean(1, keepdim=True) for name in ("camera", "grass", "moon")}
STRIPES = (torch.arange(128).float().mul(0.8).sin() * 0.43 + 0.43).expand(1, 1, 128, 128)
ON_PURPOSE = {
    "as many soft edges as brick has": (Condition.SOFTEDGE, STRIPES),
    "a silhouette for depth": (Condition.DEPTH, (GREYS["camera"] > 0.5).float()),
    "a depth map of any look": (Condition.DEPTH, GREYS["moon"]),
    "a black frame": (Condition.NORMAL, torch.zeros(1, 3, 64, 64)),
    "nobody": (Condition.POSE, torch.zeros(1, 3, 64, 64)),
    "a face alone": (
        Condition.POSE,
        (torch.rand(1, 1, 128, 128) > 0.99).float().repeat(1, 3, 1, 1),
    ),
    "somebody near": (Condition.POSE, pose(person(90, 100, 150.0))),
    "another palette": (Condition.SEG, regions(2, 4, 12, 30).flip(1) * 0.9),
    "a mask of its own": (Condition.SEG, (GREYS["camera"] > 0.5).float().repeat(1, 3, 1, 1)),
    "swapped normals": (Condition.NORMAL, SOUND[Condition.NORMAL].flip(1)),
}


@pytest.mark.parametrize("what", ON_PURPOSE)
def test_nothing_is_said_of_what_people_give_on_purpose(what):
    kind, picture = ON_PURPOSE[what]
    assert said(kind, picture.expand(-1, 3, -1, -1)) == ""


@pytest.mark.parametrize("name", EVERY)
def test_a_photograph_is_a_tile(name):
    assert said(Condition.TILE, photo(name)) == ""


# Coloured photographs that pass for a condition; all others are told.
MISSED = {
    Condition.NORMAL: {"immunohistochemistry"},  # as bright as what faces the viewer
    Condition.SEG: {"rocket"},  # a sky of few colours
}


@pytest.mark.parametrize("kind", SPEAKING, **by_name)
@pytest.mark.parametrize("side", SIDES)
def test_a_photograph_in_colour_is_told_from_a_condition(kind, side):
    silent = {name for name in COLOURED if not said(kind, photo(name, side))}
    assert silent == MISSED.get(kind, set())


def test_the_sentence_names_the_kind_and_the_node():
    sentence = said(Condition.CANNY, photo("astronaut"))
    assert sentence == (
        "This ControlNet seems to read Canny, but its image is no such condition: it is in colour, "
        "like a photograph. Connect the condition, for example the output of the Canny node, not "
        "the photograph it was made from."
    )


def test_black_lines_on_white_are_told():
    for kind in (Condition.CANNY, Condition.LINEART, Condition.SOFTEDGE, Condition.SCRIBBLE):
        assert "inverted first" in said(kind, (1 - SOUND[kind]).expand(-1, 3, -1, -1))


def test_of_several_kinds_one_that_fits_is_enough():
    kinds = (Condition.DEPTH, Condition.NORMAL)
    assert misfit(SOUND[Condition.NORMAL][0], kinds, ADE20K) == ""
    assert "Depth (MiDaS) or Normal" in misfit(photo("coffee")[0], kinds, ADE20K)
    assert misfit(photo("coffee")[0], (), ADE20K) == ""


@pytest.mark.parametrize("kind", Condition, **by_name)
def test_a_large_picture_takes_no_longer_than_a_small_one(kind):
    large = SOUND[kind].expand(-1, 3, -1, -1).repeat(1, 1, 16, 16).half()
    said(kind, large)
    start = time.process_time()
    for _ in range(5):
        said(kind, large)
    assert (time.process_time() - start) / 5 < 0.05  # 1 to 4 ms


NAMED = {
    "control_v11p_sd15_canny": {Condition.CANNY},
    "controlnet++_hed_softedge_sd15_fp16": {Condition.SOFTEDGE},
    "control_v11p_sd15s2_lineart_anime": {Condition.LINEART},
    "control_v11p_sd15_normalbae_fp16": {Condition.NORMAL},
    "control_sd15_normal": {Condition.NORMAL},
    "control-sd21-depth": {Condition.DEPTH},
    "OpenPoseXL2": set(),
    "xinsir-openpose-sdxl-1.0": {Condition.POSE},
    "Canny+Depth mix": {Condition.CANNY, Condition.DEPTH},
    "control_v11f1e_sd15_tile": set(),
    "control_v11p_sd15_inpaint": set(),
    "control_sd15_inpaint_depth_hand_fp16": set(),
    "control_v11e_sd15_ip2p": set(),
    "control_v11e_sd15_shuffle": set(),
    "control_v1p_sd15_qrcode_monster": set(),
    "control_v2p_sd15_mediapipe_face": set(),
    "bdsqlsz_controlllite_xl_recolor_luminance": set(),
    "controlnet-union-sdxl-1.0_promax": set(),
    "cn_anytest_v4": set(),
    "uncannyvalley": set(),
    "segaMegaDrive": set(),
    "": set(),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_tells_the_kind_or_nothing(name):
    assert set(kinds_named(name)) == NAMED[name]


@pytest.mark.parametrize("word", PICTURE_READERS)
def test_a_network_that_reads_pictures_has_no_kind(word):
    assert kinds_named(f"control_canny_{word}_fp16") == ()


@pytest.mark.parametrize("kind", Condition, **by_name)
def test_the_released_checkpoints_of_a_kind_are_known_by_their_names(kind):
    expected = () if kind is Condition.TILE else (kind,)
    for name in filter(None, (kind.value.controlnet, kind.value.controlnetpp)):
        assert kinds_named(name) == expected


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.fp16.safetensors", "model.safetensors"])
def test_a_file_named_as_all_of_diffusers_is_known_by_its_folder(file):
    assert kinds_of_file(PurePath("canny", "sd-controlnet-depth", file)) == (Condition.DEPTH,)
    assert kinds_of_file(PurePath("depth", "control_canny.pth")) == (Condition.CANNY,)
    assert kinds_of_file(PurePath("depth", "some_network.pth")) == ()


def test_the_types_of_a_union_network_are_known_by_their_names():
    expected = [
        {Condition.POSE},
        {Condition.DEPTH},
        {Condition.SOFTEDGE, Condition.SCRIBBLE},
        {Condition.CANNY, Condition.LINEART, Condition.MLSD},
        {Condition.NORMAL},
        {Condition.SEG},
        set(),
        set(),
    ]
    assert [set(kinds_named(name)) for name in UNION_TYPES] == expected
