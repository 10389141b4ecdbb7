"""The tap's own thread and all that is its: redaction, files, bounds, counts, complaints. One for each process.

Nobody waits for it. What it is handed stands in a queue without a lock that a signal's handler, a finalizer or a forked
child could find held, and beyond a few samples nothing is handed over. Complaints go that way too: an application's log
handlers may write to the disk, and raise.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from monitor.bins import slower_than
from monitor.capture.arrays import Feeds, acceptable, save
from monitor.capture.files import sweep
from monitor.capture.ledger import Ledger
from monitor.capture.reservoir import Reservoir

SLOW_FROM: Final = 0.05
"""The share of this process's calls that are its slowest."""
SLOW_SHARE: Final = 0.25
"""The share of ``keep`` and ``most_bytes`` that the slowest calls have to themselves."""
LARGEST_SHARE: Final = 1 / 8
"""The share of ``most_bytes`` that one sample may have, so that the slow part has room for two."""
LEARN: Final = 200
"""Calls after which it is known what is slow."""
WAITING: Final = 4
"""Samples that wait for the disk; more are let go."""
FIRST_PAUSE: Final = 0.5
"""Seconds between the first two looks. The pauses double from there, so that a short program's counts are seen too."""
LONGEST_PAUSE: Final = 30.0
"""What a process that is killed may take of its counts, in seconds."""
PATIENCE: Final = 5.0
"""Seconds that the end of a process may wait for the disk."""

_log: Final = logging.getLogger("npumon.capture")


class Settings(NamedTuple):
    """What an :class:`~monitor.capture.tap.InputTap` was made with."""

    folder: Path
    keep: int
    most_bytes: int
    half_life: float
    redact: Callable[[Feeds], Feeds | None] | None
    mode: int

    @property
    def largest(self) -> int:
        """Bytes that one sample may have."""
        return int(self.most_bytes * LARGEST_SHARE)


class Sample(NamedTuple):
    """The inputs of one call on their way to a reservoir."""

    reservoir: Reservoir
    rank: int
    timestamp: float
    feeds: Feeds


class _Complaint(NamedTuple):
    what: str
    error: BaseException

    @property
    def kind(self) -> tuple[object, ...]:
        """What two complaints have in common of which one is enough."""
        return self.what, type(self.error), str(self.error.errno) if isinstance(self.error, OSError) else ""


class Writer:
    """What a tap has in this process. The thread begins with :meth:`start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        token = os.urandom(4).hex()  # not the process id: two containers may share it, and the folder
        slow, slow_bytes = max(1, int(settings.keep * SLOW_SHARE)), int(settings.most_bytes * SLOW_SHARE)
        fair, fair_bytes = settings.keep - slow, settings.most_bytes - slow_bytes
        self.fair = Reservoir(settings.folder, "fair", fair, fair_bytes, settings.half_life, token)
        self.slow = Reservoir(settings.folder, "slow", slow, slow_bytes, settings.half_life, token)
        self.slow_from = math.inf
        """Seconds that a call must exceed to be one of the slowest."""
        self.ledger = Ledger(settings.folder, token)
        self.started = False
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="npumon tap", daemon=True)
        self._queue: queue.SimpleQueue[Sample | _Complaint | None] = queue.SimpleQueue()
        self._told: set[tuple[object, ...]] = set()
        self._made_folder = False
        self._patience = PATIENCE

    # ------------------------------------------------------------------------------------- for any thread

    def start(self) -> None:
        """Start the thread, once; if there is none to be had, say so and go without."""
        if not self._starting.acquire(blocking=False):
            return
        self.started = True
        this = weakref.ref(self)
        atexit.register(_close, this)
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            # Its forked children leave past atexit, or forget what was registered before their main function.
            util.Finalize(None, _close, args=(this,), exitpriority=0)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread to be had
            self._tell(_Complaint("nothing is kept", error))

    @property
    def busy(self) -> bool:
        """Whether as many samples wait as may."""
        return self._queue.qsize() >= WAITING

    def keep(self, sample: Sample) -> None:
        """Hand over a sample; its arrays are the writer's from now on."""
        self._queue.put(sample)

    def complain(self, what: str, error: Exception) -> None:
        """Have it logged, if nothing of its kind has been."""
        complaint = _Complaint(what, error.with_traceback(None))  # whose frames hold what was offered
        if not self.busy and complaint.kind not in self._told:
            self._queue.put(complaint)

    def stop(self) -> None:
        """Let the thread end when it has written what waits."""
        self._queue.put(None)

    def close(self) -> None:
        """As :meth:`stop`, and wait for it, for :data:`PATIENCE` at most; no second time, as at a process's end."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self.stop()
            patience, self._patience = self._patience, 0.0
            self._thread.join(patience)

    # ------------------------------------------------------------------------------------- its own thread

    def _work(self) -> None:
        self._look()
        pause = FIRST_PAUSE
        due = time.monotonic() + pause
        while self._serve(due):
            if time.monotonic() >= due:
                self._look()
                pause = min(2 * pause, LONGEST_PAUSE)
                due = time.monotonic() + pause
        self._look()

    def _serve(self, until: float) -> bool:
        """Wait for one item, ``until`` then at most, and see to it; whether more are to come."""
        try:
            item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return True
        if isinstance(item, Sample):
            self._keep(item)
        elif isinstance(item, _Complaint):
            self._tell(item)
        return item is not None

    def _keep(self, sample: Sample) -> None:
        redact, largest = self._settings.redact, self._settings.largest
        try:
            feeds = sample.feeds if redact is None else redact(sample.feeds)
            if feeds is not None and (arrays := acceptable(feeds, largest)):
                sample.reservoir.put(sample.rank, sample.timestamp, partial(save, arrays), self._settings.mode)
        except BaseException as error:  # also a hook's SystemExit: the thread goes on
            self.ledger.drop()
            self._tell(_Complaint("a sample was not kept", error))

    def _look(self) -> None:
        """What is done now and then: learn what is slow and what the folder holds, write down the counts."""
        bins = self.ledger.bins()
        if sum(bins) >= LEARN:
            self.slow_from = slower_than(bins, SLOW_FROM)
        folder, mode = self._settings.folder, self._settings.mode
        for what, do in (
            ("there is no folder", self._make_folder),
            ("the folder was not looked through", partial(sweep, folder)),
            ("the folder was not looked through", self.fair.prune),
            ("the folder was not looked through", self.slow.prune),
            ("calls were not written down", partial(self.ledger.write, mode)),
        ):
            try:
                do()
            except Exception as error:
                self._tell(_Complaint(what, error))

    def _make_folder(self) -> None:
        # With parents only once: what has gone since may be what was mounted there.
        mode = self._settings.mode
        searchable = 0o700 | mode & 0o044 | (mode & 0o044) >> 2
        folder = self._settings.folder
        try:
            folder.mkdir(mode=searchable, parents=not self._made_folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        else:
            folder.chmod(folder.stat().st_mode | searchable)  # what the application's umask took
        self._made_folder = True

    def _tell(self, complaint: _Complaint) -> None:
        if complaint.kind not in self._told:
            self._told.add(complaint.kind)
            what, error = complaint
            with contextlib.suppress(Exception):  # the application's handlers are not ours to trust
                _log.warning("%s: %s: %s: %s", self._settings.folder, what, type(error).__name__, str(error))


def _close(writer: weakref.ref[Writer]) -> None:
    if (alive := writer()) is not None:
        alive.close()
