"""The probe's place in the queue for CPU and disk: behind everybody else, but for what is timed.

A replay must wait for a CPU as long as the application's own inference would, no longer and no less. All else that a
probe does can wait: importing, reading a model, compiling it, studying it, comparing outputs. On Linux niceness and I/O
priority belong to a thread and pass to the threads that it starts, so that the runtime's thread pools are made with
those of whoever made the session. So all threads of the process are moved, each time.

A process may always go back in the queue. Coming forward again takes RLIMIT_NICE (systemd's LimitNICE=) or a
capability. A probe that may not leaves its niceness alone: a session that stays niced would measure another latency.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import threading
from collections.abc import Callable, Iterator
from typing import Final

BEHIND: Final = 10
"""The niceness of what can wait: about a tenth of the weight of niceness 0 (sched(7)); with 19 a study that shares its
core would take 70 times as long, and run into its timeout."""
_IDLE: Final = 3 << 13  # IOPRIO_CLASS_IDLE: the disk when nobody else wants it, see ioprio_set(2)
_WHO_PROCESS: Final = 1
_CALLS: Final = {"x86_64": (251, 252), "aarch64": (30, 31)}  # ioprio_set, ioprio_get
_PASSES: Final = 3  # over the threads, for those that are started meanwhile


def step_back() -> None:
    """Put this process behind the others, for good: its threads, and all that they start."""
    _move(lambda task: _nice(task, max(BEHIND, _niceness(task))))
    _move(lambda task: _set_ioprio(task, _IDLE))


class Priority:
    """The two places of a process that times something: its own, from when this was made, and the one behind.

    Made by the main thread before there are others. Threads whose niceness somebody else has set are left alone.
    """

    def __init__(self) -> None:
        self._niceness = _niceness(0)
        self._ioprio = _ioprio(0)
        self._returns = self._niceness < BEHIND and _can_return()
        self._behind()

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """The process has its own priority meanwhile, with all its threads."""
        # Other threads first: once the calling one has come forward, so have all.
        if self._ioprio is not None:
            ioprio = self._ioprio
            _move(lambda task: _set_ioprio(task, ioprio))
        if self._returns:
            _move(lambda task: _change(task, BEHIND, self._niceness))
        try:
            yield
        finally:
            self._behind()

    def _behind(self) -> None:
        if self._returns:
            _move(lambda task: _change(task, self._niceness, BEHIND))
        if self._ioprio is not None:
            _move(lambda task: _set_ioprio(task, _IDLE))


def _move(move: Callable[[int], None]) -> None:
    """``move`` every thread of this process, the calling one last."""
    own = threading.get_native_id()
    moved: set[int] = set()
    for _ in range(_PASSES):
        tasks = {int(name) for name in os.listdir("/proc/self/task")} - moved - {own}
        for task in tasks:
            with contextlib.suppress(OSError):  # it has just ended
                move(task)
        moved |= tasks
        if not tasks:
            break
    with contextlib.suppress(OSError):
        move(own)


def _change(task: int, old: int, new: int) -> None:
    if _niceness(task) == old:
        _nice(task, new)


def _niceness(task: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, task)


def _nice(task: int, niceness: int) -> None:
    os.setpriority(os.PRIO_PROCESS, task, niceness)


def _can_return() -> bool:
    """Whether a thread that has stepped back may come forward again: found out by one that is not needed any more."""
    returned = []

    def there_and_back() -> None:
        own = _niceness(0)
        with contextlib.suppress(OSError):
            _nice(0, own + 1)
            _nice(0, own)
            returned.append(True)

    thread = threading.Thread(target=there_and_back)
    thread.start()
    thread.join()
    return bool(returned)


def _set_ioprio(task: int, ioprio: int) -> None:
    _ioprio_call(0, task, ioprio)


def _ioprio(task: int) -> int | None:
    """Class and level as ioprio_set takes them; ``None`` where the call cannot be made."""
    found = _ioprio_call(1, task)
    return found if found >= 0 else None


def _ioprio_call(which: int, *arguments: int) -> int:
    """No C library has a function for it. -1 if the kernel refuses, or its number is not known on this machine."""
    numbers = _CALLS.get(platform.machine())
    if numbers is None:
        return -1
    return int(_libc().syscall(numbers[which], _WHO_PROCESS, *arguments))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
