"""The power goes at any moment, again and again: no accepted baseline and no event is lost or doubled.

Power cuts here are SIGKILL for the daemon and all its probes at once. That leaves what the kernel has in its page
cache, which a real one does not: that nothing is told or counted on before it is on the disk is the business of
``synchronous=FULL``, and of the torn logs in ``tests/outputs/test_state.py``.

The guarantee is an outbox's. State and events are on the disk in one transaction before the log has a line, so that
each event is in the state exactly once. A line that a cut kept from being written is written by the next life; one that
was written right before the cut may be written again, word for word: same event, ID and timestamp.

What must be in the state is known without asking it what it told: the model falls back on one SoC and not on the other,
so that each SoC that a saved check was made on, other than that of the check before it, is one fallback told or cleared
and one change of the runtime; the remaining incidents begin and end in turns.
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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monitor.errors import UsageError
from monitor.outputs.events import to_json
from monitor.outputs.state import State
from monitor.outputs.stored import Reader
from monitor.records import Baseline, BaselineRequest, Event
from tests import models
from tests.e2e.running import Line, Running, exists, wait_until, write_config

SOCS = ("60", "80")
"""On the first of them the accelerator takes the model whole, on the second none of it."""
CHECKING_WITHIN = 10.0
"""Seconds from a start to the end of the first check: 95 % of all starts, and each but on a loaded machine."""
LOADED = 2.0 * (os.cpu_count() or 1)
"""Load average of a minute from which on a start waits for other work."""
USUAL = 2.0
"""Seconds that this takes, until it has been measured."""
STARTED = 1.5
"""Cuts during a start are spread over so many times what a start usually takes: some come after the first check."""

CHANGES = ("runtime_changed", "model_changed")
BEGINS = ("fallback_detected", "latency_unstable", "latency_shifted", "check_failed")
TOLD_AGAIN = ("fallback_changed", "latency_shifted", "check_failed")
ENDS = ("fallback_cleared", "latency_recovered", "check_recovered")


class First(NamedTuple):
    """A start to its first check: seconds, and how many processes wanted a processor (load average of a minute)."""

    seconds: float
    load: float


class Board:
    """One board over many lives; ``lines`` are all that its lives logged, whole lines only.

    ``events`` are those of the state, ``soc`` that of the last saved check, ``unsaved`` the lives that saved no check.
    """

    def __init__(self, folder: Path, model: Path, seed: int) -> None:
        self.folder = folder
        self.model = model
        self.chance = random.Random(seed)
        self.lines: list[Line] = []
        self.firsts: list[First] = []
        self.events: list[Event] = []
        self.soc: str | None = None
        self.unsaved = 0
        self.asked: list[float] = []
        self.accepted: dict[str, float] = {}
        self._checked = 0.0
        self.config = self.configured(SOCS[0])

    def configured(self, soc: str) -> Path:
        """The configuration, in which the model falls back or not."""
        settings = {"path": self.model, "replays": 2, "compare_outputs": False, "options": {"soc_model": soc}}
        return write_config(self.folder, {"m": settings}, "100ms")

    def starting(self, soc: str) -> None:
        """Start, and cut the power at a random moment between the first instruction and somewhat after a check."""
        usual = statistics.median(first.seconds for first in self.firsts) if self.firsts else USUAL
        daemon = self._start(soc)
        try:
            time.sleep(self.chance.random() * STARTED * usual)
        finally:
            self._cut(daemon)

    def checking(self, soc: str, most: float, accept: bool = False) -> None:
        """Start, and cut the power at a random moment in the ``most`` seconds after the first check."""
        start = time.monotonic()
        daemon = self._start(soc)
        try:
            daemon.address = daemon.wait("started")["address"]
            wait_until(lambda: daemon.checks("m") >= 1, "the first check")
            self.firsts.append(First(time.monotonic() - start, os.getloadavg()[0]))
            if accept:
                self._accept()
            time.sleep(self.chance.random() * most)
        finally:
            self._cut(daemon)

    def _start(self, soc: str) -> Running:
        self.config = self.configured(soc)
        return Running("run", "-c", self.config, TMPDIR=str(self.folder / "tmp"))

    def _accept(self) -> None:
        """What ``npumon baseline accept`` does, without the time that a command takes to start."""
        self.asked.append(time.time())
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

    def examine(self, soc: str) -> None:
        """What must be true after a life on ``soc``, and so before the next one."""
        if not self._checked and not recorded(self):
            self.unsaved += 1
            return
        with Reader(self.folder / "state", self.config) as reader:
            events, states, results = reader.events(), reader.model_states(), reader.results()
            pending = len(reader.requests("m"))
            assert reader.notes == []
        assert states.keys() == results.keys()
        if "m" not in states:  # cut before its first check ever was saved
            assert not events
            self.unsaved += 1
            return
        known = [identity(event) for event in events]
        assert events[: len(self.events)] == self.events, "lost, or changed afterwards"
        assert not [one for one, count in Counter(known).items() if count > 1]
        missing = {identity_of(line) for line in self.lines if "id" in line} - set(known)
        assert not missing, "told and not in the state"
        assert under_way(events) == {incident.id for incident in states["m"].incidents}
        self._account(events[len(self.events) :], states["m"].baselines[0].identity.settings["soc_model"], soc)
        self._compare(states["m"].baselines, pending)
        self.events = events
        self.unsaved += results["m"].timestamp == self._checked
        self._checked = results["m"].timestamp

    def _account(self, new: Sequence[Event], now: str, soc: str) -> None:
        """The last saved check was made on ``now``: the ``new`` events of this life must say so, each once."""
        before, self.soc = self.soc, now
        assert now in (before, soc)
        due = []
        if now != before:
            due += ["runtime_changed"] * (before is not None)
            due += ["fallback_detected"] * (now == SOCS[1]) + ["fallback_cleared"] * (before == SOCS[1])
        told = [event.event for event in new if event.event == "runtime_changed" or event.event.startswith("fallback")]
        assert sorted(told) == sorted(due), f"SoC {before} before, {now} now"

    def _compare(self, baselines: Sequence[Baseline], pending: int) -> None:
        """What was accepted stays so; a request is pending or was served, and was not served if it is pending."""
        assert len(baselines) == len({one.id for one in baselines}) == len({str(one.identity) for one in baselines})
        now = {one.id: one.accepted for one in baselines if one.accepted is not None}
        for name, when in self.accepted.items():
            assert now.get(name, 0.0) >= when, f"the accepted baseline {name} is lost"
        served = self.asked[: len(self.asked) - pending]
        assert pending <= len(self.asked), "a request is there that nobody made"
        if served:
            assert max(now.values(), default=0.0) >= served[-1], "a request is gone and was not served"
            self.asked = self.asked[len(served) :]
        else:  # but for what was learned, which is accepted without a request
            renewed = [name for name, when in self.accepted.items() if now[name] != when]
            assert not renewed, "accepted, and nobody asked or the request is still there"
        self.accepted = now


def under_way(events: Iterable[Event]) -> set[str]:
    """The incidents that have begun and not ended; of each kind one at a time, and no two of one name."""
    now: dict[str, str] = {}  # the id by kind, which is the id without its stamp
    names: set[str] = set()
    for event in events:
        kind = event.id.rpartition("-")[0]
        told = f"{event.event} {event.id}, under way {now.get(kind)}"
        if kind not in now:
            assert event.event in (*BEGINS, *CHANGES), told
            assert event.id not in names, told
            names.add(event.id)
            if event.event in BEGINS:
                now[kind] = event.id
        else:
            assert event.event in (*TOLD_AGAIN, *ENDS), told
            assert event.id == now[kind], told
            if event.event in ENDS:
                del now[kind]
    return set(now.values())


def identity(event: Event) -> tuple[str, str, str]:
    """What the lines of an event have in common, and no other event's."""
    return identity_of(to_json(event))


