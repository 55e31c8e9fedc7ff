"""Our annotators beside PyPI's controlnet_aux, with the same random weights and pictures.

Both turn an IMAGE as ComfyUI has it, floats (B, H, W, 3), into another. Ours takes the batch;
theirs takes one 8-bit picture after the other, as the nodes that wrap it do. What cannot be
imported is left out and named: depth needs torchvision and timm, which ComfyUI's Python has or can
be given by PYTHONPATH. Results are merged into those of earlier runs, each with its machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..annotators.annotator import Annotator
from ..annotators.canny import canny_cv2
from ..annotators.depth import DPTHybrid
from ..annotators.lineart import LineArt
from ..annotators.mlsd import MLSD
from ..annotators.openpose import OpenPoseBody, draw_poses
from ..annotators.scribble import scribble_hed
from ..annotators.softedge import HED
from ._pairs import PairedTimes, compare, machine, merge, parsed

ALLOWED = 1.05  # our time over theirs
BATCHES = (1, 8)
FEWEST, MOST = 5, 41  # pairs; as many as fit into the time
SECONDS = 40.0
NEEDS = {  # for their detector; by the module that is missing
    "controlnet_aux": "pip install --no-deps controlnet_aux==0.0.10",
    "timm": "pip install --no-deps timm==1.0.31, under a Python that has torchvision",
    "torchvision": "a Python that has torchvision, as ComfyUI's does",
}

Pixels = np.ndarray  # uint8 (H, W, 3)
Detector = Callable[[Pixels], Pixels]


def canny(_size: int) -> tuple[Annotator, Detector]:
    """Canny by OpenCV in both; what differs is the way there and back."""
    detector = aux("canny").CannyDetector()
    return canny_cv2, lambda image: detector(image, output_type="np", **at(_size))


def softedge(size: int) -> tuple[Annotator, Detector]:
    """HED with the same weights in both."""
    network, detector = hed()
    return network.annotate, lambda image: detector(image, output_type="np", **at(size))


def scribble(size: int) -> tuple[Annotator, Detector]:
    """HED's edges, thinned and drawn again with a thick pen."""
    network, detector = hed()
    return (
        lambda images: scribble_hed(network, images),
        lambda image: detector(image, output_type="np", scribble=True, **at(size)),
    )


def lineart(size: int) -> tuple[Annotator, Detector]:
    """The generator of line drawings with the same weights in both."""
    network = LineArt().eval()
    module = aux("lineart")
    generator = twin(module.Generator(3, 1, 3), network)
    detector = module.LineartDetector(generator, generator)
    return network.annotate, lambda image: detector(image, output_type="np", **at(size))


def mlsd(size: int) -> tuple[Annotator, Detector]:
    """M-LSD large with the same weights in both."""
    network = MLSD().eval()
    module = aux("mlsd")
    detector = module.MLSDdetector(twin(module.MobileV2_MLSD_Large(), network))
    return network.annotate, lambda image: detector(image, output_type="np", **at(size))


def pose(_size: int) -> tuple[Annotator, Detector]:
    """Bodies, from the picture to the persons; with these weights nobody is found."""
    network = OpenPoseBody().eval()
    drawing = aux("open_pose.util")  # first: the other one imports it, and it the other one
    body = aux("open_pose.body").Body
    reference = body.__new__(body)  # its __init__ would read a file
    reference.model = twin(aux("open_pose.model").bodypose_model(), network)

    def ours(images: Tensor) -> Tensor:
        return draw_poses(network.detect(images))

    def theirs(image: Pixels) -> Pixels:
        with torch.no_grad():
            candidates, subset = reference(image[:, :, ::-1].copy())
        people = reference.format_body_result(candidates, subset)
        canvas = np.zeros_like(image)
        for person in people:
            scaled = [
                p and p._replace(x=p.x / image.shape[1], y=p.y / image.shape[0])
                for p in person.keypoints
            ]
            canvas = drawing.draw_bodypose(canvas, scaled)
        return canvas

    return ours, theirs


def depth(size: int) -> tuple[Annotator, Detector]:
    """MiDaS; theirs needs torchvision and timm, as under ComfyUI's own Python."""
    midas = aux("midas")
    module = aux("midas.midas.dpt_depth")
    network = DPTHybrid().eval()
    torch.nn.init.constant_(network.get_parameter("scratch.output_conv.4.bias"), 100)
    reference = module.DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
    detector = midas.MidasDetector(twin(reference, network))
    return network.annotate, lambda image: detector(image, **at(size))


CONDITIONS = {
    "canny": canny,
    "softedge": softedge,
    "scribble": scribble,
    "lineart": lineart,
    "mlsd": mlsd,
    "pose": pose,
    "depth": depth,
}


