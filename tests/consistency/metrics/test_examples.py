"""The examples in the docstrings of the metrics, run."""

from __future__ import annotations

import doctest
from importlib import import_module
from inspect import isfunction

import pytest
from controlnet_pp.cnpp_core.consistency import metrics

METRICS = [metric for metric in vars(metrics).values() if isfunction(metric)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_the_example_of_a_metric_gives_what_it_says(metric):
    # An example can name what the module of its metric can, so it needs no import.
    names = vars(import_module(metric.__module__))
    parsed = doctest.DocTestParser().get_doctest(
        metric.__doc__, names.copy(), metric.__name__, metric.__code__.co_filename, 0
    )
    said: list[str] = []
    result = doctest.DocTestRunner().run(parsed, out=said.append)
    assert result.attempted, "it has no example"
    assert not result.failed, "".join(said)
