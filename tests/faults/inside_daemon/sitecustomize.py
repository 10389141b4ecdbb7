"""What tests do to a daemon and cannot from outside; all else in it is as it is.

``NPUMON_TEST_CLOCK`` names a file with a shift in seconds and a rate, which the wall clock follows: see
``tests/faults/apart.py``. ``NPUMON_TEST_CUT`` is a power cut between the state and the log. The interpreter imports
this at its start where this folder is on PYTHONPATH.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
from pathlib import Path

FILE = os.environ.get("NPUMON_TEST_CLOCK")
true = time.time


def told() -> float:
    """UTC seconds as the test wants them."""
    assert FILE is not None
    shift, rate = map(float, Path(FILE).read_text().split())
    return shift + rate * true()


class Told(datetime.datetime):
    """Knows no other now."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Told:
        """As the clock says."""
        return cls.fromtimestamp(told(), tz)

    @classmethod
    def utcnow(cls) -> Told:
        """As the clock says."""
        return cls.fromtimestamp(told(), datetime.UTC).replace(tzinfo=None)


if FILE:
    time.time = told
    time.time_ns = lambda: int(told() * 1e9)
    datetime.datetime = Told  # type: ignore[misc]

if os.environ.get("NPUMON_TEST_CUT") and "monitor" in sys.orig_argv:
    # The moment between state and log is too short to be met from outside.
    from monitor.outputs import events

    def cut(event: object, logger: object) -> None:
        """The power goes before the first event is told."""
        os.kill(0, signal.SIGKILL)

    events.emit = cut
