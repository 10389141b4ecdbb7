"""The rules that are compared: npumon's own, and what is published.

A rule sees one check at a time and says whether it raises an event at it. The change-point method is Apache Otava's
(formerly Hunter; Fleming et al., ICPE 2023), which refines E-divisive (Matteson and James, A nonparametric approach for
multiple change point analysis of multivariate data, JASA 109, 2014). It is not among npumon's dependencies, as it pins
another numpy: ``pip install --no-deps apache-otava scipy`` adds it, and without it its column is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from msgspec.structs import replace

from benchmarks.detection.series import REPLAYS
from monitor.analysis.assess import assess
from monitor.analysis.instability import undecided
from monitor.analysis.latency import summarize
from monitor.config import Gate
from monitor.records import Board, CheckResult, Latency, ModelState, NodeCounts, Placement, Replays, Runtime, Samples

LEARNING: Final = 60  # checks
OTAVA_POINTS: Final = 100  # two of Otava's windows: what lies further back no longer says anything about now
OTAVA_SAME: Final = 5  # checks within which a change point that moves as data come in is still the same one


GATE: Final = Gate()
_BOARD: Final = Board("board", "aarch64", "6.6")
_HEALTHY: Final = CheckResult(
    "m",
    0.0,
    1.0,
    "healthy",
    "all of the FLOPs run on the accelerator",
    model_sha256="0" * 64,
    placement=Placement(1.0, None, 1.0, 0.0, 1, NodeCounts(1, 0, 0), 1, (), {}),
    samples=Samples("files", 1),
    runtime=Runtime("qnn", "hexagon", "1.32.0", "2.7.0", "v2.51.0"),
)


class Rule(Protocol):
    """One rule with its state, new for each series; ``copy.deepcopy`` must fork it.

    It may also have ``wants_more(seconds_so_far) -> bool``, asked before a check is concluded: each ``True`` makes 30
    further replays of the same check, at most four times.
    """

    @property
    def name(self) -> str: ...

    def observe(self, seconds: Sequence[float]) -> tuple[bool, bool]:
        """One check's replays in seconds; whether an event is raised at it, and whether the alarm is on after it."""
        ...


class MedianOrCv:
    """Alarm while the median exceeds 1.25 x that of the first 60 checks, or the CV of this check exceeds 15 %."""

    name = "median or CV > 15 %"

    def __init__(self) -> None:
        self._medians: list[float] = []
        self._gate = math.inf
        self._alarm = False

    def observe(self, seconds: Sequence[float]) -> tuple[bool, bool]:
        median, cv = signals(seconds)
        if len(self._medians) < LEARNING:
            self._medians.append(median)
            if len(self._medians) == LEARNING:
                self._gate = 1.25 * statistics.median(self._medians)
        before, self._alarm = self._alarm, median > self._gate or cv > 0.15
        return self._alarm and not before, self._alarm


class CvTwice:
    """Alarm once the CV exceeded 10 % in two checks in a row, until it does not."""

    name = "CV > 10 % twice"

    def __init__(self) -> None:
        self._run = 0

    def observe(self, seconds: Sequence[float]) -> tuple[bool, bool]:
        self._run = self._run + 1 if signals(seconds)[1] > 0.10 else 0
        return self._run == 2, self._run >= 2


class Otava:
    """Apache Otava with its defaults, run anew at each check on the recent medians and on the recent CVs.

    An event is a change for the worse that was not known yet. It keeps no alarm: a change point is an instant.
    """

    name = "Otava"
    least_change = 0.0  # Otava's default

    def __init__(self) -> None:
        self._analyse: Callable[..., tuple[list[Any], Any]] = _otava()
        self._series: tuple[deque[float], deque[float]] = (deque(maxlen=OTAVA_POINTS), deque(maxlen=OTAVA_POINTS))
        self._known: deque[int] = deque(maxlen=OTAVA_POINTS)
        self._checks = 0

    def __deepcopy__(self, memory: dict[int, Any]) -> Otava:
        forked = type(self)()
        forked._series = (self._series[0].copy(), self._series[1].copy())
        forked._known, forked._checks = self._known.copy(), self._checks
        return forked

    def observe(self, seconds: Sequence[float]) -> tuple[bool, bool]:
        self._checks += 1
        event = False
        for series, value in zip(self._series, signals(seconds), strict=True):
            series.append(value)
            first = self._checks - len(series)
            points, _ = self._analyse(list(series), min_magnitude=self.least_change)
            for point in points:
                rises = bool(point.stats.mean_2 > point.stats.mean_1)
                event |= rises and self._is_new(first + int(point.index))
        return event, event

    def _is_new(self, place: int) -> bool:
        new = all(abs(place - known) > OTAVA_SAME for known in self._known)
        if new:
            self._known.append(place)
        return new


class OtavaLarge(Otava):
    """The same, but told to ignore changes of less than 10 %: the kindest reading for this purpose."""

    name = "Otava, >= 10 %"
    least_change = 0.10


class Npumon:
    """npumon's own analysis, from its records on, with the closer look that the service takes."""

    name = "npumon"

    def __init__(self) -> None:
        self._state = ModelState("m")
        self._checks = 0

    def __deepcopy__(self, memory: dict[int, Any]) -> Npumon:
        forked = type(self)()
        forked._state, forked._checks = self._state, self._checks  # records never change
        return forked

    def wants_more(self, seconds: Sequence[float]) -> bool:
        return undecided(self._state, _latency(seconds), GATE)

    def observe(self, seconds: Sequence[float]) -> tuple[bool, bool]:
        self._checks += 1
        result = replace(_HEALTHY, timestamp=60.0 * self._checks, latency=_latency(seconds))
        self._state, result, events = assess(self._state, result, GATE, _BOARD)
        raised = any(event.event in ("latency_unstable", "latency_shifted") for event in events)
        return raised, result.verdict != "healthy"


def _latency(seconds: Sequence[float]) -> Latency:
    rounds = (tuple(seconds[start : start + REPLAYS]) for start in range(0, len(seconds), REPLAYS))
    return summarize(*(Replays(one, ()) for one in rounds))


def signals(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and CV (sample standard deviation over mean) of at least two replays."""
    ordered = sorted(seconds)
    count = len(ordered)
    mean = math.fsum(ordered) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (count - 1))
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2, deviation / mean


def _otava() -> Callable[..., tuple[list[Any], Any]]:
    analyse: Callable[..., tuple[list[Any], Any]] = importlib.import_module("otava.analysis").compute_change_points
    return analyse


_PUBLISHED: Final[tuple[type[Rule], ...]] = (Npumon, MedianOrCv, CvTwice)
_CHANGE_POINTS: Final[tuple[type[Rule], ...]] = (Otava, OtavaLarge) if importlib.util.find_spec("otava") else ()
RULES: Final = {str(rule.name): rule for rule in (*_PUBLISHED, *_CHANGE_POINTS)}
EFFORT: Final = {"Otava": 0.1, "Otava, >= 10 %": 0.1}
"""Share of the checks that a rule is given which takes milliseconds for each of them."""
