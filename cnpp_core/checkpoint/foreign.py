"""Files that are no ControlNet for this pack: what they are, by tensor names, and who takes them.

Names are those of the code that goes with a format: CtrLoRA (github.com/xyfJASON/ctrlora), BrushNet
(github.com/TencentARC/BrushNet), ControlNet-XS (github.com/vislearn/ControlNet-XS, and diffusers).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from .words import WHOLE

Test = Callable[[Collection[str]], bool]
Table = tuple[tuple[Test, str, str], ...]  # whether the names are its, what it is, what to do

EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g", "t5xxl")
HOST_LOADER = "use the host's Load ControlNet Model, its output also works with Apply ControlNet++"
ADVANCED = "ComfyUI-Advanced-ControlNet"
CTRLORA = f"use Load CtrLoRA Model of {ADVANCED}, which takes the base and one LoRA"


def describe(names: Collection[str], table: Table | None = None) -> tuple[str, str] | None:
    """ "is a LoRA" and where it belongs, for the tensor names of a file; None for no known format.

    table: asked instead of the one of files without a ControlNet's own marks.
    """
    for identify, what, advice in _OTHERS if table is None else table:
        if identify(names):
            return f"is {what}", advice
    return None


def _has(*parts: str) -> Test:
    """True if for every part some name starts with it (a leading * : contains it)."""

    def found(keys: Collection[str]) -> bool:
        return all(
            any(part[1:] in key if part[0] == "*" else key.startswith(part) for key in keys)
            for part in parts
        )

    return found


def _any(*tests: Test) -> Test:
    return lambda keys: any(test(keys) for test in tests)


# They carry the ControlNet's own marks, so they are asked first.
LOOK_ALIKE: Table = (
    (_has("*.lora_layer.", "*zero_convs."), "a CtrLoRA, the base ControlNet or a LoRA", CTRLORA),
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
    (
        _has("*lllite_"),
        "a ControlLLLite",
        f"{ADVANCED} can load it, or ControlNet-LLLite-ComfyUI",
    ),
    (
        _has("*motion_modules", "*controlnet_"),
        "a SparseCtrl network for video",
        f"use Load SparseCtrl Model of {ADVANCED}",
    ),
    (
        _any(_has("*enc_zero_convs_in."), _has("*.base_to_ctrl.", "*.ctrl_to_base.")),
        "a ControlNet-XS, which works in step with its UNet and can't be read as a ControlNet",
        "run it with the package diffusers (ControlNetXSAdapter), or choose a ControlNet for the "
        "same condition",
    ),
    (
        _any(_has("scaled_fp8"), _has("*.scale_weight"), _has("*.weight_scale"), _has("*.absmax")),
        "quantised with extra scale tensors",
        "get the fp16 version, or plain fp8",
    ),
)
_OTHERS: Table = (
    (
        _has("*brushnet_down_blocks."),
        "a BrushNet or PowerPaint network for inpainting",
        "put it into models/inpaint and use ComfyUI-BrushNet",
    ),
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
