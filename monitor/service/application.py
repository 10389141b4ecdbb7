"""What the application counted of its own calls, read beside the inputs that it kept (``monitor.capture``).

Each of its processes has a file whose counts only grow. What is new since the last look is what counts here: a daemon
that starts takes what is there for the past, a process that starts is new as a whole.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from monitor.bins import EDGES
from monitor.records import Calls, Ledger

PATTERN: Final = "calls-*.json"
MOST_FILES: Final = 256
MOST_SHAPES: Final = 64
LARGEST: Final = 256 * 1024
"""Bytes of the largest file that is read; a full one has some 20 KB."""


class Application:
    """The application's ledgers in ``folder`` (``models.samples``), looked at once in each check."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: dict[str, Ledger] | None = None

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
        for name, now in present.items():
            then = before.get(name)
            if then is not None and sum(then.bins) > sum(now.bins):
                then = None  # another process, by the same name
            bins.update({number: count for number, count in enumerate(now.bins) if count})
            shapes.update(now.shapes)
            seconds += now.seconds
            if then is not None:
                bins.subtract({number: count for number, count in enumerate(then.bins) if count})
                shapes.subtract(then.shapes)
                seconds -= then.seconds
        return Calls(dict(+bins), max(seconds, 0.0), dict((+shapes).most_common(MOST_SHAPES)))


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
        with file.open("rb") as stream:
            ledger = msgspec.json.decode(stream.read(LARGEST), type=Ledger)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return ledger if len(ledger.bins) == len(EDGES) + 1 and min(ledger.bins) >= 0 else None
