"""Counting: false events with their rate, found faults with their share, each with its 95 % confidence interval.

Rates: F. Garwood, Fiducial limits for the Poisson distribution, Biometrika 28 (1936). Shares: E. B. Wilson, Probable
inference, the law of succession, and statistical inference, JASA 22 (1927).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

CONFIDENCE: Final = 0.95
_Z: Final = 1.959964  # of the normal distribution, two-sided


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def poisson(events: int, exposure: float) -> Interval:
    """Events per unit of a positive exposure; Garwood's exact interval, found by bisection on the distribution."""
    miss = (1 - CONFIDENCE) / 2
    low = 0.0 if events == 0 else _root(lambda mean: 1 - _below(events - 1, mean) - miss, events)
    high = _root(lambda mean: miss - _below(events, mean), events)
    return Interval(events / exposure, low / exposure, high / exposure)


def wilson(hits: int, cases: int) -> Interval:
    """The share of at least one case; Wilson's score interval."""
    share, square = hits / cases, _Z * _Z / cases
    centre = (share + square / 2) / (1 + square)
    reach = _Z / (1 + square) * math.sqrt(share * (1 - share) / cases + square / (4 * cases))
    return Interval(share, max(0.0, centre - reach), min(1.0, centre + reach))


def _below(events: int, mean: float) -> float:
    """The probability of at most ``events`` where ``mean`` are expected."""
    if mean == 0:
        return 1.0
    return math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(events + 1))


def _root(rising: Callable[[float], float], near: int) -> float:
    """Where a rising function of a mean crosses 0."""
    low, high = 0.0, near + 10 + 6 * math.sqrt(near)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


@dataclass
class Healthy:
    """What a rule did while nothing was wrong."""

    checks: int = 0
    events: int = 0
    alarmed: int = 0  # checks at which the rule's alarm was on
    seconds: float = 0.0  # that the rule itself took

    def __add__(self, other: Healthy) -> Healthy:
        return Healthy(
            self.checks + other.checks,
            self.events + other.events,
            self.alarmed + other.alarmed,
            self.seconds + other.seconds,
        )

    def rate(self, month: int) -> Interval:
        """Events per model-month."""
        return poisson(self.events, self.checks / month)


@dataclass
class Delays:
    """How many cases of a fault were found at which check; the first check after the onset is 1. ``None``: never."""

    found: Counter[int | None] = field(default_factory=Counter)

    def __add__(self, other: Delays) -> Delays:
        return Delays(self.found + other.found)

    @property
    def cases(self) -> int:
        return self.found.total()

    def within(self, bound: int) -> Interval:
        """The share that was found within ``bound`` checks."""
        hits = sum(count for delay, count in self.found.items() if delay is not None and delay <= bound)
        return wilson(hits, self.cases)

    @property
    def median(self) -> int | None:
        """The check at which half of the cases were found; ``None`` if fewer ever were."""
        seen = 0
        for delay in sorted(delay for delay in self.found if delay is not None):
            seen += self.found[delay]
            if 2 * seen >= self.cases:
                return delay
        return None
