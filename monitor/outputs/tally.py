"""What is kept of one model between scrapes: its last check, and the running totals that counters are."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter

from monitor.bins import EDGES, LADDER
from monitor.records import CheckResult, Standing

_BUCKETS = len(LADDER) + 1  # the last one is without a bound


class Tally:
    """What is kept of one model: its last check, and what counters need. ``text`` caches its rendered lines."""

    def __init__(self) -> None:
        self.result: CheckResult | None = None
        self.standing: Standing | None = None
        self.text: dict[str, str] | None = None
        self.buckets = [0] * _BUCKETS
        self.latency_sum = 0.0
        self.counted = False
        self.calls = [0] * _BUCKETS
        self.calls_sum = 0.0
        self.checks = 0
        self.failures: Counter[str] = Counter()
        self.postponed: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._known_rejected: set[tuple[str, str]] = set()

    def record(self, result: CheckResult, standing: Standing | None = None) -> None:
        self.result, self.standing = result, standing
        self.checks += 1
        if result.error:
            self.failures[result.error.reason] += 1
        for latency in result.latency.replays_seconds if result.latency else ():
            if math.isfinite(latency):
                self.buckets[bisect_left(LADDER, latency)] += 1
                self.latency_sum += latency
        if result.calls is not None:
            self.counted = True
            self.calls_sum += result.calls.seconds
            for number, count in result.calls.bins.items():
                self.calls[bisect_left(LADDER, EDGES[number]) if number < len(EDGES) else -1] += count
        if result.samples:
            # Every check repeats what its session rejected: a file counts when it becomes unusable, not each time.
            rejected: set[tuple[str, str]] = {(sample.file, sample.reason) for sample in result.samples.rejected}
            self.rejected.update(reason for _, reason in rejected - self._known_rejected)
            self._known_rejected = rejected
