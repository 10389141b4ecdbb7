"""What a soak answers: whether anything changes over hours that no single check can see.

Did the median drift, does the latency follow a temperature, does memory grow, did the placement ever change
(:mod:`monitor.analysis.changes`), how many stalls; and the verdict that follows. What cannot be told is said to be so.
"""

from __future__ import annotations

import math
import statistics
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from monitor.analysis.changes import drift, growth, heats, moved
from monitor.analysis.slow import FIRST
from monitor.duration import format_duration
from monitor.records import BoardReading, CheckResult, Event, Verdict
from monitor.records.soak import (
    Drift,
    Finding,
    Gap,
    Growth,
    Heat,
    Histogram,
    ModelSoak,
    Moment,
    Place,
    Session,
    Span,
    Stalls,
)

BINS = 48
_GRAPHICS = ("gpu", "kgsl", "mali")


class Course(NamedTuple):
    """One model's checks over time: what the charts draw, and what the questions are asked of."""

    moments: tuple[Moment, ...]
    places: Mapping[int, Place]
    histogram: Histogram | None


class Checks:
    """Takes the checks of one model in, one after the other, so that a night of them need not be held at once."""

    def __init__(self, whole: float) -> None:
        self._quarter = whole / 4
        self._whole = whole
        self._moments: list[Moment] = []
        self._places: dict[int, Place] = {}
        self._ends = array("d"), array("d")

    def add(
        self, session: int, elapsed: float, probe: int | None, rss: int | None, content: int, result: CheckResult
    ) -> None:
        """One check; ``content`` numbers what it shares with others: model, placement, runtime."""
        if content not in self._places:
            self._places[content] = _place(result)
        latency = result.latency if result.error is None else None
        replays = latency.replays_seconds if latency else ()
        if elapsed <= self._quarter:
            self._ends[0].extend(replays)
        elif elapsed > self._whole - self._quarter:
            self._ends[1].extend(replays)
        ordered = sorted(replays)
        count = len(ordered)
        limit = ordered[count // 4] * math.exp(FIRST) if ordered else 0.0
        self._moments.append(
            Moment(
                session=session,
                timestamp=result.timestamp,
                elapsed=elapsed,
                verdict=result.verdict,
                placed=content,
                failure=result.error.reason if result.error else "",
                median_seconds=latency.median_seconds if latency else None,
                low_seconds=ordered[count // 10] if ordered else None,
                high_seconds=ordered[-1 - count // 10] if ordered else None,
                replays=count,
                stalls=count - bisect_right(ordered, limit),
                slowest_seconds=ordered[-1] if ordered else None,
                rss_bytes=rss,
                probe=probe or 0,
                celsius=_celsius(result),
                clocks=_clocks(result.after or result.before),
            )
        )

    def course(self) -> Course:
        return Course(tuple(self._moments), self._places, _histogram(*self._ends))


def conclude(model: str, course: Course, events: Sequence[Event]) -> ModelSoak:
    """The answers for one model, and the verdict that follows from them."""
    measured = [moment for moment in course.moments if moment.median_seconds is not None]
    failures = Counter(moment.failure for moment in course.moments if moment.failure)
    verdicts = Counter(moment.verdict for moment in course.moments)
    spans = _spans(course)
    asked = _Asked(
        drift(measured, course.places), tuple(heats(measured, course.places)), growth(measured), tuple(spans)
    )
    findings = tuple(_findings(course.moments, verdicts, failures, asked))
    verdict, reason = _verdict(course.moments, verdicts, findings, asked)
    slowest = max(measured, key=lambda moment: moment.slowest_seconds or 0.0, default=None)
    return ModelSoak(
        model=model,
        verdict=verdict,
        reason=reason,
        checks=len(course.moments),
        failed=failures.total(),
        verdicts={str(verdict): count for verdict, count in verdicts.items()},
        findings=findings,
        median_seconds=statistics.median(_medians(measured)) if measured else None,
        drift=asked.drift,
        heat=asked.heat,
        memory=asked.memory,
        stalls=Stalls(
            sum(moment.stalls for moment in measured),
            sum(moment.replays for moment in measured),
            slowest.slowest_seconds if slowest else None,
            (slowest.slowest_seconds or 0.0) / (slowest.median_seconds or math.inf) if slowest else None,
        ),
        spans=asked.spans,
        failures=dict(failures),
        events=tuple(events),
        histogram=course.histogram,
    )


def gaps(sessions: Sequence[Session], last: Mapping[int, float]) -> tuple[Gap, ...]:
    """The interruptions between ``sessions``; ``last`` is when (UTC) the last check of each of them was made."""
    measured = [session for session in sessions if session.number in last]
    return tuple(
        Gap(
            session.elapsed,
            last[previous.number],
            session.started,
            bool(previous.boot and session.boot and previous.boot != session.boot),
        )
        for previous, session in pairwise(measured)
    )


# ----------------------------------------------------------------------------------------------------- the verdict


class _Asked(NamedTuple):
    drift: Drift
    heat: tuple[Heat, ...]
    memory: Growth
    spans: tuple[Span, ...]


def _findings(
    moments: Sequence[Moment], verdicts: Counter[Verdict], failures: Counter[str], asked: _Asked
) -> Iterable[Finding]:
    for verdict in ("fallback", "degraded"):
        if count := verdicts[verdict]:
            yield Finding("verdict", f"{verdict} in {count} of {len(moments)} checks")
    if failures and failures.total() < len(moments):
        each = ", ".join(f"{reason} {count}" for reason, count in failures.most_common())
        yield Finding("failures", f"{failures.total()} of {len(moments)} checks failed: {each}")
    for span in asked.spans[1:]:
        yield Finding(
            "placement", f"the placement changed {format_duration(round(span.start))} into the soak: {span.change}"
        )
    found = asked.drift
    if found.found and found.ratio is not None and found.ratio > 0:
        yield Finding("drift", f"the median rose by {_interval(found.ratio, found.low, found.high)} over the run")
    memory = asked.memory
    if memory.found and memory.bytes_per_check is not None:
        yield Finding(
            "memory",
            f"the probe's memory grew by {_bytes(memory.bytes_per_check)} a check "
            f"({_bytes(memory.low)} to {_bytes(memory.high)}), {_bytes(memory.total_bytes)} over the run",
        )


def _verdict(
    moments: Sequence[Moment], verdicts: Counter[Verdict], findings: Sequence[Finding], asked: _Asked
) -> tuple[Verdict, str]:
    known = len(moments) - verdicts["unknown"]
    if findings and (known or any(finding.kind != "failures" for finding in findings)):
        reason = "; ".join(finding.text for finding in findings)
        return ("fallback" if verdicts["fallback"] else "degraded"), reason
    if not known:
        failures = Counter(moment.failure for moment in moments if moment.failure).most_common(1)
        why = f": {failures[0][0]}" if failures else ""
        return "unknown", f"no check came to a verdict{why}" if moments else "no check was made"
    untold = [name for name, part in (("drift", asked.drift), ("memory growth", asked.memory)) if part.why]
    doubt = f"; whether there is {' or '.join(untold)} cannot be told" if untold else ""
    return "healthy", f"healthy in {verdicts['healthy']} of {len(moments)} checks, and nothing changed{doubt}"


# ------------------------------------------------------------------------------------------------------- the parts


def _place(result: CheckResult) -> Place:
    placement = result.placement if result.error is None else None
    return Place(
        model_sha256=result.model_sha256,
        npu_flops_ratio=placement.npu_flops_ratio if placement else None,
        nodes_cpu=placement.nodes.cpu if placement else None,
        fallback_flops=placement.fallback_flops if placement else {},
        ops=placement.ops if placement else (),
        reason=result.reason,
        runtime=result.runtime,
        samples=result.samples,
        total_flops=placement.total_flops if placement else None,
        partitions=placement.partitions if placement else None,
    )


def _spans(course: Course) -> list[Span]:
    """Stretches of one placement, over all checks that have one; failed ones end nothing."""
    spans: list[Span] = []
    start = 0.0
    for moment in course.moments:
        place = course.places[moment.placed]
        if place.nodes_cpu is None:
            continue
        change = moved(spans[-1].place, place) if spans else ""
        if spans and not change:
            spans[-1] = Span(spans[-1].start, moment.elapsed, spans[-1].place, spans[-1].change)
        else:
            spans.append(Span(start, moment.elapsed, place, change))
        start = moment.elapsed
    return spans


def _histogram(first: array[float], last: array[float]) -> Histogram | None:
    if len(first) < 2 or len(last) < 2:
        return None
    ends = [sorted(part) for part in (first, last)]
    low = min(part[len(part) // 200] for part in ends)
    high = max(part[-1 - len(part) // 100] for part in ends)
    if not low < high:
        low, high = low * 0.99, high * 1.01
    edges = tuple(low + (high - low) * number / BINS for number in range(BINS + 1))
    return Histogram(edges, *(_shares(part, edges) for part in ends))


def _shares(ordered: Sequence[float], edges: Sequence[float]) -> tuple[float, ...]:
    below = [0, *(bisect_right(ordered, edge) for edge in edges[1:-1]), len(ordered)]
    return tuple((b - a) / len(ordered) for a, b in pairwise(below))


def _celsius(result: CheckResult) -> dict[str, float]:
    readings = [reading for reading in (result.before, result.after) if reading]
    zones = {zone for reading in readings for zone in reading.zones}
    return {zone: max(r.zones[zone].celsius for r in readings if zone in r.zones) for zone in zones}


def _clocks(reading: BoardReading | None) -> dict[str, float]:
    if reading is None:
        return {}
    cpu = [c.current / c.highest for c in reading.cpu_clocks.values() if c.current and c.highest]
    npu = [
        clock.current / clock.highest
        for name, clock in reading.device_clocks.items()
        if clock.current and clock.highest and not any(word in name.lower() for word in _GRAPHICS)
    ]
    shares = {"cpu": max(cpu, default=None), "npu": min(npu, default=None)}
    return {kind: min(share, 1.0) for kind, share in shares.items() if share is not None}


def _medians(measured: Sequence[Moment]) -> list[float]:
    return [one.median_seconds for one in measured if one.median_seconds is not None]


def _interval(ratio: float, low: float | None, high: float | None) -> str:
    return f"{_signed(ratio)} ({_signed(low or 0.0)} to {_signed(high or 0.0)})"


def _bytes(size: float | None) -> str:
    scale, unit = (2**20, "MiB") if abs(size or 0.0) >= 2**20 else (2**10, "KiB")
    return f"{(size or 0.0) / scale:.3g} {unit}"


def _signed(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
