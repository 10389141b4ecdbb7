"""Real inputs on a booted board: an application that is a user of its own, and the service, which is another one.

What is done here is what docs/capture.md tells to do; its commands are taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.running import wait_until
from tests.systemd.board import Board
from tests.systemd.container import booted

pytestmark = pytest.mark.systemd
PAGE = Path(__file__).parents[2] / "docs/capture.md"
SAMPLES = "/var/lib/detector/samples"

APPLICATION = """
import time
import numpy as np
import onnxruntime as ort
from monitor.capture import InputTap, TappedSession
session = ort.InferenceSession("/opt/models/m.onnx", providers=["CPUExecutionProvider"])
tapped = TappedSession(session, {tap})
(wanted,) = tapped.get_inputs()
random = np.random.default_rng(1)
while True:
    tapped.run(None, {{wanted.name: random.random(wanted.shape, dtype=np.float32)}})
    time.sleep(0.01)
"""


class Recipe(NamedTuple):
    """What the page says: commands for a shell, the service's drop-in, and the tap."""

    commands: list[str]
    drop_in: str
    tap: str


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Read from the page."""
    section = PAGE.read_text().partition("### Sharing with the service")[2].partition("\n## ")[0]
    *commands, edit = re.findall(r"^board# (.*)$", section, re.MULTILINE)
    assert edit == "systemctl edit npumon"
    (drop_in,) = re.findall(r"^```ini\n\[Service\]\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL)
    (tap,) = re.findall(rf"`(InputTap\(\"{SAMPLES}\", .*?\))`", section)
    return Recipe(commands, drop_in, tap)


@pytest.fixture
def board(bundle: Path, good: Path, recipe: Recipe) -> Iterator[Board]:
    """A board with npumon and an application on it, whose samples folder was made as the page says."""
    with booted() as container:
        board = Board(container, bundle)
        board.install()
        board.model(good, "m.onnx")
        container.must("useradd", "--system", "detector")
        for command in recipe.commands:
            container.must("sh", "-c", command)
        yield board


def start_application(board: Board, tap: str) -> None:
    """As a service of its own user, with a state directory, and the umask of a careful one."""
    (board.root / "opt/application.py").write_text(APPLICATION.format(tap=tap))
    python = board.container.must("readlink", "/opt/npumon/bin/npumon").strip().replace("bin/npumon", "bin/python")
    options = ["--unit=detector", "--uid=detector", "--setenv=ORT_DISABLE_TELEMETRY=1"]
    properties = ["--property=StateDirectory=detector", "--property=UMask=0077"]
    board.container.must("systemd-run", *options, *properties, python, "/opt/application.py")


def test_samples_are_shared_with_the_service_alone(board: Board, recipe: Recipe) -> None:
    """The service cannot read them until it has the group; then they are what it replays, and nobody else sees them."""
    start_application(board, recipe.tap.replace(")", ", rate=1.0)"))
    folder = board.root / SAMPLES[1:]
    wait_until(lambda: any(folder.glob("*.npz")) and any(folder.glob("calls-*.json")), "a sample and a ledger")
    seen = board.container.must("sh", "-c", f"stat -c '%a %U %G' {SAMPLES}/*").splitlines()
    assert set(seen) == {"640 detector npumon-samples"}
    stranger = board.container.run("setpriv", "--reuid=nobody", "--clear-groups", "ls", SAMPLES)
    assert "Permission denied" in stranger.stderr

    gate = {"production": 1000.0}  # the application's session is on the CPU, which is not what this is about
    board.configure({"m": {"path": "/opt/models/m.onnx", "samples": SAMPLES, "gate": gate}})
    board.start()
    failed = board.wait("check_failed")
    assert failed["error"]["reason"] == "input_unusable"
    assert "Permission denied" in failed["error"]["detail"]
    assert board.metric('samples{model="m"}') in (None, 0)

    board.drop_in(recipe.drop_in)
    board.container.must("systemctl", "restart", "npumon")
    board.wait("check_recovered")
    wait_until(lambda: (board.metric('samples{model="m"}') or 0) > 0, "real samples")
    assert board.metric('samples_rejected_total{model="m",reason="unreadable"}') == 0
    wait_until(lambda: board.metric('samples_covered_ratio{model="m"}') == 1.0, "the coverage")
    assert (board.metric('production_latency_seconds_count{model="m"}') or 0) >= 30
