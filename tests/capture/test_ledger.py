"""The ledger: every call counted once from whatever thread, in a file that the daemon can read at any moment."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import pytest

from monitor.bins import EDGES, bin_of, quantile
from monitor.capture.ledger import (
    LONGEST_KEPT,
    MOST_FILES,
    MOST_SHAPES,
    MOST_TEXT,
    OTHER_SHAPES,
    REFRESH,
    VERSION,
    Ledger,
)
from tests.capture.offering import ledgers


class Calls(msgspec.Struct, forbid_unknown_fields=True):
    """The file's format as docs/capture.md tells it."""

    version: int
    since: float
    until: float
    bins: tuple[int, ...]
    seconds: float
    shapes: dict[str, int]
    dropped: int


def test_the_file_is_what_the_documentation_says(tmp_path: Path) -> None:
    """All calls by bins, their sum, shapes by name, and what was dropped, between two moments in UTC."""
    before = time.time()
    ledger = Ledger(tmp_path, "aa")
    for seconds in (0.0081, 0.0081, 0.024, 0.0, 1e6):
        ledger.count(seconds)
    ledger.count_shapes({"image": np.zeros((1, 3, 8, 8)), "scale": 2.0})
    ledger.drop()
    ledger.write(0o600)
    (file,) = tmp_path.iterdir()
    assert file.name == f"calls-{os.getpid()}-aa.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    calls = msgspec.json.decode(file.read_bytes(), type=Calls)
    assert calls.version == VERSION
    assert before - 0.1 < calls.since <= calls.until < time.time() + 0.1
    assert len(calls.bins) == len(EDGES) + 1
    assert {number: count for number, count in enumerate(calls.bins) if count} == {
        0: 1,
        bin_of(0.0081): 2,
        bin_of(0.024): 1,
        len(EDGES): 1,
    }
    assert quantile(calls.bins, 0.5) == pytest.approx(0.0081, rel=0.05)
    assert calls.seconds == pytest.approx(1e6 + 0.0402)
    assert calls.shapes == {"image[1,3,8,8];scale[]": 1}
    assert calls.dropped == 1


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -0.001, "1"])
def test_what_is_no_duration_is_not_counted(seconds: Any, tmp_path: Path) -> None:
    """A NaN would spoil the sum for good, and the file for every reader of JSON."""
    ledger = Ledger(tmp_path, "aa")
    with pytest.raises((ValueError, TypeError)):
        ledger.count(seconds)
    assert sum(ledger.bins()) == 0


def test_seconds_of_numpy_add_up_exactly(tmp_path: Path) -> None:
    """An application that times with numpy's small floats gets a sum of large ones, that JSON knows."""
    ledger = Ledger(tmp_path, "aa")
    for _ in range(3):
        ledger.count(np.float32(16_777_216))  # type: ignore[arg-type]
        ledger.count(np.float32(1))  # type: ignore[arg-type]
    ledger.write(0o600)
    assert ledgers(tmp_path)[0]["seconds"] == 3 * 16_777_217


def test_no_call_is_lost_between_threads(tmp_path: Path) -> None:
    """Many threads count at once, and the sum of the bins is what they counted."""
    ledger = Ledger(tmp_path, "aa")

    def count() -> None:
        for _ in range(5000):
            ledger.count(0.001)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ledger.bins()) == 40_000


def test_a_signal_handler_may_make_a_call(tmp_path: Path) -> None:
    """One that interrupts another count of its own thread does not wait for it for ever."""
    ledger = Ledger(tmp_path, "aa")

    def handle(number: int, frame: FrameType | None) -> None:
        ledger.count(0.001)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with ledger._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sum(ledger.bins()) == 1


