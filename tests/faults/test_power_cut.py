"""The power goes at any moment, again and again: no accepted baseline and no event is lost or doubled.

Power cuts here are SIGKILL for the daemon and all its probes at once. That leaves what the kernel has in its page
cache, which a real one does not: that nothing is told or counted on before it is on the disk is the business of
``synchronous=FULL``, and of the torn logs in ``tests/outputs/test_state.py``.

The guarantee is an outbox's. State and events are on the disk in one transaction before the log has a line, so that
each event is in the state exactly once. A line that a cut kept from being written is written by the next life; one that
was written right before the cut may be written again, word for word: same event, ID and timestamp.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from monitor.outputs.state import State
from monitor.outputs.stored import Reader
from monitor.records import Baseline, BaselineRequest
from tests import models
from tests.e2e.running import Line, Running, exists, wait_until, write_config

SOCS = ("60", "80")
"""On the first of them the accelerator takes the model whole, on the second none of it."""
CHECKING_WITHIN = 10.0
"""Seconds from a start to the end of the first check, as a median: single starts wait for a busy machine."""


class Board:
    """One board over many lives; ``lines`` are all that its lives logged, whole lines only."""

    def __init__(self, folder: Path, model: Path, seed: int) -> None:
        self.folder = folder
        self.model = model
        self.chance = random.Random(seed)
        self.lines: list[Line] = []
        self.firsts: list[float] = []
        self.accepted: dict[str, float] = {}
        self.config = self.configured(SOCS[0])

    def configured(self, soc: str) -> Path:
        """The configuration, in which the model falls back or not."""
        settings = {"path": self.model, "replays": 2, "compare_outputs": False, "options": {"soc_model": soc}}
        return write_config(self.folder, {"m": settings}, "100ms")

    def live(self, soc: str, cut_after: float, accept: bool = False) -> None:
        """Start, and cut the power so many seconds after the first check, or before it if that is negative."""
        self.config = self.configured(soc)
        start = time.monotonic()
        daemon = Running("run", "-c", self.config, TMPDIR=str(self.folder / "tmp"))
        try:
            if cut_after < 0:
                time.sleep(-cut_after)
            else:
                daemon.address = daemon.wait("started")["address"]
                wait_until(lambda: daemon.checks("m") >= 1, "the first check")
                self.firsts.append(time.monotonic() - start)
                if accept:
                    self._accept()
                time.sleep(cut_after)
        finally:
            self._cut(daemon)

    def _accept(self) -> None:
        """What ``npumon baseline accept`` does, without the time that a command takes to start."""
        with contextlib.closing(State.attach(self.folder / "state", self.config)) as state:
            state.request(BaselineRequest("m", "accept"))

    def _cut(self, daemon: Running) -> None:
        tree = [daemon.process.pid, *daemon.children()]
        for pid in tree:  # stopped first, so that none outlives another by the time that the signals take
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in {*tree, *daemon.children()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.process.wait()
        wait_until(lambda: not any(map(exists, tree)), "the tree is gone")
        daemon.check_cut()
        self.lines += daemon.lines

    # --------------------------------------------------------------------------------------------- afterwards

    def examine(self) -> list[tuple[str, str, str]]:
        """What must be true between two lives; the events in the state."""
        with Reader(self.folder / "state", self.config) as reader:
            events = [identity(json.loads(line)) for line in told(reader)]
            baselines = reader.model_states()["m"].baselines if "m" in reader.model_states() else ()
            assert reader.notes == []
        assert not [event for event, count in Counter(events).items() if count > 1]
        missing = {identity(line) for line in self.lines if "id" in line} - set(events)
        assert not missing, "told and not in the state"
        self._compare(baselines)
        return events

    def _compare(self, baselines: Sequence[Baseline]) -> None:
        now = {one.id: one.accepted for one in baselines if one.accepted is not None}
        assert len(baselines) == len({one.id for one in baselines}) == len({str(one.identity) for one in baselines})
        for name, when in self.accepted.items():
            assert now.get(name, 0.0) >= when, f"the accepted baseline {name} is lost"
        self.accepted = now


def told(reader: Reader) -> list[str]:
    """The state's events as the log writes them."""
    from monitor.outputs.events import to_json

    return [json.dumps(to_json(event)) for event in reader.events()]


def identity(line: dict[str, Any]) -> tuple[str, str, str]:
    """What a line and its repetition have in common, and no other line."""
    return line["event"], line["id"], line["timestamp"]


def survive(folder: Path, lives: int, seed: int) -> Board:
    """So many lives, each ended by a power cut; then all is examined, and one more life tells the rest."""
    (folder / "tmp").mkdir()
    board = Board(folder, models.saved(models.selu_qdq(), folder), seed)
    for number in range(lives):
        soc = SOCS[board.chance.randrange(2) if number > 1 else number]
        after = board.chance.choice([-1.0, 0.0, 0.5]) * board.chance.random() if number > 1 else 1.5
        board.live(soc, after, accept=soc == SOCS[0] and number % 3 == 0)
        if (folder / "state" / "npumon.db").exists() and board.firsts:
            board.examine()
    board.live(SOCS[1], 0.5)
    events = board.examine()
    lines = Counter(identity(line) for line in board.lines if "id" in line)
    assert set(lines) == set(events), "in the state and never told"
    assert len(events) >= lives / 5
    assert board.accepted
    again = [line for line, count in lines.items() if count > 1]
    assert len(again) <= max(1, lives / 20), again
    assert statistics.median(board.firsts) < CHECKING_WITHIN
    print(
        f"{lives} power cuts, {len(events)} events, {len(again)} told twice, {len(board.accepted)} accepted baselines; "
        f"first check after {statistics.median(board.firsts):.1f} s (median), {max(board.firsts):.1f} s at most"
    )
    return board


def test_power_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    """A handful of lives: each event is in the state once and was told, what was accepted stays accepted."""
    survive(tmp_path, 6, seed=1)


@pytest.mark.slow
def test_200_power_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    """200 lives, cut at random moments from before the first check to seconds after it."""
    survive(tmp_path, 200, seed=2)


def test_what_was_saved_before_the_cut_is_told_after_it(tmp_path: Path) -> None:
    """A cut between state and log, exactly: the next life tells the event, with the time at which it happened."""
    (tmp_path / "tmp").mkdir()
    board = Board(tmp_path, models.saved(models.selu_qdq(), tmp_path), 1)
    board.config = board.configured(SOCS[1])
    inside = Path(__file__).with_name("inside_daemon")
    daemon = Running("run", "-c", board.config, PYTHONPATH=str(inside), NPUMON_TEST_CUT="told")
    daemon.process.wait(60)
    daemon.check_cut()
    assert daemon.process.returncode == -signal.SIGKILL
    assert not daemon.told("fallback_detected")
    with Reader(tmp_path / "state", board.config) as reader:
        (saved,) = [event for event in reader.events() if event.event == "fallback_detected"]
    board.live(SOCS[1], 0.2)
    (line,) = [line for line in board.lines if line["event"] == "fallback_detected"]
    assert line["id"] == saved.id
    assert line in [json.loads(text) | {"level": line["level"]} for text in stored_lines(board)]
    board.lines.clear()
    board.live(SOCS[1], 0.2)
    assert not [line for line in board.lines if line["event"] == "fallback_detected"]


def stored_lines(board: Board) -> list[str]:
    """All events of the state, as lines."""
    with Reader(board.folder / "state", board.config) as reader:
        return told(reader)
