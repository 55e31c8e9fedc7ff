"""Names in the diffusers layout against diffusers itself, and configurations from shapes."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import from_diffusers, read_config, to_diffusers
from controlnet_pp.cnpp_core.network.config import SD15, SD21, SDXL, NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet

diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")

SMALL_SD15 = replace(SD15, model_channels=32, context_dim=24)
SMALL_SD21 = replace(SD21, model_channels=64, context_dim=40)
SMALL_SDXL = replace(
    SDXL,
    model_channels=64,
    context_dim=48,
    adm_in_channels=96,
    transformer_depth=(0, 0, 2, 2, 3, 3),
    transformer_depth_middle=3,
)
TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 1),
    context_dim=24,
    hint_channels=1,
)
CONFIGS = {
    "SD1.5": SD15,
    "SD2.x": SD21,
    "SDXL": SDXL,
    "small SD1.5": SMALL_SD15,
    "small SD2.x": SMALL_SD21,
    "small SDXL": SMALL_SDXL,
    "tiny": TINY,
}
# The shape of SSD-1B: no transformer in the middle, a decoder that does not mirror the encoder.
SSD_1B = replace(
    SDXL,
    transformer_depth=(0, 0, 2, 2, 4, 4),
    transformer_depth_middle=-1,
    transformer_depth_output=(4, 4, 10, 2, 1, 1, 0, 0, 0),
)


def diffusers_settings(config: NetworkConfig) -> dict:
    widths = tuple(mult * config.model_channels for mult in config.channel_mult)
    per_level = len(config.transformer_depth) // len(widths)
    depths = config.transformer_depth[::per_level]
    arguments = {
        "block_out_channels": widths,
        "layers_per_block": per_level,
        "cross_attention_dim": config.context_dim,
        "down_block_types": tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        "transformer_layers_per_block": tuple(max(d, 1) for d in depths),
        "attention_head_dim": tuple(config.heads(width) for width in widths),
        "use_linear_projection": config.use_linear_in_transformer,
    }
    if config.adm_in_channels is not None:
        arguments |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": config.adm_in_channels,
        }
    return arguments


def diffusers_controlnet(config: NetworkConfig, **more):
    widths = {"conditioning_embedding_out_channels": (16, 32, 96, 256)}
    return diffusers.ControlNetModel(
        **diffusers_settings(config), **widths, conditioning_channels=config.hint_channels, **more
    )


def diffusers_unet(config: NetworkConfig, **more):
    arguments = diffusers_settings(config)
    down = arguments["down_block_types"]
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    return diffusers.UNet2DConditionModel(**{**arguments, "up_block_types": up, **more})


def shapes(state_dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def on_meta(build, config, **more):
    with torch.device("meta"):
        return build(config, **more).state_dict()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_controlnet_gets_the_names_and_shapes_of_diffusers(config):
    ours = ControlNet(config, device="meta").state_dict()
    assert shapes(to_diffusers(ours, config)) == shapes(on_meta(diffusers_controlnet, config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_unet_gets_the_names_and_shapes_of_diffusers(config):
    ours = UNet(config, device="meta").state_dict()
    assert shapes(to_diffusers(ours, config)) == shapes(on_meta(diffusers_unet, config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("build", [diffusers_controlnet, diffusers_unet])
def test_diffusers_names_come_back_as_ours_with_their_configuration(build, config):
    network = ControlNet if build is diffusers_controlnet else UNet
    if network is UNet:
        config = replace(config, hint_channels=3)
    converted = from_diffusers(on_meta(build, config))
    assert shapes(converted) == shapes(network(config, device="meta").state_dict())
    assert read_config(converted) == config


def test_a_unet_with_irregular_depths_and_a_single_middle_block():
    theirs = on_meta(
        diffusers_unet,
        SSD_1B,
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[[1, 1], [2, 2], [4, 4]],
        reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], [1, 1, 1]],
    )
    ours = UNet(SSD_1B, device="meta").state_dict()
    assert shapes(to_diffusers(ours, SSD_1B)) == shapes(theirs)
    assert shapes(from_diffusers(theirs)) == shapes(ours)
    assert read_config(from_diffusers(theirs)) == SSD_1B


def test_the_class_embedding_of_unclip_is_the_label_embedding():
    unclip = replace(SMALL_SD21, adm_in_channels=128)
    theirs = on_meta(
        diffusers_unet,
        unclip,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=128,
        addition_embed_type=None,
        addition_time_embed_dim=None,
    )
    assert "class_embedding.linear_1.weight" in theirs
    assert shapes(from_diffusers(theirs)) == shapes(UNet(unclip, device="meta").state_dict())


@pytest.mark.parametrize("types", [6, 8])
def test_a_union_controlnet_has_the_names_and_shapes_of_diffusers(types):
    config = replace(SDXL, union_types=types)
    with torch.device("meta"):
        theirs = diffusers.ControlNetUnionModel(
            **{
                **diffusers_settings(config),
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
                "conditioning_embedding_out_channels": (16, 32, 96, 256),
                "num_control_type": types,
            }
        ).state_dict()
    # its type embedding takes the width of the label embedding, which only fits some numbers of
    # types; in the published files it is 256 per type
    theirs["control_add_embedding.linear_1.weight"] = torch.empty(1280, 256 * types, device="meta")
    ours = ControlNet(config, device="meta").state_dict()
    assert shapes(to_diffusers(ours, config)) == shapes(theirs)
    assert read_config(from_diffusers(theirs)) == config


@pytest.mark.parametrize("config", [SMALL_SD15, SMALL_SDXL, replace(TINY, union_types=6)])
def test_there_and_back_gives_the_same_tensors(config):
    ours = ControlNet(config).state_dict()
    back = from_diffusers(to_diffusers(ours, config))
    assert back.keys() == ours.keys()
    assert all(back[name] is tensor for name, tensor in ours.items())


def test_back_and_there_gives_the_same_tensors():
    theirs = diffusers_unet(SMALL_SDXL).state_dict()
    ours = from_diffusers(theirs)
    back = to_diffusers(ours, read_config(ours))
    assert back.keys() == theirs.keys()
    assert all(back[name] is tensor for name, tensor in theirs.items())


@pytest.mark.parametrize("config", [SMALL_SD15, SMALL_SD21], ids=["conv heads", "linear heads"])
def test_converted_weights_compute_what_they_compute_in_diffusers(config):
    torch.manual_seed(0)
    theirs = diffusers_controlnet(config).eval()
    for parameter in theirs.parameters():
        if not parameter.any():  # zero convolutions would make every answer zero
            torch.nn.init.normal_(parameter, std=0.1)
    converted = from_diffusers(theirs.state_dict())
    ours = ControlNet(read_config(converted))
    ours.load_state_dict(converted)

    x, hint = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 128, 128)
    timesteps, context = torch.tensor([900, 5]), torch.randn(2, 7, config.context_dim)
    with torch.no_grad():
        found = ours(x, hint, timesteps, context)
        down, middle = theirs(x, timesteps, context, hint, return_dict=False)
    for ours_i, theirs_i in zip(found, (*down, middle), strict=True):
        assert (ours_i - theirs_i).abs().max() <= 1e-4 * theirs_i.abs().max()


def test_an_unknown_name_is_an_error_that_names_it():
    state_dict = diffusers_controlnet(TINY).state_dict()
    state_dict["down_blocks.0.motion.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"down_blocks\.0\.motion\.weight"):
        from_diffusers(state_dict)
    with pytest.raises(ValueError, match=r"extra\.bias"):
        to_diffusers({"extra.bias": torch.zeros(1)}, TINY)
