"""Consistency Guidance refuses what is wrong by name, when the node runs or before it samples."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, randomise
from controlnet_pp.tests.host.steering.guided import edges, guide, sample, vae


@pytest.fixture(scope="module")
def refused(host):
    def check(match, condition=None, decoder=None, model=None, **changes):
        with pytest.raises(ValueError, match=match) as error:
            guide(
                host,
                model or host.model(TINY),
                decoder or vae(host, "taesd"),
                edges() if condition is None else condition,
                **changes,
            )
        assert str(error.value).startswith("Consistency Guidance: ")

    return check


def annotator(host, kind, method=""):
    return host.pack("nodes.host.annotate.annotator").annotator_of(kind, method)


def test_annotators_without_a_differentiable_map(host, refused):
    refused(r"Scribble \(XDoG\) has no differentiable map", kind="scribble")
    drawing = annotator(host, "scribble", "drawing")
    refused(r"Scribble \(drawing\) has no", kind="scribble", annotator=drawing)


def test_kinds_that_need_an_annotator_or_another_one(host, refused):
    refused("kind is depth, which only a network finds again", kind="depth")
    canny = annotator(host, "canny")
    refused("the connected annotator finds canny", kind="mlsd", annotator=canny)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"latent_dim": 3}, "makes no pictures"),
        ({"latent_dim": 1, "output_channels": 2}, "makes no pictures"),
        ({"extra_1d_channel": 16}, "makes no pictures"),
        ({"first_stage_model": None}, "VAE is empty"),
        (
            {"latent_channels": 16},
            r"VAE decodes latents of 16 channels.*model samples.* 4 \(SD15\)",
        ),
        ({"process_output": lambda image: image.square()}, "a way of its own"),
    ],
)
def test_vaes_that_do_not_fit(host, refused, monkeypatch, changes, match):
    decoder = vae(host, "kl")
    for name, value in changes.items():
        monkeypatch.setattr(decoder, name, value)
    refused(match, decoder=decoder)


def test_a_model_of_videos(host, refused, monkeypatch):
    latent = host.model(TINY).get_model_object("latent_format")
    monkeypatch.setattr(latent, "latent_dimensions", 3, raising=False)
    refused("latents, of videos or sound")


def test_a_vae_that_can_not_be_loaded_whole(host, refused, monkeypatch):
    def no_file():
        raise RuntimeError("Cannot create non-dynamic delegate: cached_patcher_init ...")

    decoder = vae(host, "taesd")
    monkeypatch.setattr(decoder.patcher, "is_dynamic", lambda: True, raising=False)
    monkeypatch.setattr(decoder.patcher, "get_non_dynamic_delegate", no_file, raising=False)
    refused("VAE is moved in and out of memory.*--disable-dynamic-vram", decoder=decoder)


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        (torch.rand(1, 64, 64, 3), "not an edge map"),
        (torch.zeros(1, 64, 64, 4), "Remove an alpha channel"),
        (torch.full((1, 64, 64, 3), torch.nan), "NaN or infinite"),
        (1 - edges(), "white"),
    ],
)
def test_conditions_that_are_none(refused, condition, match):
    refused(match, condition=condition)


def test_masks_that_leave_nothing_or_lie_elsewhere(refused):
    refused("mask is empty", mask=torch.zeros(1, 64, 64))
    refused("mask is 80x64 pixels and the condition 64x64", mask=torch.ones(1, 64, 80))


def test_settings_that_make_no_sense(host):
    with pytest.raises(ValueError, match="start_percent"):
        guide(host, host.model(TINY), vae(host), edges(), start_percent=0.8, end_percent=0.5)


@pytest.mark.parametrize("full", [False, True])
def test_shapes_and_numbers_that_only_the_sampling_knows(host, full):
    steps = []
    for condition, latent, match in (
        (edges(), torch.zeros(1, 4, 8, 12), r"64x64 pixels and the picture will be 96x64"),
        (edges(batch=3), torch.zeros(2, 4, 8, 8), "3 conditions for 2 picture"),
    ):
        guided = guide(host, host.model(TINY), vae(host), condition, full_gradient=full)
        guided.set_model_sampler_pre_cfg_function(lambda args: steps.append(1) or args["conds_out"])
        with pytest.raises(ValueError, match=match):
            sample(host, guided, latent=latent)
    assert not steps


def test_a_pose_is_followed_by_the_heat_maps_of_its_joints(host):
    """With random weights: the pull on a joint that the network does not see at all."""
    from comfy.model_patcher import ModelPatcher

    maps = host.pack("annotators.openpose.joints").joint_maps
    network = randomise(host.pack("annotators.openpose").OpenPoseBody(), seed=3)
    network.model6_2.Mconv7_stage6_L2.bias -= 50.0  # no joint anywhere
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    assert maps(network, image).amax() <= 2e-4
    assert network.maps(image)[1].amax() == 0
    cpu = torch.device("cpu")
    patcher = ModelPatcher(network, load_device=cpu, offload_device=cpu)
    annotator = host.annotator(
        "pose", network.annotate, (patcher,), soft=network, guiding=partial(maps, network)
    )
    drawing = torch.zeros(1, 48, 48, 3)
    drawing[:, 20:26, 20:26, 0] = 1.0  # a nose: a red disc
    guide_module = host.pack("nodes.consistency.guidance")
    finder = host.pack("nodes.consistency.inputs").finder_for("x", "pose", 0, annotator)
    reward = guide_module.reward_for(finder, drawing, None)
    with torch.inference_mode(False), torch.enable_grad():
        point = image.clone().requires_grad_()
        (pull,) = torch.autograd.grad(reward.losses(point).sum(), point)
        dead = torch.autograd.grad(network.maps(point)[1].sum(), point)[0]
    assert pull.isfinite().all()
    assert pull.abs().max() > 0
    assert dead.abs().max() == 0
    assert not network.model6_2.relu_Mconv7_stage6_L2._forward_pre_hooks
