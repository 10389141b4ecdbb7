"""Signals as messages: what systemd, a terminal or an engineer wants of the daemon, in the order it came.

A handler interrupts the main thread anywhere, also in the middle of a lock of the standard library, and a second
signal interrupts the handler. So handlers only put a number into a queue that is made for that, and the main thread
takes it out when it is ready: no signal is lost while another is being served, and none can lock the process up.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
from types import FrameType
from typing import Literal

Wish = Literal["stop", "reload"]


class Signals:
    """SIGTERM and SIGINT stop, SIGHUP reloads; caught from the making on, which only the main thread may do.

    SIGHUP has a second meaning, a terminal that closed. A daemon that was started from one, and not with ``nohup``,
    still ends with it.
    """

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._tied = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and _has_terminal()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._receive)

    def wait(self, seconds: float) -> Wish | None:
        """What was wished for until now, or else is within ``seconds``; a stop outweighs reloads, and those are one."""
        numbers = set[int]()
        with contextlib.suppress(queue.Empty):
            numbers.add(self._received.get(timeout=seconds))
            while True:
                numbers.add(self._received.get_nowait())
        if not numbers:
            return None
        return "stop" if numbers != {signal.SIGHUP} or (self._tied and not _has_terminal()) else "reload"

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._received.put(number)


def _has_terminal() -> bool:
    """Whether the process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
