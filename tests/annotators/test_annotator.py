"""What all annotators share: padding, 8 bits, the log line, the kinds of refusal."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from controlnet_pp.annotators.annotator import (
    LearnedAnnotator,
    check_image,
    check_values,
    from_8_bit,
    note_black,
    pad_to_multiple,
    to_8_bit,
    to_bytes,
)
from controlnet_pp.annotators.kinds import KINDS, weight_keys
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.mlsd import MLSD
from controlnet_pp.annotators.softedge import HED
from controlnet_pp.annotators.weights import WEIGHTS


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "multiple", "at_least", "expected"),
    [
        ((480, 641), 16, 1, (480, 656)),
        ((481, 640), 64, 1, (512, 640)),
        ((5, 7), 1, 1, (5, 7)),
        ((1, 9), 4, 8, (8, 12)),
    ],
)
def test_padding_goes_up_to_the_next_multiple(size, multiple, at_least, expected):
    assert pad_to_multiple(noise(1, 3, *size), multiple, at_least).shape == (1, 3, *expected)


def test_padding_repeats_the_last_row_and_column_and_keeps_the_rest():
    image = noise(2, 3, 5, 6)
    padded = pad_to_multiple(image, 8)
    assert torch.equal(padded[..., :5, :6], image)
    assert torch.equal(padded[..., :5, 6:], image[..., -1:].expand(-1, -1, -1, 2))
    assert torch.equal(padded[..., 5:, :], padded[..., 4:5, :].expand(-1, -1, 3, -1))


@pytest.mark.parametrize("size", [(16, 16), (15, 17)])
def test_padding_makes_the_order_in_memory_that_of_the_references(size):
    image = noise(2, *size, 3).movedim(-1, 1)
    assert pad_to_multiple(image, 16).is_contiguous()


def test_padding_passes_gradients():
    image = noise(1, 1, 3, 3).requires_grad_()
    pad_to_multiple(image, 4).sum().backward()
    assert image.grad is not None
    assert image.grad[0, 0].tolist() == [[1, 1, 2], [1, 1, 2], [2, 2, 4]]


def test_8_bits_are_rounded_and_clipped():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.3])
    assert to_8_bit(values).tolist() == [0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_8_bits_there_and_back_are_the_same(dtype):
    pixels = torch.arange(256, dtype=torch.uint8)
    image = from_8_bit(pixels, like=torch.zeros(1, dtype=dtype))
    assert image.dtype == dtype
    assert torch.equal(to_8_bit(image), pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_bytes_are_cut_and_clipped(dtype):
    values = torch.tensor([-7.0, -0.5, 0.9, 1.0, 127.99, 254.9, 255.0, 300.0, 65000.0], dtype=dtype)
    assert to_bytes(values).tolist() == [0, 0, 0, 1, int(values[4]), int(values[5]), 255, 255, 255]


def test_black_maps_are_named_in_one_log_line(caplog):
    maps = torch.zeros(3, 1, 4, 4)
    maps[1, 0, 2, 2] = 0.5
    with caplog.at_level(logging.INFO):
        note_black(maps, "OpenPose", "person")
    assert [r.getMessage() for r in caplog.records] == [
        "OpenPose: no person in 2 of 3 pictures (#0, #2), the map is black there"
    ]


def test_a_black_map_of_a_single_picture_has_no_number(caplog):
    with caplog.at_level(logging.INFO):
        note_black(torch.zeros(1, 1, 4, 4), "OpenPose", "person")
    assert [r.getMessage() for r in caplog.records] == [
        "OpenPose: no person in the picture, the map is black"
    ]


def test_maps_with_something_in_them_are_not_logged(caplog):
    with caplog.at_level(logging.INFO):
        note_black(torch.ones(3, 1, 4, 4), "OpenPose", "person")
    assert not caplog.records


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 1, 8, 8), r"Depth got.*\(1, 1, 8, 8\).*RGB"),
        (torch.zeros(1, 3, 0, 8), r"Depth got.*empty.*\(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "Depth got.*uint8.*Divide"),
    ],
)
def test_refusals_of_tensors_name_the_node_and_what_it_got(image, words):
    with pytest.raises(ValueError, match=words):
        check_image(image, "Depth")


@pytest.mark.parametrize(
    ("value", "words"),
    [(math.nan, "NaN"), (math.inf, "infinite"), (255.0, "to 255.*0..1"), (-1.0, "from -1 to")],
)
def test_refusals_of_values_name_the_node_and_what_it_got(value, words):
    image = noise(1, 3, 8, 8)
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"Depth got.*{words}"):
        check_values(image, "Depth")


def test_a_little_overshoot_is_no_error():
    check_values(torch.tensor([-0.1, 1.2]), "Depth")


def test_every_network_of_a_method_has_a_file_in_the_catalogue():
    networks = [net for row in KINDS.values() for method in row for net in method.networks]
    assert networks
    assert all(issubclass(network.kind, LearnedAnnotator) for network in networks)
    assert {network.key for network in networks} == set(WEIGHTS)


def test_one_network_may_be_loaded_from_several_files():
    assert weight_keys(HED) == ("hed",)  # once, though two kinds have it
    assert weight_keys(LineArt) == ("lineart", "lineart_coarse")


@pytest.mark.parametrize("kind", [HED, LineArt, MLSD])
def test_networks_are_built_in_the_dtype_and_namespace_that_is_asked_for(kind):
    class Counted(torch.nn.Conv2d):
        pass

    class Operations:
        Conv2d = Counted
        ConvTranspose2d = torch.nn.ConvTranspose2d

    network = kind(operations=Operations, dtype=torch.float16, device="meta")
    floats = [v for v in network.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    convolutions = [m for m in network.modules() if type(m) in (torch.nn.Conv2d, Counted)]
    assert {type(m) for m in convolutions} == {Counted}
    assert network.dtype == torch.float16


@pytest.mark.parametrize(
    ("channels", "words"),
    [(4, "Remove the alpha channel"), (1, "Convert a mask"), (2, "a node that gives pictures")],
)
def test_a_tensor_of_other_channels_is_refused_with_what_to_do(channels, words):
    with pytest.raises(ValueError, match=words):
        check_image(torch.zeros(1, channels, 8, 8), "Soft Edge (HED)")
