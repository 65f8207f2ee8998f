from __future__ import annotations

import pytest

from streambed import machine
from streambed.model.cpu.native.build import VARIANTS, find_compiler, flags_for, open_library
from streambed.model.cpu.native.library import Library


@pytest.fixture(scope="session", params=["native", *VARIANTS])
def library(request: pytest.FixtureRequest) -> Library:
    """As this processor would have it, and as others would."""
    if request.param == "native":
        return open_library()
    if not VARIANTS[request.param] <= set(machine.features()):
        pytest.skip(f"this processor is no {request.param}")
    return open_library(flags_for(request.param, find_compiler()))
