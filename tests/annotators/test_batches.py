"""How annotators take batches: in one forward, but on a CPU picture by picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from controlnet_pp.annotators import canny, scribble
from controlnet_pp.annotators.ade20k import CLASSES
from controlnet_pp.annotators.annotator import LearnedAnnotator, forwards
from controlnet_pp.annotators.depth import DPTHybrid
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.mlsd import MLSD
from controlnet_pp.annotators.normal import annotate_normal
from controlnet_pp.annotators.openpose import OpenPoseBody, OpenPoseHand
from controlnet_pp.annotators.openpose.hand import HandBox
from controlnet_pp.annotators.segmentation import Segmentation
from controlnet_pp.tests.annotators.aux_oracle import THIN_HED, random_hed, randomise
from torch import Tensor, nn

Annotate = Callable[[LearnedAnnotator, Tensor], Tensor]
PACKAGE = LearnedAnnotator.__module__.rpartition(".")[0]


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1, 1, 1]), ("meta", [3])])
def test_a_batch_is_one_part_but_on_a_cpu_each_picture_is(device, sizes):
    image = torch.empty(3, 3, 4, 5, device=device)
    assert [part.shape for part in forwards(image)] == [(size, 3, 4, 5) for size in sizes]


def hed(_monkeypatch) -> LearnedAnnotator:
    return random_hed(stages=THIN_HED)


def lineart(_monkeypatch) -> LearnedAnnotator:
    return randomise(LineArt(width=8))


def mlsd(_monkeypatch) -> LearnedAnnotator:
    return randomise(MLSD())


def dpt(monkeypatch) -> LearnedAnnotator:
    network = DPTHybrid(device="meta")
    blur = nn.Conv2d(3, 1, 5, padding=2)
    monkeypatch.setattr(network, "inverse_depth", lambda x: blur(x).exp())
    return network


def openpose(monkeypatch, kind: type[LearnedAnnotator] = OpenPoseBody) -> LearnedAnnotator:
    network = kind(device="meta")
    body = nn.Conv2d(3, 38 + 19, 8, stride=8)
    hand = nn.Conv2d(3, 22, 8, stride=8)
    stages = {
        OpenPoseBody: lambda x: (body(x) * 5).split((38, 19), dim=1),
        OpenPoseHand: lambda x: hand(x) * 5,
    }
    monkeypatch.setattr(network, "stages", stages[kind])
    return network


def openpose_hand(monkeypatch) -> LearnedAnnotator:
    return openpose(monkeypatch, OpenPoseHand)


def segmentation(monkeypatch) -> LearnedAnnotator:
    model = nn.Conv2d(3, len(CLASSES), 3, padding=1)
    model.config = SimpleNamespace(model_type="upernet", id2label=dict(enumerate(CLASSES)))
    network = Segmentation(model)
    monkeypatch.setattr(network, "logits", model.forward)
    return network


def annotate(network: LearnedAnnotator, image: Tensor) -> Tensor:
    return network.annotate(image)


def hands(network: LearnedAnnotator, image: Tensor) -> Tensor:
    """The points of one hand in each picture, 0 where there is none."""
    found = network.detect(image, [(number, HandBox(2, 3, 30)) for number in range(len(image))])
    points = [[(p.x, p.y) if p else (0, 0) for p in hand or [None] * 21] for hand in found]
    return torch.tensor(points)[:, None] / 255


# What makes the network, what runs it, and the method that is its forward, whose module splits.
CASES: dict[str, tuple[Callable[..., LearnedAnnotator], Annotate, str, str]] = {
    "softedge": (hed, annotate, "sides", "softedge"),
    "scribble": (hed, scribble.scribble_hed, "sides", "softedge"),
    "lineart": (lineart, annotate, "generator", "lineart"),
    "mlsd": (mlsd, annotate, "maps", "mlsd"),
    "depth": (dpt, annotate, "inverse_depth", "depth"),
    "normal": (dpt, annotate_normal, "inverse_depth", "depth"),
    "pose": (openpose, annotate, "stages", "openpose.body"),
    "hand": (openpose_hand, hands, "stages", "openpose.hand"),
    "seg": (segmentation, annotate, "logits", "segmentation"),
}


@pytest.fixture(params=CASES)
def case(request, monkeypatch) -> tuple[LearnedAnnotator, Annotate, ModuleType, list[int]]:
    """A network, what runs it, its module, and the sizes of the batches in its forwards."""
    torch.manual_seed(0)
    make, run, method, module = CASES[request.param]
    network = make(monkeypatch)
    forward, sizes = getattr(network, method), []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return forward(x)

    monkeypatch.setattr(network, method, counted)
    if request.param == "hand":
        monkeypatch.setattr(network, "scales", (0.5,))
    return network, run, importlib.import_module(f"{PACKAGE}.{module}"), sizes


@torch.no_grad()
def test_on_a_cpu_pictures_go_one_by_one_and_a_batch_equals_its_singles(case):
    network, run, _, sizes = case
    pictures = noise(4, 3, 48, 64)
    together = run(network, pictures)
    assert sizes == [1, 1, 1, 1]
    assert together.std() > 0.01
    assert torch.equal(together, torch.cat([run(network, one[None]) for one in pictures]))


@torch.no_grad()
def test_elsewhere_the_batch_is_one_forward_and_gives_the_same(case, monkeypatch):
    network, run, module, sizes = case

    def as_elsewhere(image: Tensor) -> tuple[Tensor, ...]:
        return image.split([len(part) for part in forwards(image.to("meta"))])

    pictures = noise(4, 3, 48, 64)
    singles = run(network, pictures)
    sizes.clear()
    monkeypatch.setattr(module, "forwards", as_elsewhere)
    together = run(network, pictures)
    assert sizes == [4]
    # Convolutions round by the size of the batch, which may turn single pixels or move a line.
    assert ((together - singles).abs() > 1.01 / 255).float().mean() < 0.01


def test_the_differentiable_map_is_always_one_forward(thin_hed):
    network, sizes = thin_hed, []
    network.block1.register_forward_hook(lambda *call: sizes.append(len(call[1][0])))
    network(noise(4, 3, 32, 32))
    assert sizes == [4]


def test_canny_of_a_batch_in_one_part_is_the_same(monkeypatch):
    pictures = noise(3, 3, 20, 30)
    expected = canny.canny_cv2(pictures)
    monkeypatch.setattr(canny, "forwards", lambda image: (image,))
    assert torch.equal(canny.canny_cv2(pictures), expected)
