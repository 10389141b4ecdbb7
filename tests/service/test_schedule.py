"""Checks keep their steady phase, one at a time, whatever the wall clock, a slow job or a stop does to them.

The real APScheduler runs here; only its view of the wall clock is replaced, since a test may not set the machine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base
from hypothesis import given
from hypothesis import strategies as st

from monitor.service.schedule import HEARTBEAT, SOON, Backoff, Schedule, _Phase

YEARS = timedelta(days=3653)


class Wall:
    """A wall clock that jumps when told to, put in the place of ``datetime`` in APScheduler."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self, tz: tzinfo | None = None) -> datetime:
        """The shifted time."""
        return datetime.now(tz) + self.offset


class Defects(list[tuple[str, Exception]]):
    def __call__(self, name: str, error: Exception) -> None:
        """Collect what the schedule reports."""
        self.append((name, error))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """APScheduler's wall clock, to be stepped."""
    clock = Wall()
    monkeypatch.setattr(base, "datetime", clock)
    return clock


@pytest.fixture
def defects() -> Defects:
    """What jobs raised."""
    return Defects()


@pytest.fixture
def schedule(defects: Defects) -> Iterator[Schedule]:
    """A schedule that is stopped after the test."""
    one = Schedule(defects)
    yield one
    one.stop()


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether ``condition`` comes true."""
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


class Runs(list[float]):
    """A job that notes when it ran, by the monotonic clock."""

    def __call__(self) -> None:
        """Run."""
        self.append(time.monotonic())


@pytest.mark.parametrize("step", [YEARS, -YEARS, timedelta(hours=1), -timedelta(hours=1), timedelta(seconds=-1)])
def test_a_clock_step_neither_stops_nor_hurries_the_checks(schedule: Schedule, wall: Wall, step: timedelta) -> None:
    """After a step of years either way checks go on at their phase: none is lost, none is extra."""
    runs = Runs()
    schedule.add("m", 0.2, runs)
    schedule.start()
    assert eventually(lambda: len(runs) >= 3)
    wall.offset += step
    at_step = time.monotonic()
    time.sleep(1.0)
    wall.offset -= step
    after = [run for run in runs if at_step < run <= at_step + 1.0]
    assert 3 <= len(after) <= 6
    assert schedule.skipped == 0


def test_a_board_that_boots_in_1970_checks_at_once_and_on(schedule: Schedule, wall: Wall) -> None:
    """A first check at the epoch, then the jump to today when the network brings the time, changes nothing."""
    wall.offset = datetime(1970, 1, 1, tzinfo=UTC) - datetime.now(UTC)
    runs = Runs()
    schedule.add("m", 0.2, runs)
    start = time.monotonic()
    schedule.start()
    assert eventually(lambda: len(runs) == 2)
    wall.offset = timedelta()
    assert eventually(lambda: len(runs) >= 6)
    assert runs[0] - start < 0.5
    assert runs[5] - start < 3.0


def test_lateness_does_not_accumulate(schedule: Schedule) -> None:
    """Runs stay at multiples of the interval from the first one, although each is a little late."""
    runs = Runs()

    def job() -> None:
        runs()
        time.sleep(0.03)

    schedule.add("m", 0.1, job)
    schedule.start()
    assert eventually(lambda: len(runs) >= 21)
    phases = sorted((run - runs[0]) % 0.1 for run in runs[1:21])
    assert min(phases[10], 0.1 - phases[10]) < 0.025


def test_one_check_at_a_time_and_each_gets_its_turn(schedule: Schedule) -> None:
    """On an overloaded board jobs never overlap, every one of them runs, and what is left out is counted."""
    running = threading.Semaphore(1)
    overlaps: list[str] = []
    turns: list[str] = []

    def job(name: str) -> Callable[[], None]:
        def run() -> None:
            if not running.acquire(blocking=False):
                overlaps.append(name)
            time.sleep(0.05)
            turns.append(name)
            running.release()

        return run

    for name in "abcde":
        schedule.add(name, 0.1, job(name))
    schedule.start()
    assert eventually(lambda: len(turns) >= 20)
    assert not overlaps
    assert set(turns[-10:]) == set("abcde")
    assert schedule.skipped > 0


def test_a_hung_job_shows_in_the_progress_and_a_sound_one_does_not(schedule: Schedule) -> None:
    """Progress stands still at the beginning of a job that hangs, and moves on once it ends."""
    release = threading.Event()
    entered = Runs()

    def job() -> None:
        entered()
        release.wait(20)

    schedule.add("m", 0.1, job)
    schedule.start()
    assert eventually(lambda: len(entered) == 1)
    assert eventually(lambda: schedule.skipped >= 2)
    stuck = schedule.last_progress()
    assert stuck <= entered[0]
    release.set()
    assert eventually(lambda: schedule.last_progress() > stuck)


def test_a_job_that_raises_is_told_and_runs_again(schedule: Schedule, defects: Defects) -> None:
    """A defect in a job reaches the one who must know, and neither the job nor another is lost."""
    runs = Runs()

    def broken() -> None:
        raise ZeroDivisionError("no")

    schedule.add("broken", 0.1, broken)
    schedule.add("sound", 0.1, runs)
    schedule.start()
    assert eventually(lambda: len(defects) >= 2 and len(runs) >= 2)
    assert defects[0][0] == "broken"
    assert isinstance(defects[0][1], ZeroDivisionError)


def test_stop_lets_the_running_job_end_and_drops_the_queue(schedule: Schedule) -> None:
    """Stopping waits for the job that runs, and for none of those that wait for their turn."""
    ended: list[str] = []
    entered = threading.Event()

    def job() -> None:
        entered.set()
        time.sleep(0.5)
        ended.append("one")

    for name in "abcdefgh":
        schedule.add(name, 0.1, job)
    schedule.start()
    assert entered.wait(10)
    time.sleep(0.1)
    schedule.stop()
    assert ended == ["one"]
    time.sleep(0.3)
    assert ended == ["one"]


def test_stop_does_not_wait_for_a_job_that_edits_the_schedule(defects: Defects) -> None:
    """A job that removes another one while the schedule is being stopped does not lock both up."""
    schedule = Schedule(defects)
    entered = threading.Event()

    def job() -> None:
        entered.set()
        time.sleep(0.3)
        schedule.remove("other")

    schedule.add("m", 60, job)
    schedule.add("other", 60, lambda: None)
    schedule.start()
    assert entered.wait(10)
    stopper = threading.Thread(target=schedule.stop, daemon=True)
    stopper.start()
    stopper.join(10)
    assert not stopper.is_alive()
    assert not defects


def test_a_late_or_removed_or_replaced_job(schedule: Schedule) -> None:
    """Jobs come, go and change while the schedule runs; a new one runs soon and a removed one never again."""
    first, second, third = Runs(), Runs(), Runs()
    schedule.start()
    schedule.add("m", 0.1, first)
    assert eventually(lambda: len(first) >= 2)
    schedule.replace("m", 0.1, second)
    assert eventually(lambda: len(second) >= 2)
    schedule.replace("m", 0.05, third)
    assert eventually(lambda: len(third) >= 2)
    schedule.remove("m")
    time.sleep(0.1)
    counts = len(first), len(second), len(third)
    time.sleep(0.3)
    assert (len(first), len(second), len(third)) == counts
    with pytest.raises(KeyError):
        schedule.remove("m")
    schedule.add("m", 60, first)
    with pytest.raises(ValueError, match="scheduled already"):
        schedule.add("m", 60, first)


def test_replacing_with_the_same_interval_keeps_the_phase(schedule: Schedule) -> None:
    """A reload that changes a model but not its interval causes no extra check."""
    first, second = Runs(), Runs()
    schedule.add("m", 60, first)
    schedule.start()
    assert eventually(lambda: len(first) == 1)
    schedule.replace("m", 60, second)
    time.sleep(0.5)
    assert not second


def test_a_hastened_job_runs_once_more_and_keeps_its_phase(schedule: Schedule) -> None:
    """Hastening runs a job early, never later than it was due, whether the schedule runs or not."""
    runs = Runs()
    schedule.add("m", 60, runs)
    schedule.hasten("m", 0.1)
    schedule.start()
    assert eventually(lambda: len(runs) == 1)
    schedule.hasten("m", 0.1)
    schedule.hasten("m", 30)
    assert eventually(lambda: len(runs) == 2)
    schedule.stop()
    schedule.hasten("m", 0.1)
    time.sleep(0.3)
    assert len(runs) == 2


def test_at_rest_it_sleeps(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 models at an hour's interval, only a heartbeat every ten seconds wakes the scheduler."""
    monkeypatch.setattr("monitor.service.schedule.SOON", 0.2)
    for index in range(20):
        schedule.add(f"m{index}", 3600, lambda: None)
    schedule.start()
    time.sleep(0.5)
    rounds = 0
    process = base.BaseScheduler._process_jobs

    def counted(self: object) -> object:
        nonlocal rounds
        rounds += 1
        return process(self)

    monkeypatch.setattr(base.BaseScheduler, "_process_jobs", counted)
    cpu = time.process_time()
    time.sleep(3)
    assert rounds <= 1
    assert time.process_time() - cpu < 0.03
    assert time.monotonic() - schedule.last_progress() <= HEARTBEAT + 1


