"""When each model is checked: one check at a time on the board, at a steady phase, whatever the clock does.

APScheduler decides by the wall clock what is due and how long to sleep. On a board without a battery behind its clock
that means: a step forward builds every run time in between, a step backward sleeps until the old time comes round
again, and both shift the phase. So the wall clock is taken out of it. Jobs are due by the monotonic clock
(:class:`_Phase`), the job store hands out what is due by it (:class:`_Store`), and the scheduler's own thread sleeps by
it, in ``poll``, since the timed locks of the standard library wait by the wall clock on older C libraries.

Other traps avoided: runs are never dropped for being late (no misfire grace time), runs of one job do not pile up
(coalesced, one instance), queued checks do not outlive :meth:`Schedule.stop`, and a check that hangs is visible in
:meth:`Schedule.last_progress` instead of being skipped in silence.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.base import STATE_STOPPED, BaseScheduler
from apscheduler.triggers.base import BaseTrigger

HEARTBEAT: Final = 10.0
"""Longest sleep of the scheduler in seconds: how often it shows that it lives."""
SOON: Final = 10.0
"""All first checks are due within this many seconds."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2

Clock = Callable[[], float]


class Schedule:
    """Runs each job every ``interval`` seconds in one worker thread, first within ten seconds of its adding.

    ``on_defect`` is told the name and the exception of a job that raises, which no job should; the schedule goes on.
    ``clock`` is a monotonic clock in seconds. Jobs run in the order in which they became due.
    """

    def __init__(self, on_defect: Callable[[str, Exception], None], clock: Clock = time.monotonic) -> None:
        self._on_defect = on_defect
        self._clock = clock
        self._jobs: dict[str, tuple[float, Callable[[], None]]] = {}
        self._added = 0
        self._stopping = False
        self._busy = threading.Lock()
        self._running_since: float | None = None
        self._skipped = 0
        # It logs every run, and every skipped one as a warning; both are told here in other ways.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = _Scheduler(clock)
        self._scheduler.add_listener(self._note_skip, EVENT_JOB_MAX_INSTANCES)

    def add(self, name: str, interval: float, job: Callable[[], None]) -> None:
        """Schedule ``job`` under a new name. Phases are spread over the interval, first runs over ten seconds."""
        if name in self._jobs:
            raise ValueError(f"{name!r} is scheduled already")
        # Multiples of the golden ratio spread evenly for any number of jobs, without moving those that are there.
        fraction = self._added * _GOLDEN % 1
        self._added += 1
        self._jobs[name] = (interval, job)
        phase = _Phase(interval, fraction, self._clock)
        self._scheduler.add_job(
            self._run, phase, id=name, args=[name], misfire_grace_time=None, coalesce=True, max_instances=1
        )

    def remove(self, name: str) -> None:
        """Forget a job; if it is running, it ends first."""
        del self._jobs[name]
        self._scheduler.remove_job(name)

    def replace(self, name: str, interval: float, job: Callable[[], None]) -> None:
        """Put another job in a name's place; its phase stays unless the interval changes."""
        if self._jobs[name][0] == interval:
            self._jobs[name] = (interval, job)
        else:
            self.remove(name)
            self.add(name, interval, job)

    def hasten(self, name: str, delay: float) -> None:
        """Run a job once more in ``delay`` seconds, if it is not due before; its phase stays."""
        job = self._scheduler.get_job(name)
        if job is not None:
            job.trigger.due = min(job.trigger.due, self._clock() + delay)
            self._scheduler.wakeup()

    def start(self) -> None:
        """Begin. The first job added runs at once."""
        self._scheduler.start()

    def stop(self) -> None:
        """End: the running job finishes, queued ones are dropped. Any thread but a job's own may call it."""
        self._stopping = True
        if not self._scheduler.running:
            return
        # Shutting down holds the store's lock while it waits for the worker, which may want that lock: wait first.
        with self._busy:
            pass
        self._scheduler.shutdown()

    def last_progress(self) -> float:
        """When, by the monotonic clock, timer and worker were last known to move.

        While a job runs that is at the latest the moment it began. So this is older than ``HEARTBEAT`` plus the longest
        that a job may take only if one of the two is stuck.
        """
        began = self._running_since
        return self._scheduler.beat if began is None else min(began, self._scheduler.beat)

    @property
    def skipped(self) -> int:
        """Runs left out because the one before was not over: the board is too busy for the interval, or hung."""
        return self._skipped

    def _run(self, name: str) -> None:
        with self._busy:
            entry = self._jobs.get(name)
            if self._stopping or entry is None:
                return
            self._running_since = self._clock()
            try:
                entry[1]()
            except Exception as error:
                self._on_defect(name, error)
            finally:
                self._running_since = None

    def _note_skip(self, _event: JobSubmissionEvent) -> None:
        self._skipped += 1


