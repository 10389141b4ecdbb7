"""Whether some replays are slow more often than healthy checks have them: the intermittent fallback.

An intermittent fallback and a stall both make one replay slow. What tells them apart is how often it happens, and that
the fallback takes about the same time each time. So slow replays are counted by how slow they are, and the counts over
the last checks are held against the rate at which healthy checks of this model on this board have them, for the last
check alone and for ever longer windows: the more seldom a fallback, the longer one has to look.

The count of a window is compared with its predictive distribution given the healthy counts (negative binomial: Poisson
counts whose rate was learned from ``Rates``, with a gamma prior; Gelman et al., Bayesian Data Analysis, 2.6), so that a
young baseline convicts nobody on thin evidence. Healthy stalls come in bursts: counts are divided by their dispersion
(quasi-Poisson; McCullagh and Nelder, Generalized Linear Models, 6.2). The thresholds were set on the series of
``benchmarks/detection``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import accumulate
from typing import NamedTuple

import msgspec

from monitor.records import Digest, Latency, Rates, Round, Unstable

FIRST = math.log(4 / 3)
"""Logarithm of the ratio to the fast mode from where on a replay counts as slow."""
BIN = 0.05
BINS = 48
MOST = 60
"""Checks that are remembered: the longest window."""
ALARM = 1e-7
"""Odds against healthy counts that raise an incident. A month of checks makes some 10^7 looks, not all independent."""
DOUBT = 1e-2
"""Odds at which more replays are worth their cost."""
CALM = math.log(1000)
"""Evidence that a slow mode is gone which clears its incident."""
DAY = 1440.0
"""Rounds after which a healthy one weighs 1/e in the rates: a day of checks at an interval of a minute."""

_EXPOSURE = 1000.0  # replays that the prior is worth
_SINGLES = 3.0  # single stalls that the prior of the dispersion is worth
_MOST_SURPRISE = 3.0  # by how much, in logarithm, one slow replay may speak against a calm


class Band(NamedTuple):
    """Bins ``low`` to ``high`` (exclusive), and the rate of replays in them that is assumed before one is known."""

    low: int
    high: int
    prior: float


BANDS = (
    *(Band(low, low + 4, 0.002 if low < 4 else 0.0005) for low in range(BINS - 3)),
    *(Band(low, low + 8, 0.003 if low < 4 else 0.001) for low in range(BINS - 7)),
    Band(0, BINS, 0.005),
    Band(4, BINS, 0.003),
    Band(8, BINS, 0.002),
)
"""Where slow replays are looked for: tight clusters, loose ones, and everything beyond 1.3, 1.6 and 2 times."""


class Window(NamedTuple):
    """The last ``checks``, in which slow replays count from ``low`` on (a bin)."""

    checks: int
    low: int


WINDOWS = (Window(2, 10), Window(5, 6), Window(15, 0), Window(MOST, 0))
"""A few checks convict only beyond 2.2 or 1.8 times: what is closer may be a co-runner's two minutes."""


class Finding(NamedTuple):
    """The least likely count: the probability of that many or more in healthy checks, and what was counted.

    ``ratio`` of the replays are ``separation`` times as slow as the fast mode, beyond the ``usual`` share that healthy
    checks have there.
    """

    odds: float
    ratio: float
    usual: float
    separation: float
    band: tuple[int, int]

    @property
    def cv(self) -> float:
        """What this slow mode adds to the coefficient of variation."""
        share, excess = self.ratio, self.separation - 1
        return math.sqrt(share * (1 - share)) * excess / (1 + share * excess)


