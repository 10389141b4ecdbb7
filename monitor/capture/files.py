"""Files that are there whole or not at all, whatever ends the process that writes them, and readable by whom they may.

A file is written under another name and renamed. Its writer holds a lock on it meanwhile, which the kernel takes back
when the writer dies: a half-written file that nobody holds is abandoned. No clock tells that, nor do process ids, which
containers that share a folder give out twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_FRESH: Final = re.compile(r"\.(fair|slow|calls)-.*\.tmp")


@contextlib.contextmanager
def whole(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A stream to write, which becomes ``path`` if the block ends well and goes if it does not. Raises ``OSError``."""
    fresh = path.with_name(f".{path.name}.tmp")
    with os.fdopen(_held(fresh), "wb") as stream:
        try:
            os.fchmod(stream.fileno(), mode)  # whatever the application's umask is
            yield stream
            stream.flush()
            fresh.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise


def sweep(folder: Path) -> None:
    """Remove what writers that have died left half-written. Raises ``OSError`` if ``folder`` cannot be read."""
    with os.scandir(folder) as entries:
        abandoned = [entry.path for entry in entries if _FRESH.fullmatch(entry.name)]
    for path in abandoned:
        # held by its writer, renamed by it just now, or another user's
        with contextlib.suppress(OSError):
            _remove_unless_held(path)


def _held(path: Path) -> int:
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # else it was swept before it was locked
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _remove_unless_held(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(file)