def test_shapes_are_bounded(tmp_path: Path) -> None:
    """Who feeds a new shape with every call makes the file no larger: the rest have one name."""
    ledger = Ledger(tmp_path, "aa")
    for size in range(1000):
        ledger.count_shapes({"x": np.empty((size,))})
    ledger.write(0o600)
    shapes = ledgers(tmp_path)[0]["shapes"]
    assert len(shapes) == MOST_SHAPES + 1
    assert shapes[OTHER_SHAPES] == 1000 - MOST_SHAPES
    assert sum(shapes.values()) == 1000


def test_the_names_of_shapes_are_bounded(tmp_path: Path) -> None:
    """A decoder has a hundred inputs and new shapes with every token; its file stays small enough for every reader."""
    ledger = Ledger(tmp_path, "aa")
    for step in range(MOST_SHAPES):
        ledger.count_shapes({f"past_key_values.{layer}.key": np.empty((1, 8, step, 64)) for layer in range(160)})
    ledger.write(0o600)
    shapes = ledgers(tmp_path)[0]["shapes"]
    assert len(shapes) > 5
    assert sum(map(len, shapes)) <= MOST_TEXT + len(OTHER_SHAPES)
    assert sum(shapes.values()) == MOST_SHAPES


def test_the_file_is_written_for_news_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle application does not wear the disk, but shows within the hour that it lives."""
    ledger = Ledger(tmp_path, "aa")
    ledger.count(0.001)
    ledger.write(0o600)
    (file,) = tmp_path.iterdir()
    first = file.stat().st_ino
    ledger.write(0o600)
    assert file.stat().st_ino == first
    later = time.monotonic() + REFRESH + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    ledger.write(0o600)
    assert file.stat().st_ino != first
    calls = ledgers(tmp_path)[0]
    assert calls["until"] - calls["since"] == pytest.approx(REFRESH, abs=60)


def test_a_clock_that_is_set_moves_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board starts in 1970; once it knows the time, the counts do not claim to be of half a century."""
    ledger = Ledger(tmp_path, "aa")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50 * 365 * 86_400)
    ledger.write(0o600)
    calls = ledgers(tmp_path)[0]
    assert calls["until"] == now + 50 * 365 * 86_400
    assert calls["until"] - calls["since"] < 60


def test_files_of_processes_that_are_gone_are_let_go(tmp_path: Path) -> None:
    """After a day without a write, and beyond a number of files the ones written longest ago."""
    now = time.time()
    for number in range(100):
        file = tmp_path / f"calls-{number}-bb.json"
        file.write_text("{}")
        os.utime(file, (now - number * 60, now - number * 60))
    os.utime(tmp_path / "calls-5-bb.json", (now - LONGEST_KEPT - 60,) * 2)
    (tmp_path / "calls-200-bb.json").mkdir()
    (tmp_path / "calls-201-bb.json").symlink_to("calls-201-bb.json")
    for name in ("calls-200-bb.json", "calls-201-bb.json"):
        os.utime(tmp_path / name, (now - LONGEST_KEPT - 30,) * 2, follow_symlinks=False)
    other = tmp_path / "notes.json"
    other.write_text("{}")
    os.utime(other, (0, 0))
    ledger = Ledger(tmp_path, "aa")
    ledger.write(0o600)
    left = {int(file.name.split("-")[1]) for file in tmp_path.glob("calls-*-bb.json")}
    assert left == set(range(MOST_FILES)) - {5} | {200}, "a folder by such a name is nobody's ledger, and stops nothing"
    assert other.exists()


def test_a_reader_sees_a_whole_file_at_every_moment(tmp_path: Path) -> None:
    """While it is written over and over, whoever reads it finds JSON."""
    ledger = Ledger(tmp_path, "aa")
    ledger.write(0o600)
    (file,) = tmp_path.iterdir()
    over = threading.Event()
    defects: list[str] = []

    def read() -> None:
        while not over.is_set():
            try:
                json.loads(file.read_text())
            except (OSError, ValueError) as error:
                defects.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        ledger.count(0.001)
        ledger.write(0o600)
    over.set()
    reader.join()
    assert defects == []
