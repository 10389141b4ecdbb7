"""The replays on the real runtime: what the kernel did to the probe meanwhile is told beside each time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitor import wire
from monitor.records import Replays
from monitor.service.handle import ProbeHandle
from tests import models
from tests.probing import TIMEOUT, spec


@contextmanager
def one_core() -> Iterator[None]:
    """What is started in here shares one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that keep their core busy."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def replayed(path: Path, request: wire.Replay) -> Replays:
    """Replays of a fresh probe."""
    handle = ProbeHandle()
    try:
        handle.request(wire.Open(spec(path), 1), TIMEOUT)
        return handle.request(request, TIMEOUT)
    finally:
        handle.close()


def test_a_busy_neighbour_shows_beside_the_times(tmp_path: Path) -> None:
    """Where others want the probe's core, some replays are interrupted; each timed one has its count, warm-ups none."""
    path = models.saved(models.selu_qdq(), tmp_path)
    with one_core(), neighbours(3):
        replays = replayed(path, wire.Replay(40, 3, 30.0))
    assert len(replays.switches) == len(replays.seconds) <= 40
    assert len(replays.warmups) == 3
    assert all(count >= 0 for count in replays.switches)
    assert sum(replays.switches) > 0


def test_counts_end_with_the_budget(tmp_path: Path) -> None:
    """Replays that are cut short have as many counts as times."""
    replays = replayed(models.saved(models.selu_qdq(), tmp_path), wire.Replay(1000, 2, 0.0))
    assert len(replays.switches) == len(replays.seconds) == 2
