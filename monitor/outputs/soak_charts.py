"""The charts of a soak as geometry: lines, bands and ticks in the units of one drawing, for the template to draw.

All panels of a model share the axis of measured time, so that what happens together stands one below the other. A
night has more checks than a screen has pixels: each column shows the median of its checks, and the band their spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from monitor.outputs import wording
from monitor.outputs.axes import LEFT, RIGHT, Tick, axis, nice, scaled, times, unit_of
from monitor.records import Event
from monitor.records.soak import Drift, Gap, Histogram, Moment, Span

WIDTH = 1000.0
COLUMNS = 460
DOTS = 150
"""Most checks that are drawn one by one as well."""
_FLAG = 20.0  # the width of an event's number; events that are closer share one
_TOP = 42.0  # above the first panel, where the events' numbers stand over its title
_GAP = 26.0  # between two panels, where the next one's title stands
_WORST = ("fallback", "degraded", "unknown", "healthy")


class Line(Struct, frozen=True):
    """A line as an SVG path; ``kind`` is its class, ``label`` its legend."""

    kind: str
    path: str
    label: str = ""


class Box(Struct, frozen=True):
    """A rectangle; ``kind`` is its class, ``title`` what it says when it is pointed at."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str


class Panel(Struct, frozen=True):
    """One chart among those that share an axis."""

    title: str
    top: float
    height: float
    ticks: tuple[Tick, ...] = ()
    bands: tuple[Line, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[tuple[float, float], ...] = ()
    boxes: tuple[Box, ...] = ()

    @property
    def bottom(self) -> float:
        return self.top + self.height


class Mark(Struct, frozen=True):
    """A moment that concerns all panels: an interruption, or an event with its number."""

    kind: str
    at: float
    label: str
    title: str


class Timeline(Struct, frozen=True):
    """All charts of one model over time."""

    height: float
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


class Bars(Struct, frozen=True):
    """Two histograms over one axis, as paths."""

    height: float
    first: str
    last: str
    ticks: tuple[Tick, ...]


class _Series(Struct, frozen=True):
    label: str
    kind: str
    points: tuple[tuple[float, float, object], ...]  # time, value, and what a line is not drawn across


def timeline(
    moments: Sequence[Moment],
    spans: Sequence[Span],
    gaps: Sequence[Gap],
    events: Sequence[Event],
    drift: Drift,
    whole: float,
) -> Timeline:
    """The charts of one model over ``whole`` seconds of measured time."""
    place = axis(whole)
    measured = [one for one in moments if one.median_seconds is not None]
    panels: list[Panel] = []
    top = _TOP
    makers: tuple[Callable[[float], Panel | None], ...] = (
        lambda top: _verdicts(moments, place, whole, top),
        lambda top: _placement(spans, place, top),
        lambda top: _latency(measured, drift, place, whole, top),
        lambda top: _plain("temperature, °C", _heat(measured), place, whole, top, 84.0, "{:g}"),
        lambda top: _plain(
            "clocks, % of the highest", _clocks(measured), place, whole, top, 60.0, "{:g}", (0.0, 100.0)
        ),
        lambda top: _plain("probe's memory, MiB", _memory(measured), place, whole, top, 84.0, "{:g}"),
    )
    for make in makers:
        if panel := make(top):
            panels.append(panel)
            top = panel.bottom + _GAP
    marks = (*_gaps(gaps, place), *_events(moments, events, place))
    return Timeline(top + 4, tuple(panels), tuple(times(whole, place)), marks)


def bars(histogram: Histogram) -> Bars:
    """Both histograms as outlines; what is as high as the highest bin fills the drawing."""
    height = 120.0
    edges = histogram.edges
    highest = max((*histogram.first, *histogram.last))

    def x(seconds: float) -> float:
        return LEFT + (seconds - edges[0]) / (edges[-1] - edges[0]) * (RIGHT - LEFT)

    def outline(shares: Sequence[float]) -> str:
        steps = [f"M{x(edges[0]):.1f},{height:.1f}"]
        for share, low, high in zip(shares, edges, edges[1:], strict=False):
            level = height - share / highest * (height - 8)
            steps.append(f"L{x(low):.1f},{level:.1f}L{x(high):.1f},{level:.1f}")
        return "".join((*steps, f"L{x(edges[-1]):.1f},{height:.1f}Z"))

    scale, unit = unit_of(edges[-1])
    ticks = [Tick(x(value * scale), f"{value:g} {unit}") for value in nice(edges[0] / scale, edges[-1] / scale, 7)]
    return Bars(height, outline(histogram.first), outline(histogram.last), tuple(ticks))


# ------------------------------------------------------------------------------------------------------- panels


def _verdicts(moments: Sequence[Moment], place: Callable[[float], float], whole: float, top: float) -> Panel:
    """The worst verdict of each column; neighbours of one colour are one box."""
    boxes: list[Box] = []
    previous = 0.0
    columns: dict[int, str] = {}
    for one in moments:
        column = _column(one.elapsed, whole)
        columns[column] = min(columns.get(column, "healthy"), one.verdict, key=_WORST.index)
    for column, verdict in sorted(columns.items()):
        end = (column + 1) / COLUMNS * whole
        x, width = place(previous), place(end) - place(previous)
        if boxes and boxes[-1].kind == verdict:
            last = boxes[-1]
            boxes[-1] = Box(verdict, last.x, top, last.width + width, 10.0, verdict)
        else:
            boxes.append(Box(verdict, x, top, width, 10.0, verdict))
        previous = end
    return Panel("verdict of each check", top, 10.0, boxes=tuple(boxes))


def _placement(spans: Sequence[Span], place: Callable[[float], float], top: float) -> Panel | None:
    """How much of the work ran where: as high as the share, as wide as the time."""
    if not spans:
        return None
    height, boxes = 34.0, []
    for span in spans:
        x, width = place(span.start), place(span.end) - place(span.start)
        share = wording.measured(span.place.npu_flops_ratio)
        title = f"NPU {wording.percent(share)} of the FLOPs, {span.place.nodes_cpu} nodes on the CPU"
        if share is None:
            boxes.append(Box("unattributed", x, top, width, height, title))
            continue
        boxes.append(Box("cpu", x, top, width, height * (1 - share), title))
        boxes.append(Box("npu", x, top + height * (1 - share), width, height * share, title))
    ticks = (Tick(top, "100 %"), Tick(top + height, "0 %"))
    return Panel("NPU's share of the FLOPs", top, height, ticks, boxes=tuple(box for box in boxes if box.height))


def _latency(
    measured: Sequence[Moment], drift: Drift, place: Callable[[float], float], whole: float, top: float
) -> Panel | None:
    if not measured:
        return None
    height = 190.0
    medians = [one.median_seconds or 0.0 for one in measured]
    middle = statistics.median(medians)
    scale, unit = unit_of(middle)
    lows = sorted(one.low_seconds or 0.0 for one in measured)
    highs = sorted(one.high_seconds or 0.0 for one in measured)
    # A few wild checks must not flatten the rest, and quiet ones must not look wild.
    low = min(lows[len(lows) // 50], min(medians), 0.95 * middle)
    high = max(highs[-1 - len(highs) // 50], max(medians), 1.05 * middle)
    ticks, level = scaled(low / scale, high / scale, top, height, "{:g}")

    def y(seconds: float) -> float:
        return level(seconds / scale)

    points = [(one.elapsed, one.median_seconds or 0.0, one.session) for one in measured]
    lines = [Line("median", _path(points, place, y, whole), "median of each check")]
    band = Line("spread", _band(measured, place, y, whole), "80 % of the replays")
    if drift.ratio is not None and drift.found:
        start, end = measured[0].elapsed, measured[-1].elapsed
        ends = [middle * (1 + drift.ratio) ** part for part in (-0.5, 0.5)]
        path = f"M{place(start):.1f},{y(ends[0]):.1f}L{place(end):.1f},{y(ends[1]):.1f}"
        lines.append(Line("trend", path, f"drift {100 * drift.ratio:+.1f} %"))
    dots = [(place(time), y(value)) for time, value, _ in points] if len(points) <= DOTS else []
    return Panel(f"latency, {unit}", top, height, ticks, (band,), tuple(lines), tuple(dots))


def _plain(
    title: str,
    series: Iterable[_Series],
    place: Callable[[float], float],
    whole: float,
    top: float,
    height: float,
    form: str,
    bounds: tuple[float, float] | None = None,
) -> Panel | None:
    """Lines over a scale of their own; ``None`` if nothing of it was read."""
    shown = [one for one in series if one.points]
    values = [value for one in shown for _, value, _ in one.points]
    if not values:
        return None
    low, high = bounds or (min(values), max(values))
    slack = max((high - low) * 0.08, abs(high) * 0.01) if bounds is None else 0.0
    ticks, level = scaled(low - slack, high + slack, top, height, form)
    lines = [Line(one.kind, _path(one.points, place, level, whole), one.label) for one in shown]
    return Panel(title, top, height, ticks, lines=tuple(lines))


def _heat(measured: Sequence[Moment]) -> Iterator[_Series]:
    for zone in ("npu", "cpu"):
        points = [(one.elapsed, one.celsius[zone], one.session) for one in measured if zone in one.celsius]
        yield _Series(zone.upper(), zone, tuple(points))


def _clocks(measured: Sequence[Moment]) -> Iterator[_Series]:
    labels = {"npu": "slowest of the accelerator's and the memory's", "cpu": "fastest CPU"}
    for kind, label in labels.items():
        points = [(one.elapsed, 100 * one.clocks[kind], one.session) for one in measured if kind in one.clocks]
        yield _Series(label, kind, tuple(points))


def _memory(measured: Sequence[Moment]) -> Iterator[_Series]:
    points = [
        (one.elapsed, one.rss_bytes / 2**20, (one.session, one.probe)) for one in measured if one.rss_bytes is not None
    ]
    yield _Series("a line breaks where a new probe began", "memory", tuple(points))


# -------------------------------------------------------------------------------------------------------- marks


def _gaps(gaps: Sequence[Gap], place: Callable[[float], float]) -> Iterator[Mark]:
    for gap in gaps:
        what = "the board was started anew" if gap.rebooted else "the soak was interrupted"
        title = f"{what}: {wording.rfc3339(gap.since)[:19]}Z to {wording.rfc3339(gap.until)[:19]}Z"
        yield Mark("gap", place(gap.elapsed), "", title)


def _events(moments: Sequence[Moment], events: Sequence[Event], place: Callable[[float], float]) -> Iterator[Mark]:
    """An event stands at the check it was told with, which has its time."""
    known = {one.timestamp: one.elapsed for one in moments}
    marks: list[Mark] = []
    for number, event in enumerate(events, 1):
        if event.timestamp not in known:
            continue
        at, title = place(known[event.timestamp]), f"{event.event}: {event.reason}"
        if marks and at - marks[-1].at < _FLAG:
            first = marks.pop()
            marks.append(Mark("event", first.at, f"{first.label.split('-')[0]}-{number}", f"{first.title}; {title}"))
        else:
            marks.append(Mark("event", at, str(number), title))
    yield from marks


# ------------------------------------------------------------------------------------------------------- drawing


def _column(elapsed: float, whole: float) -> int:
    return min(int(elapsed / whole * COLUMNS), COLUMNS - 1) if whole else 0


def _path(
    points: Sequence[tuple[float, float, object]],
    place: Callable[[float], float],
    level: Callable[[float], float],
    whole: float,
) -> str:
    """One vertex a column and stretch, the median of what falls there."""
    columns: dict[tuple[int, object], list[tuple[float, float]]] = {}
    for time, value, stretch in points:
        columns.setdefault((_column(time, whole), stretch), []).append((time, value))
    steps, previous = [], None
    for (_, stretch), inside in columns.items():
        x = place(statistics.median(time for time, _ in inside))
        y = level(statistics.median(value for _, value in inside))
        steps.append(f"{'L' if stretch == previous else 'M'}{x:.1f},{y:.1f}")
        previous = stretch
    return "".join(steps)


def _band(
    measured: Sequence[Moment], place: Callable[[float], float], level: Callable[[float], float], whole: float
) -> str:
    """The spread of the replays as an area, one for each session."""
    sessions: dict[int, dict[int, list[Moment]]] = {}
    for one in measured:
        sessions.setdefault(one.session, {}).setdefault(_column(one.elapsed, whole), []).append(one)
    areas = []
    for columns in sessions.values():
        upper, lower = [], []
        for inside in columns.values():
            x = place(statistics.median(one.elapsed for one in inside))
            upper.append(f"{x:.1f},{level(statistics.median(one.high_seconds or 0.0 for one in inside)):.1f}")
            lower.append(f"{x:.1f},{level(statistics.median(one.low_seconds or 0.0 for one in inside)):.1f}")
        if len(upper) > 1:
            areas.append(f"M{'L'.join((*upper, *reversed(lower)))}Z")
    return "".join(areas)
