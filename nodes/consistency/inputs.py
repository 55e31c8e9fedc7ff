"""What the nodes of the menu group "consistency" have in common: how a condition is found again."""

from __future__ import annotations

from comfy_api.latest import io

from ...annotators.kinds import ADE20K, KINDS
from ...cnpp_core.condition import Condition
from ..annotate.inputs import AnnotatorType
from ..host.annotate.annotator import NodeAnnotator, annotator_of
from ..host.annotate.finder import Finder

GROUP = "consistency"


def _choices() -> dict[str, tuple[Condition, NodeAnnotator | None]]:
    """What the nodes offer -> the kind, and what finds it without weights, if anything does.

    A kind that can be found so in several ways is several choices.
    """
    choices: dict[str, tuple[Condition, NodeAnnotator | None]] = {}
    for condition in Condition:
        free = KINDS[condition.key].without_weights
        for method in free:
            name = condition.key if len(free) == 1 else f"{condition.key} ({method.label})"
            choices[name] = condition, annotator_of(condition.key, method.name)
        if not free:
            choices[condition.key] = condition, None
    return choices


CHOICES = _choices()


def finder_inputs() -> list[io.Input]:
    """What the condition is, and how exactly it must be kept."""
    return [
        io.Combo.Input(
            "kind",
            options=list(CHOICES),
            default=next(iter(CHOICES)),
            tooltip="What the control image is. Without an annotator, "
            f"{', '.join(name for name, (_, default) in CHOICES.items() if default)} are found "
            "again with default settings; the others need one.",
        ),
        io.Int.Input(
            "tolerance",
            default=0,
            min=0,
            max=16,
            tooltip="How many pixels an edge, line or joint may be off and still count as kept. 0 "
            "is the protocol of the ControlNet++ paper; for pose it allows a tenth of the person's "
            "size.",
        ),
    ]


def score_text() -> str:
    """What the score of each kind is: 'Higher is better, 0..1: F1 (canny, ...) ...'."""
    metrics: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for condition in Condition:
        measure = condition.measure(classes=ADE20K)
        metrics[measure.higher_is_better].setdefault(measure.metric, []).append(condition.key)
    higher, lower = (
        ", ".join(f"{metric} ({', '.join(kinds)})" for metric, kinds in metrics[better].items())
        for better in (True, False)
    )
    return f"Higher is better, 0..1: {higher}. Lower is better: {lower}."


def mask_input(tooltip: str) -> io.Input:
    """The mask that limits a comparison; each node says in `tooltip` what of."""
    return io.Mask.Input("mask", optional=True, tooltip=tooltip)


def annotator_input() -> io.Input:
    """The annotator that finds the condition again; kinds without weights do without it."""
    return AnnotatorType.Input(
        "annotator",
        optional=True,
        tooltip="The output annotator of the node that made the condition, so that it is found "
        "again in the same way.",
    )


def finder_for(node: str, kind: str, tolerance: int, given: NodeAnnotator | None) -> Finder:
    """With the connected annotator, or the default one of the kind; ValueError if neither fits.

    node: its name, for messages. tolerance: in pixels.
    """
    condition, default = CHOICES[kind]
    annotator = given or default
    if annotator is None:
        raise ValueError(
            f"{node}: kind is {kind}, which only a network finds again. Connect the output "
            f"annotator of {condition.value.label} (or of Annotate (any)) to the input annotator."
        )
    if annotator.condition != condition.key:
        raise ValueError(
            f"{node}: kind is {kind}, but the connected annotator finds {annotator.condition}. Set "
            f"kind to {annotator.condition}, or connect the annotator of {condition.value.label}."
        )
    measure = condition.measure(tolerance, annotator.ways.classes or ADE20K)
    return Finder(condition, annotator, measure)
