"""How a probe that nobody needs any more goes, whatever its native code is doing, and whom the kernel takes first.

The parent closes the request pipe, or dies and the kernel closes it. The running inference is then allowed to end:
killing it in the middle leaks maps on the DSP. One that hangs must not stay for ever, and a daemon that was started
again must find the accelerator free.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from pathlib import Path

from monitor.wire import STRAYS

LAST_WORD = 30.0
"""Seconds an inference may go on after the parent has gone: as long as a living parent waits for it."""
LOCKED = 600.0
"""Seconds that native code may hold the interpreter's lock; no thread in here notices anything meanwhile, so that an
orphan that hangs with it stays for as long."""
EXPENDABLE = 1000
"""The probe's oom_score_adj: of all processes on the board the kernel is to take this one first."""


def hold(requests: int) -> threading.Event:
    """Tie this process to the pipe whose reading end is ``requests``; the event is set once the other end is closed."""
    for number in STRAYS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STRAYS)  # held back until now, as the parent wanted it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(EXPENDABLE))
    abandoned = threading.Event()
    threading.Thread(target=_watch, args=(requests, abandoned), daemon=True).start()
    return abandoned


def let_go() -> None:
    """Leave at once, without teardown: native destructors of a device that is gone can hang."""
    os._exit(0)


def _watch(requests: int, abandoned: threading.Event) -> None:
    """Wait for the hang-up.

    What does not end by itself is ended by the kernel's timer, which needs nothing of the interpreter. It is wound up
    again and again, so that it also goes off in a process where this thread does not get its turn any more.
    """
    poll = select.poll()
    poll.register(requests, 0)  # hang-up is always reported
    signal.setitimer(signal.ITIMER_REAL, LOCKED)
    while not poll.poll(LOCKED / 10 * 1000):
        signal.setitimer(signal.ITIMER_REAL, LOCKED)
    abandoned.set()
    signal.setitimer(signal.ITIMER_REAL, LAST_WORD)
