"""Stand-ins for node packs that act on controls, written from what those do to them.

Each samples one model in its own way; what it reads and sets on a control is what the pack reads
and sets, and nothing else is known of the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[slice, slice]  # rows and columns in latent pixels


def boxes(height: int, width: int, side: int) -> list[Box]:
    """Tiles side by side."""
    return [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


def pixels(box: Box) -> Box:
    rows, columns = box
    return slice(rows.start * 8, rows.stop * 8), slice(columns.start * 8, columns.stop * 8)


def chain(control: Any) -> Iterator[Any]:
    while control is not None:
        yield control
        control = control.previous_controlnet


def controls(conditioning: tuple) -> list[Any]:
    """Every outermost control of (positive, negative), once."""
    found = [options["control"] for side in conditioning for _, options in side]
    return list({id(control): control for control in found}.values())


def tiled_diffusion(host: Any, model: Any, conditioning: tuple, *, together: int, **sampling: Any):
    """Like TiledDiffusion: every call of the UNet in tiles, so many of them in a batch.

    The sampler gets the control itself in place of its answer. For each batch of tiles the hint of
    every control in the chain is scaled to the picture, cut, and set as its ``cond_hint``; then the
    control is asked with the rows of all tiles, and with as many prompts as the picture has.
    """
    from comfy.utils import common_upscale, repeat_to_batch_size

    kept: dict[tuple, Tensor] = {}

    def hints(control: Any, height: int, width: int, rows: int, tiles: Sequence[Box]) -> Tensor:
        key = (id(control), height, width, rows, str(tiles))
        if control.cond_hint is None or key not in kept:
            if control.cond_hint is not None:
                del control.cond_hint
            control.cond_hint = None
            ratio, dtype = control.compression_ratio, control.control_model.dtype
            whole = common_upscale(
                control.cond_hint_original,
                width * ratio,
                height * ratio,
                control.upscale_algorithm,
                "center",
            )
            whole = repeat_to_batch_size(control.preprocess_image(whole).to(dtype), rows)
            kept[key] = torch.cat([whole[(..., *pixels(tile))] for tile in tiles])
        return kept[key]

    def unet(apply_model: Any, given: dict[str, Any]) -> Tensor:
        x, t, c = given["input"], given["timestep"], given["c"]
        out = torch.zeros_like(x)
        tiles = boxes(x.shape[-2], x.shape[-1], 8)
        for first in range(0, len(tiles), together):
            batch = tiles[first : first + together]
            parts = torch.cat([x[(..., *tile)] for tile in batch])
            times = repeat_to_batch_size(t, parts.shape[0])
            tiled = {
                key: repeat_to_batch_size(value, parts.shape[0])
                if isinstance(value, Tensor)
                else value
                for key, value in c.items()
            }
            for control in chain(c["control"]):
                control.cond_hint = hints(control, *x.shape[-2:], x.shape[0], batch)
            tiled["control"] = c["control"].get_control_orig(
                parts, times, tiled, len(given["cond_or_uncond"]), c["transformer_options"]
            )
            answers = apply_model(parts, times, **tiled).chunk(len(batch))
            for tile, answer in zip(batch, answers, strict=True):
                out[(..., *tile)] = answer
        return out

    tiled_model = model.clone()
    tiled_model.set_model_unet_function_wrapper(unet)
    found = controls(conditioning)
    for control in found:
        control.get_control_orig = control.get_control
        control.get_control = _itself(control)
    try:
        return host.sample(tiled_model, *conditioning, **sampling)
    finally:
        for control in found:
            control.get_control = control.get_control_orig


def _itself(control: Any) -> Any:
    return lambda *_args, **_options: control


def tiled_ksampler(host: Any, model: Any, conditioning: tuple, latent: Tensor, **sampling: Any):
    """Like TiledKSampler: a sampling for each tile, the hints of the host's controls set before."""
    import comfy.controlnet

    out = latent.clone()
    found = {id(c): c for top in controls(conditioning) for c in chain(top)}.values()
    nets = [c for c in found if isinstance(c, comfy.controlnet.ControlNet)]
    size = (latent.shape[-2] * 8, latent.shape[-1] * 8)
    for tile in boxes(latent.shape[-2], latent.shape[-1], 8):
        for net in nets:
            whole = F.interpolate(net.cond_hint_original, size, mode="nearest-exact")
            net.cond_hint = whole[(..., *pixels(tile))].to(net.control_model.dtype)
        out[(..., *tile)] = host.sample(
            model, *conditioning, latent=latent[(..., *tile)].clone(), **sampling
        )
    return out


