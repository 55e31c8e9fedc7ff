"""Nothing of the pack computes in float64 away from the CPU: Apple's GPUs can't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_magnitude, canny_strength
from controlnet_pp.annotators.kinds import ADE20K, KINDS
from controlnet_pp.annotators.mlsd import decode_lines
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency import metrics
from controlnet_pp.cnpp_core.consistency.steering.guidance import GuidanceSettings, corrected
from controlnet_pp.cnpp_core.control.energy import Feature
from controlnet_pp.cnpp_core.control.hints import FITS, RESAMPLINGS, HintFit
from controlnet_pp.cnpp_core.control.masks import resize_mask
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from torch.utils._pytree import tree_leaves

TO_CPU = (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.numpy)


class OnGPU(torch.Tensor):
    """A tensor that passes for one on such a GPU: results stay there until somebody takes them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_cpu = func in TO_CPU or (func is torch.Tensor.to and "cpu" in map(str, args[1:]))
        out = super().__torch_function__(func, types, args, kwargs)
        if to_cpu:
            return out.as_subclass(torch.Tensor) if isinstance(out, torch.Tensor) else out
        for leaf in tree_leaves(out):
            if isinstance(leaf, OnGPU) and leaf.dtype == torch.float64:
                raise AssertionError(f"{func.__name__} gives float64 on a GPU")
        return out


def on_gpu(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).as_subclass(OnGPU)


def labels(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, (2, 24, 24), generator=generator).as_subclass(OnGPU)


A, B = on_gpu(2, 1, 24, 24), on_gpu(2, 1, 24, 24, seed=1)
METRICS: dict[str, Callable[[], Any]] = {
    "rmse": lambda: metrics.rmse(A, B),
    "align": lambda: metrics.align(A, B, A > 0.2),
    "depth": lambda: metrics.depth_score(A, B),
    "edges": lambda: metrics.edge_f1(A, B, 1),
    "ssim": lambda: metrics.ssim(A, B),
    "ms_ssim": lambda: metrics.ms_ssim(A, B, betas=(1.0,)),
    "normals": lambda: metrics.normal_score(on_gpu(2, 3, 24, 24), on_gpu(2, 3, 24, 24, seed=2)),
    "iou": lambda: metrics.class_iou(metrics.confusion(labels(0), labels(1), 3)),
    "mean iou": lambda: metrics.mean_iou(labels(0), labels(1), 3),
}


def test_the_trap_closes():
    with pytest.raises(AssertionError, match="double gives float64"):
        A.double()
    assert A.cpu().double().dtype == torch.float64


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str):
    METRICS[name]()


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.key)
def test_losses_and_checks(kind: Condition):
    measure = kind.measure(1, ADE20K)
    plain = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    sound = {
        "seg": torch.tensor(ADE20K.palette[2]).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 255,
        "normal": torch.nn.functional.normalize(plain * 2 - 1, dim=1) / 2 + 0.5,
        "pose": torch.zeros(1, 3, 64, 64),
        "depth": plain[:, :1],
        "tile": plain,
    }
    condition = sound.get(kind.key, (plain[:, :1] > 0.95).float()).as_subclass(OnGPU)
    wanted, _ = measure.read(condition)
    measure.compare(condition, wanted, None)
    target = measure.target(wanted, 32, 32)
    channels = 150 if kind is Condition.SEG else target.shape[1]
    found = on_gpu(1, channels, 32, 32)
    for loss in (kind.value.reward, kind.value.guidance):
        loss(found, target, None)


@pytest.mark.parametrize("kind", [kind for kind in Condition if KINDS[kind.key].without_weights])
def test_annotators_without_weights(kind: Condition):
    for method in KINDS[kind.key].without_weights:
        method.ways().find(on_gpu(1, 3, 32, 32))


@pytest.mark.parametrize("function", [canny_cnpp, canny_magnitude, canny_strength])
def test_canny(function: Callable[[torch.Tensor], torch.Tensor]):
    function(on_gpu(1, 3, 32, 32))


def test_lines_are_decoded_off_the_gpu():
    assert decode_lines(on_gpu(1, 16, 16, 16))[0].dtype == torch.float64


def test_guidance_control_and_diffusion():
    corrected(on_gpu(2, 4, 8, 8), lambda x: x.square().flatten(1).mean(1), GuidanceSettings())
    Feature.of(on_gpu(2, 4, 8, 8)).energy(on_gpu(2, 4, 8, 8, seed=1))
    resize_mask(on_gpu(2, 32, 32), (8, 8), None, None)
    for fit in FITS:
        for resampling in RESAMPLINGS:
            HintFit(fit, resampling).place(on_gpu(1, 3, 32, 48), (40, 40))
    x = on_gpu(2, 4, 8, 8)
    NoiseSchedule.scaled_linear().q_sample(x, torch.tensor([5, 900]), x)
