"""Pick Most Consistent in the running host: order, ties, and what belongs to the pictures."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.graphs import node
from PIL import Image

NODE = "CNPP_PickMostConsistent"
CANNY = "canny (ControlNet++)"


def annotator(host, condition, maps):
    """An ANNOTATOR as other nodes give it, that finds these maps (B, c, H, W)."""
    return host.annotator(condition, lambda image: maps)


def pictures(count, size=64):
    """IMAGE (count, size, size, 3), the i-th all of grey i / 100."""
    greys = torch.arange(count) / 100
    return greys.view(-1, 1, 1, 1).expand(-1, size, size, 3).contiguous()


def lines(*rows, size=64):
    """One condition (1, size, size, 3) with a line in each of these rows."""
    maps = torch.zeros(1, size, size, 3)
    maps[:, list(rows)] = 1.0
    return maps


def found(*kept, size=64):
    """Maps (len(kept), 1, size, size): of four lines, so many are found."""
    return torch.cat([lines(*range(8, 8 + 8 * k, 8), size=size) for k in kept])[..., 0][:, None]


WANTED = lines(8, 16, 24, 32)


def pick(host, count, maps, condition=WANTED, kind=CANNY, images=None, **options):
    finder = annotator(host, kind.split()[0], maps)
    images = pictures(len(maps)) if images is None else images
    return host.call(
        NODE,
        images=images,
        condition=condition,
        kind=kind,
        tolerance=0,
        count=count,
        annotator=finder,
        **options,
    )


def test_the_best_come_out_in_order(host):
    images = pictures(4)
    picked, _, score, index, indices, ranking = pick(host, 3, found(2, 1, 4, 3))
    assert torch.equal(picked, images[[2, 3, 0]])
    assert score == 1.0
    assert (index, indices) == (2, "2, 3, 0")
    order = [line.split(":")[0] for line in ranking.splitlines()[1:]]
    assert order == [
        "#1 picture 3 (chosen)",
        "#2 picture 4 (chosen)",
        "#3 picture 1 (chosen)",
        "#4 picture 2",
    ]


def test_the_score_is_that_of_the_check(host):
    maps = found(1, 3)
    picked, _, score, *_ = pick(host, 1, maps)
    (checked, *_) = host.call(
        "CNPP_CycleConsistencyCheck",
        images=picked,
        condition=WANTED,
        kind=CANNY,
        tolerance=0,
        annotator=annotator(host, "canny", maps[1:]),
    )
    assert score == pytest.approx(checked)
    assert score == pytest.approx(2 * 0.75 / 1.75)


def test_of_equal_pictures_the_earlier_wins(host):
    assert pick(host, 3, found(1, 2, 2, 1, 2))[4] == "1, 2, 4"


def test_a_batch_smaller_than_wanted_comes_out_whole_and_in_order(host):
    picked, _, _, _, indices, ranking = pick(host, 9, found(1, 3, 2))
    assert torch.equal(picked, pictures(3)[[1, 2, 0]])
    assert indices == "1, 2, 0"
    assert "3 of 3 chosen" in ranking
    assert "(9 were asked for)" in ranking


def test_one_picture_is_picked_from_itself(host):
    picked, _, _, index, indices, _ = pick(host, 1, found(2))
    assert picked.shape[0] == 1
    assert (index, indices) == (0, "0")


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_where_the_score_is_an_error_the_smallest_wins(host, kind):
    wanted = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = wanted[:, :1].expand(-1, 3, -1, -1) if kind == "depth" else unit(wanted)
    other = wanted.flip(-1)
    maps = torch.cat([other, wanted, 0.5 * (wanted + other)])
    image = wanted.movedim(1, -1)
    _, _, score, _, indices, ranking = pick(host, 3, maps, image, kind, pictures(3))
    assert indices == "1, 2, 0"
    assert score < 0.5
    assert ranking.index("picture 2 (chosen)") < ranking.index("picture 3 (chosen)")


def unit(colours):
    """Colours that are a normal map."""
    normals = colours * 2 - 1
    normals[:, 2] = normals[:, 2].abs() + 0.5
    return (normals / normals.norm(dim=1, keepdim=True) + 1) / 2


def test_a_condition_for_each_picture_is_compared_with_its_own(host):
    each = torch.cat([lines(8, 16, 24, 32), lines(8), lines(8, 16)])
    assert pick(host, 3, found(1, 1, 4), each)[4] == "1, 2, 0"
    with pytest.raises(ValueError, match=r"2 conditions for 3 picture"):
        pick(host, 1, found(1, 1, 4), each[:2])


def test_only_the_inside_of_the_mask_counts(host):
    top, bottom = lines(8, 16)[..., 0], lines(24, 32)[..., 0]
    maps = torch.stack([top, bottom])
    mask = torch.zeros(1, 64, 64)
    mask[:, :20] = 1.0
    assert pick(host, 2, maps, mask=mask)[4] == "0, 1"
    assert pick(host, 2, maps, mask=1 - mask)[4] == "1, 0"


def test_latents_masks_and_noise_numbers_follow_their_pictures(host):
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(3, 4, 8, 8, generator=generator)
    mask = torch.rand(3, 1, 64, 64, generator=generator)
    latent = {"samples": samples, "noise_mask": mask, "batch_index": [5, 6, 7], "other": "kept"}
    _, out, *_ = pick(host, 2, found(1, 4, 2), latent=latent)
    assert torch.equal(out["samples"], samples[[1, 2]])
    assert torch.equal(out["noise_mask"], mask[[1, 2]])
    assert out["batch_index"] == [6, 7]
    assert out["other"] == "kept"
    assert latent["batch_index"] == [5, 6, 7]
    _, out, *_ = pick(host, 2, found(1, 4, 2), latent={"samples": samples})
    assert out["batch_index"] == [1, 2]
    one = {"samples": samples, "noise_mask": mask[:1]}
    assert pick(host, 2, found(1, 4, 2), latent=one)[1]["noise_mask"] is one["noise_mask"]
    two = {"samples": samples, "noise_mask": mask[:2]}  # repeated by the host: 0 1 0
    wanted = mask[[1, 0]]
    assert torch.equal(pick(host, 2, found(1, 4, 2), latent=two)[1]["noise_mask"], wanted)


def test_a_picked_latent_sampled_again_gets_the_noise_it_had(host):
    from comfy.sample import prepare_noise

    samples = torch.zeros(4, 4, 8, 8)
    _, out, *_ = pick(host, 2, found(1, 4, 2, 3), latent={"samples": samples})
    again = prepare_noise(out["samples"], 7, out["batch_index"])
    assert torch.equal(again, prepare_noise(samples, 7)[[1, 3]])


def test_latents_of_other_pictures_are_refused(host):
    with pytest.raises(ValueError, match=r"latent is a batch of 2, and there are 3 pictures"):
        pick(host, 1, found(1, 2, 3), latent={"samples": torch.zeros(2, 4, 8, 8)})


def test_without_latents_only_who_takes_them_is_stopped(host):
    """The output without its input: an error on the node that takes it, in words."""
    Image.new("RGB", (64, 64), "navy").save(host.folder / "input" / "pick.png")
    graph = {
        "1": node("LoadImage", image="pick.png"),
        "2": node(
            "CNPP_Canny", image=["1", 0], mode="ControlNet++", low=100, high=200, resolution=0
        ),
        "3": node(NODE, images=["1", 0], condition=["2", 0], kind=CANNY, tolerance=0, count=1),
        "4": node("PreviewImage", images=["3", 0]),
    }
    outputs = host.run(graph)
    assert outputs["3"]["text"][0].startswith("Edge F1")
    assert len(outputs["3"]["images"]) == len(outputs["4"]["images"]) == 1
    graph["5"] = node("SaveLatent", samples=["3", 1], filename_prefix="picked")
    sent, server = [], host._executor.server
    before, server.send_sync = server.send_sync, lambda event, data, *_: sent.append((event, data))
    try:
        host.run(graph)
    finally:
        server.send_sync = before
    (error,) = (data for event, data in sent if event == "execution_error")
    assert error["node_id"] == "5"
    assert "connect the latent of the pictures" in error["exception_message"]
