"""How long the networks of annotators stay in memory: while the host has them loaded, or a graph.

They are read from disk once in that time, and really gone after it.
"""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import torch
from controlnet_pp.tests.host.annotate.annotated import patcher_of, put, soft_edge
from controlnet_pp.tests.host.harness import TINY, picture
from controlnet_pp.tests.host.steering.guided import edges, guide, sample, vae
from PIL import Image


def use(host, node, **options):
    return host.call(node, image=picture(height=32, width=32), resolution=0, **options)


SOFT_EDGE = ("CNPP_SoftEdge", {"safe": False})
NETWORKS = {
    "hed": SOFT_EDGE,
    "dpt_hybrid": ("CNPP_Depth", {}),
    "openpose_body": ("CNPP_OpenPose", {"body": True, "hands": False, "sticks": "standard"}),
    "tiny_upernet": ("CNPP_Segmentation", {"model_name": "tiny_upernet"}),
}


@pytest.fixture
def unload():
    """The host's own unloading of everything."""
    from comfy import model_management

    model_management.unload_all_models()  # what other tests have left
    return model_management.unload_all_models


@pytest.fixture
def files(models, weight_files, upernet):
    """Every network's weights in models/annotators."""
    for file in weight_files.values():
        put(file, models)
    shutil.copytree(upernet, models / "tiny_upernet")
    return models


def is_gone(reference):
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("key", NETWORKS)
def test_unloaded_and_out_of_the_graph_a_network_is_gone(host, files, unload, key):
    node, options = NETWORKS[key]
    outputs = use(host, node, **options)
    network = weakref.ref(patcher_of(host, key).model)
    del outputs
    gc.collect()
    assert network() is not None
    unload()
    assert is_gone(network)


def test_a_graph_holds_its_annotator_when_the_host_has_unloaded_it(host, files, unload):
    first, annotator = use(host, SOFT_EDGE[0], **SOFT_EDGE[1])
    network = weakref.ref(patcher_of(host, "hed").model)
    unload()
    assert not is_gone(network)
    shutil.rmtree(files)
    again, _ = use(host, SOFT_EDGE[0], **SOFT_EDGE[1])
    assert torch.equal(first, again)
    del annotator, _
    unload()
    assert is_gone(network)


@pytest.mark.parametrize("key", NETWORKS)
def test_while_the_host_has_it_loaded_a_network_is_not_read_again(host, files, unload, key):
    node, options = NETWORKS[key]
    first = use(host, node, **options)[0]
    gc.collect()
    shutil.rmtree(files)
    again = use(host, node, **options)[0]
    assert torch.equal(first, again)


def test_many_networks_leave_the_host_in_one_go(host, files, unload):
    """What the host unloads must not die before it has forgotten it: it counts on its list."""
    from comfy import model_management as management

    others = host.model(TINY)
    references = []
    for key, (node, options) in NETWORKS.items():
        use(host, node, **options)
        management.load_models_gpu([others])
        references.append(weakref.ref(patcher_of(host, key).model))
    assert len(management.current_loaded_models) == len(NETWORKS) + 1
    gone = management.free_memory(1e30, management.get_torch_device())
    assert len(gone) == len(NETWORKS) + 1
    assert management.current_loaded_models == []
    del gone
    assert all(is_gone(reference) for reference in references)


def test_what_the_host_keeps_loaded_stays_when_it_makes_room(host, files, unload):
    from comfy import model_management as management

    use(host, SOFT_EDGE[0], **SOFT_EDGE[1])
    use(host, "CNPP_Depth")
    kept, network = (weakref.ref(patcher_of(host, key).model) for key in ("hed", "dpt_hybrid"))
    keep = [e for e in management.current_loaded_models if e.model is patcher_of(host, "hed")]
    management.free_memory(1e30, management.get_torch_device(), keep_loaded=keep)
    assert is_gone(network)
    assert not is_gone(kept)
    del keep
    unload()
    assert is_gone(kept)


def test_a_sampling_that_loads_copies_of_it_keeps_it_loaded(host, files, unload):
    """The host then has a clone in its list, which goes when the graph drops its MODEL."""
    _, annotator = use(host, SOFT_EDGE[0], **SOFT_EDGE[1])
    changes = {"annotator": annotator, "kind": "softedge"}
    guided = guide(host, host.model(TINY), vae(host, "taesd"), edges(), **changes).clone()
    sample(host, guided, steps=1)
    network = weakref.ref(patcher_of(host, "hed").model)
    del annotator, _, guided, changes
    gc.collect()
    shutil.rmtree(files)
    use(host, SOFT_EDGE[0], **SOFT_EDGE[1])
    unload()
    assert is_gone(network)


def test_a_network_that_was_released_is_read_again(host, files, unload):
    first = use(host, SOFT_EDGE[0], **SOFT_EDGE[1])[0]
    unload()
    gc.collect()
    assert torch.equal(use(host, SOFT_EDGE[0], **SOFT_EDGE[1])[0], first)


def graph(name, annotated=True):
    """A graph that shows a picture, or its soft edges."""
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    edges_of = {"image": ["1", 0], "resolution": 0, **SOFT_EDGE[1]}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["2" if annotated else "1", 0]}}
    nodes = {"1": load, "2": {"class_type": SOFT_EDGE[0], "inputs": edges_of}, "3": preview}
    return nodes if annotated else {"1": load, "3": preview}


def test_in_a_queue_another_picture_reads_nothing_and_freeing_frees(host, files, unload):
    for name in ("red", "blue"):
        Image.new("RGB", (64, 48), name).save(host.folder / "input" / f"{name}.png")
    host.run(graph("red.png"))
    network = weakref.ref(patcher_of(host, "hed").model)
    shutil.rmtree(files)
    host.run(graph("blue.png"), keep_cache=True)
    unload()  # "Unload models": the graph's outputs stay
    assert not is_gone(network)
    host.run(graph("red.png", annotated=False))  # with a reset, as at "Free memory"
    assert is_gone(network)


def test_a_folder_that_is_called_as_other_weights_lives_beside_them(
    host, models, weight_files, upernet, unload
):
    put(weight_files["hed"], models)
    shutil.copytree(upernet, models / "hed")
    lines, _ = soft_edge(host, picture(height=32, width=32))
    colours, *_ = use(host, "CNPP_Segmentation", model_name="hed")
    assert len(colours[0].flatten(0, 1).unique(dim=0)) > 1
    assert colours.std(-1).max() > 0  # the lines are grey
    assert torch.equal(soft_edge(host, picture(height=32, width=32))[0], lines)
