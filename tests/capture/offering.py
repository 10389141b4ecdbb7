"""Taps as an application has them, what they left in their folder, and how likely that is by chance."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monitor.capture import InputTap

IMPROBABLE = 1e-6
"""A fair sample fails a test of this module about as often as this."""
CROWD_CALLS = 1000
CROWDED: dict[str, Any] = {"keep": 64, "rate": 0.15, "most_bytes": 400_000}


def crowded(folder: Path, process: int) -> None:
    """Make calls as one of several processes, each with a number of its own and inputs of up to 8000 bytes."""
    tap = InputTap(folder, **CROWDED)
    for call in range(process * CROWD_CALLS, (process + 1) * CROWD_CALLS):
        tap.offer({**numbered(call), "size": np.zeros(call % 1000)}, 0.001)
        settle(tap)


@contextlib.contextmanager
def tapping(folder: Path, **settings: Any) -> Iterator[InputTap]:
    """A tap for a ``with`` block, after which all is written."""
    tap = InputTap(folder, **settings)
    try:
        yield tap
    finally:
        tap.close()


def numbered(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs that tell which call they were of."""
    return {"number": np.array([number], np.int64)}


def settle(tap: InputTap) -> None:
    """Wait until the disk is idle, as it is between the calls of a real model."""
    while tap._writer._queue.qsize():
        time.sleep(0.0002)


def kept(folder: Path, kind: str = "*") -> list[dict[str, Any]]:
    """The samples of one kind, loaded."""
    found = []
    for file in sorted(folder.glob(f"{kind}-*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            found.append(dict(arrays))
    return found


def numbers(folder: Path, kind: str = "*") -> list[int]:
    """Which calls were kept."""
    return [int(arrays["number"][0]) for arrays in kept(folder, kind)]


def ledgers(folder: Path) -> list[dict[str, Any]]:
    """What the processes have counted."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("calls-*.json"))]


def assert_uniform(values: Sequence[float]) -> None:
    """Kolmogorov and Smirnov's test that ``values`` are uniform in [0, 1); its tail is 2 exp(-2 n d^2)."""
    ordered = sorted(values)
    size = len(ordered)
    distance = max(max((i + 1) / size - value, value - i / size) for i, value in enumerate(ordered))
    assert distance < math.sqrt(math.log(2 / IMPROBABLE) / 2 / size), (distance, size)
