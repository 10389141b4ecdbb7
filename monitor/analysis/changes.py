"""The questions that a soak asks of one model's checks: whether something changed over hours, and for sure.

Every answer has its interval (:mod:`monitor.analysis.trend`); it is a finding only if it is certain and large enough to
matter. Where neither a change nor its absence is certain, ``why`` says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from monitor.analysis import trend
from monitor.records.soak import Drift, Growth, Heat, Moment, Place

DRIFT = 0.03
"""Share of its level that a median must have moved over the run for a drift to be one."""
FOLLOWS = 0.3
"""Rank correlation from which on the latency is said to follow a temperature."""
GROWTH = 0.01
"""Share of its level that memory must have grown by over the run."""
LEAST_GROWTH = 2**20
WARMUP = 0.25
"""Share of each probe's checks, at least three, in which its memory may still grow: pools and caches fill."""
SHARE = 0.005
"""By how much an NPU-FLOP share must differ to have changed."""
TENTHS = 10
_CULPRITS = 3
_WIDE = "the interval is too wide to tell"


def drift(measured: Sequence[Moment], places: Mapping[int, Place]) -> Drift:
    """Whether the median moved while model and placement stayed the same."""
    strata = [[(one.elapsed, math.log(one.median_seconds or 1.0)) for one in part] for part in alike(measured, places)]
    found, within = trend.rise(strata), _within([[value for _, value in part] for part in strata])
    within = math.expm1(within) if within is not None else None
    if found is None:
        steady = within is not None and within <= DRIFT
        wanders = f"tenths of the run differ by up to {_percent(within)}; " if within is not None else ""
        return Drift(None, within, why="" if steady else wanders + _untold(len(measured)))
    whole = measured[-1].elapsed - measured[0].elapsed
    ratio, low, high = (math.expm1(slope * whole) for slope in (found.slope, found.low, found.high))
    drifts = (low > 0 or high < 0) and abs(ratio) > DRIFT
    # No drift is an answer too, which a wide interval does not give.
    doubt = not drifts and high > DRIFT and (within is None or within > DRIFT)
    return Drift(ratio, within, low, high, found.effective, drifts, _WIDE if doubt else "")


def heats(measured: Sequence[Moment], places: Mapping[int, Place]) -> Iterable[Heat]:
    """Whether the latency follows the temperature of each zone, in the longest stretch of one placement."""
    stretch = max(alike(measured, places), key=len, default=[])
    for zone in sorted({zone for one in stretch for zone in one.celsius}):
        pairs = [(one.celsius[zone], one.median_seconds or 0.0) for one in stretch if zone in one.celsius]
        found = trend.correlation(pairs)
        coolest, hottest = min(pairs)[0], max(pairs)[0]
        if found is None:
            yield Heat(zone, None, coolest_celsius=coolest, hottest_celsius=hottest)
            continue
        follows = found.low > 0 and found.rho >= FOLLOWS
        yield Heat(zone, found.rho, found.low, found.high, found.effective, coolest, hottest, follows)


def growth(measured: Sequence[Moment]) -> Growth:
    """Whether the probes' memory grew from check to check; what a new probe frees is no shrinking."""
    lives: dict[tuple[int, int], list[int]] = {}
    for one in measured:
        if one.rss_bytes is not None:
            lives.setdefault((one.session, one.probe), []).append(one.rss_bytes)
    if not lives:
        return Growth(None, why="the probes' memory was not read")
    strata, levels = [], []
    for life in lives.values():
        warm = max(3, math.ceil(WARMUP * len(life)))
        strata.append([(float(number), float(size)) for number, size in enumerate(life)][warm:])
        levels += life[warm:]
    peak = max(max(life) for life in lives.values())
    found = trend.growth(strata)
    if not levels:
        return Growth(None, peak_bytes=peak, why=_untold(0))
    level, within = statistics.median(levels), _within([[value for _, value in life] for life in strata])
    least = max(LEAST_GROWTH, GROWTH * level)
    if found is None:
        why = "" if within is not None and within <= least else _untold(len(levels))
        return Growth(None, within, level_bytes=level, peak_bytes=peak, checks=len(levels), why=why)
    total = found.slope * len(levels)
    grows = found.low > 0 and total > least
    doubt = not grows and found.high * len(levels) > least and (within is None or within > least)
    return Growth(
        found.slope,
        within,
        found.low,
        found.high,
        total,
        level,
        peak,
        len(levels),
        found.effective,
        grows,
        _WIDE if doubt else "",
    )


def moved(before: Place, after: Place) -> str:
    """What changed between two placements, in words; empty if nothing did."""
    parts = []
    if before.model_sha256 != after.model_sha256:
        parts.append("the model's file changed")
    one, other = before.npu_flops_ratio, after.npu_flops_ratio
    if one is not None and other is not None and abs(one - other) > SHARE:
        parts.append(f"the NPU's share of the FLOPs went from {_percent(one)} to {_percent(other)}")
    culprits = [{op.node: op.op_type for op in place.ops} for place in (before, after)]
    for word, came, gone in (("new on the CPU", 1, 0), ("no longer on the CPU", 0, 1)):
        if names := [f"{kind} {node}" for node, kind in culprits[came].items() if node not in culprits[gone]]:
            more = f" and {len(names) - _CULPRITS} more" if len(names) > _CULPRITS else ""
            parts.append(f"{word}: {', '.join(names[:_CULPRITS])}{more}")
    if not parts and (before.nodes_cpu, before.partitions) != (after.nodes_cpu, after.partitions):
        parts.append(
            f"nodes on the CPU {before.nodes_cpu} to {after.nodes_cpu}, "
            f"partitions {before.partitions} to {after.partitions}"
        )
    return "; ".join(parts)


def alike(measured: Sequence[Moment], places: Mapping[int, Place]) -> list[list[Moment]]:
    """The checks, cut where model or placement changed: what that does to a median is no drift."""
    parts: list[list[Moment]] = []
    for one in measured:
        if not parts or (
            one.placed != parts[-1][-1].placed and moved(places[parts[-1][-1].placed], places[one.placed])
        ):
            parts.append([])
        parts[-1].append(one)
    return parts


def _within(strata: Sequence[Sequence[float]]) -> float | None:
    """By how much the medians of a stretch's tenths differ at most; ``None`` where none is long enough for them."""
    spans = []
    for values in strata:
        size = len(values) // TENTHS
        if size:
            parts = [statistics.median(values[start : start + size]) for start in range(0, size * TENTHS, size)]
            spans.append(max(parts) - min(parts))
    return max(spans, default=None)


def _untold(count: int) -> str:
    if count < trend.LEAST:
        return f"{count} {'check is' if count == 1 else 'checks are'} too few to tell"
    return f"{count} checks are too few, or follow their neighbours too closely, to tell"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
