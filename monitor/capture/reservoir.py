"""A folder as a fair sample of what was offered to any number of processes, without one talking to another.

Each call draws a random rank, and the folder holds those with the lowest: a bottom-k sample, which is uniform and can
be merged (Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007). Ranks age by forward decay (Cormode et
al., "Forward decay: a practical time decay model for streaming systems", 2009): a call of a half-life ago has half the
chance of one of now, so that the sample follows what production sees. Rank and time are in the file's name; the folder
is the only state there is, and a process that dies leaves nothing to repair.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from monitor.capture.files import whole

_NAME: Final = re.compile(r"(fair|slow)-([0-9]{1,15})-([0-9]{1,9})-([0-9a-f]+-[0-9]+)\.npz")
_SCALE: Final = 1e6
_SHIFT: Final = 40.0
"""Makes a rank positive: it is the logarithm of an exponential variate from a 53-bit uniform one, -39 to 4."""
FUTURE: Final = 3600.0
"""Seconds by which a file may be ahead of the clock before the clock counts as set back and the file as made now."""


class _Kept(NamedTuple):
    key: float  # the lower, the longer it stays
    path: Path
    size: int


class Reservoir:
    """At most ``keep`` files and ``most_bytes`` bytes of one ``kind`` ("fair" or "slow") in ``folder``.

    Each of several processes exceeds that by the one file that it has just written. ``half_life`` is in seconds; all
    processes should agree on it. ``token`` is this process's part of the names. Not for several threads at once.
    """

    def __init__(self, folder: Path, kind: str, keep: int, most_bytes: int, half_life: float, token: str) -> None:
        self._folder, self._kind, self._keep, self._most_bytes = folder, kind, keep, most_bytes
        self._decay = math.log(2) / half_life
        self._token, self._number = token, 0
        self._largest = 0
        self.threshold = math.inf
        """The key that a new file must stay below; as of the last look at the folder, so a hint that saves work."""

    def key(self, rank: int, timestamp: float) -> float:
        """What the call of this rank and time (UTC seconds) is ordered by."""
        return rank / _SCALE - self._decay * timestamp

    def put(self, rank: int, timestamp: float, write: Callable[[BinaryIO], None], mode: int) -> None:
        """Write one file, then let go what is too much. Raises ``OSError``, and what ``write`` does."""
        self._number += 1
        name = f"{self._kind}-{timestamp * 1000:.0f}-{rank}-{self._token}-{self._number}.npz"
        with whole(self._folder / name, mode) as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut leaves its name and nothing in it
        self.prune()

    def prune(self) -> None:
        """Look at the folder: remove what is beyond the bounds, and learn the threshold. Raises ``OSError``."""
        # One that would not fit alone (the bounds have changed) must not stand before those that do.
        kept = sorted(self._kept(), key=lambda one: (one.size > self._most_bytes, one.key))
        size, count = 0, 0
        while count < min(len(kept), self._keep) and size + kept[count].size <= self._most_bytes:
            size += kept[count].size
            count += 1
        for one in kept[count:]:
            one.path.unlink(missing_ok=True)
        self._largest = max((self._largest, *(one.size for one in kept)))
        full = count == self._keep or size + self._largest > self._most_bytes
        self.threshold = kept[count - 1].key if count and full else math.inf

    def _kept(self) -> list[_Kept]:
        now = time.time()
        found: list[_Kept] = []
        for name in os.listdir(self._folder):
            match = _NAME.fullmatch(name)
            if match and match[1] == self._kind:
                # Another process may take any file away at any moment.
                with contextlib.suppress(FileNotFoundError):
                    found.append(self._read(self._folder / name, match, now))
        return found

    def _read(self, path: Path, match: re.Match[str], now: float) -> _Kept:
        timestamp = int(match[2]) / 1000
        if timestamp > now + FUTURE:
            timestamp = now
            path = path.rename(path.with_name(f"{match[1]}-{now * 1000:.0f}-{match[3]}-{match[4]}.npz"))
        return _Kept(self.key(int(match[3]), timestamp), path, path.stat().st_size)


def rank(uniform: float) -> int:
    """The rank of a call from its random number in [0, 1)."""
    return round((math.log(-math.log1p(-max(uniform, 1e-17))) + _SHIFT) * _SCALE)