def identity_of(line: dict[str, Any]) -> tuple[str, str, str]:
    """The same of a line."""
    return line["event"], line["id"], line["timestamp"]


def survive(folder: Path, lives: int, seed: int) -> Board:
    """So many lives from nothing on, each ended by a power cut and examined; then one more tells the rest."""
    (folder / "tmp").mkdir(parents=True)
    board = Board(folder, models.saved(models.selu_qdq(), folder), seed)
    for number in range(lives):
        soc = board.chance.choice(SOCS)
        if number % 2 == 0:
            board.starting(soc)
        else:
            board.checking(soc, 0.5, accept=soc == SOCS[0])
        board.examine(soc)
    board.checking(SOCS[1], 0.5)
    board.examine(SOCS[1])
    assert not board.asked, "a check was made, and its requests are pending"
    lines = {identity_of(line) for line in board.lines if "id" in line}
    assert lines == {identity(event) for event in board.events}, "in the state and never told"
    assert board.soc == SOCS[1]
    return board


def recorded(board: Board) -> bool:
    """Whether a life came so far that there is a state."""
    try:
        Reader(board.folder / "state", board.config).close()
    except UsageError as error:
        if "nothing was recorded" in str(error):
            return False
        raise
    return True


def judge(boards: Sequence[Board], lives: int) -> None:
    """What must be true of all lives together; the numbers are printed."""
    events = sum(len(board.events) for board in boards)
    lines = [Counter(identity_of(line) for line in board.lines if "id" in line) for board in boards]
    again = [line for told in lines for line, count in told.items() if count > 1]
    firsts = [first for board in boards for first in board.firsts]
    seconds = sorted(first.seconds for first in firsts)
    undisturbed = [first.seconds for first in firsts if first.load <= LOADED]
    most = seconds[int(0.95 * (len(seconds) - 1))]
    print(
        f"{lives} power cuts of {len(boards)} boards, {sum(board.unsaved for board in boards)} of them before a check "
        f"was saved; {events} events, {len(again)} told twice; {sum(len(board.accepted) for board in boards)} accepted "
        f"baselines; first check of {len(firsts)} starts after {statistics.median(seconds):.1f} s (median), "
        f"{most:.1f} s (95 %), {seconds[-1]:.1f} s at most; at a load of at most {LOADED}, "
        + (f"{max(undisturbed):.1f} s at most of {len(undisturbed)}" if undisturbed else "none")
    )
    assert events >= lives / 5
    assert any(board.accepted for board in boards)
    assert len(again) <= max(1, lives / 20), again
    assert most < CHECKING_WITHIN, seconds
    assert max(undisturbed, default=0.0) < CHECKING_WITHIN, sorted(firsts)[-3:]


def test_power_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    """A handful of lives: each event is in the state once and was told, what was accepted stays accepted."""
    judge([survive(tmp_path, 6, seed=1)], 6)


@pytest.mark.slow
def test_200_power_cuts_lose_and_double_nothing(tmp_path: Path) -> None:
    """Twenty new boards of 10 lives: half cut anywhere in their start, study and first check, half just after it."""
    judge([survive(tmp_path / str(number), 10, seed=number) for number in range(20)], 200)


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
    board.checking(SOCS[1], 0.2)
    (line,) = [line for line in board.lines if line["event"] == "fallback_detected"]
    assert line["id"] == saved.id
    assert line in [json.loads(text) | {"level": line["level"]} for text in stored_lines(board)]
    board.lines.clear()
    board.checking(SOCS[1], 0.2)
    assert not [line for line in board.lines if line["event"] == "fallback_detected"]


def stored_lines(board: Board) -> list[str]:
    """All events of the state, as lines."""
    with Reader(board.folder / "state", board.config) as reader:
        return [json.dumps(to_json(event)) for event in reader.events()]
