"""The calls of one process, counted, and the file that tells of them (docs/capture.md has its format).

The file is replaced as a whole, so that a reader sees an old or a new one. Counts only grow as long as the process
lives; the next one writes another file. Files of processes that are gone are let go after a day, and beyond a number of
them. A power cut may take the last one, which is no loss that would justify making the disk wait twice a minute.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from monitor.bins import EDGES, bin_of, shapes_of
from monitor.capture.arrays import shape_of
from monitor.capture.files import whole

PATTERN: Final = "calls-*.json"
VERSION: Final = 1
"""To be raised with :data:`monitor.bins.EDGES`, too."""
MOST_FILES: Final = 64
LONGEST_KEPT: Final = 86_400.0
REFRESH: Final = 3600.0
"""Seconds after which a file is written again although nothing was counted: its process lives."""
MOST_SHAPES: Final = 64
OTHER_SHAPES: Final = "other"
MOST_TEXT: Final = 32 * 1024
"""Characters that the names of all shapes may have: a decoder has a hundred inputs, and new shapes with every token."""


class Ledger:
    """What is counted in this process, from any thread, and its file in ``folder``, told from others by ``token``."""

    def __init__(self, folder: Path, token: str) -> None:
        # Reentrant: a signal's handler may make a call, too, and must not wait for what it interrupted.
        self._lock = threading.RLock()
        self._bins = [0] * (len(EDGES) + 1)
        self._seconds = 0.0
        self._shapes: dict[str, int] = {}
        self._text = 0
        self._dropped = 0
        self._begun = time.monotonic()
        self._file = folder / f"calls-{os.getpid()}-{token}.json"
        self._written: tuple[Mapping[str, Any], float] | None = None

    def count(self, seconds: float) -> None:
        """Count one call. Raises ``ValueError`` if ``seconds`` is no duration."""
        if not 0.0 <= seconds < math.inf:
            raise ValueError(f"it took {seconds} s; expected a finite number from 0")
        number = bin_of(seconds)
        with self._lock:
            self._bins[number] += 1
            self._seconds += float(seconds)

    def count_shapes(self, feeds: Mapping[str, Any]) -> None:
        """Count the shapes of one of the calls that stand for all."""
        shapes = shapes_of((name, shape_of(value)) for name, value in feeds.items())
        with self._lock:
            if shapes not in self._shapes:
                if len(self._shapes) < MOST_SHAPES and self._text + len(shapes) <= MOST_TEXT:
                    self._text += len(shapes)
                else:
                    shapes = OTHER_SHAPES
            self._shapes[shapes] = self._shapes.get(shapes, 0) + 1

    def drop(self) -> None:
        """Count a sample that was to be kept and is not."""
        with self._lock:
            self._dropped += 1

    def bins(self) -> tuple[int, ...]:
        """Calls so far, by :data:`monitor.bins.EDGES`."""
        with self._lock:
            return tuple(self._bins)

    def write(self, mode: int) -> None:
        """Bring the file up to date, if there is news. Raises ``OSError``."""
        with self._lock:
            calls: dict[str, Any] = {"bins": tuple(self._bins), "seconds": self._seconds}
            calls |= {"shapes": dict(self._shapes), "dropped": self._dropped}
        now = time.monotonic()
        if self._written is not None and self._written[0] == calls and now - self._written[1] < REFRESH:
            return
        until = time.time()  # the beginning by the same clock, which may have been set since
        document = {"version": VERSION, "since": until - (now - self._begun), "until": until, **calls}
        with whole(self._file, mode) as stream:
            stream.write(json.dumps(document, separators=(",", ":")).encode())
        self._written = (calls, now)
        self._let_go()

    def _let_go(self) -> None:
        found: list[tuple[float, Path]] = []
        for file in self._file.parent.glob(PATTERN):
            with contextlib.suppress(FileNotFoundError):
                found.append((math.inf if file == self._file else file.lstat().st_mtime, file))
        found.sort(reverse=True)
        now = time.time()
        for number, (written, file) in enumerate(found):
            if number >= MOST_FILES or now - written > LONGEST_KEPT:
                with contextlib.suppress(OSError):  # gone already, or none of a tap's
                    file.unlink()
