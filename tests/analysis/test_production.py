"""The application's own calls against the replays: when they are not the same session's, and when that is over."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

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


@pytest.mark.parametrize("seconds", [0.030, 0.003])
def test_one_process_of_several_that_fell_back(seconds: float) -> None:
    """A worker whose session fell back alone is lost among the others' calls, and is told with its own distribution."""
    course, healthy = Course(), Healthy(6)
    fine, other = calls(0.010, 300), calls(seconds, 100)
    both = replace(together(fine, other), processes={"calls-1-aa": fine.bins, "calls-2-bb": other.bins})
    alone = replace(fine, processes={"calls-1-aa": fine.bins})
    course.checks(6, healthy, calls=alone)
    assert course.events == []
    course.checks(6, healthy, calls=both)
    (event,) = course.events
    assert event.cause == "production_differs"
    assert event.production is not None
    assert event.production.calls == 100
    assert event.production.process == "calls-2-bb"
    assert event.reason.startswith("the application's calls in calls-2-bb take ")
    assert event.production.ratio == pytest.approx(seconds / 0.010, rel=0.1)
    course.checks(6, healthy, calls=alone)
    assert course.names == ["latency_shifted", "latency_recovered"]


def test_a_process_that_called_seldom_waits_for_more() -> None:
    """A handful of slow calls of one process are no median; over several checks they become one."""
    course, healthy = Course(), Healthy(7)
    fine, few = calls(0.010, 300), calls(0.050, FEWEST - 1)
    course.checks(6, healthy, calls=replace(together(fine, few), processes={"a": fine.bins, "b": few.bins}))
    assert course.events == []
    few = calls(0.050, FEWEST // 3)
    both = replace(together(fine, few), processes={"a": fine.bins, "b": few.bins})
    found = compare(together(both, together(both, both)), latency(0.010), ())
    assert found is not None
    assert found.calls == FEWEST
    assert found.ratio == pytest.approx(5, rel=0.1)


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
    mostly = replace(calls(0.050), shapes={SAME: 100, OTHER: int(100 / COVERED) - 110})
    course.checks(6, healthy, samples=samples, calls=mostly)
    assert course.names == ["latency_shifted"]


def test_another_model_begins_anew() -> None:
    """Comparisons with the model before an update do not count for the one after it."""
    course, healthy = Course(), Healthy(4)
    course.checks(2, healthy, calls=calls(0.050))
    course.check(healthy, calls=calls(0.050), model_sha256="f" * 64)
    assert "latency_shifted" not in course.names


@pytest.mark.parametrize("silence", [None, Calls(), calls(0.050, shapes=OTHER)], ids=["gone", "idle", "other shapes"])
def test_what_nobody_sees_any_more_is_over(silence: Calls | None) -> None:
    """An application that stopped, or calls with other shapes, is not called degraded for ever: for a day."""
    course, healthy = Course(), Healthy(9)
    samples = Samples("files", 4, shapes=(SAME,))
    course.checks(3, healthy, samples=samples, calls=calls(0.050))
    course.checks(1440, healthy, samples=samples, calls=silence)
    assert course.names == ["latency_shifted"]
    assert course.verdicts[-1] == "degraded"
    course.check(healthy, samples=samples, calls=silence)
    assert course.names == ["latency_shifted", "latency_recovered"]
    assert course.events[1].id == course.events[0].id
    assert course.verdicts[-1] == "healthy"


def test_another_model_ends_it_after_as_many_comparisons() -> None:
    """An update of the model is no evidence that the application has it, too: three good comparisons are."""
    course, healthy = Course(), Healthy(8)
    course.checks(3, healthy, calls=calls(0.050))
    course.checks(AGREED - 1, healthy, calls=calls(0.010), model_sha256="f" * 64)
    assert "latency_recovered" not in course.names
    course.check(healthy, calls=calls(0.010), model_sha256="f" * 64)
    assert course.names[-1] == "latency_recovered"


def test_the_gate_is_configured() -> None:
    """An application that waits between calls, and so finds the accelerator asleep, is given more room."""
    course, healthy = Course(Gate(production=4.0)), Healthy(5)
    course.checks(6, healthy, calls=calls(0.030))
    assert course.events == []
