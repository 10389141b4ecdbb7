"""A daemon with disks, a network or a clock of its own, so that a test can take them away from it and from nobody else.

Namespaces (namespaces(7)) hold the mounts and the network; they take root, or a kernel that lets users make them. There
are none for the wall clock, so that is put between Python and the system in ``inside_daemon/sitecustomize.py``. Nothing
else in the daemon asks for it, and what waits goes by the monotonic clock, which is left alone. (libfaketime 0.9.10
breaks ``clock_nanosleep``, which ``time.sleep`` is made of.)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_MINE: Final = () if os.geteuid() == 0 else ("--map-root-user",)

# Up or down (SIOCSIFFLAGS, netdevice(7)): no ip(8) on a small board.
LOOPBACK = (
    "import fcntl, socket, struct, sys; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14s', b'lo', int(sys.argv[1]), b''))"
)


def _wanting(what: str) -> None:
    pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)


def within(*unshared: str, script: str) -> tuple[str, ...]:
    """The command that runs ``script`` in namespaces of its own (options of unshare(1)), and becomes what follows."""
    attempt = ["unshare", *_MINE, *unshared, "true"]
    if shutil.which("unshare") is None or subprocess.run(attempt, check=False).returncode:
        _wanting("no namespaces of one's own on this machine")
    return ("unshare", *_MINE, *unshared, "sh", "-ec", f'{script}\nexec "$@"', "sh")


def disk(path: Path, kib: int, more: str = "") -> tuple[str, ...]:
    """:func:`within` mounts in which ``path``, a folder, is a disk of so many KiB that holds what is in it now."""
    held, at = path.with_name(f"{path.name}.held"), shlex.quote(str(path))
    shutil.copytree(path, held, dirs_exist_ok=True)
    mount = f"mount -t tmpfs -o size={kib}k,mode=700 tmpfs {at}\ncp -a {shlex.quote(str(held))}/. {at}"
    return within("--mount", script=f"{mount}\n{more}")


def seen(pid: int, path: Path) -> Path:
    """``path`` as the process sees it."""
    return Path(f"/proc/{pid}/root{path}")


def fill(folder: Path) -> Path:
    """Take what is left of a disk, to the last byte; the file that does."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\x00" * size)
            except OSError:
                continue
    return ballast


class Clock:
    """The wall clock of a daemon; ``environment`` is what the daemon needs to go by it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        inside = Path(__file__).with_name("inside_daemon")
        self.environment = {"PYTHONPATH": str(inside), "NPUMON_TEST_CLOCK": str(self._file)}
        self.tell(0.0)

    def tell(self, shift: float, rate: float = 1.0) -> None:
        """From now on the clock is ``shift`` seconds ahead; at a ``rate`` of 0 it stands still there, after 1970."""
        scratch = self._file.with_name("clock.new")
        scratch.write_text(f"{shift!r} {rate!r}")
        scratch.rename(self._file)