def ultimate_sd_upscale(
    host: Any, model: Any, conditioning: tuple, latent: Tensor, **sampling: Any
):
    """Like Ultimate SD Upscale: a sampling for each tile, with copies whose hint was cropped."""
    out = latent.clone()
    for tile in boxes(latent.shape[-2], latent.shape[-1], 8):
        cropped = tuple(
            [[prompt, _cropped(options, tile, latent.shape[-2:])] for prompt, options in side]
            for side in conditioning
        )
        out[(..., *tile)] = host.sample(
            model, *cropped, latent=latent[(..., *tile)].clone(), **sampling
        )
    return out


def _cropped(options: dict[str, Any], tile: Box, canvas: Sequence[int]) -> dict[str, Any]:
    original = options["control"]
    first = control = original.copy()
    while original is not None:
        hint = control.cond_hint_original
        scale = [hint.shape[-2] / canvas[0], hint.shape[-1] / canvas[1]]
        place = [
            slice(round(s.start * f), round(s.stop * f)) for s, f in zip(tile, scale, strict=True)
        ]
        control.cond_hint_original = F.interpolate(
            hint[(..., *place)], (64, 64), mode="nearest-exact"
        )
        original = original.previous_controlnet
        if original is not None:
            control.set_previous_controlnet(original.copy())
            control = control.previous_controlnet
    return options | {"control": first}


def advanced_controlnet(conditioning: tuple, mask: Tensor) -> tuple:
    """Like Apply Advanced ControlNet: converts the host's class, and masks what it says."""
    twins: dict[int, Any] = {}
    return tuple(
        [
            [prompt, options | {"control": twins.setdefault(id(c), _advanced(c, mask))}]
            for prompt, options in side
            for c in [options["control"]]
        ]
        for side in conditioning
    )


def _advanced(control: Any, mask: Tensor) -> Any:
    """What has ``sub_idxs`` counts as converted and is disarmed; the rest is left alone."""
    from comfy.controlnet import ControlNet

    class Advanced(ControlNet):
        sub_idxs = None

        def disarm(self) -> None:
            pass

        def control_merge(self, control: dict, control_prev: Any, output_dtype: Any) -> dict:
            for blocks in control.values():
                for i, block in enumerate(blocks):
                    if block is not None:
                        blocks[i] = block * F.interpolate(mask[None], block.shape[-2:])
            return super().control_merge(control, control_prev, output_dtype=output_dtype)

    if type(control) is ControlNet:
        twin = Advanced(
            control_model=control.control_model,
            load_device=control.load_device,
            manual_cast_dtype=control.manual_cast_dtype,
        )
        control.copy_to(twin)
        twin.control_model_wrapped = control.control_model_wrapped
        control = twin
    if hasattr(control, "sub_idxs"):
        control.disarm()
    return control


def animated(
    model: Any, full_length: int, windows: Sequence[Sequence[int]], *, tells: bool = True
) -> Any:
    """Like AnimateDiff-Evolved's sliding context: a copy of the model that samples in windows.

    tells: whether the transformer options hold ``ad_params``, as they do today.
    """
    from comfy.patcher_extension import WrappersMP

    def told(control: Any, frames: Sequence[int]) -> None:
        for one in chain(control):
            if not hasattr(one, "sub_idxs"):
                raise ValueError(f"Control type {type(one).__name__} may not support windows")
            if not hasattr(one, "ACN_VERSION"):
                one.sub_idxs, one.full_latent_length = frames, full_length
                one.context_length = len(frames)

    def resized(prompts: Any, frames: Sequence[int]) -> Any:
        for entry in prompts or ():
            told(entry["control"], frames) if "control" in entry else None
        return prompts

    def in_windows(
        calculate: Any, base: Any, conds: Any, x: Tensor, timestep: Any, options: dict
    ) -> Any:
        transformer_options = {**options.get("transformer_options", {})}
        options = {**options, "transformer_options": transformer_options}
        out = [torch.zeros_like(x) for _ in conds]
        counts = torch.zeros(full_length, 1, 1, 1)
        for frames in map(list, windows):
            if tells:
                transformer_options["ad_params"] = {
                    "full_length": full_length,
                    "context_length": len(frames),
                    "sub_idxs": frames,
                }
            sub = [resized(prompts, frames) for prompts in conds]
            answers = calculate(base, sub, x[frames], timestep[frames], options)
            for whole, part in zip(out, answers, strict=True):
                whole[frames] += part
            counts[frames] += 1
        return [whole / counts for whole in out]

    twin = model.clone()
    twin.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "animated", in_windows)
    return twin
