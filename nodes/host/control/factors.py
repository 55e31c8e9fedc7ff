"""Factors of a control's strength that change while the host samples, picture by picture.

Whoever moves a control publishes its factors in the transformer options of the sampling, which end
with it; a control that carries the name of the loop reads them there at every call. So nothing that
outlives a sampling is ever written to, and none is needed to clean up after one that breaks off.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import prod
from typing import Any

from .call import Call

logger = logging.getLogger(__name__)
KEY = "cnpp_factors"  # in the transformer options: {name of the loop: LiveFactors}


class LiveFactors:
    """What one loop says in one sampling.

    values: a factor for every picture of the batch; empty before anything is known. asked: True
    once a control of this name wanted to know them.
    """

    def __init__(self) -> None:
        self.values: tuple[float, ...] = ()
        self.asked = False

    def publish(self, name: str, options: dict[str, Any]) -> None:
        """Show them to the controls of a sampling with these model options of its own."""
        transformer_options = options.setdefault("transformer_options", {})
        transformer_options[KEY] = {**transformer_options.get(KEY, {}), name: self}


class Factors:
    """What the loops of these names say to one control during one sampling."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._warned = False

    def of(self, call: Call) -> tuple[float, ...] | None:
        """A factor for each image of a chunk; None if all of them are 1."""
        if not self._names:
            return None
        published: Mapping[str, LiveFactors] = call.options.get(KEY, {})
        said = []
        for name in self._names:
            live = published.get(name)
            if live is None:
                self._warn()
                continue
            live.asked = True
            if live.values:
                said.append(live.values)
        frames = call.frames or range(call.images)
        factors = tuple(prod(values[i % len(values)] for values in said) for i in frames)
        return None if all(factor == 1.0 for factor in factors) else factors

    def _warn(self) -> None:
        if not self._warned:
            logger.warning(
                "A control comes from Consistency Feedback, but the model that samples does not, "
                "so its strength stays as it is. Connect both outputs of that node."
            )
        self._warned = True
