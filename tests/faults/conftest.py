"""A model for the tests of faults, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.probe import demo_model
from tests import models


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's small quantized network, which the accelerator takes whole."""
    return models.saved(demo_model.build(), tmp_path_factory.mktemp("models"), "good.onnx")
