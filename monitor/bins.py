"""Latencies counted in bins: the ladder that every exported histogram has, and a finer one that can be compared.

An application counts its own calls (``monitor.capture``) and the daemon reads what it counted. Both live in different
programs and must mean the same bins, so this module is what they share, and it needs the standard library alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

LADDER: Final = (
    *(0.0001, 0.0002, 0.0005),
    *(0.001, 0.002, 0.003, 0.005, 0.007),  # finer where an NPU's models are: 8 ms and 24 ms must differ
    *(0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of exported latency histograms in seconds. Fixed: a ladder that moves cannot be aggregated."""
STEP: Final = 1.05
"""The widest bin, as a ratio of its bounds: what a median read from the bins may be off by."""
TAIL: Final = 1.1
"""Times the median that a call must exceed to be a slow one: below, latencies merely scatter."""


def _split(low: float, high: float) -> Iterator[float]:
    steps = math.ceil(math.log(high / low) / math.log(STEP))
    yield from (low * (high / low) ** (step / steps) for step in range(1, steps))
    yield high  # exactly, so that the ladder's bounds are bounds here


EDGES: Final = (1e-5, *(edge for pair in pairwise((1e-5, *LADDER, 100.0)) for edge in _split(*pair)))
"""Upper bounds of the bins in seconds, those of :data:`LADDER` among them; one more bin takes what is slower."""


def bin_of(seconds: float) -> int:
    """The bin that a call belongs to: the first whose upper bound is not below it."""
    return bisect_left(EDGES, seconds)


def quantile(bins: Iterable[int], share: float) -> float | None:
    """The upper bound of the bin below which ``share`` of the calls lie; ``None`` without calls, inf beyond all."""
    counts = tuple(bins)
    wanted, seen = share * sum(counts), 0
    for edge, count in zip((*EDGES, math.inf), counts, strict=True):
        seen += count
        if count and seen >= wanted:
            return edge
    return None


def slower_than(bins: Iterable[int], share: float) -> float:
    """The bound in seconds that comes nearest to having the slowest ``share`` of the calls above it.

    Bounds are those of bins, and nearest as a ratio: of a slow mode within one bin that a tenth of the calls are in,
    all are above, not none. Never below :data:`TAIL` times the median, so that without a tail nothing is above.
    """
    counts = tuple(bins)
    first = bisect_left(EDGES, TAIL * (quantile(counts, 0.5) or 0.0))
    slower, best, nearest = 0, min(first, len(EDGES) - 1), math.inf
    for index in range(len(EDGES) - 1, first - 1, -1):
        slower += counts[index + 1]
        distance = abs(math.log(slower / (share * sum(counts)))) if slower else math.inf
        if distance <= nearest:
            best, nearest = index, distance
    return EDGES[best]


def laddered(bins: Iterable[int]) -> list[tuple[float, int]]:
    """Cumulative counts at the bounds of :data:`LADDER`, then at infinity."""
    counts = tuple(bins)
    return [(bound, sum(counts[: bisect_left(EDGES, bound) + 1])) for bound in LADDER] + [(math.inf, sum(counts))]


def shapes_of(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """One name for the shapes of all inputs of a call, the same in whatever order they are fed."""
    return ";".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in sorted(shapes))
