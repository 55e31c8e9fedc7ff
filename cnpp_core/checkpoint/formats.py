"""Find the ControlNet among the tensors of a file, whatever its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .foreign import LOOK_ALIKE, describe
from .words import WHOLE, refusal, some

ORIGINAL, DIFFUSERS = "original", "diffusers"  # the two layouts of tensor names
PREFIX = "control_model."
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put in front
DIFFERENCE = "difference"
OTHER_PACK = "use the node pack that it was made for"
DIFFUSERS_MARK = "controlnet_cond_embedding.conv_in.weight"
ORIGINAL_MARK = "zero_convs.0.0.weight"

# What a whole training checkpoint carries beside its ControlNet; the ControlNet does not need it.
TRAINING_EXTRAS = (
    "model.",
    "first_stage_model.",
    "cond_stage_model.",
    "model_ema.",
    "logvar",
)
# Noise schedules and counters that training code saves as tensors.
HARMLESS = re.compile(
    r"(.*\.)?(position_ids|num_batches_tracked|num_updates|decay|global_step|epoch|scale_factor"
    r"|(sqrt_|log_)?(one_minus_)?alphas_cumprod(_prev)?|betas|lvlb_weights"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12]))"
)


@dataclass(frozen=True)
class FoundControlNet:
    """A ControlNet in a file: its tensors without prefix, still in the file's own layout."""

    state_dict: dict[str, Tensor]
    layout: str  # ORIGINAL or DIFFUSERS
    prefix: str  # what was cut off every name
    difference: bool  # the encoder is stored as its distance from a UNet's
    ignored: tuple[str, ...]  # harmless extras


def find_controlnet(tensors: Mapping[str, Tensor], name: str) -> FoundControlNet:
    """Find the ControlNet among the tensors of the file ``name``.

    Raises ValueError saying what it holds instead and which node or folder takes it.
    """
    if found := describe(tensors, LOOK_ALIKE):
        raise refusal(name, *found)
    wrapper = next((w for w in WRAPPERS if all(key.startswith(w) for key in tensors)), "")
    inner = {key.removeprefix(wrapper): value for key, value in tensors.items()}

    if PREFIX + ORIGINAL_MARK in inner:
        kept = {k.removeprefix(PREFIX): v for k, v in inner.items() if k.startswith(PREFIX)}
        rest = [k for k in inner if not k.startswith(PREFIX) and not k.startswith(TRAINING_EXTRAS)]
        extras = [k for k in inner if k.startswith(TRAINING_EXTRAS)]
        layout, prefix = ORIGINAL, wrapper + PREFIX
    elif ORIGINAL_MARK in inner or DIFFUSERS_MARK in inner:
        layout = ORIGINAL if ORIGINAL_MARK in inner else DIFFUSERS
        kept, rest, extras, prefix = dict(inner), [], [], wrapper
    else:
        if part := split_part(name):
            raise refusal(name, f"is part {part} of a split file", WHOLE)
        if found := describe(tensors):
            raise refusal(name, *found)
        number = f"{len(tensors)} tensors, such as {some(tensors)}"
        what = f"is no ControlNet and nothing else known here ({number})"
        raise refusal(name, what, "choose a file from models/controlnet")

    marks = {key for key in (*kept, *rest) if key == DIFFERENCE or HARMLESS.fullmatch(key)}
    unknown = [key for key in rest if key not in marks]
    if unknown:
        what = f"has {len(unknown)} tensors beside its ControlNet that nothing here uses"
        raise refusal(name, f"{what} ({some(unknown)})", OTHER_PACK)
    return FoundControlNet(
        state_dict={key: value for key, value in kept.items() if key not in marks},
        layout=layout,
        prefix=prefix,
        difference=DIFFERENCE in marks,
        ignored=(*extras, *sorted(marks - {DIFFERENCE})),
    )


def split_part(name: str) -> str:
    """ "2 of 3" if the file's name says that it is a part of a split file, else ""."""
    found = re.search(r"-0*([0-9]{1,5})-of-0*([0-9]{1,5})\.", name)
    return f"{found[1]} of {found[2]}" if found else ""