def digest(latency: Latency, timestamp: float) -> Digest:
    """What is kept of one check. The fast mode's level is the lower quartile: up to half of the replays may be slow."""
    seconds = latency.replays_seconds
    fast = sorted(seconds)[len(seconds) // 4]
    rounds, start = [], 0
    for length in latency.rounds or (len(seconds),):
        rounds.append(Round(length, _count(seconds[start : start + length], fast)))
        start += length
    return Digest(timestamp, latency.median_seconds, latency.robust_cv_ratio or 0.0, tuple(rounds))


def find(digests: Sequence[Digest], rates: Rates) -> Finding | None:
    """The most surprising count in the windows that end with the last check; ``None`` if nothing is slow there."""
    if not digests or not any(one.slow for one in digests[-1].rounds):
        return None  # what was no surprise a check ago is none now
    usual = tuple(accumulate(rates.counts or (0.0,) * BINS, initial=0.0))
    best, place = 1.0, None
    for length, low in WINDOWS:
        look = _Look(digests[-length:])
        for index in _touched(look.counts):
            band = BANDS[index]
            if band.low < low and len(digests) > 1:
                continue
            odds = _odds(index, look, usual[band.high] - usual[band.low], rates, best)
            if odds < best:
                best, place = odds, (band, look)
        if length >= len(digests):
            break
    return _finding(best, *place, rates) if place else None


def learn(rates: Rates, one: Digest) -> Rates:
    """The rates with one more healthy check, what is old weighing a little less."""
    keep = 1 - 1 / DAY if rates.rounds >= DAY else 1.0
    counts = [keep * value for value in rates.counts or (0.0,) * BINS]
    squares = [keep * value for value in rates.squares or (0.0,) * len(BANDS)]
    for part in one.rounds:
        for index, count in part.slow.items():
            counts[index] += count
        for index in _touched(part.slow):
            squares[index] += _within(part.slow, BANDS[index]) ** 2
    replays = keep * rates.replays + sum(part.replays for part in one.rounds)
    return Rates(keep * rates.rounds + len(one.rounds), replays, tuple(counts), tuple(squares))


def calm(incident: Unstable, one: Digest, rates: Rates) -> Unstable:
    """The incident with what this check says for its slow mode being gone (Wald's sequential test, never below 0)."""
    assert incident.band is not None
    low, high = incident.band
    band = Band(max(low - 1, 0), min(high + 1, BINS), 0.0)
    known = sum(rates.counts[band.low : band.high]) / rates.replays if rates.replays else 0.0
    healthy = max(known, incident.ratio / 50)
    surprise = min(math.log((healthy + incident.ratio) / healthy), _MOST_SURPRISE)
    counts, replays = _sum([one])
    # Three checks at least: what stops a fallback for a minute may be chance.
    evidence = min(replays * incident.ratio - _within(counts, band) * surprise, CALM / 3)
    return msgspec.structs.replace(incident, calm=min(max(0.0, incident.calm + evidence), CALM))


class _Look:
    """One window: its slow replays by bin, the sums of these up to each bin, all its replays, and their parts."""

    def __init__(self, window: Sequence[Digest]) -> None:
        self.counts, self.replays = _sum(window)
        self.sums = tuple(accumulate((self.counts.get(bin_, 0) for bin_ in range(BINS)), initial=0))
        self._window = window

    @cached_property
    def parts(self) -> tuple[list[Round], list[Round]]:
        """The window by rounds, and by checks."""
        checks = [Round(length, slow) for slow, length in (_sum([one]) for one in self._window)]
        return [part for one in self._window for part in one.rounds], checks


def _odds(index: int, look: _Look, usual: float, rates: Rates, best: float) -> float:
    """The probability of a band's count or more, if ``usual`` healthy replays were in it; 1 if not below ``best``."""
    band = BANDS[index]
    count, expected = look.sums[band.high] - look.sums[band.low], usual + band.prior * _EXPOSURE
    exposure = rates.replays + _EXPOSURE
    mean = look.replays * expected / exposure
    if count < 2 or count <= mean + 2 * math.sqrt(mean):  # far from any doubt, and dear to compute
        return 1.0
    dispersion = 1.0
    if usual:
        dispersion = max(1.0, (rates.squares[index] + _SINGLES) / (usual + _SINGLES) - usual / rates.rounds)
    share = look.replays / (look.replays + exposure)
    odds = _at_least(count / dispersion, usual / dispersion + band.prior * _EXPOSURE, share)
    if odds >= best:  # what follows can only make it likelier
        return 1.0
    if odds < DOUBT:
        uneven = max(_dispersion(parts, band, count / look.replays) for parts in look.parts)
        dispersion = max(dispersion, uneven)
        odds = _at_least(count / dispersion, usual / dispersion + band.prior * _EXPOSURE, share)
    # A single round cannot tell a slow mode from a burst of stalls: it may be doubted, not convicted.
    return odds if len(look.parts[0]) > 1 else max(odds, ALARM)


def _finding(odds: float, band: Band, look: _Look, rates: Rates) -> Finding:
    inside = [(bin_, count) for bin_, count in look.counts.items() if band.low <= bin_ < band.high]
    count = sum(number for _, number in inside)
    usual = (sum(rates.counts[band.low : band.high]) + band.prior * _EXPOSURE) / (rates.replays + _EXPOSURE)
    separation = math.exp(FIRST + BIN * (sum((bin_ + 0.5) * number for bin_, number in inside) / count))
    return Finding(odds, count / look.replays - usual, usual, separation, (band.low, band.high))


def _at_least(count: float, shape: float, p: float) -> float:
    """P(K >= count) of a negative binomial with this shape and success probability ``p``, summed from ``count`` on."""
    term = math.exp(
        math.lgamma(count + shape)
        - math.lgamma(shape)
        - math.lgamma(count + 1)
        + count * math.log(p)
        + shape * math.log1p(-p)
    )
    total, at = term, count
    while term > total * 1e-6:
        term *= (at + shape) / (at + 1) * p
        at += 1
        total += term
    return min(total, 1.0)


def _dispersion(parts: Sequence[Round], band: Band, ratio: float) -> float:
    """How unevenly slow replays fall on the parts of a window: about 1 if each replay is slow by itself."""
    expected = [(ratio * part.replays, _within(part.slow, band)) for part in parts if part.replays]
    return sum((count - mean) ** 2 / mean for mean, count in expected) / (len(expected) - 1) if expected[1:] else 0.0


def _count(seconds: Sequence[float], fast: float) -> dict[int, int]:
    slow: dict[int, int] = {}
    for value in seconds:
        place = math.log(value / fast) - FIRST
        if place >= 0:
            index = min(int(place / BIN), BINS - 1)
            slow[index] = slow.get(index, 0) + 1
    return slow


def _sum(window: Iterable[Digest]) -> tuple[dict[int, int], int]:
    counts: dict[int, int] = {}
    replays = 0
    for one in window:
        for part in one.rounds:
            replays += part.replays
            for index, count in part.slow.items():
                counts[index] = counts.get(index, 0) + count
    return counts, replays


def _within(counts: dict[int, int], band: Band) -> int:
    return sum(count for index, count in counts.items() if band.low <= index < band.high)


def _touched(counts: Iterable[int]) -> list[int]:
    """Indices of the bands that hold one of these bins."""
    return sorted(set().union(*map(_bands_of, counts)))


@cache
def _bands_of(bin_: int) -> frozenset[int]:
    return frozenset(index for index, band in enumerate(BANDS) if band.low <= bin_ < band.high)
