"""What encoders gave is kept by all that it depends on."""

import pytest
import torch
from controlnet_pp.cnpp_core.training.data.cache import Cache, fingerprint
from torch import nn

KEY = {"kind": "latents", "encoder": "vae", "picture": "a.png 3", "size": [64, 64]}


def once(value: float):
    return lambda: {"latents": torch.full((2, 3), float(value))}


def never():
    raise AssertionError("made again")


@pytest.fixture(params=["memory", "folder"])
def cache(request, tmp_path) -> Cache:
    return Cache(tmp_path / "cache" if request.param == "folder" else None)


def test_an_entry_is_made_once(cache):
    assert torch.equal(cache.get(KEY, once(1))["latents"], torch.ones(2, 3))
    assert torch.equal(cache.get(KEY, never)["latents"], torch.ones(2, 3))
    assert (cache.made, cache.found) == (1, 1)


@pytest.mark.parametrize(
    "change", [{"kind": "text"}, {"encoder": "vae2"}, {"picture": "a.png 4"}, {"size": [64, 128]}]
)
def test_whatever_changes_makes_it_another_entry(cache, change):
    cache.get(KEY, once(1))
    assert cache.get(KEY | change, once(2))["latents"].mean() == 2
    assert cache.get(KEY, never)["latents"].mean() == 1


def test_a_folder_outlives_the_run(tmp_path):
    Cache(tmp_path).get(KEY, once(1))
    assert Cache(tmp_path).get(KEY, never)["latents"].mean() == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_damaged_entry_is_made_again(tmp_path, caplog, content):
    """None: the file of another entry, put in its place."""
    cache = Cache(tmp_path)
    cache.get(KEY, once(1))
    other = KEY | {"picture": "b.png"}
    cache.get(other, once(3))
    cache.path(KEY).write_bytes(cache.path(other).read_bytes() if content is None else content)
    assert cache.get(KEY, once(2))["latents"].mean() == 2
    assert f"{cache.path(KEY)} can't be used and is made again" in caplog.text
    assert cache.get(KEY, never)["latents"].mean() == 2


def test_what_is_made_in_inference_mode_can_be_trained_with(cache):
    """ComfyUI runs its graph in it."""
    with torch.inference_mode():
        made = once(2)()
        kept = cache.get(KEY, lambda: made)["latents"]
    weight = torch.ones(3, requires_grad=True)
    (kept * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4, 4, 4]


def test_what_is_kept_does_not_follow_its_maker(cache):
    made = torch.zeros(2)
    cache.get(KEY, lambda: {"latents": made})
    made += 1
    assert cache.get(KEY, never)["latents"].tolist() == [0, 0]


def test_a_fingerprint_follows_every_weight():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = fingerprint(module)
    assert fingerprint(module) == before
    for tensor in module.state_dict().values():
        kept = tensor.clone()
        tensor += 1
        assert fingerprint(module) != before
        tensor.copy_(kept)
    assert fingerprint(module) == before
    assert fingerprint(module.half()) != before
