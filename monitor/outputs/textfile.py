"""The exposition as a file, for boards whose node_exporter is scraped already: its textfile collector takes it along.

The collector reads whatever ends in ``.prom`` at each scrape, so that the file must appear whole, and under no other
name that ends so. It has npumon's series and nothing else: one that is in two files, or that node_exporter has itself
(``process_*``, ``go_*``), would fail its whole scrape.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from monitor.errors import UsageError
from monitor.outputs.log import logger

SUFFIX: Final = ".prom"
_MODE: Final = 0o644  # whatever the umask is: node_exporter runs as another user


class Textfile:
    """The file at ``path``. Not thread-safe.

    Raises :class:`UsageError` if node_exporter would not read it there, or there is no such folder. What fails later
    (a full disk, a folder that has gone) is logged when it begins and when it ends.
    """

    def __init__(self, path: Path) -> None:
        mistake = _mistake(path)
        if mistake:
            raise UsageError(f"--textfile {path}: {mistake}")
        self._path = path
        self._temporary = path.with_name(f"{path.name}.tmp")
        self._exists = False
        self._failures = 0

    def write(self, text: bytes) -> None:
        """Put ``text`` (text format 0.0.4, without timestamps) in the place of what is there, in one step."""
        try:
            _write(self._temporary, text)
            self._temporary.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            if not self._failures:
                logger.error("textfile_not_written", file=str(self._path), error=error.strerror)
            self._failures += 1
            return
        self._exists = True
        if self._failures:
            logger.info("textfile_written", file=str(self._path), failures=self._failures)
            self._failures = 0

    def remove(self) -> None:
        """Take the file away if it is ours, or a daemon that has ended would look alive."""
        if not self._exists:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("textfile_not_removed", file=str(self._path), error=error.strerror)


def _mistake(path: Path) -> str | None:
    if path.suffix != SUFFIX:
        return f"node_exporter reads files that end in {SUFFIX} only; write --textfile {path}{SUFFIX}"
    if path.is_dir():
        return f"is a folder; name a file in it, as in --textfile {path / ('npumon' + SUFFIX)}"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; create it, or name the one that node_exporter reads"
    return None


def _write(path: Path, text: bytes) -> None:
    # No fsync: after a crash of the board the file is old at best, and the next check writes it anew.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(path, flags, _MODE), "wb") as file:
        os.fchmod(file.fileno(), _MODE)
        file.write(text)
