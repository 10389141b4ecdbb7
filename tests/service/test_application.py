"""What the daemon makes of an application's ledgers, as taps write them: each call once, whatever comes and goes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from monitor.bins import bin_of
from monitor.capture.ledger import MOST_SHAPES as TOLD_SHAPES
from monitor.capture.ledger import MOST_TEXT, Ledger
from monitor.records import Calls
from monitor.service.application import ENOUGH_SHAPES, LARGEST, Application

FAST, SLOW = 0.008, 0.024


def counted(ledger: Ledger, seconds: float, calls: int, width: int = 3) -> None:
    """So many calls more, in the ledger and in its file."""
    for _ in range(calls):
        ledger.count(seconds)
        ledger.count_shapes({"x": np.zeros((1, width))})
    ledger.write(0o600)


def looked(application: Application) -> Calls:
    """The calls since the last look, of which some are known."""
    calls = application.look()
    assert calls is not None
    return calls


def test_what_was_before_the_daemon_is_the_past(tmp_path: Path) -> None:
    """A daemon that starts beside an application counts from then on, each call once, with its time and its shapes."""
    ledger = Ledger(tmp_path, "aa")
    counted(ledger, SLOW, 1000)
    application = Application(tmp_path)
    assert application.look() is None
    counted(ledger, FAST, 40)
    calls = looked(application)
    assert calls.bins == {bin_of(FAST): 40}
    assert calls.seconds == pytest.approx(40 * FAST)
    assert calls.shapes == {"x[1,3]": 40}
    assert looked(application).bins == {}


def test_nobody_counts(tmp_path: Path) -> None:
    """Without samples, without a folder, or in one without ledgers, there is nothing to tell, and no 0 either."""
    for folder in (None, tmp_path / "none", tmp_path):
        application = Application(folder)
        assert application.look() is None
        assert application.look() is None


def test_an_application_that_starts_anew_is_new_as_a_whole(tmp_path: Path) -> None:
    """After a restart its counts begin at 0 in another file: nothing is negative, lost or counted twice."""
    first = Ledger(tmp_path, "aa")
    counted(first, FAST, 500)
    application = Application(tmp_path)
    application.look()
    counted(first, FAST, 10)
    second = Ledger(tmp_path, "bb")
    counted(second, SLOW, 7)
    assert looked(application).bins == {bin_of(FAST): 10, bin_of(SLOW): 7}
    counted(second, SLOW, 3)
    assert looked(application).bins == {bin_of(SLOW): 3}


def test_counts_that_fell_are_another_process(tmp_path: Path) -> None:
    """A file of the same name with fewer calls is new as a whole, which no subtraction makes negative."""
    counted(Ledger(tmp_path, "aa"), FAST, 500)
    application = Application(tmp_path)
    application.look()
    counted(Ledger(tmp_path, "aa"), SLOW, 20)
    calls = looked(application)
    assert calls.bins == {bin_of(SLOW): 20}
    assert calls.seconds == pytest.approx(20 * SLOW)


def test_processes_are_told_apart(tmp_path: Path) -> None:
    """Two workers of one application, one of them slow: all calls together, and those of each that made any."""
    workers = [Ledger(tmp_path, token) for token in ("aa", "bb", "cc")]
    for worker in workers:
        counted(worker, FAST, 1)
    application = Application(tmp_path)
    application.look()
    counted(workers[0], FAST, 90)
    counted(workers[1], SLOW, 30)
    calls = looked(application)
    assert calls.bins == {bin_of(FAST): 90, bin_of(SLOW): 30}
    pid = os.getpid()
    assert calls.processes == {f"calls-{pid}-aa": {bin_of(FAST): 90}, f"calls-{pid}-bb": {bin_of(SLOW): 30}}


def test_a_clock_that_jumps_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that learns the date takes its own ledgers for old ones and removes them; they come back with more."""
    busy, idle = Ledger(tmp_path, "aa"), Ledger(tmp_path, "bb")
    counted(busy, FAST, 5)
    counted(idle, SLOW, 200)
    application = Application(tmp_path)
    application.look()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50 * 365 * 86_400)
    counted(busy, FAST, 5)
    assert len(list(tmp_path.iterdir())) == 1, "the idle one's file is gone"
    assert looked(application).bins == {bin_of(FAST): 5}
    monkeypatch.setattr(time, "time", lambda: now)
    counted(idle, SLOW, 4)
    assert looked(application).bins == {bin_of(SLOW): 4}


