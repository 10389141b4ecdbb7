"""The timed part of a check: how many replays it makes, and when it looks closer, within what the budget allows.

The number is chosen from the last known median, before a replay is made. Where no median is known, a few replays tell
it. A model that has become slower runs out of time instead, not out of the budget. Five replays are the fewest that a
median can be believed of: what the budget lacks for these, it lends.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from monitor.analysis import latency as latencies
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.records import BoardReading, Failure, Latency, Replays
from monitor.service.duty import Account
from monitor.service.handle import ProbeHandle
from monitor.service.readings import read_state
from monitor.wire import Replay

WARMUPS: Final = 3
FEWEST: Final = 5
"""Replays that a check needs. The median of five is within 3 % where single replays scatter by 5 %."""
MOST_ROUNDS: Final = 5
ROUNDS_BUDGET: Final = 2.0
"""Seconds of replays in one check after which no further round is begun; one round is always made."""


class Timed(NamedTuple):
    """The replays of one check, and the board around them. ``notes`` say what the budget did to them."""

    latency: Latency
    before: BoardReading
    after: BoardReading
    notes: tuple[str, ...]


class Rounds:
    """Replays one model again and again. Without an ``account`` nothing is budgeted, as in a command."""

    def __init__(self, model: Model, account: Account | None) -> None:
        self._model = model
        self._account = account
        self._median: float | None = None
        self._fewest = min(FEWEST, model.replays)
        self._waited = False

    def wait(self) -> float:
        """Seconds until a check can be paid for; 0 if it may be made now."""
        if self._account is None or self._median is None:
            return 0.0
        wait = self._account.wait((WARMUPS + self._fewest) * self._median)
        self._waited = self._waited or wait > 0
        return wait

    def time(self, handle: ProbeHandle, more: Callable[[Latency], bool]) -> Timed:
        """One check's replays. ``more`` says whether another round would tell something; raises as a request does."""
        before, start = read_state(), time.monotonic()
        first, cut = self._first(handle)
        rounds, latency = [first], _summarize([first])
        while len(rounds) < MOST_ROUNDS and time.monotonic() - start < ROUNDS_BUDGET and more(latency):
            count = self._affordable(latency.median_seconds, 0)
            if count < self._fewest:
                break
            rounds.append(self._ask(handle, count, 0))
            latency = _summarize(rounds)
        self._median = latency.median_seconds
        waited, self._waited = self._waited, False
        return Timed(latency, before, read_state(), tuple(self._notes(waited, cut)))

    def ask(self, handle: ProbeHandle) -> None:
        """Make a request of a probe that may be gone, to be told how it went."""
        self._ask(handle, self._fewest, 0)

    def _first(self, handle: ProbeHandle) -> tuple[Replays, bool]:
        """The first round, and whether the budget made it shorter than it should be."""
        wanted = self._model.replays
        if self._account is None:
            return self._ask(handle, wanted, WARMUPS), False
        if self._median is None:
            taken = self._ask(handle, self._fewest, WARMUPS)
            left = wanted - len(taken.seconds)
            count = min(left, self._affordable(statistics.median(taken.seconds or [math.nan]), 0))
            return _joined(taken, self._ask(handle, count, 0)) if count > 0 else taken, count < left
        least = (WARMUPS + self._fewest) * self._median
        budget = max(least, self._account.credit())
        count = max(self._fewest, self._affordable(self._median, WARMUPS))
        taken = self._ask(handle, count, WARMUPS, budget)
        cut = budget < self._model.timeout / 2 and len(taken.seconds) < wanted
        if cut and len(taken.seconds) < self._fewest:
            taken = _joined(taken, self._ask(handle, self._fewest - len(taken.seconds), 0))
        return taken, cut

    def _affordable(self, median: float, warmups: int) -> int:
        """How many replays of ``median`` seconds the credit pays for, after ``warmups``; at most those configured."""
        if self._account is None:
            return self._model.replays
        if not 0 < median < math.inf:  # nonsense from the probe, which the summary refuses
            return 0
        return min(self._model.replays, math.floor(self._account.credit() / median) - warmups)

    def _ask(self, handle: ProbeHandle, count: int, warmups: int, budget: float = math.inf) -> Replays:
        timeout = self._model.timeout
        replays = handle.request(Replay(count, warmups, min(budget, timeout / 2)), timeout)
        if self._account is not None:
            spent = sum((*replays.warmups, *replays.seconds))
            self._account.spend(spent if 0 <= spent < math.inf else 0.0)
        return replays

    def _notes(self, waited: bool, cut: bool) -> Iterator[str]:
        """What the budget did, in the same words at each check, so that the log has them once."""
        if waited:
            yield f"the check waited until max_duty paid for {self._fewest} replays"
        if cut:
            yield f"max_duty paid for fewer than {self._model.replays} replays"


def _joined(one: Replays, other: Replays) -> Replays:
    """Two requests as one round."""
    return Replays(
        (*one.seconds, *other.seconds),
        (*one.warmups, *other.warmups),
        (*one.drawn, *other.drawn),
        (*one.switches, *other.switches),
    )


def _summarize(rounds: list[Replays]) -> Latency:
    try:
        return latencies.summarize(*rounds)
    except ValueError as error:
        raise MeasureError(Failure("probe_protocol", f"the probe's latencies are unusable: {error}")) from error
