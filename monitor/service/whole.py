"""A file for others to read, written whole or not at all: a reader sees the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``file``, for every user to read. Raises :class:`OSError`; it is then as before.

    What could not be finished is not left behind.
    """
    descriptor, scratch = tempfile.mkstemp(prefix=f".{file.name}", dir=file.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(descriptor, 0o644)
        os.replace(scratch, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
