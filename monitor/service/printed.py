"""What a child prints: drained so that printing never blocks it, and the end of it kept as evidence."""

from __future__ import annotations

import re
from io import FileIO
from typing import Final

CHUNK: Final = 64 * 1024
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class Printed:
    """The reading end of the child's output, which is non-blocking, and the last ``kept`` bytes that came out of it."""

    def __init__(self, pipe: FileIO, kept: int) -> None:
        self.pipe = pipe
        self._kept = kept
        self.ended = False
        self._tail = bytearray()
        self._fresh = 0

    def take(self) -> int:
        """Read one chunk, if there is one; its length in bytes."""
        chunk = self.pipe.read(CHUNK)
        self.ended = chunk == b""
        self._tail += chunk or b""
        del self._tail[: -self._kept]
        self._fresh += len(chunk or b"")
        return len(chunk or b"")

    def take_rest(self) -> None:
        """Read what is left, and no more than that if a stray grandchild goes on printing."""
        left = 2 * self._kept
        while left > 0 and (taken := self.take()):
            left -= taken

    def answered(self) -> None:
        """What was printed until now belongs to requests that were answered: no evidence of what comes."""
        self.take_rest()
        self._fresh = 0

    @property
    def text(self) -> str:
        return self._tail.decode(errors="replace")

    @property
    def last_line(self) -> str:
        """The last line since the last answer that says anything, without colours, in at most 300 characters."""
        fresh = self._tail[max(0, len(self._tail) - self._fresh) :].decode(errors="replace")
        lines = (_COLOUR.sub("", line).strip() for line in reversed(fresh.splitlines()))
        return "".join(filter(str.isprintable, next(filter(None, lines), "")))[:300]
