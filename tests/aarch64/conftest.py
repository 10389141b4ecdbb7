"""An emulated board with npumon installed, and a configuration on it. See tools/emulation.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import published
from tests.e2e.running import free_port
from tests.wheel import build
from tools import emulation

PATIENCE = 600.0
"""Seconds for what takes a tenth of it on an idle machine: emulated code takes some twenty times as long as native."""
MODEL = "swift_f0"
SAMPLES = 64


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of npumon itself."""
    return build(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[emulation.Board]:
    """A board on which pip has installed the pinned packages and npumon."""
    if not os.environ.get("CI") and shutil.which("dpkg-deb") is None:
        pytest.skip("emulating a board takes a Debian: make test-aarch64 on one")
    root = tmp_path_factory.mktemp("board")
    yield emulation.make(root, wheel)
    shutil.rmtree(root)  # pytest would keep three of these, of half a gigabyte each


@pytest.fixture
def board(installed: emulation.Board) -> Iterator[emulation.Board]:
    """The board without a device node."""
    yield installed
    installed.node.unlink(missing_ok=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A published model, as small as it gets: emulated, its inference still takes a quarter of a second.

    A budget and a CV gate that do not matter here, and patience.
    """
    file = tmp_path / "npumon.toml"
    file.write_text(
        f"""[monitor]
listen = "127.0.0.1:{free_port()}"
state = "state"
interval = "5s"
max_duty = 1
[[models]]
name = "swift"
path = "{published.published(MODEL)}"
dims = {{ samples = {SAMPLES} }}
replays = 5
timeout = "{PATIENCE:g}s"
gate = {{ cv = 1000.0 }}
"""
    )
    return file
