"""Whether the median has moved: beyond its gate, in a step within it, or slowly.

One check's median wavers, and a co-runner may raise a few in a row, so a level is always that of several checks. The
gate is the limit of what is healthy. A step within it changes no verdict, but somebody did something, and its time says
what; a slow drift within it is the weather. Both are told apart by comparing neighbouring stretches of checks: a drift
is the same on both sides of any border, a step is not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from monitor.analysis.latency import scatter
from monitor.records import Digest

RELIEF = 0.97
"""Share of the gate below which a median is within it again; between the two nothing changes."""
REFERENCE = 30
"""Checks before a stretch that it is compared with; at least half of them are needed."""


class Stretch(NamedTuple):
    """``quorum`` of the last ``checks`` must lie ``rise`` above the reference, for a step of that size to be one."""

    checks: int
    quorum: int
    rise: float


STRETCHES = (Stretch(3, 3, 1.2), Stretch(24, 18, 1.08))
"""A large step shows in three checks; for a small one a co-runner of a quarter of an hour must be outlasted."""
_SIGMAS = 6.0  # of the reference's own scatter, that a step must exceed as well
_LEAST_SCATTER = 0.003


class Step(NamedTuple):
    """The median moved from ``reference`` to ``level`` seconds at about ``since`` (UTC seconds)."""

    reference: float
    level: float
    since: float


def exceeds(medians: Sequence[float], limit: float) -> bool:
    """Whether the last three checks are beyond ``limit``, or all there are: a co-runner's two minutes are no level."""
    return all(value > limit for value in medians[-3:])


def mostly_exceeds(values: Sequence[float], limit: float, of: int) -> bool:
    """Whether most of the last ``of`` checks are beyond ``limit``."""
    last = values[-of:]
    return sum(value > limit for value in last) * 2 > len(last)


def is_back(medians: Sequence[float], limit: float) -> bool:
    """Whether the model has come back below ``limit`` for good: the last check and four of the last five have."""
    last = medians[-5:]
    return last[-1] <= RELIEF * limit and sum(value <= RELIEF * limit for value in last) >= min(4, len(last))


def step(digests: Sequence[Digest]) -> Step | None:
    """A step upwards that ended a stretch of steady checks."""
    for stretch in STRETCHES:
        recent, before = digests[-stretch.checks :], digests[-stretch.checks - REFERENCE : -stretch.checks]
        if len(before) < REFERENCE // 2:
            continue
        logs = [math.log(one.median_seconds) for one in before]
        middle = statistics.median(logs)
        spread = max(scatter(logs), _LEAST_SCATTER)
        # A step of less than the scatter of single checks would be seen in many, but it would not be worth a line.
        least = math.exp(middle + max(math.log(stretch.rise), _SIGMAS * spread / math.sqrt(stretch.checks)))
        above = [one for one in recent if one.median_seconds > least]
        if len(above) >= stretch.quorum:
            return Step(math.exp(middle), level(above[-stretch.quorum :]), above[0].timestamp)
    return None


def level(digests: Sequence[Digest]) -> float:
    """The median of the checks' medians, in seconds."""
    return statistics.median(one.median_seconds for one in digests)
