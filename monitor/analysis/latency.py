"""The latency signals of one check, from its raw replays.

A median hides an intermittent fallback and a CV cries wolf at a single stall, so the replays are also asked whether
they are one cluster or two.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from monitor.records import Latency, Replays

MAD_TO_SIGMA = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution (Rousseeuw and Croux 1993)."""
MINORITY = 0.25
"""If more of the replays were disturbed, disturbance is this board's normal state and marks none."""

# One normal cluster, split where it splits best, keeps 36 % of its variance within the halves, a uniform one 25 %.
_WITHIN = 0.2
_CLOSEST = math.log(1.2)
_GAP = 1 / 3  # of the separation, empty between the clusters


class Modes(NamedTuple):
    """Two clusters of latencies: the share of the slower one, and how many times slower its geometric mean is."""

    slow_ratio: float
    separation_ratio: float


def summarize(*rounds: Replays) -> Latency:
    """Median, CV, robust CV and slow mode of the replays of all rounds; warm-ups are kept, but stay apart.

    The CV is the sample standard deviation over the mean of all replays. Robust CV and slow mode leave out those that
    the kernel disturbed, unless they are too many to be an exception. Raises :class:`ValueError` if there are fewer
    than two replays or one is not a positive, finite time.
    """
    seconds = tuple(value for one in rounds for value in one.seconds)
    if len(seconds) < 2:
        raise ValueError(f"{len(seconds)} replays: a coefficient of variation needs at least 2")
    if not all(0 < value < float("inf") for value in seconds):
        raise ValueError("a replay's time is not a positive, finite number")
    mean = statistics.fmean(seconds)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in seconds) / (len(seconds) - 1))
    switches = [count for one in rounds for count in one.switches]
    counted = len(switches) == len(seconds)
    disturbed = tuple(index for index, count in enumerate(switches) if count) if counted else None
    calm = _without(seconds, disturbed or ())
    found = modes(calm)
    return Latency(
        median_seconds=statistics.median(seconds),
        cv_ratio=deviation / mean,
        replays_seconds=seconds,
        warmups_seconds=tuple(value for one in rounds for value in one.warmups),
        robust_cv_ratio=robust_cv(calm),
        slow_ratio=found.slow_ratio if found else 0.0,
        separation_ratio=found.separation_ratio if found else None,
        disturbed=disturbed,
        rounds=tuple(len(one.seconds) for one in rounds),
    )


def robust_cv(seconds: Sequence[float]) -> float:
    """The spread of the bulk: 1.4826 times the median absolute deviation, over the median."""
    return scatter(seconds) / statistics.median(seconds)


def scatter(values: Sequence[float]) -> float:
    """The standard deviation that the median absolute deviation stands for, were the values normal."""
    middle = statistics.median(values)
    return MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in values)


def modes(seconds: Sequence[float]) -> Modes | None:
    """The two clusters of the logarithms that explain most of their variance; ``None`` if one cluster does.

    One does unless the two leave at most a fifth of the variance within them, are 1.2 times apart, have a gap between
    them, and hold at least two replays each: a single stall is no mode.
    """
    logs = sorted(map(math.log, seconds))
    count = len(logs)
    sums, squares = list(accumulate(logs)), list(accumulate(value * value for value in logs))
    total = squares[-1] - sums[-1] ** 2 / count
    best, within = 0, total
    for split in range(2, count - 1):
        low = squares[split - 1] - sums[split - 1] ** 2 / split
        high = squares[-1] - squares[split - 1] - (sums[-1] - sums[split - 1]) ** 2 / (count - split)
        if low + high < within:
            best, within = split, low + high
    if not best or within > _WITHIN * total:
        return None
    separation = (sums[-1] - sums[best - 1]) / (count - best) - sums[best - 1] / best
    if separation < _CLOSEST or logs[best] - logs[best - 1] < _GAP * separation:
        return None
    return Modes((count - best) / count, math.exp(separation))


def _without(seconds: tuple[float, ...], disturbed: tuple[int, ...]) -> tuple[float, ...]:
    if not disturbed or len(disturbed) > MINORITY * len(seconds) or len(seconds) - len(disturbed) < 2:
        return seconds
    left_out = set(disturbed)
    return tuple(value for index, value in enumerate(seconds) if index not in left_out)
