"""Samples one picture after another, scores each, and keeps the best.

What is sampled is what KSampler gives with the same seed behind Apply ControlNet++ with the same
strength, bit for bit: the host's own noise, sampler and decoder, one picture at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy import model_management
from torch import Tensor

from ....cnpp_core.consistency.check import check_consistency
from ....cnpp_core.consistency.search import Standings, Trial, setting_text
from ....cnpp_core.control.scales import ScalePreset, Scales, product
from ....pictures.contact_sheet import Cell, contact_sheet, side_for, thumbnail
from ..annotate.finder import Finder
from ..control.apply import Conditioning, apply_control
from ..control.control import as_ours
from ..control.family import require_model
from ..control.foreign import require_fit
from ..memory import is_out_of_memory, out_of_memory
from .picking import Latent

NODE = "Consistency Search"
# What a latent says about its own size, for `fix_empty_latent_channels` of hosts that know it.
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


@dataclass(frozen=True)
class Sampling:
    """The settings of KSampler, all but the seed."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


@dataclass(frozen=True)
class Control:
    """The inputs of Apply ControlNet++, all but the strength."""

    positive: Conditioning
    negative: Conditioning
    control_net: Any
    image: Tensor
    window: tuple[float, float] = (0.0, 1.0)
    scales: Scales | None = None

    def applied(self, strength: float, preset: str, vae: Any) -> tuple[Conditioning, Conditioning]:
        """Both conditionings with the control."""
        return apply_control(
            self.positive,
            self.negative,
            self.control_net,
            self.image,
            strength,
            self.window,
            scales=self.scales_with(preset),
            vae=vae,
        )

    def scales_with(self, preset: str) -> Scales | None:
        """The scales that are there times the preset; None where nothing is said of blocks."""
        return product(self.scales, ScalePreset(preset) if preset else None)


@dataclass(frozen=True, eq=False)
class Best:
    """The best picture, and what was tried."""

    trial: Trial
    score: float
    image: Tensor  # (1, H, W, 3)
    latent: Latent
    table: str
    sheet: Tensor  # (1, 3, H', W')
    scales: Scales | None


def search(
    model: Any,
    control: Control,
    latent: Latent,
    vae: Any,
    trials: Sequence[Trial],
    sampling: Sampling,
    finder: Finder,
    mask: Tensor | None = None,
    tell: Callable[[str], object] = lambda _text: None,
) -> Best:
    """The best of all trials. Whatever can't work is refused before the first is sampled.

    mask: MASK (1, H, W). tell: gets the table after every trial. Only the best picture is kept in
    full size. Raises ValueError and RuntimeError naming the trial.
    """
    latent = _prepared(model, latent)
    _require_comparable(finder, control.image, latent["samples"], vae, mask)
    _require_family(control.control_net, model)
    settings = dict.fromkeys(trial.setting for trial in trials)
    applied = {setting: control.applied(*setting, vae) for setting in settings}
    progress = _Progress(model, len(trials), sampling.steps)
    standings = Standings(finder.measure)
    thumbnails: list[Tensor] = []
    best: tuple[Tensor, Tensor] | None = None
    for number, trial in enumerate(trials):
        progress.begin(number)
        with _ErrorContext(trial, number, len(trials)) as context:
            samples = _sample(
                model, applied[trial.setting], latent, trial.seed, sampling, progress.step
            )
            progress.stop_if_interrupted()
            context.stage = "decoding"
            image = _decode(vae, samples)
            progress.stop_if_interrupted()
            context.stage = "scoring"
            score = finder.check(image, control.image, mask).score
        progress.begin(number + 1)
        thumbnails.append(thumbnail(image[0, ..., :3].movedim(-1, 0), side_for(len(trials))))
        if standings.add(trial, score):
            best = image, samples
        del image, samples
        tell(standings.table())
    if best is None:
        raise ValueError(f"{NODE}: there is nothing to try.")
    trial, score = standings.results[standings.order[0]]
    kept = {key: value for key, value in latent.items() if key not in RATIOS}
    return Best(
        trial,
        score,
        best[0],
        kept | {"samples": best[1]},
        standings.table(),
        _sheet(standings, thumbnails),
        control.scales_with(trial.preset),
    )


