"""What Consistency Feedback refuses, and its plot."""

from __future__ import annotations

import logging

import pytest
import torch
from controlnet_pp.tests.host.graphs import demo_graph, node
from controlnet_pp.tests.host.harness import TINY, TINY_XL, apply, picture, prompt
from controlnet_pp.tests.host.residuals import evaluations
from controlnet_pp.tests.host.steering.looped import CANNY, NODE, feedback, run

PLOT = "CNPP_ConsistencyFeedbackPlot"
EMPTY = {"samples": torch.zeros(1, 4, 16, 16)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "depth", "annotator": None}, "Consistency Feedback: kind is depth, which only"),
        ({"kind": "depth"}, "kind is depth, but the connected annotator finds canny"),
        ({"condition": picture()}, "The condition is not an? .*edge map"),
        ({"min_factor": 2.0, "max_factor": 1.0}, "Feedback between 2 and 1 times the strength"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent must not lie behind"),
    ],
    ids=["no annotator", "other annotator", "a photo", "bounds", "window"],
)
def test_what_cannot_work_is_refused_before_sampling(host, changes, words):
    with pytest.raises(ValueError, match=words):
        feedback(host, **changes)


def test_a_vae_of_another_family_is_refused_by_name(host):
    model = host.model(TINY).clone()
    latent_format = type("SD3", (), {"latent_channels": 16, "latent_dimensions": 2})()
    model.add_object_patch("latent_format", latent_format)
    with pytest.raises(ValueError, match="Consistency Feedback: the VAE decodes latents of 4 chan"):
        feedback(host, model=model)


def test_a_control_that_was_left_unconnected_is_reported_before_the_first_step(host):
    model, _, record = feedback(host)
    ours, _ = host.pair(TINY)
    calls = []
    handle = model.model.diffusion_model.register_forward_hook(lambda *_: calls.append(0))
    try:
        for conditioning in (apply(host, ours), (prompt(TINY, 1), prompt(TINY, 2))):
            with pytest.raises(ValueError, match="its control never reached the sampler"):
                run(host, model, None, conditioning=conditioning)
    finally:
        handle.remove()
    assert not calls
    assert not record.feedback.steps


def test_a_control_that_another_packs_class_holds_is_not_missed(host):
    """Only the sampling can tell there: it goes on if the control asks, and stops if none does."""
    from comfy.controlnet import ControlBase

    class Holder(ControlBase):
        def __init__(self, held):
            super().__init__()
            self.held = held

        def get_models(self):
            return self.held.get_models()

        def pre_run(self, *args):
            self.held.pre_run(*args)

        def get_control(self, *args):
            return self.held.get_control(*args)

        def copy(self):
            return Holder(self.held)

    def held(conditioning):
        return tuple(
            [[text, {**options, "control": Holder(options["control"])}] for text, options in side]
            for side in conditioning
        )

    model, control, record = feedback(host)
    run(host, model, None, conditioning=held(apply(host, control)))
    assert len(record.feedback.steps) == 4
    with pytest.raises(ValueError, match="its control never reached the sampler"):
        run(host, model, None, conditioning=held(apply(host, host.pair(TINY)[0])))


def test_a_control_without_its_model_keeps_its_strength_and_says_so_once(host, caplog):
    _, control, _ = feedback(host)
    with caplog.at_level(logging.WARNING):
        latent = run(host, host.model(TINY), control)
    assert (latent - run(host, host.model(TINY), host.pair(TINY)[0])).abs().max() == 0.0
    said = [r.message for r in caplog.records if "Consistency Feedback" in r.message]
    assert 1 <= len(said) <= 2  # a copy of the control for each side may exist
    assert "Connect both outputs" in said[0]


def test_where_lower_is_better_errors_strengthen(host):
    ramp = torch.linspace(0, 1, 128).view(1, 1, 1, -1).expand(-1, -1, 128, -1)
    annotator = host.annotator("depth", lambda image: (1 - ramp).expand(len(image), -1, -1, -1))
    condition = ramp.expand(-1, 3, -1, -1).movedim(1, -1)
    model, control, record = feedback(
        host, kind="depth", annotator=annotator, condition=condition, target=0.0, gain=1.0
    )
    run(host, model, control)
    (score,) = record.feedback.steps[0].scores
    assert score > 50
    assert record.feedback.factors == pytest.approx((1 + score / 100,))


def test_a_mask_says_where_to_look(host):
    half = torch.zeros(1, 128, 128)
    half[..., :64] = 1.0
    model, control, record = feedback(host, share=lambda _: 0.5, mask=half)
    run(host, model, control)
    assert record.feedback.steps[-1].scores == (1.0,)


def test_an_sdxl_control_moves(host):
    ours, _ = host.pair(TINY_XL)
    model, control, record = feedback(host, ours, model=host.model(TINY_XL), max_factor=0.0)
    with evaluations(control.control_model) as rows:
        run(host, model, None, conditioning=apply(host, control, TINY_XL))
    assert rows == [2]
    assert len(record.feedback.steps) == 4


def test_the_plot_shows_the_last_run(host):
    model, control, record = feedback(host)
    latent = {"samples": run(host, model, control, 2)}
    out = host.registry[PLOT].execute(record, latent)
    image, numbers = out.result
    assert image.ndim == 4
    assert image.shape[-1] == 3
    assert 0 <= image.min() <= image.max() <= 1
    assert len(numbers.splitlines()) == 5
    assert out.ui["images"]
    (shown,) = out.ui["text"]
    assert shown.startswith("Edge F1 (exact pixels): looked 4 times")
    assert "picture 2:" in shown
    assert record.planned == 4


def test_a_plot_without_a_run_says_what_to_connect(host):
    _, _, record = feedback(host)
    with pytest.raises(ValueError, match="Consistency Feedback Plot: nothing was measured"):
        host.call(PLOT, feedback=record, latent=EMPTY)


def test_a_plot_after_a_run_without_a_step_in_the_window_says_so(host):
    model, control, record = feedback(host, start_percent=0.99, end_percent=0.99)
    run(host, model, control)
    with pytest.raises(ValueError, match="between start_percent and end_percent"):
        host.call(PLOT, feedback=record, latent=EMPTY)


def feedback_graph():
    """The demo's model through both nodes."""
    graph = demo_graph(steps=6, batch=2)
    graph["loop"] = node(
        NODE,
        model=["demo", 0], control_net=["demo", 3], vae=["demo", 2], condition=["canny", 0],
        annotator=["canny", 1], kind=CANNY, tolerance=1, target=1.0, gain=0.4, memory=1.0,
        min_factor=0.0, max_factor=3.0, start_percent=0.0, end_percent=1.0, every=2,
    )  # fmt: skip
    graph["apply"]["inputs"]["control_net"] = ["loop", 1]
    graph["sampler"]["inputs"]["model"] = ["loop", 0]
    graph["plot"] = node(PLOT, feedback=["loop", 2], latent=["sampler", 0])
    return graph


def test_a_graph_with_both_nodes_runs_and_again_the_same(host):
    first = host.run(feedback_graph())["plot"]
    again = host.run(feedback_graph())["plot"]
    assert first["text"] == again["text"]
    assert first["text"][0].startswith("Edge F1 (within 1 pixel): looked 3 times, steps 1 to 5")
    assert first["images"][0]["type"] == "temp"
