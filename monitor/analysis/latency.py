"""The latency signals of one check, from its raw replays."""

from __future__ import annotations

import statistics

from monitor.records import Latency, Replays


def summarize(replays: Replays) -> Latency:
    """Median and CV (sample standard deviation over mean) of the replays; warm-ups are kept, but stay apart.

    Raises :class:`ValueError` if there are fewer than two replays or one is not a positive, finite time.
    """
    seconds = replays.seconds
    if len(seconds) < 2:
        raise ValueError(f"{len(seconds)} replays: a coefficient of variation needs at least 2")
    if not all(0 < value < float("inf") for value in seconds):
        raise ValueError("a replay's time is not a positive, finite number")
    mean = statistics.fmean(seconds)
    return Latency(
        median_seconds=statistics.median(seconds),
        cv_ratio=statistics.stdev(seconds, mean) / mean,
        replays_seconds=seconds,
        warmups_seconds=replays.warmups,
    )
