"""What every test may rely on: the published models, and hypothesis without a clock.

Deadlines are off because the machines that run this are small and shared; a slow example is no defect. onnxruntime's
own telemetry is off before anything imports it: no test may talk to anyone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests import published as models

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
hypothesis.settings.register_profile("npumon", deadline=None, print_blob=True)
hypothesis.settings.load_profile("npumon")


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """A function from a published model's short name (see tools/fetch_models.py) to its file."""
    return models.published
