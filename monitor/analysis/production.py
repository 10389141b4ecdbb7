"""Whether the application sees what npumon sees: its own latencies, held against the replays of the same time.

npumon makes its session as the application does, or so its configuration says. Where the application's own calls take
much longer than the replays, or much shorter, they are not the same: other options, another model file, a session that
fell back in its process alone. Neither placement nor replays of npumon's own session can show that.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from monitor.bins import EDGES, LADDER, bin_of, quantile
from monitor.records import Calls, Latency, Production

FEWEST: Final = 30
"""Calls that a comparison takes; fewer wait for more. The median of 30 is within a fifth where single calls double."""
COVERED: Final = 0.5
"""The share of the calls whose shapes are replayed, below which their latencies are not comparable."""
AGREED: Final = 3
"""Comparisons in a row that must agree before it is told or over: a burst of load is no other session."""
SILENCE: Final = 86_400.0
"""Seconds without a comparison after which it is not known any more: the application has gone, or counts no more."""
RELIEF: Final = 0.9
"""Share of the gate within which a ratio must come back; between the two nothing changes."""


def together(one: Calls, other: Calls) -> Calls:
    """The calls of two stretches of time as one; ``other`` is the later."""
    processes = {
        name: _sum(one.processes.get(name, {}), other.processes.get(name, {}))
        for name in one.processes | other.processes
    }
    return Calls(_sum(one.bins, other.bins), one.seconds + other.seconds, other.shapes or one.shapes, processes)


def compare(calls: Calls, latency: Latency, replayed: Collection[str]) -> Production | None:
    """The calls beside the replays; ``None`` while they are too few. ``replayed``: the samples' shapes, if known.

    Each process is compared that has made enough of them: one whose session fell back calls less often than the others,
    and is not seen in the median of all.
    """
    if sum(calls.bins.values()) < FEWEST:
        return None
    shapes = sum(calls.shapes.values())
    known = replayed and shapes
    # Both medians are read from the same bins, so that what these round off cancels out.
    replays = _finite(EDGES[min(bin_of(statistics.median(latency.replays_seconds)), len(EDGES) - 1)])
    enough = ((name, bins) for name, bins in calls.processes.items() if sum(bins.values()) >= FEWEST)
    process, furthest = max(
        ((None, calls.bins), *enough), key=lambda one: abs(math.log(_quantile(one[1], 0.5) / replays))
    )
    median = _quantile(furthest, 0.5)
    return Production(
        calls=sum(furthest.values()),
        median_seconds=median,
        p95_seconds=_quantile(furthest, 0.95),
        ratio=median / replays,
        covered_ratio=sum(calls.shapes.get(one, 0) for one in replayed) / shapes if known else None,
        histogram=_histogram((_upper(number), count) for number, count in furthest.items()),
        replays_histogram=_histogram((seconds, 1) for seconds in latency.replays_seconds),
        process=process,
    )


def differs(ratios: Sequence[float], gate: float) -> bool:
    """Whether the last comparisons all lie beyond ``gate``, on the same side."""
    last = ratios[-AGREED:]
    return len(last) == AGREED and (all(one > gate for one in last) or all(one < 1 / gate for one in last))


def agrees(ratios: Sequence[float], gate: float) -> bool:
    """Whether the last comparisons all lie well within ``gate``."""
    limit = 1 + RELIEF * (gate - 1)
    last = ratios[-AGREED:]
    return len(last) == AGREED and all(1 / limit <= one <= limit for one in last)


def _sum(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return dict(Counter(one) + Counter(other))


def _quantile(bins: Mapping[int, int], share: float) -> float:
    return _finite(quantile((bins.get(number, 0) for number in range(len(EDGES) + 1)), share))


def _histogram(values: Iterable[tuple[float, int]]) -> dict[str, int]:
    """Counts by the bounds of the exported histogram; bounds that nothing lies at are left out."""
    counts = Counter[float]()
    for seconds, count in values:
        counts[next((bound for bound in LADDER if seconds <= bound), math.inf)] += count
    return {"+Inf" if bound == math.inf else str(bound): counts[bound] for bound in sorted(counts)}


def _upper(number: int) -> float:
    return EDGES[number] if number < len(EDGES) else math.inf


def _finite(edge: float | None) -> float:
    return EDGES[-1] if edge is None or edge == math.inf else edge
