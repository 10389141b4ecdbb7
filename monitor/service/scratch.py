"""A folder for one probe's temporary files that does not outlive it, even if nobody is left to remove it.

A daemon that is killed cannot tidy up, and boards' ``/tmp`` is memory. So a folder is locked for as long as the daemon
or its probe lives, and whoever makes one later removes those that nobody locks any more. A board with one disk, full
or read-only, has no room in ``/tmp`` either, and is to be measured all the same: then the folder is in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PREFIX: Final = "npumon-scratch-"
MEMORY: Final = "/dev/shm"
SETTLED: Final = 60.0
"""Seconds since its last change after which an unlocked folder is nobody's: before, it may be about to be locked."""


class Scratch(NamedTuple):
    """An existing folder, and the descriptor that locks it, for the child to inherit."""

    path: str
    lock: int


@contextlib.contextmanager
def scratch() -> Iterator[Scratch]:
    """A new folder, removed at the end with all that is in it. Raises :class:`OSError` if none can be made."""
    _sweep()
    with _made() as path:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Scratch(path, lock)
        finally:
            os.close(lock)


def _made() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError:
        return tempfile.TemporaryDirectory(prefix=PREFIX, dir=MEMORY, ignore_cleanup_errors=True)


def _sweep() -> None:
    """Remove what daemons that were killed have left."""
    places = {MEMORY}
    with contextlib.suppress(OSError):  # there is none that can be written to
        places.add(tempfile.gettempdir())
    for folder in (folder for place in places for folder in Path(place).glob(f"{PREFIX}*")):
        # not ours to open, gone meanwhile, or locked: left alone
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(lock).st_mtime > SETTLED:
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
