"""A bundle made from this checkout, and boards that boot this machine's systemd and install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.probe import demo_model
from tests import models
from tests.systemd.board import Board
from tests.systemd.container import booted
from tests.wheel import build
from tools.bundle import bundle as make_bundle

PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of npumon itself."""
    return build(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def bundle(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for this machine."""
    for tool in ("systemd-nspawn", "nsenter"):
        if os.geteuid() != 0 or shutil.which(tool) is None:
            wanting = "root, systemd-container and dbus: make test-systemd, as root"
            pytest.fail(wanting) if os.environ.get("CI") else pytest.skip(wanting)
    # The board's own Python, which need not be the one that runs the tests.
    version = [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    python = subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip()
    return make_bundle(wheel, os.uname().machine, python, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def clean(bundle: Path) -> Iterator[Board]:
    """A board that has never seen npumon, with the bundle in /opt/bundle."""
    with booted() as container:
        yield Board(container, bundle)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's small quantized network, which the accelerator takes whole."""
    return models.saved(demo_model.build(), tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose inference takes the simulator about half a second."""
    return models.saved(demo_model.build((3, 64, 64), 72), tmp_path_factory.mktemp("slow"))


@pytest.fixture(scope="session")
def selu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole on the accelerator of soc_model 60; one Selu falls back on 58."""
    return models.saved(models.selu_qdq(), tmp_path_factory.mktemp("selu"))
