"""Networks with a few channels only, for what does not depend on their number."""

from __future__ import annotations

import pytest
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.softedge import HED
from controlnet_pp.tests.annotators.aux_oracle import THIN_HED, random_hed, randomise


@pytest.fixture
def thin_hed() -> HED:
    """Soft edges."""
    return random_hed(stages=THIN_HED)


@pytest.fixture
def thin_lineart() -> LineArt:
    """Line art."""
    return randomise(LineArt(width=8))