def _prepared(model: Any, latent: Latent) -> Latent:
    """The latent as the model reads it; ValueError if it is more than one picture."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"{NODE}: latent_image holds several latents in one (picture and sound); connect the "
            "latent of a picture."
        )
    if samples.shape[0] != 1:
        raise ValueError(
            f"{NODE}: latent_image is a batch of {samples.shape[0]}. Every seed makes one picture, "
            "the one that KSampler gives with it: set batch_size of the latent to 1, and seeds to "
            "the number of pictures."
        )
    ratios = {key: latent[key] for key in RATIOS if key in latent}
    fixed = comfy.sample.fix_empty_latent_channels(model, samples, **ratios)
    return latent | {"samples": fixed}


def _require_comparable(
    finder: Finder, condition: Tensor, samples: Tensor, vae: Any, mask: Tensor | None
) -> None:
    """ValueError if a picture of these samples can't be compared with this condition.

    Compares the condition with itself, as if a picture had kept all of it.
    """
    if condition.ndim == 4 and condition.shape[0] > 1:
        raise ValueError(
            f"{NODE}: condition is a batch of {condition.shape[0]}; connect one, since all trials "
            "are made from it."
        )
    ratio = vae.spacial_compression_decode()
    height, width = (round(side * ratio) for side in samples.shape[-2:])
    hint = condition.movedim(-1, 1)
    check_consistency(
        torch.zeros(1, 3, height, width),
        hint,
        lambda _pictures: hint,
        finder.measure,
        None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]),
    )


def _require_family(control_net: Any, model: Any) -> None:
    """ValueError if the control was made for another family than the model's."""
    ours = as_ours(control_net)
    config = ours.config
    if config is not None:
        require_model(config, model.model)
    else:
        require_fit(ours.inner, model.model)


def _sample(
    model: Any,
    conditioning: tuple[Conditioning, Conditioning],
    latent: Latent,
    seed: int,
    sampling: Sampling,
    callback: Callable[..., None],
) -> Tensor:
    """What KSampler gives, with another callback."""
    noise = comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index"))
    return comfy.sample.sample(
        model,
        noise,
        sampling.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        *conditioning,
        latent["samples"],
        denoise=sampling.denoise,
        noise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )


def _decode(vae: Any, samples: Tensor) -> Tensor:
    """What VAE Decode gives."""
    image = vae.decode(samples)
    return image.reshape(-1, *image.shape[-3:]) if image.ndim == 5 else image


def _sheet(standings: Standings, thumbnails: Sequence[Tensor]) -> Tensor:
    """The pictures that were tried, the best first."""
    cells = []
    for place, index in enumerate(standings.order, start=1):
        trial, score = standings.results[index]
        lines = (
            f"#{place}  {standings.measure.text(score)}",
            f"seed {trial.seed}",
            setting_text(*trial.setting),
        )
        cells.append(Cell(thumbnails[index], lines))
    return contact_sheet(cells)


class _Progress:
    """One bar over the steps of all trials, with the host's previews if they are switched on."""

    def __init__(self, model: Any, trials: int, steps: int) -> None:
        self._steps, self._total = steps, trials * steps
        self._bar = comfy.utils.ProgressBar(self._total)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._begun = 0

    def begin(self, trial: int) -> None:
        """So many trials are done."""
        self.stop_if_interrupted()
        self._begun = trial * self._steps
        self._bar.update_absolute(self._begun, self._total)

    def step(self, step: int, x0: Tensor, _x: Tensor, total: int) -> None:
        """The sampler's callback; a sampler may go other steps than were asked for."""
        self.stop_if_interrupted()
        preview = None
        if self._previewer is not None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", x0)
        done = self._steps * (step + 1) // max(total, 1)
        self._bar.update_absolute(self._begun + min(done, self._steps), self._total, preview)

    @staticmethod
    def stop_if_interrupted() -> None:
        """Where the user has pressed Cancel."""
        model_management.throw_exception_if_processing_interrupted()


class _ErrorContext:
    """Names trial and stage in whatever goes wrong inside; an interrupt goes on as it is."""

    def __init__(self, trial: Trial, number: int, total: int) -> None:
        self._trial = f"trial {number + 1} of {total} ({trial})"
        self.stage = "sampling"

    def __enter__(self) -> _ErrorContext:
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        interrupt = model_management.InterruptProcessingException
        if not isinstance(error, Exception) or isinstance(error, interrupt):
            return
        where = f"{NODE}: {self.stage} {self._trial}"
        if is_out_of_memory(error):
            raise out_of_memory(
                f"{where} ran out of memory. Every trial takes as much as one KSampler run, so "
                f"fewer trials don't help: make the picture smaller. ({error})"
            ) from error
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"{where} failed: {error}") from error


def samplers() -> Mapping[str, list[str]]:
    """The host's own lists, with what other packs have added to them."""
    known = comfy.samplers.KSampler
    return {"sampler_name": list(known.SAMPLERS), "scheduler": list(known.SCHEDULERS)}
