"""Two soaks of one model, before and after a change: whether B is worse, and by how much.

Tens of thousands of replays would make any difference significant. What counts is how many independent stretches of
time there are, so the checks are cut into blocks that outlast their memory (:mod:`monitor.analysis.trend`), and B is
worse only if it is so for sure and by more than a bound. Nor is it a pass if nothing could be seen: an interval that
reaches beyond the bound leaves it open. What differs from one boot or board to the next is in no single run, and so in
no interval here: the bound is what allows for it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from monitor.analysis.changes import SHARE, moved
from monitor.analysis.soak import Course
from monitor.analysis.trend import CONFIDENCE, difference
from monitor.records.soak import Compared, ModelSoak, Side, SoakResult

MEMORY = 0.2
"""Share by which B's resident memory may exceed A's: runtimes grow a little with every version."""
Run = tuple[ModelSoak, Course]


def compare(model: str, a: Run | None, b: Run | None, bound: float, beside: Sequence[str] = ()) -> Compared:
    """B against A; its median may be ``bound`` (a ratio) slower. A model that only one of them has is not judged.

    ``beside`` says in what else the two soaks differ (:func:`apart`).
    """
    sides = _side(a), _side(b)
    if a is None or b is None:
        return Compared(model, sides[0], sides[1], notes=(f"only in {'A' if b is None else 'B'}",))
    worse: list[str] = []
    notes: list[str] = []
    series = _logs(a), _logs(b)
    found = difference(series[0], series[1]) if all(series) else None
    ratio, low, high, p, delta, why = None, None, None, None, None, ""
    if found is not None:
        ratio, low, high = (math.exp(value) for value in (found.shift, found.low, found.high))
        p, delta = found.p, 2 * found.superiority - 1
        if p < 1 - CONFIDENCE and low > 1 and ratio > 1 + bound:
            worse.append("latency")
        elif high > 1 + bound:
            beyond = f"the interval reaches {_percent(high - 1)}"
            why = f"whether B is slower by more than {_percent(bound)} cannot be told: {beyond}"
    elif all(series):
        why = "the latencies cannot be compared: too few checks, or too much alike with their neighbours"
    else:
        why = " and ".join(side for side, values in zip("AB", series, strict=True) if not values) + " measured nothing"
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
    notes += beside
    return Compared(
        model, sides[0], sides[1], ratio, low, high, p, delta, rss_ratio, new_ops, tuple(worse), tuple(notes), why
    )


def apart(a: SoakResult, b: SoakResult, model: str) -> Iterator[str]:
    """In what else two soaks differ that may explain how ``model`` does in them, each in a sentence."""
    if a.target != b.target:
        yield f"A was made on {a.target or 'an unknown target'}, B on {b.target or 'an unknown target'}"
    elif a.target == "simulator":
        yield "both were made on a simulator: times mean nothing"
    boards = a.sessions[-1].board, b.sessions[-1].board
    for name in ("hostname", "soc", "kernel"):
        one, other = (getattr(board, name) for board in boards)
        if one != other:
            yield f"the board's {name} is {one or 'not told'} in A, {other or 'not told'} in B"
    if a.subject.pace_seconds != b.subject.pace_seconds:
        yield f"a round began every {a.subject.pace_seconds:g} s in A, {b.subject.pace_seconds:g} s in B"
    settings = a.subject.models.get(model, {}), b.subject.models.get(model, {})
    for key in sorted({*settings[0], *settings[1]} - {"path sha256"}):  # that one is told with the placement
        one, other = (side.get(key, "absent") for side in settings)
        if one != other:
            yield f"`{key}` is {one} in A, {other} in B"
    for name, soak in (("A", a), ("B", b)):
        if not soak.complete:
            yield f"{name} ended early: {soak.measured_seconds:.0f} s of {soak.wanted_seconds:.0f} s were measured"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"


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