def main(argv: Sequence[str] = ()) -> int:
    """Measure, print a line for each, and merge into bench/results/annotators.json.

    Returns 1 if one of ours takes more than ALLOWED times as long as theirs, by the median.
    """
    options = parse(argv)
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    slow: list[str] = []
    left_out: list[str] = []
    for name in options.only or CONDITIONS:
        try:
            ours, theirs = CONDITIONS[name](options.size)
        except ImportError as error:
            left_out.append(f"{name}: {why(error)}")
            continue
        for batch in options.batch:
            title = f"{name}, {options.size} px, batch {batch}"
            result, difference = measure(ours, theirs, options.size, batch, options.pairs)
            ratio = median(a / b for a, b in zip(result.ours, result.theirs, strict=True))
            print(f"{title}: {ratio:.2f} of their time; {result.text()}", flush=True)
            print(f"  pixels that differ: {difference:.2%}")
            results[title] = {
                "time": ratio,
                **result.as_dict(),
                "differing": difference,
                "machine": machine(),
            }
            if ratio > ALLOWED:
                slow.append(title)
    if results:
        figures = {"allowed": ALLOWED, "results": results}
        print(f"  {merge('annotators', figures, trial=options.trial, inside=('results',))}")
    for reason in left_out:
        print(f"LEFT OUT, not measured: {reason}")
    if slow:
        print(f"slower than {ALLOWED} of their time: {', '.join(slow)}")
    return 1 if slow else 0


def measure(
    ours: Annotator, theirs: Detector, size: int, batch: int, pairs: int | None
) -> tuple[PairedTimes, float]:
    """The times, and the share of pixels in which the results differ."""
    images = pictures(batch, size).movedim(1, -1).contiguous()

    def run_ours() -> Tensor:
        found = ours(images.movedim(-1, 1))
        return found.expand(-1, 3, -1, -1).contiguous().movedim(1, -1)  # as the nodes do

    def run_theirs() -> Tensor:
        found = []
        for image in images:
            pixels = (image.numpy() * 255).round().astype(np.uint8)
            found.append(torch.from_numpy(theirs(pixels).astype(np.float32) / 255))
        return torch.stack(found)

    start = perf_counter()
    differing = (run_ours() - run_theirs()).abs().amax(-1) > 0.5 / 255
    fitting = int(SECONDS / (perf_counter() - start))
    difference = float(differing.float().mean())
    return compare(run_ours, run_theirs, pairs or min(max(fitting, FEWEST), MOST)), difference


def pictures(batch: int, size: int) -> Tensor:
    """(B, 3, size, size) in whole 8-bit steps: soft blobs with sharp stripes."""
    generator = torch.Generator().manual_seed(1)
    blobs = F.interpolate(
        torch.rand(batch, 3, 8, 8, generator=generator), (size, size), mode="bicubic"
    )
    stripes = (torch.arange(size) // 37 % 2 * 0.3).view(1, 1, 1, -1)
    return ((blobs * 0.7 + stripes).clamp(0, 1) * 255).round() / 255


def hed() -> tuple[HED, Any]:
    """Our annotator, and their detector with the same weights."""
    network = HED().eval()
    module = aux("hed")
    return network, module.HEDdetector(twin(module.ControlNetHED_Apache2(), network))


def twin(reference: nn.Module, network: nn.Module) -> nn.Module:
    """Their network with the weights of ours."""
    reference.load_state_dict(network.state_dict())
    return reference.eval()


def at(size: int) -> dict[str, int]:
    """The picture's own size, in their words."""
    return {"detect_resolution": size, "image_resolution": size}


def aux(name: str) -> ModuleType:
    """controlnet_aux.`name`, without the packages' own imports of every other detector."""
    packages = ["controlnet_aux", *(f"controlnet_aux.{p}" for p in name.split(".")[:-1])]
    for package in packages:
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            empty = ModuleType(package)
            empty.__path__ = list(spec.submodule_search_locations)
            sys.modules[package] = empty
    return importlib.import_module(f"controlnet_aux.{name}")


def why(error: ImportError) -> str:
    """What is missing, and what to do about it."""
    advice = NEEDS.get((error.name or "").partition(".")[0])
    return f"{error}" + (f"; it needs {advice}" if advice else "")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of the measurement."""
    parser = argparse.ArgumentParser(prog="python cli.py bench annotators", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the pictures, times 64")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--pairs", type=int, help="at least 2, otherwise by time")
    parser.add_argument("--only", nargs="+", choices=list(CONDITIONS), help="conditions")
    return parsed(parser, argv, "only", "size", "batch")
