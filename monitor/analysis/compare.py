"""Two soaks of one model, before and after a change: whether B is worse, and by how much.

Tens of thousands of replays would make any difference significant. What counts is how many independent stretches of
time there are, so the checks are cut into blocks that outlast their memory (:mod:`monitor.analysis.trend`), and B is
worse only if it is so for sure and by more than a bound. What differs from one boot or board to the next is in no
single run, and so in no interval here: the bound is what allows for it.
"""

from __future__ import annotations

import math
import statistics

from monitor.analysis.changes import SHARE, moved
from monitor.analysis.soak import Course
from monitor.analysis.trend import CONFIDENCE, difference
from monitor.records.soak import Compared, ModelSoak, Side

MEMORY = 0.2
"""Share by which B's resident memory may exceed A's: runtimes grow a little with every version."""
Run = tuple[ModelSoak, Course]


def compare(model: str, a: Run | None, b: Run | None, bound: float) -> Compared:
    """B against A; its median may be ``bound`` (a ratio) slower. A model that only one of them has is not judged."""
    sides = _side(a), _side(b)
    if a is None or b is None:
        return Compared(model, sides[0], sides[1], notes=(f"only in {'A' if b is None else 'B'}",))
    worse: list[str] = []
    notes: list[str] = []
    series = _logs(a), _logs(b)
    found = difference(series[0], series[1]) if all(series) else None
    ratio, low, high, p, delta = None, None, None, None, None
    if found is not None:
        ratio, low, high = (math.expm1(value) + 1 for value in (found.shift, found.low, found.high))
        p, delta = found.p, 2 * found.superiority - 1
        if p < 1 - CONFIDENCE and low > 1 and ratio > 1 + bound:
            worse.append("latency")
    else:
        notes.append("the latencies cannot be compared: too few checks, or too much alike with their neighbours")
    before, after = a[0].spans, b[0].spans
    new_ops: dict[str, float] = {}
    if before and after:
        one, other = before[-1].place, after[-1].place
        change = moved(one, other)
        notes += [change] if change else []
        new_ops = {kind: share for kind, share in other.fallback_flops.items() if kind not in one.fallback_flops}
        shares = one.npu_flops_ratio, other.npu_flops_ratio
        lost = shares[0] is not None and shares[1] is not None and shares[0] - shares[1] > SHARE
        if lost or any(share > SHARE for share in new_ops.values()):
            worse.append("placement")
    rss = _memory(a), _memory(b)
    rss_ratio = rss[1] / rss[0] if rss[0] and rss[1] else None
    if rss_ratio is not None and rss_ratio > 1 + MEMORY:
        worse.append("memory")
    worse += [kind for kind in _kinds(b) if kind not in _kinds(a) and kind not in worse]
    if not b[0].checks - b[0].failed:
        notes.append("B measured nothing")
    return Compared(
        model, sides[0], sides[1], ratio, low, high, p, delta, rss_ratio, new_ops, tuple(worse), tuple(notes)
    )


def _side(run: Run | None) -> Side | None:
    if run is None:
        return None
    soak = run[0]
    place = soak.spans[-1].place if soak.spans else None
    return Side(
        median_seconds=soak.median_seconds,
        checks=soak.checks,
        npu_flops_ratio=place.npu_flops_ratio if place else None,
        rss_bytes=_memory(run),
        runtime=place.runtime if place else None,
        findings=tuple(_kinds(run)),
    )


def _logs(run: Run) -> list[float]:
    return [math.log(one.median_seconds) for one in run[1].moments if one.median_seconds]


def _kinds(run: Run) -> list[str]:
    return list(dict.fromkeys(finding.kind for finding in run[0].findings))


def _memory(run: Run) -> float | None:
    if run[0].memory.level_bytes is not None:
        return run[0].memory.level_bytes
    sizes = [one.rss_bytes for one in run[1].moments if one.rss_bytes is not None]
    return float(statistics.median(sizes)) if sizes else None
