"""Tell from its tensor names what a checkpoint holds, and say where everything else belongs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from .words import refusal, some

ORIGINAL, DIFFUSERS = "original", "diffusers"  # the two layouts of tensor names
PREFIX = "control_model."
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put in front
DIFFERENCE = "difference"
EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")
OTHER_PACK = "use the node pack that it was made for"
CHOOSE_ANOTHER = "choose a file from models/controlnet"
WHOLE = "get the ControlNet as one file"
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
    for identify, what, advice in _OTHERS_THAT_LOOK_ALIKE:
        if identify(tensors):
            raise refusal(name, f"is {what}", advice)
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
        raise refusal(name, *describe(tensors))

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


def describe(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """What a file without a ControlNet is, and where it belongs."""
    for identify, what, advice in _OTHERS:
        if identify(tensors):
            return f"is {what}", advice
    number = f"{len(tensors)} tensors, such as {some(tensors)}"
    return f"is no ControlNet and nothing else known here ({number})", CHOOSE_ANOTHER


def split_part(name: str) -> str:
    """ "2 of 3" if the file's name says that it is a part of a split file, else ""."""
    found = re.search(r"-0*([0-9]{1,5})-of-0*([0-9]{1,5})\.", name)
    return f"{found[1]} of {found[2]}" if found else ""


def _has(*parts: str) -> Callable[[Collection[str]], bool]:
    """True if for every part some name starts with it (a leading * : contains it)."""

    def found(keys: Collection[str]) -> bool:
        return all(
            any(part[1:] in key if part[0] == "*" else key.startswith(part) for key in keys)
            for part in parts
        )

    return found


def _any(*tests: Callable[[Collection[str]], bool]) -> Callable[[Collection[str]], bool]:
    return lambda keys: any(test(keys) for test in tests)


HOST_LOADER = "use the host's Load ControlNet Model, its output also works with Apply ControlNet++"

# They carry the ControlNet's own marks, so they are asked first.
_OTHERS_THAT_LOOK_ALIKE = (
    (_has("lora_controlnet"), "a control-LoRA", HOST_LOADER),
    (
        _any(
            _has("*.lora_A."),
            _has("*.lora_up."),
            _has("*_lora.up."),
            _has("*.hada_w1"),
            _has("*.lokr_w"),
        ),
        "a LoRA",
        "put it into models/loras and use Load LoRA",
    ),
    (_has("*lllite_"), "a ControlLLLite", "it needs a node pack for ControlLLLite"),
    (
        _has("*motion_modules", "controlnet_"),
        "a SparseCtrl network for video",
        "it needs a node pack for AnimateDiff",
    ),
    (
        _any(_has("scaled_fp8"), _has("*.scale_weight"), _has("*.weight_scale"), _has("*.absmax")),
        "quantised with extra scale tensors",
        "get the fp16 version, or plain fp8",
    ),
)
_OTHERS = (
    (
        _any(
            _has("controlnet_down_blocks."),
            _has("controlnet_mid_block."),
            _has("zero_convs."),
            _has("control_model.zero_convs."),
        ),
        "a part of a ControlNet, as split files have",
        WHOLE,
    ),
    (
        _any(
            _has("controlnet_blocks.0."),
            _has("control_blocks.0.after_proj"),
            _has("after_proj_list."),
            _has("controlnet_x_embedder"),
            _has("control_layers.0."),
            _has("control_img_in."),
        ),
        "a ControlNet for a transformer model (Flux, SD3, Qwen, Hunyuan or such)",
        HOST_LOADER,
    ),
    (
        _any(_has("image_proj", "ip_adapter"), _has("*.to_k_ip.weight"), _has("ip_adapter.")),
        "an IP-Adapter",
        "put it into models/ipadapter and use an IP-Adapter node pack",
    ),
    (
        _any(_has("body.0.in_conv"), _has("adapter.body."), _has("conv_in.", "body.0.block")),
        "a T2I adapter",
        HOST_LOADER,
    ),
    (_has("backbone.", "projections."), "a Stable Cascade ControlNet", HOST_LOADER),
    (
        _any(
            _has("model.diffusion_model.", "first_stage_model."),
            _has("model.diffusion_model.", "cond_stage_model."),
            _has("model.diffusion_model.", "conditioner."),
            _has("model.diffusion_model.", "text_encoders."),
            _has("model.diffusion_model.", "vae."),
        ),
        "a full checkpoint",
        "put it into models/checkpoints and use Load Checkpoint",
    ),
    (
        _any(
            _has("*double_blocks.0."),
            _has("*joint_blocks.0."),
            _has("*single_transformer_blocks.0."),
            _has("*transformer_blocks.0.img_mod"),
            _has("*blocks.0.adaln_modulation"),
        ),
        "a transformer diffusion model",
        "put it into models/diffusion_models and use Load Diffusion Model",
    ),
    (
        _any(
            _has("*input_blocks.", "*output_blocks."),
            _has("down_blocks.", "up_blocks.", "time_embedding."),
        ),
        "a UNet without a ControlNet",
        "put it into models/diffusion_models and use Load Diffusion Model",
    ),
    (
        _any(
            _has("encoder.down", "decoder."),
            _has("*first_stage_model.", "*decoder."),
            _has("decoder.up", "post_quant_conv."),
            _has("vae."),
            _has("taesd_decoder."),
        ),
        "a VAE",
        "put it into models/vae and use Load VAE",
    ),
    (
        _any(
            _has("*text_model.encoder.layers."),
            _has("*token_embedding.", "*encoder.layers."),
            _has("*transformer.resblocks."),
            _has("encoder.block.0.layer."),
            _has("model.layers.0.self_attn."),
        ),
        "a text or image encoder",
        "put it into models/text_encoders (or clip_vision) and use Load CLIP",
    ),
    (
        lambda keys: len(keys) <= 3 and any(key.startswith(EMBEDDINGS) for key in keys),
        "a textual inversion embedding",
        "put it into models/embeddings and write embedding:name into the prompt",
    ),
)
