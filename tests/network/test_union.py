"""The union network against diffusers' ControlNetUnionModel with the same random weights."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.network.config import SDXL
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.union import QuickGELU

diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")

CONFIG = replace(
    SDXL,
    model_channels=320,  # the width of the tokens is fixed at 320 in every published file
    channel_mult=(1,),
    num_res_blocks=(1,),
    transformer_depth=(1,),
    transformer_depth_middle=1,
    context_dim=32,
    adm_in_channels=1568,
    union_types=8,
)


def union_pair():
    """Our network and diffusers' with the same weights, the zero convolutions included."""
    torch.manual_seed(0)
    theirs = diffusers.ControlNetUnionModel(
        block_out_channels=(320,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=(5,),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,  # diffusers reads one width for time ids and types
        projection_class_embeddings_input_dim=1568,
        num_control_type=8,
        conditioning_embedding_out_channels=(16, 32, 96, 256),  # as the published files have it
    ).eval()
    for parameter in theirs.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    ours = ControlNet(CONFIG).eval()
    ours.load_state_dict(original_layout(theirs.state_dict()))
    return ours, theirs


PREFIXES = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "controlnet_down_blocks.0.": "zero_convs.0.0.",
    "controlnet_down_blocks.1.": "zero_convs.1.0.",
    "controlnet_mid_block.": "middle_block_out.0.",
    "controlnet_cond_embedding.conv_in.": "input_hint_block.0.",
    "controlnet_cond_embedding.conv_out.": "input_hint_block.14.",
    **{
        f"controlnet_cond_embedding.blocks.{i}.": f"input_hint_block.{2 * i + 2}." for i in range(6)
    },
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.0.attentions.0.": "input_blocks.1.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "transformer_layes.0.attn.in_proj_": "transformer_layes.0.attn.in_proj.",
}
RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}


def original_layout(state_dict):
    """The keys of this one-level network, renamed by a table of its own."""
    out = {}
    for key, value in state_dict.items():
        prefix = next((p for p in PREFIXES if key.startswith(p)), "")
        rest = key.removeprefix(prefix)
        if ".resnets." in prefix:
            part, kind = rest.split(".")
            rest = f"{RESNET_PARTS[part]}.{kind}"
        out[PREFIXES.get(prefix, "") + rest] = value
    return out


@pytest.mark.parametrize("types", [[3], [0, 6], [1, 3, 7]], ids=str)
def test_types_shift_their_hints_as_in_diffusers(types):
    ours, theirs = union_pair()
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    hints = [torch.rand(1, 3, 64, 64) for _ in types]
    timesteps, pooled = torch.tensor([400.0]), torch.randn(1, 32)
    zero = torch.cat([torch.ones(128), torch.zeros(128)])  # cosines and sines of time id 0
    y = torch.cat([pooled, zero.repeat(6)[None]], dim=1)
    present = torch.zeros(1, 8)
    present[0, types] = 1.0
    with torch.no_grad():
        down, mid = theirs(
            x,
            timesteps,
            context,
            controlnet_cond=hints,
            control_type=present,
            control_type_idx=types,
            conditioning_scale=1.0,
            from_multi=True,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.zeros(1, 6)},
            return_dict=False,
        )
        residuals = ours(x, hints, timesteps, context, y, control_type=types)
    for mine, reference in zip(residuals, (*down, mid), strict=True):
        assert (mine - reference).norm() < 1e-4 * reference.norm()


def test_a_type_that_the_file_lacks_is_refused_by_name():
    net = ControlNet(replace(CONFIG, union_types=6), device="meta")
    hint = torch.zeros(1, 3, 64, 64, device="meta")
    x, context = torch.zeros(1, 4, 8, 8, device="meta"), torch.zeros(1, 5, 32, device="meta")
    timesteps, y = torch.zeros(1, device="meta"), torch.zeros(1, 1568, device="meta")
    with pytest.raises(ValueError, match=r"Union type 7 \(repaint\) .* load the ProMax file"):
        net(x, hint, timesteps, context, y, control_type=[7])


def test_every_type_needs_a_hint_of_its_own():
    net = ControlNet(CONFIG, device="meta")
    with pytest.raises(ValueError, match="found 1 hints for 2 types"):
        net.embed_hint(torch.zeros(1, 3, 64, 64, device="meta"), control_type=[0, 1])


def test_the_gelu_of_the_tokens_is_the_published_one():
    """x * sigmoid(1.702 x) (arXiv 1606.08415): diffusers' 1e-4 above would not notice 1.7."""
    x = torch.linspace(-8, 8, 1001)
    wanted = x.double() / (1 + (-1.702 * x.double()).exp())
    torch.testing.assert_close(QuickGELU()(x), wanted.float(), rtol=0, atol=2e-6)
    transformers = pytest.importorskip("transformers.activations")
    torch.testing.assert_close(QuickGELU()(x), transformers.QuickGELUActivation()(x))
