"""Statistics of series whose values remember each other: trends, correlations, and two series compared.

Checks that follow each other share the board's weather: a median that is high now is likely high in a minute. Tests
that take them for independent find drifts in mere wandering. Here the memory is estimated as that of an AR(1) series,
rather too strong than too weak, and turned into an effective number of independent values, which is what all
intervals are made with. Where too few are left, the answer is "cannot tell", never "no".

A median has noise of its own besides the weather, which hides from one check to the next how slowly that changes. So
all is looked at twice, check by check and in some thirty stretches, whose medians have little noise left; what
tells less counts.

Sources: Theil-Sen slope (Sen, JASA 63, 1968) within strata (Hirsch, Slack and Smith, Water Resources Research 18,
1982); effective number of values for a trend (Yue and Wang, Water Resources Management 18, 2004) and for a correlation
(Bretherton et al., Journal of Climate 12, 1999); bias of the lag-1 autocorrelation (Kendall, Biometrika 41, 1954);
Student's quantiles (Abramowitz and Stegun 26.7.5).
"""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from monitor.analysis.latency import scatter

CONFIDENCE = 0.99
"""Of every interval: a soak asks several questions of several models, and an answer stops a release."""
MOST = 160
"""Values that a long series is reduced to, each the median of its neighbours."""
COARSE = 30
"""Stretches in which slow weather shows that noise hides from one value to the next."""
LEAST = 8
"""Values below which a series tells nothing."""
FEWEST = 5.0
"""Effective values below which a series tells nothing: it only wandered."""
_MOST_MEMORY = 0.98

Point = tuple[float, float]


class Trend(NamedTuple):
    """A slope per unit of x with its interval, at the level of the middle. ``effective`` counts independent values."""

    slope: float
    low: float
    high: float
    effective: float


class Correlation(NamedTuple):
    """Spearman's rank correlation with its interval. ``effective`` counts independent pairs."""

    rho: float
    low: float
    high: float
    effective: float


class Difference(NamedTuple):
    """By how much B's level exceeds A's, with its interval; ``p`` of a permutation test of blocks.

    ``blocks`` of A and B took part. ``superiority`` is the probability that a value of B exceeds one of A, ties
    counting half (the common-language effect size); Cliff's delta is twice that less one.
    """

    shift: float
    low: float
    high: float
    p: float
    blocks: tuple[int, int]
    superiority: float


def rise(strata: Sequence[Sequence[Point]]) -> Trend | None:
    """What can be told of a rise over time: as :func:`trend` or as :func:`growth`, whichever tells more.

    What rises evenly, but not along a straight line, leaves a curve beside the line, which looks like slow weather.
    From stretch to stretch it goes up all the same.
    """
    found = [one for one in (trend(strata), growth(strata)) if one is not None]
    return min(found, key=lambda one: one.high - one.low, default=None)


def trend(strata: Sequence[Sequence[Point]]) -> Trend | None:
    """The Theil-Sen slope over pairs of one stratum; ``None`` if there is too little to tell.

    Each stratum is a stretch of (x, y) with x rising: its level is its own, the slope is common to all.
    """
    reduced = [stratum for stratum in _reduce(strata) if len(stratum) >= 3]
    count = sum(map(len, reduced))
    if count < LEAST:
        return None
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for stratum in reduced
        for index, earlier in enumerate(stratum)
        for later in stratum[index + 1 :]
        if later[0] > earlier[0]
    )
    if not slopes:
        return None
    slope = statistics.median(slopes)
    looks = [_reach(reduced, slope, 1.0)]
    coarse = [stratum for stratum in _reduce(reduced, COARSE) if len(stratum) >= 3]
    if count >= 2 * COARSE and sum(map(len, coarse)) >= COARSE // 2:
        looks.append(_reach(coarse, slope, 0.0))
    if any(effective < FEWEST for _, effective in looks):
        return None
    reach, effective = max(looks)
    return Trend(slope, slope - reach, slope + reach, effective)


