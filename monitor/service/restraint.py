"""When a check had better come later: the budget is spent, or the board is in distress.

A board that is merely busy is what npumon is to measure on, so the signs are those of a board that does not get on with
its work: all tasks wait for memory at once, or a zone is far hotter than the kernel's governor keeps it. The share of
time in which some task waits for a CPU is no such sign: it is near 100 % on a board that makes full use of its cores.
For a board in distress a check is postponed three times at most, and then made, since contention is a thing to see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from monitor.records import Postponed
from monitor.service.readings import distress

FRACTION: Final = 0.25
"""Part of the interval by which a check is postponed, so that three times still leave the next one its place."""
MOST: Final = 3
"""Times in a row that a board in distress postpones a check."""


class Hold(NamedTuple):
    """Why a check waits, and for how many seconds. ``detail`` is for the log; ``again``: it was told before."""

    reason: Postponed
    seconds: float
    detail: str
    again: bool = False


class Restraint:
    """Holds one model's checks back. ``wait`` gives the seconds until the budget can pay for one."""

    def __init__(
        self, wait: Callable[[], float], distress: Callable[[], tuple[Postponed, str] | None] = distress
    ) -> None:
        self._wait = wait
        self._distress = distress
        self._held = 0
        self._waited = False
        self._checked = False

    def hold(self, interval: float) -> Hold | None:
        """Why the check that is due is not made now; ``None`` if it is. ``interval`` is in seconds."""
        if (wait := self._wait()) > 0:
            again, self._waited = self._waited, True
            return Hold("duty", wait, "max_duty does not pay for a check yet", again)
        # A model of which nothing is known yet is looked at whatever the board is going through.
        if not self._checked or self._held >= MOST or (found := self._distress()) is None:
            return None
        self._held += 1
        return Hold(found[0], FRACTION * interval, found[1])

    def checked(self) -> None:
        """A check was made."""
        self._held, self._waited, self._checked = 0, False, True