def test_shapes_are_remembered_until_they_are_enough(tmp_path: Path) -> None:
    """One call in a hundred tells its shapes: their share is that of many checks, and in the end of the last ones."""
    ledger = Ledger(tmp_path, "aa")
    counted(ledger, FAST, 1)
    application = Application(tmp_path)
    application.look()
    for _ in range(20):
        counted(ledger, FAST, 1)
        looked(application)
    counted(ledger, FAST, 1, width=5)
    assert looked(application).shapes == {"x[1,3]": 20, "x[1,5]": 1}
    assert looked(application).shapes == {"x[1,3]": 20, "x[1,5]": 1}, "also of a check in which there was none"
    for _ in range(20):
        counted(ledger, FAST, ENOUGH_SHAPES // 10, width=7)
        looked(application)
    assert looked(application).shapes == {"x[1,7]": ENOUGH_SHAPES}


def test_a_full_ledger_is_read(tmp_path: Path) -> None:
    """However many inputs a model has and in whatever script they are named, the daemon can read its ledger."""
    ledger = Ledger(tmp_path, "aa")
    counted(ledger, FAST, 1)
    application = Application(tmp_path)
    application.look()
    for step in range(2 * TOLD_SHAPES):
        ledger.count(FAST)
        ledger.count_shapes({f"past.{layer}.値{'値' * 20}": np.zeros((1, 8, step, 64)) for layer in range(160)})
    ledger.write(0o600)
    (file,) = tmp_path.iterdir()
    assert MOST_TEXT < file.stat().st_size < LARGEST
    calls = looked(application)
    assert calls.bins == {bin_of(FAST): 2 * TOLD_SHAPES}
    assert sum(calls.shapes.values()) == 2 * TOLD_SHAPES


def _document(**changed: Any) -> bytes:
    document = {"version": 1, "since": 0.0, "until": 1.0, "bins": [0] * 345, "seconds": 0.0} | changed
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        _document()[:-20],
        _document(version=2),
        _document(bins=[0] * 344),
        _document(bins=[-1] * 345),
        _document(bins=["x"] * 345),
        _document(seconds=None),
        _document(shapes=7),
        b'{"x":"' + b"x" * 2 * LARGEST + b'"}',
    ],
    ids=["empty", "cut", "binary", "list", "short", "later", "bins", "negative", "text", "null", "shapes", "huge"],
)
def test_a_file_that_is_no_ledger_costs_nothing_but_itself(contents: bytes, tmp_path: Path) -> None:
    """A power cut, another version, somebody's notes: the other processes' calls are told all the same."""
    ledger = Ledger(tmp_path, "bb")
    counted(ledger, FAST, 1)
    (tmp_path / "calls-1-aa.json").write_bytes(contents)
    application = Application(tmp_path)
    application.look()
    counted(ledger, FAST, 30)
    assert looked(application).bins == {bin_of(FAST): 30}


def test_nothing_in_the_folder_is_waited_for(tmp_path: Path) -> None:
    """A pipe, a link that leads nowhere and a folder by a ledger's name are passed over."""
    os.mkfifo(tmp_path / "calls-1-aa.json")
    (tmp_path / "calls-2-aa.json").symlink_to(tmp_path / "calls-2-aa.json")
    (tmp_path / "calls-3-aa.json").mkdir()
    ledger = Ledger(tmp_path, "bb")
    counted(ledger, FAST, 1)
    application = Application(tmp_path)
    application.look()
    counted(ledger, FAST, 30)
    assert looked(application).bins == {bin_of(FAST): 30}


def test_a_state_from_before_processes_were_told_apart(tmp_path: Path) -> None:
    """What an older version wrote into its state is read by this one."""
    old = msgspec.msgpack.encode([{3: 5}, 0.5, {"x[1]": 5}])
    assert msgspec.msgpack.decode(old, type=Calls) == Calls({3: 5}, 0.5, {"x[1]": 5})
