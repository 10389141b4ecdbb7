"""How long npumon may keep the accelerator busy: a budget that all models share, so that no probe becomes a load.

Credit accrues with monotonic time, ``share`` seconds a second, the same for each model (a token bucket each). A bucket
that is full passes on what flows into it, so that many small models pay for a large one. What was spent beyond the
credit, such as an audit, is a debt that later checks wait off. Over any stretch of time the replays of all models
therefore take ``share`` of it, and what had been saved up before.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Final

SAVED: Final = 300.0
"""Seconds whose credit can be saved up: at a share of 2 %, 6 s, which pays for a closer look at a 30 ms model."""
WINDOW: Final = 600.0
"""Seconds over which the share that was really spent is told."""
GRAIN: Final = 1.0
"""Seconds in which what is spent is told as one: however often models are checked, what is remembered is bounded."""
_EPSILON: Final = 1e-9


class Duty:
    """The budget of one service. ``share`` is of wall time; ``clock`` is monotonic, in seconds.

    Accounts are used by whoever checks, :meth:`ratio` by whoever scrapes: all methods may be called from any thread.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._share = share
        self._at = clock()
        self._accounts: dict[str, Account] = {}
        self._spent: deque[tuple[float, float]] = deque()

    def account(self, name: str) -> Account:
        """The account of this model: the one that it has, or a new one. A new one is full: nothing was spent yet."""
        with self._lock:
            self._accrue()
            if name not in self._accounts:
                self._accounts[name] = Account(self)
                self._spill()  # each bucket is smaller the more there are
            return self._accounts[name]

    def adopt(self, share: float, names: Collection[str]) -> None:
        """Go on with another share, and with the accounts of these models only."""
        with self._lock:
            self._accrue()
            self._share = share
            self._accounts = {name: account for name, account in self._accounts.items() if name in names}
            self._spill()  # what was saved at a larger share would pay for more than the new one for minutes

    def _spill(self) -> None:
        for account in self._accounts.values():
            account.saved = min(account.saved, self._most(account))

    def ratio(self) -> float:
        """The share of the last ten minutes in which replays and audits kept the accelerator busy."""
        with self._lock:
            self._forget(self._clock())
            return sum(seconds for _, seconds in self._spent) / WINDOW

    def _accrue(self) -> None:
        """Let the time since the last look flow into the buckets that are not full, in equal parts."""
        now = self._clock()
        inflow, self._at = self._share * (now - self._at), now
        hungry = list(self._accounts.values())
        while hungry and inflow > _EPSILON:
            part = inflow / len(hungry)
            for account in hungry:
                taken = min(part, max(0.0, self._most(account) - account.saved))
                account.saved += taken
                inflow -= taken
            hungry = [account for account in hungry if account.saved < self._most(account) - _EPSILON]

    def _most(self, account: Account) -> float:
        # A model whose smallest check costs more than the usual bucket holds would never be checked again.
        return max(self._share * SAVED / len(self._accounts), account.least)

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0][0] <= now - WINDOW:
            self._spent.popleft()

    def credit(self, account: Account) -> float:
        with self._lock:
            self._accrue()
            return account.saved

    def spend(self, account: Account, seconds: float) -> None:
        with self._lock:
            self._accrue()
            account.saved -= seconds
            if self._spent and self._at - self._spent[-1][0] < GRAIN:
                began, before = self._spent.pop()
                self._spent.append((began, before + seconds))
            else:
                self._spent.append((self._at, seconds))
            self._forget(self._at)

    def wait(self, account: Account, cost: float) -> float:
        with self._lock:
            account.least = cost
            self._accrue()
            return max(0.0, cost - account.saved) * len(self._accounts) / self._share


class Account:
    """One model's part of a :class:`Duty`, in seconds of accelerator time."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self.saved = math.inf
        self.least = 0.0

    def credit(self) -> float:
        """Seconds that may be spent now; negative while a debt is waited off."""
        return self._duty.credit(self)

    def spend(self, seconds: float) -> None:
        """Note that the accelerator was busy for so long."""
        self._duty.spend(self, seconds)

    def wait(self, cost: float) -> float:
        """Seconds until ``cost``, the smallest that a check can do with, can be paid; fewer if others leave more."""
        return self._duty.wait(self, cost)
