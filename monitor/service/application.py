"""What the application counted of its own calls, read beside the inputs that it kept (``monitor.capture``).

Each of its processes has a file whose counts only grow. What is new since the last look is what counts here: a daemon
that starts takes what is there for the past, a process that starts is new as a whole. The processes stay apart, since
one of them may have lost the accelerator alone.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from monitor.bins import EDGES
from monitor.records import Calls, Ledger

PATTERN: Final = "calls-*.json"
MOST_FILES: Final = 256
MOST_SHAPES: Final = 64
ENOUGH_SHAPES: Final = 100
"""Calls whose shapes are remembered: the application tells those of one in a hundred, which may be none a check."""
LARGEST: Final = 256 * 1024
"""Bytes of the largest file that is read; a full one has some 40 KB."""


class Application:
    """The application's ledgers in ``folder`` (``models.samples``), looked at once in each check."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: dict[str, Ledger] | None = None
        self._shapes: deque[Counter[str]] = deque()

    def look(self) -> Calls | None:
        """The calls since the last look; ``None`` if nobody counts, or this is the first one."""
        if self._folder is None:
            return None
        before, present = self._seen, _ledgers(self._folder)
        # One that was missing for a moment, as after a step of the clock, comes back with what was counted before.
        gone = {name: ledger for name, ledger in (before or {}).items() if name not in present}
        self._seen = present | dict(list(gone.items())[:MOST_FILES])
        if before is None or not present:
            return None
        bins, shapes, seconds = Counter[int](), Counter[str](), 0.0
        processes: dict[str, dict[int, int]] = {}
        for name, now in present.items():
            then = before.get(name)
            if then is None or sum(then.bins) > sum(now.bins):  # a process that is new, be it by an old name
                then = Ledger(1, 0.0, 0.0, (0,) * len(now.bins), 0.0)
            more = Counter(dict(enumerate(now.bins))) - Counter(dict(enumerate(then.bins)))
            bins += more
            shapes += Counter(now.shapes) - Counter(then.shapes)
            seconds += now.seconds - then.seconds
            if more:
                processes[name.removesuffix(".json")] = dict(more)
        return Calls(dict(bins), max(seconds, 0.0), self._lately(shapes), processes)

    def _lately(self, shapes: Counter[str]) -> dict[str, int]:
        """The shapes of the last calls: of as many looks as a share of them takes to mean something."""
        if shapes:
            self._shapes.append(shapes)
        while sum(one.total() for one in islice(self._shapes, 1, None)) >= ENOUGH_SHAPES:
            self._shapes.popleft()
        return dict(sum(self._shapes, Counter[str]()).most_common(MOST_SHAPES))


def _ledgers(folder: Path) -> dict[str, Ledger]:
    found: dict[str, Ledger] = {}
    try:
        files = sorted(folder.glob(PATTERN))[:MOST_FILES]
    except OSError:
        return found
    for file in files:
        ledger = _read(file)
        if ledger is not None:
            found[file.name] = ledger
    return found


def _read(file: Path) -> Ledger | None:
    """What a process wrote; ``None`` if the file has gone, is no ledger or has other bins."""
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            ledger = msgspec.json.decode(stream.read(LARGEST), type=Ledger)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return ledger if len(ledger.bins) == len(EDGES) + 1 and min(ledger.bins) >= 0 else None


def _without_waiting(path: str, flags: int) -> int:
    """As ``os.open``; a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
