"""The application's own calls against the replays: when they are not the same session's, and when that is over."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.production import AGREED, COVERED, FEWEST, agrees, compare, differs, together
from monitor.bins import STEP, bin_of
from monitor.config import Gate
from monitor.records import Calls, Latency, Samples
from tests.analysis.course import Course, Healthy

SAME, OTHER = "x[1,3]", "x[9,3]"


def calls(seconds: float, count: int = 100, shapes: str = SAME, seed: int = 1) -> Calls:
    """So many calls that scatter by a tenth around ``seconds``."""
    chance = random.Random(seed)
    drawn = [seconds * math.exp(chance.gauss(0, 0.1)) for _ in range(count)]
    return Calls(dict(Counter(map(bin_of, drawn))), sum(drawn), {shapes: count} if count else {})


def latency(seconds: float) -> Latency:
    """Thirty equal replays."""
    return Latency(seconds, 0.0, (seconds,) * 30, ())


@given(st.floats(2e-5, 50), st.floats(0.02, 50))
def test_the_ratio_is_that_of_the_medians(replay: float, ratio: float) -> None:
    """Within the width of a bin on either side, at any latency that the bins hold."""
    taken = replay * ratio
    if not 2e-5 < taken < 90:
        return
    found = compare(Calls({bin_of(taken): FEWEST}, taken, {}), latency(replay), ())
    assert found is not None
    assert ratio / STEP**1.01 <= found.ratio <= ratio * STEP**1.01
    assert sum(found.histogram.values()) == found.calls == FEWEST
    assert sum(found.replays_histogram.values()) == 30


def test_few_calls_wait_for_more() -> None:
    """An application that calls seldom is compared less often, over more checks."""
    half = calls(0.01, FEWEST // 2)
    assert compare(half, latency(0.01), ()) is None
    assert compare(together(half, half), latency(0.01), ()) is not None


@given(st.lists(st.floats(0.01, 100), max_size=6), st.floats(1.01, 10))
def test_nothing_differs_and_agrees_at_once(ratios: list[float], gate: float) -> None:
    """Whatever was seen: what is told is not over in the same check."""
    assert not (differs(ratios, gate) and agrees(ratios, gate))


@pytest.mark.parametrize(("seconds", "side"), [(0.030, "long"), (0.003, "short")])
def test_an_application_on_another_session_is_told_and_cleared(seconds: float, side: str) -> None:
    """Three comparisons in a row raise one event with both distributions, three good ones clear it by the same id."""
    course, healthy = Course(), Healthy(1)
    course.checks(10, healthy, calls=calls(0.010))
    assert course.events == []
    course.checks(6, healthy, calls=calls(seconds))
    (event,) = course.events
    assert (event.event, event.cause, event.level) == ("latency_shifted", "production_differs", "warning")
    assert f"times as {side} as the replays (10" in event.reason
    assert event.production is not None
    assert sum(event.production.histogram.values()) == 100
    assert sum(event.production.replays_histogram.values()) == 30
    assert [one.result.verdict for one in course.assessed[-6:]] == ["healthy"] * (AGREED - 1) + ["degraded"] * 4
    assert course.assessed[-1].result.cause == "production_differs"
    course.checks(6, healthy, calls=calls(0.010))
    assert course.names == ["latency_shifted", "latency_recovered"]
    assert course.events[1].id == event.id
    assert course.verdicts[-1] == "healthy"


def test_a_burst_of_load_is_no_other_session() -> None:
    """Two slow comparisons between good ones raise nothing, however slow; nor does scatter within the gate."""
    course, healthy = Course(), Healthy(2)
    for round_ in range(20):
        course.checks(2, healthy, calls=calls(0.050))
        course.check(healthy, calls=calls(0.018, seed=round_))
    assert course.events == []


def test_other_shapes_are_not_comparable() -> None:
    """Calls whose shapes nobody replays may take what they take; the share that is covered is told."""
    course, healthy = Course(), Healthy(3)
    samples = Samples("files", 4, shapes=(SAME,))
    course.checks(6, healthy, samples=samples, calls=calls(0.050, shapes=OTHER))
    assert course.events == []
    found = course.assessed[-1].result.production
    assert found is not None
    assert found.covered_ratio == 0.0
    mostly = together(calls(0.050), calls(0.050, int(100 / COVERED) - 110, OTHER))
    course.checks(6, healthy, samples=samples, calls=mostly)
    assert course.names == ["latency_shifted"]


def test_another_model_begins_anew() -> None:
    """Comparisons with the model before an update do not count for the one after it."""
    course, healthy = Course(), Healthy(4)
    course.checks(2, healthy, calls=calls(0.050))
    course.check(healthy, calls=calls(0.050), model_sha256="f" * 64)
    assert "latency_shifted" not in course.names


def test_the_gate_is_configured() -> None:
    """An application that waits between calls, and so finds the accelerator asleep, is given more room."""
    course, healthy = Course(Gate(production=4.0)), Healthy(5)
    course.checks(6, healthy, calls=calls(0.030))
    assert course.events == []
