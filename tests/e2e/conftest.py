"""Models for the end-to-end tests, built once."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from monitor.probe import demo_model
from tests import models


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def good(folder: Path) -> Path:
    """The demo's small quantized network, which the accelerator takes whole."""
    return models.saved(demo_model.build(), folder, "good.onnx")


@pytest.fixture(scope="session")
def selu(folder: Path) -> Path:
    """Whole on the accelerator of soc_model 60; one Selu falls back on 58, everything on 80."""
    return models.saved(models.selu_qdq(), folder, "selu.onnx")


@pytest.fixture(scope="session")
def slow(folder: Path) -> Path:
    """A network whose inference takes the simulator about half a second, and the CPU a few milliseconds."""
    return models.saved(demo_model.build((3, 64, 64), 72), folder, "slow.onnx")


@pytest.fixture(scope="session")
def wordy(folder: Path) -> Path:
    """A model whose only input is text: nothing can be made up for it."""
    nodes = [onnx.helper.make_node("Identity", ["words"], ["y"], "same")]
    text = onnx.TensorProto.STRING
    graph = models.graph(nodes, [models.value("words", [2], text)], [models.value("y", [2], text)])
    return models.saved(models.model(graph), folder, "wordy.onnx")