def test_stopping_a_schedule_that_never_ran_is_nothing(defects: Defects) -> None:
    """A daemon that fails before its start can stop its schedule all the same."""
    Schedule(defects).stop()


@given(
    interval=st.floats(0.05, 1e6),
    fraction=st.floats(0, 1, exclude_max=True),
    delays=st.lists(st.floats(0, 1e7), max_size=20),
)
def test_phase_is_kept_however_late_the_runs_are(interval: float, fraction: float, delays: list[float]) -> None:
    """After any lateness the next due time is ahead by at most one and a half intervals and on the first phase."""
    start = 1e5
    now = [start]
    phase = _Phase(interval, fraction, lambda: now[0])
    assert start <= phase.due <= start + min(interval, SOON)
    for delay in delays:
        now[0] = max(now[0], phase.due) + delay
        phase.advance()
        assert -1e-6 < phase.due - now[0] <= 1.5 * interval + 1e-6
        turns = (phase.due - start) / interval - fraction
        assert abs(turns - round(turns)) * interval < 1e-5
        today = datetime.now(UTC)
        assert phase.get_next_fire_time(None, today) > today


def test_backoff_grows_to_its_cap_and_forgets_on_success() -> None:
    """Delays double from one second to ten minutes and start over after a success."""
    now = [0.0]
    backoff = Backoff(clock=lambda: now[0])
    assert backoff.remaining == 0
    assert [backoff.failed() for _ in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    now[0] += 599.5
    assert backoff.remaining == 0.5
    now[0] += 1
    assert backoff.remaining == 0
    backoff.succeeded()
    assert backoff.failed() == 1