def growth(strata: Sequence[Sequence[Point]]) -> Trend | None:
    """The mean rise of y per unit of x, for what accumulates: such as memory, whose level remembers everything.

    What counts is what was added from each stretch to the next, which is little like its neighbours: one large step is
    no growth, small ones all the time are.
    """
    rises, lengths = [], []
    for stratum in _reduce(strata, MOST // 2):
        for (x, y), (later, value) in pairwise(stratum):
            rises.append(value - y)
            lengths.append(later - x)
    if len(rises) < LEAST:
        return None
    memory = _memory([rises], 1)
    effective = len(rises) * (1 - memory) / (1 + memory)
    if effective < FEWEST:
        return None
    length = statistics.fmean(lengths)
    reach = quantile(effective - 1) * statistics.stdev(rises) / math.sqrt(effective)
    mean = statistics.fmean(rises)
    return Trend(mean / length, (mean - reach) / length, (mean + reach) / length, effective)


def correlation(pairs: Sequence[Point]) -> Correlation | None:
    """Whether two series rise and fall together; ``None`` if one of them never moves, or there is too little to tell.

    Where both only wander slowly, their changes from stretch to stretch are what can be compared.
    """
    (reduced,) = _reduce([pairs])
    changes = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(reduced)]
    return _correlation(reduced) or _correlation(changes)


def _correlation(reduced: Sequence[Point]) -> Correlation | None:
    if len(reduced) < LEAST:
        return None
    one, other = (_ranks([pair[side] for pair in reduced]) for side in (0, 1))
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    rho = statistics.correlation(one, other)
    both = max(_memory([one], 1), 0.0) * max(_memory([other], 1), 0.0)
    effective = len(reduced) * (1 - both) / (1 + both)
    if effective < LEAST:
        return None
    # Fisher's z; ranks have a little more variance than values (Fieller, Hartley and Pearson, Biometrika 44, 1957).
    bounded = max(min(rho, 0.9999), -0.9999)
    reach = quantile(effective - 2) * math.sqrt(1.06 / (effective - 3))
    middle = math.atanh(bounded)
    return Correlation(rho, math.tanh(middle - reach), math.tanh(middle + reach), effective)


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0, rounds: int = 4999) -> Difference | None:
    """How much higher the level of ``other`` is; ``None`` if either is too short to be cut into blocks.

    A block is long enough that neighbouring ones say different things. The interval is Welch's on the blocks' medians,
    the test permutes them between the two.
    """
    first, second = blocks(one), blocks(other)
    if min(len(one), len(other)) < LEAST or len(first) < 4 or len(second) < 4:
        return None
    shift = statistics.fmean(second) - statistics.fmean(first)
    parts = [statistics.variance(side) / len(side) for side in (first, second)]
    error = math.sqrt(sum(parts))
    freedom = (
        sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True))
        if error
        else 1e6
    )
    reach = quantile(freedom) * error
    p = _permuted(first, second, shift, random.Random(seed), rounds)
    return Difference(shift, shift - reach, shift + reach, p, (len(first), len(second)), superiority(one, other))


def blocks(values: Sequence[float]) -> list[float]:
    """Medians of consecutive stretches, each as long as five times what an AR(1) memory needs to fade to 1/e.

    Or twice as long as it needs between the coarse stretches, whose memory is not taken for stronger than it looks.
    """
    length = 1
    for most, doubt, times in ((MOST, 1.0, 5.0), (COARSE, 0.0, 2.0)):
        if most == COARSE and len(values) < 2 * COARSE:
            break
        size = max(1, math.ceil(len(values) / most))
        memory = _memory([_stretches(values, size)], 1, doubt)
        fades = math.ceil(times / -math.log(memory)) if memory > 0 else 0
        length = max(length, size * fades if most == COARSE else size * max(fades, 1))
    return _stretches(values, length)


def superiority(one: Sequence[float], other: Sequence[float]) -> float:
    """The probability that a value of ``other`` exceeds one of ``one``, ties counting half."""
    ordered = sorted(one)
    wins = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in other)
    return wins / (2 * len(one) * len(other))


def quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's distribution."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / max(freedom, 1.0) ** power for power, term in enumerate(terms, 1))


# ------------------------------------------------------------------------------------------------------ the parts


def _reduce(strata: Sequence[Sequence[Point]], most: int = MOST) -> list[list[Point]]:
    """At most about ``most`` points: medians of neighbours within a stratum, all of as many."""
    size = max(1, math.ceil(sum(map(len, strata)) / most))
    if size == 1:
        return [list(stratum) for stratum in strata]
    reduced = []
    for stratum in strata:
        parts = [stratum[start : start + size] for start in range(0, len(stratum) - size + 1, size)]
        reduced.append(
            [(statistics.median(x for x, _ in part), statistics.median(y for _, y in part)) for part in parts]
        )
    return reduced


def _stretches(values: Sequence[float], length: int) -> list[float]:
    """Medians of so many neighbours each."""
    whole = len(values) - len(values) % length
    return [statistics.median(values[start : start + length]) for start in range(0, whole, length)]


def _reach(reduced: Sequence[Sequence[Point]], slope: float, doubt: float) -> tuple[float, float]:
    """Half of the slope's interval, and the effective number of values that it was made with."""
    count = sum(map(len, reduced))
    left = [_residuals(stratum, slope) for stratum in reduced]
    memory = _memory(left, 2 * len(reduced), doubt)
    effective = count * (1 - memory) / (1 + memory)
    # The standard error of a regression's slope, with a robust scatter; Sen's slope needs 5 % more (Sen 1968).
    spread = math.sqrt(math.fsum((x - statistics.fmean(x for x, _ in part)) ** 2 for part in reduced for x, _ in part))
    noise = scatter([value for stratum in left for value in stratum])
    error = 1.05 * noise / spread * math.sqrt(count / effective)
    return quantile(effective - 3) * error, effective


def _residuals(stratum: Sequence[Point], slope: float) -> list[float]:
    left = [y - slope * x for x, y in stratum]
    level = statistics.median(left)
    return [value - level for value in left]


def _memory(strata: Sequence[Sequence[float]], fitted: int, doubt: float = 1.0) -> float:
    """The lag-1 autocorrelation of an AR(1) series, rather too high than too low; ``fitted`` parameters were taken out.

    The estimate from n values is too low by about (fitted + 3 memory) / n; with that go ``doubt`` standard errors,
    since who takes a wandering series for noise finds drifts. Of ranks, because one stall must not hide it.
    """
    count = sum(map(len, strata))
    values = iter(_ranks([value for stratum in strata for value in stratum]))
    series = [[next(values) for _ in stratum] for stratum in strata]
    centred = []
    for one in series:
        mean = statistics.fmean(one) if one else 0.0
        centred.append([value - mean for value in one])
    power = math.fsum(value * value for one in centred for value in one)
    if not power:
        return 0.0
    product = math.fsum(a * b for one in centred for a, b in pairwise(one))
    pairs = sum(max(len(one) - 1, 0) for one in series)
    found = product / power * count / max(pairs, 1)
    positive = min(max(found, 0.0), 1.0)
    corrected = found + (fitted + 3 * positive) / count + doubt * math.sqrt((1 - positive**2) / count)
    return min(max(corrected, 0.0), _MOST_MEMORY)


def _ranks(values: Sequence[float]) -> list[float]:
    """Average ranks."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in values]


def _permuted(
    first: Sequence[float], second: Sequence[float], shift: float, chance: random.Random, rounds: int
) -> float:
    """The share of random assignments of blocks to A and B whose levels lie at least ``shift`` apart."""
    pool, size = [*first, *second], len(first)
    total, rest = math.fsum(pool), len(second)
    least = abs(shift) * (1 - 1e-9)
    beyond = 0
    for _ in range(rounds):
        part = math.fsum(chance.sample(pool, size))
        beyond += abs((total - part) / rest - part / size) >= least
    return (beyond + 1) / (rounds + 1)
