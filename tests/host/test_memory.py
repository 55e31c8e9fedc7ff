"""Out of memory of every kind, in every place that meets it, whatever the host calls it."""

from __future__ import annotations

import gc
import logging
import weakref
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from controlnet_pp.tests.host.control.foreign import of_host, our_apply, sampled
from controlnet_pp.tests.host.control.shaping import mode
from controlnet_pp.tests.host.harness import TINY
from controlnet_pp.tests.host.steering.guided import edges, guide, sample, vae

OTHER = "mat1 and mat2 shapes cannot be multiplied"


def of_accelerator(words, code=None):
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("this PyTorch has no AcceleratorError")
    error = torch.AcceleratorError(words)
    error.error_code = code
    raise error


def say(words):
    raise RuntimeError(words)


def of_cuda(words="CUDA out of memory. Tried to allocate 9.00 GiB"):
    raise torch.cuda.OutOfMemoryError(words)


KINDS = {
    "cuda": of_cuda,
    "accelerator": lambda: of_accelerator("CUDA error: out of memory"),
    "cpu": lambda: torch.empty(2**55),
    "python": lambda: bytearray(2**60),
}
MORE = {
    "accelerator by its code": lambda: of_accelerator("CUDA error: in other words", 2),
    "cublas": lambda: say("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
    "mps": lambda: say("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9.07 GB)"),
    "xpu": lambda: say("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    "directml": lambda: say("Could not allocate tensor. There is not enough GPU video memory."),
    "windows": lambda: say("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
}


@pytest.fixture(params=["named", "anything"])
def management(host, monkeypatch, request):
    """The host's, as it is; and as on back ends where its OOM_EXCEPTION is any Exception."""
    from comfy import model_management

    if request.param == "anything":
        monkeypatch.setattr(model_management, "OOM_EXCEPTION", Exception)
    return model_management


@pytest.fixture
def memory(host, management):
    return host.pack("nodes.host.memory")


def raised(fail):
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", KINDS | MORE)
def test_every_kind_is_known(memory, kind):
    assert memory.is_out_of_memory(raised((KINDS | MORE)[kind]))


def test_nothing_else_is(memory, management):
    interrupt = management.InterruptProcessingException("out of memory")
    others = [RuntimeError(OTHER), ValueError("out of memory"), KeyError("x"), OSError(12, "x")]
    for error in (interrupt, KeyboardInterrupt(), SystemExit(), *others):
        assert not memory.is_out_of_memory(error)
    if hasattr(torch, "AcceleratorError"):
        error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        assert not memory.is_out_of_memory(error)


def test_what_the_pack_raises_for_it_is_known_to_pack_and_host(memory, management):
    error = memory.out_of_memory("no room")
    assert memory.is_out_of_memory(error)
    assert isinstance(error, management.OOM_EXCEPTION)
    assert type(error).__module__ in ("builtins", "torch")


def test_what_fits_is_what_nine_tenths_of_the_free_memory_hold(memory, management, monkeypatch):
    monkeypatch.setattr(management, "get_free_memory", lambda device: 1000)
    device = torch.device("meta")
    assert [memory.rows_that_fit(size, device) for size in (100, 101, 900, 901, 5000)] == [
        *(9, 8, 1, 1, 1)
    ]


def larger_than(rows, fail, seen):
    """A function of parts that fails if they have more rows."""

    def function(start, stop):
        seen.append((start, stop))
        if stop - start > rows:
            fail()
        return list(range(start, stop))

    return function


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_halved_until_they_fit_and_that_is_remembered(memory, kind):
    seen = []
    parts = memory.PartsThatFit(16, "A test")
    function = larger_than(3, KINDS[kind], seen)
    assert list(chain(*parts.of(10, function))) == list(range(10))
    assert seen == [(0, 10), (0, 5), (0, 3), (3, 6), (6, 9), (9, 10)]
    seen.clear()
    assert list(chain(*parts.of(4, function))) == list(range(4))
    assert seen == [(0, 3), (3, 4)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_does_not_fit_raises_what_came_or_what_the_caller_says(memory, kind):
    parts = memory.PartsThatFit(4, "A test")
    function = larger_than(0, KINDS[kind], [])
    with pytest.raises(type(raised(KINDS[kind]))):
        list(parts.of(4, function))
    with pytest.raises(type(memory.out_of_memory("")), match=r"^smaller, please$") as error:
        list(parts.of(4, function, lambda: "smaller, please"))
    assert error.value.__context__ is None  # it would hold all that the function had made


def test_nothing_of_a_failed_try_is_left_when_the_next_begins(memory, management, monkeypatch):
    made, emptied = [], []
    monkeypatch.setattr(management, "soft_empty_cache", lambda: emptied.append(made[-1]()))

    def function(start, stop):
        assert all(reference() is None for reference in made)
        graph = torch.zeros(stop - start)
        made.append(weakref.ref(graph))
        if stop - start > 1:
            of_cuda()
        return stop

    gc.disable()  # it has to go by itself, at once
    try:
        assert list(memory.PartsThatFit(4, "A test").of(2, function)) == [1, 2]
    finally:
        gc.enable()
    assert emptied == [None]


def test_what_cuda_says_twice_is_heard_before_the_next_try(memory, management, monkeypatch):
    if not hasattr(management, "discard_cuda_async_error"):
        pytest.skip("this ComfyUI does not know of it")
    heard = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(management, "soft_empty_cache", lambda: None)
    monkeypatch.setattr(management, "discard_cuda_async_error", lambda: heard.append(1))
    for kind in KINDS:
        assert memory.unless_out_of_memory(KINDS[kind]) is None
    assert heard == [1]


def test_an_interrupt_and_other_errors_are_not_tried_again(memory, management):
    for error in (management.InterruptProcessingException(), RuntimeError(OTHER), KeyError("x")):
        seen = []

        def fail(error=error):
            raise error

        with pytest.raises(type(error)):
            list(memory.PartsThatFit(4, "A test").of(4, larger_than(1, fail, seen)))
        assert seen == [(0, 4)]


def test_between_two_parts_an_interrupt_stops_it(memory, management):
    def function(start, stop):
        management.interrupt_current_processing()
        return stop

    parts = memory.PartsThatFit(1, "A test").of(4, function)
    assert next(parts) == 1
    with pytest.raises(management.InterruptProcessingException):
        next(parts)


# The places.


@pytest.mark.parametrize("kind", KINDS)
def test_annotators_halve_the_batch(host, management, kind):
    seen = []

    def run(image):
        seen.append(len(image))
        if len(image) > 3:
            KINDS[kind]()
        return image

    image = torch.rand(10, 3, 8, 8)
    found = host.pack("nodes.host.annotate.networks").in_chunks(run, image)
    assert seen == [10, 5, 3, 3, 3, 1]
    assert torch.equal(torch.cat(found), image)


def test_annotators_take_as_much_as_memory_allows_on_a_cpu_one_picture(host, monkeypatch):
    networks = host.pack("nodes.host.annotate.networks")
    one = 16 * 16 * networks.VALUES_PER_PIXEL * 2  # bytes
    monkeypatch.setattr(networks, "load", lambda *_: None)
    monkeypatch.setattr(networks.model_management, "get_free_memory", lambda _: 5 * one)
    for device, wanted in (("meta", [4, 4, 2]), ("cpu", [1] * 10)):
        patchers = [SimpleNamespace(load_device=torch.device(device))]
        assert networks.in_chunks(len, torch.rand(10, 3, 16, 16), patchers) == wanted


def greedy(rows, decode, limit, fail):
    """A decoder that fails for more than `limit` pictures, and notes how many it got."""

    def decoded(latents):
        rows.append(len(latents))
        if len(latents) > limit:
            fail()
        return decode(latents)

    return decoded


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_corrects_fewer_pictures_at_a_time(host, management, monkeypatch, caplog, kind):
    latent = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    decoder = vae(host, "taesd")
    guided = guide(host, host.model(TINY), decoder, edges(batch=4))
    wanted = sample(host, guided, latent=latent, steps=2)
    network, rows = decoder.first_stage_model, []
    monkeypatch.setattr(network, "decode", greedy(rows, network.decode, 1, KINDS[kind]))
    with caplog.at_level(logging.INFO):
        found = sample(host, guided, latent=latent, steps=2)
    assert rows[:6] == [4, 2, 1, 1, 1, 1]
    assert set(rows[6:]) == {1}  # not tried again in the same sampling
    assert "out of memory" in caplog.text
    # Another batch size rounds otherwise, and a ReLU or a clamp at its corner may then turn over.
    plain = sample(host, host.model(TINY), latent=latent, steps=2)
    assert (found - wanted).norm() <= 0.05 * (wanted - plain).norm()


def graphs():
    """Tensors that hold a graph, anywhere in this process."""
    gc.collect()
    found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.grad_fn is not None]
    return len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_says_what_helps_a_single_picture(host, management, memory, monkeypatch, kind):
    decoder = vae(host, "taesd")
    guided = guide(host, host.model(TINY), decoder, edges())
    wanted, before = sample(host, guided), graphs()
    with monkeypatch.context() as patch:
        patch.setattr(decoder.first_stage_model, "decode", lambda _latents: KINDS[kind]())
        with pytest.raises(type(memory.out_of_memory("")), match=r"64x64.*TAESD.*smaller") as error:
            sample(host, guided)
    assert error.value.__cause__ is None
    del error
    assert graphs() == before
    assert torch.equal(sample(host, guided), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_gradient_says_what_helps(host, management, memory, monkeypatch, kind):
    model = host.model(TINY)
    guided = guide(host, model, vae(host, "taesd"), edges(), full_gradient=True)
    wanted = sample(host, model)
    forward = model.model.diffusion_model.forward

    def fail(*args, **kwargs):
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            KINDS[kind]()
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model.model.diffusion_model, "forward", fail)
        with pytest.raises(type(memory.out_of_memory("")), match="full_gradient off"):
            sample(host, guided)
    assert torch.equal(sample(host, model), wanted)


@pytest.mark.parametrize("kind", [*KINDS, "other"])
def test_a_search_names_the_trial(host, management, memory, monkeypatch, kind):
    fail = (KINDS | {"other": lambda: say(OTHER)})[kind]
    search = host.pack("nodes.host.select.search")
    trial = host.pack("cnpp_core.consistency.search").Trial(6, 0.4, "")
    said = r"sampling trial 3 of 4 \(seed 6, strength 0.4"
    with pytest.raises(Exception, match=said) as error, search._ErrorContext(trial, 2, 4):
        fail()
    assert memory.is_out_of_memory(error.value) == (kind != "other")
    assert ("ran out of memory" in str(error.value)) == (kind != "other")
    assert str(raised(fail)) in str(error.value)


@pytest.mark.parametrize("kind", [*KINDS, "other"])
def test_a_control_of_another_loader_is_not_blamed(host, management, memory, kind):
    """But for errors of another kind, which say that it was made for another family."""
    fail = (KINDS | {"other": lambda: say(OTHER)})[kind]
    foreign, control = of_host(host, "t2i light")
    conditioning = our_apply(host, foreign, mode(host, control))
    handle = control.t2i_model.register_forward_pre_hook(lambda *_: fail())
    error = raised(lambda: sampled(host, foreign, conditioning))
    handle.remove()
    assert ("another family" in str(error)) == (kind == "other")
    assert memory.is_out_of_memory(error) == (kind != "other")
    assert sampled(host, foreign, conditioning).isfinite().all()  # the next run is as ever
