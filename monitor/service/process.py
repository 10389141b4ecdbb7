"""What the kernel knows about a probe's process, and how all that it started is ended.

The parent asks the kernel because a child that has gone wrong cannot be asked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from monitor.wire import STRAYS

MIB: Final = 2**20
MOST_THREADS: Final = 128 + 4 * (os.cpu_count() or 1)
"""Threads of one process; a probe has some 15, and the runtime adds one or two a core. The unit allows 256 tasks."""
_STATES: Final = {
    "D": ", stuck in the kernel, most likely in a driver",
    "R": ", computing",
    "S": ", waiting",
    "T": ", stopped by a signal",
    "t": ", held by a debugger",
}


class Excess(NamedTuple):
    """What a process takes too much of, and what mends that."""

    detail: str
    mend: str


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """A process that is started meanwhile gets no stray signal before it has learned to ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STRAYS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def resident(pid: int) -> int | None:
    """Resident memory in bytes; ``None`` if there is no such process."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") or None
    except OSError:
        return None


def half_the_memory() -> int:
    """Half of the board's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def excess(pid: int, memory: int) -> Excess | None:
    """What process ``pid`` takes too much of: ``memory`` bytes of its own are allowed, and ``MOST_THREADS``.

    Its own are the pages that are backed by no file (``RssAnon``, proc(5)): the kernel cannot take the others' place
    back but by swapping or killing. A limit on address space would not do: runtimes and drivers map far more than
    they use.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status)
    except OSError:
        return None
    own = int(fields.get("RssAnon", "0").split()[0]) * 1024
    if own > memory:
        detail = f"it took {own // MIB} MiB of memory, {memory // MIB} MiB are allowed"
        return Excess(detail, "raise `memory` if the model needs it; if it grew from check to check, the runtime leaks")
    threads = int(fields.get("Threads", "0"))
    if threads > MOST_THREADS:
        return Excess(f"it had {threads} threads, {MOST_THREADS} are allowed", "look at `session`: its thread settings")
    return None


def doing(pid: int) -> str:
    """What the process is doing, to end the sentence of a failure."""
    try:
        return _STATES.get(_stat(pid)[0], "")
    except (OSError, IndexError):
        return ""


def kill_session(leader: int) -> set[int]:
    """Kill every process of the session that ``leader``, not reaped yet, has begun, and its group first.

    What a process of it forks meanwhile is found by the next look. Processes that began a session of their own are
    beyond reach; under systemd they end with the unit. Returns those that are of another group.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    others: set[int] = set()
    for _ in range(10):
        members = {pid for pid in _pids() if _session(pid) == leader}
        others |= members
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            break
    return others


def reap(leader: int, others: set[int], deadline: float) -> None:
    """Reap the leader's own children where they fell to this process: as a container's first one it inherits them."""
    for pid in (-leader, *others):
        with contextlib.suppress(ChildProcessError):
            # a group is reaped one by one, until it is empty
            while time.monotonic() < deadline:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid: int) -> int | None:
    """The session of a process that still runs."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return int(fields[3]) if fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from ``state`` on: behind the name, which may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].decode().split()