class Backoff:
    """How long to leave a probe alone after it failed: ``first`` seconds, doubled by each failure, at most ``most``.

    ``clock`` is a monotonic clock in seconds. Forgets everything on a success.
    """

    def __init__(self, clock: Clock = time.monotonic, first: float = 1.0, most: float = 600.0) -> None:
        self._clock, self._first, self._most = clock, first, most
        self.succeeded()

    def succeeded(self) -> None:
        self._delay = self._until = 0.0

    def failed(self, least: float = 0.0) -> float:
        """Note a failure; the seconds until the next try, ``least`` of them at least."""
        self._delay = min(max(self._delay * 2 or self._first, least), self._most)
        self._until = self._clock() + self._delay
        return self._delay

    @property
    def remaining(self) -> float:
        """Seconds until the next try; 0 if it may be made now."""
        return max(0.0, self._until - self._clock()) if self._delay else 0.0


class _Phase(BaseTrigger):  # type: ignore[misc]
    """When one job is due by the monotonic clock: once soon, then at fixed points ``interval`` seconds apart."""

    def __init__(self, interval: float, fraction: float, clock: Clock) -> None:
        self._interval = interval
        self._clock = clock
        self._origin = clock() + fraction * interval
        self.due = clock() + fraction * min(interval, SOON)

    def advance(self) -> None:
        """Make the next point due: in the future, and not so near that the board would check twice in a row."""
        after = max(self._clock(), self.due + self._interval / 2)
        turns = math.floor((after - self._origin) / self._interval) + 1
        self.due = self._origin + turns * self._interval

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Always after ``now``, so that APScheduler never looks for run times between a stale time and now."""
        return now + timedelta(seconds=max(self.due - self._clock(), 0.001))


class _Store(MemoryJobStore):  # type: ignore[misc]
    """Jobs in memory, due by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def get_due_jobs(self, now: datetime) -> list[Job]:
        """What is due, longest overdue first; each is due again at its next point from here on."""
        due = sorted((job for job in self.get_all_jobs() if job.trigger.due <= self._clock()), key=_due)
        for job in due:
            job.trigger.advance()
            job.next_run_time = now
        return due

    def sleep(self) -> float:
        """Seconds until something is due, at most a heartbeat."""
        due = min((job.trigger.due for job in self.get_all_jobs()), default=math.inf)
        return float(min(max(due - self._clock(), 0), HEARTBEAT))


def _due(job: Job) -> float:
    return float(job.trigger.due)


class _Scheduler(BaseScheduler):  # type: ignore[misc]
    """A scheduler with a thread of its own that sleeps by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self.beat = clock()
        self._clock = clock
        self._store = _Store(clock)
        super().__init__(jobstores={"default": self._store}, executors={"default": ThreadPoolExecutor(1)}, timezone=UTC)

    def start(self, paused: bool = False) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        super().start(paused)
        self._thread = threading.Thread(target=self._loop, name="schedule", daemon=True)
        self._thread.start()

    def shutdown(self, wait: bool = True) -> None:
        super().shutdown(wait)
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def wakeup(self) -> None:
        # Before the start there is nobody to wake, and after the end the descriptor is somebody else's.
        if self.state != STATE_STOPPED:
            os.eventfd_write(self._wake, 1)

    def _loop(self) -> None:
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        while self.state != STATE_STOPPED:
            self._process_jobs()
            self.beat = self._clock()
            if waiting.poll(math.ceil(self._store.sleep() * 1000)):
                os.eventfd_read(self._wake)
