"""What must hold of every verdict, whatever the series: no order, no unit, and never better for being worse.

Series are drawn from a seed, so that a case that fails is the same case again.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monitor.analysis.latency import summarize
from monitor.analysis.verdict import judge
from monitor.config import Gate
from monitor.records import CheckResult, ModelState, Replays
from tests.analysis.course import START, Course, Healthy, measured
from tests.analysis.evidence import facts, op, placement

RANK = {"healthy": 0, "degraded": 1, "fallback": 2}
SHARES = st.one_of(st.just(0.0), st.sampled_from([0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0]), st.floats(0, 1))
HISTORY = st.lists(SHARES, max_size=12)
LEVEL = 3
"""Checks after which a median is a level."""
SEEDS = st.integers(0, 2**32)


class Check:
    """The rounds of one check: the same ones for the same seed and number, but for what is slow in them."""

    def __init__(self, seed: int, number: int, share: float = 0.0, factor: float = 3.0, unit: float = 1.0) -> None:
        self._draw = Healthy(seed * 1_000_003 + number, 0.01 * unit).slow(share, factor)

    def __call__(self) -> tuple[float, ...]:
        """One round."""
        return self._draw()


def check(rounds: list[list[tuple[float, int]]]) -> CheckResult:
    """A check of these rounds of replays, each with its interruptions."""
    return measured(summarize(*(Replays(seconds, (), (), switches) for seconds, switches in map(_apart, rounds))))


def _apart(part: list[tuple[float, int]]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return tuple(seconds for seconds, _ in part), tuple(switches for _, switches in part)


def after(checks: int, unit: float = 1.0, gate: Gate | None = None) -> Course:
    """A model with so many healthy checks."""
    course = Course(gate)
    for number in range(checks):
        course.check(Check(-1, number, unit=unit))
    return course


@cache
def mature(checks: int) -> ModelState:
    """The state of a model with a baseline."""
    return after(checks).state


def resumed(state: ModelState) -> Course:
    """A model that goes on from this state."""
    course = Course(start=START + 1e6)
    course.state = state
    return course


def played(state: ModelState, seed: int, shares: list[float], **fields: Any) -> Course:
    """Checks of which these shares of the replays are slow."""
    course = resumed(state)
    for number, share in enumerate(shares):
        course.check(Check(seed, number, share), **fields)
    return course


# --------------------------------------------------------------------------------------------------------- order


@settings(max_examples=50)
@given(SEEDS, st.lists(SHARES, min_size=1, max_size=8), st.integers(1, 3))
def test_the_order_of_replays_changes_nothing(seed: int, shares: list[float], rounds: int) -> None:
    """Replays of a round may come in any order, interruptions with them: verdicts, states and events are the same."""
    one, other = resumed(mature(20)), resumed(mature(20))
    for number, share in enumerate(shares):
        chance, draw = random.Random(seed + number), Check(seed, number, share)
        drawn = [[(value, int(chance.random() < 0.1)) for value in draw()] for _ in range(rounds)]
        mixed = [chance.sample(part, len(part)) for part in drawn]
        first, second = (course.take(check(parts)) for course, parts in ((one, drawn), (other, mixed)))
        assert (first.result.verdict, first.result.reason) == (second.result.verdict, second.result.reason)
        assert (first.state, first.events) == (second.state, second.events)


# --------------------------------------------------------------------------------------------------------- unit


@settings(max_examples=30)
@given(SEEDS, st.lists(SHARES, min_size=1, max_size=15), st.floats(1e-3, 1e3), st.booleans())
def test_the_unit_of_time_changes_no_verdict(seed: int, shares: list[float], unit: float, gated: bool) -> None:
    """All latencies times a factor, and the configured gate with them: medians scale, verdicts and events stay."""
    one, other = (after(15, by, Gate(median=0.0125 * by if gated else None)) for by in (1.0, unit))
    for number, share in enumerate([*shares, *[0.0] * 8]):
        found = [
            course.check(Check(seed, number, share, 1.4 if number % 2 else 3.0, by))
            for course, by in ((one, 1.0), (other, unit))
        ]
        first, second = (single.result for single in found)
        assert first.latency is not None
        assert second.latency is not None
        assert abs(second.latency.median_seconds / (first.latency.median_seconds * unit) - 1) < 1e-9
        assert (first.verdict, first.cause, first.breach) == (second.verdict, second.cause, second.breach)
    assert one.names == other.names
    assert [event.id for event in one.events] == [event.id for event in other.events]


# ------------------------------------------------------------------------------------------------- more fallback


@settings(max_examples=60)
@given(SEEDS, HISTORY, SHARES, st.floats(0, 1), st.floats(0, 1), st.integers(0, 5), st.integers(0, 5))
def test_a_worse_placement_never_improves_a_verdict(
    seed: int, history: list[float], share: float, npu: float, less: float, cpu: int, more: int
) -> None:
    """With the same latency and the same past, a lower NPU share or more ops on the CPU is never judged better."""
    npu, less = max(npu, less), min(npu, less)
    ops = [op(f"n{number}", 0.0) for number in range(cpu + more)]
    state = played(mature(20), seed, history).state
    ranks = []
    for found in (placement(npu, *ops[:cpu]), placement(less, *ops)):
        judged = judge(Gate(), facts(), found)
        fields = {"verdict": judged.verdict, "cause": judged.cause, "reason": judged.reason, "placement": found}
        ranks.append(RANK[played(state, seed + 1, [share], **fields).verdicts[0]])
    assert ranks[1] >= ranks[0]


@settings(max_examples=100, derandomize=True)
@given(SEEDS, st.sampled_from([20, 80]), HISTORY, SHARES, SHARES)
def test_more_slow_replays_never_improve_the_verdict_for_long(
    seed: int, age: int, history: list[float], share: float, more: float
) -> None:
    """Whatever came before: of two faults that last for three checks, the larger one is then not judged better.

    A single check cannot promise that: a burst in one check is taken for the board's, and where nearly all of the
    replays are slow it takes three checks to call that a level.
    """
    fewer, more = min(share, more), max(share, more)
    state = played(mature(age), seed, history).state
    ranks = [RANK[played(state, seed + 1, [each] * LEVEL).verdicts[-1]] for each in (fewer, more)]
    assert ranks[1] >= ranks[0]


@settings(max_examples=60, derandomize=True)
@given(SEEDS, st.sampled_from([20, 80]), SHARES, SHARES)
def test_a_lasting_larger_fault_is_never_judged_better(seed: int, age: int, share: float, more: float) -> None:
    """From its third check on, a fault that takes more of the replays is never healthier than one that takes fewer."""
    fewer, more = min(share, more), max(share, more)
    one, other = (played(mature(age), seed, [each] * 15).verdicts[LEVEL - 1 :] for each in (fewer, more))
    assert all(RANK[after] >= RANK[before] for before, after in zip(one, other, strict=True))


@settings(max_examples=100, derandomize=True)
@given(SEEDS, st.sampled_from([0.05, 0.1, 0.3, 0.5]), st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=8))
def test_more_slow_replays_never_end_an_unstable_latency(
    seed: int, fault: float, pairs: list[tuple[float, float]]
) -> None:
    """While a slow mode is an open incident, checks with more slow replays do not end it earlier."""
    state = played(mature(80), seed, [fault] * 10).state
    assume(state.unstable)
    fewer, more = (ended(played(state, seed + 1, list(map(pick, pairs)))) for pick in (min, max))
    assert more >= fewer


def ended(course: Course) -> int:
    """After how many checks the slow mode was over; one more than there were if it was not."""
    open_ = [one.state.unstable is not None for one in course.assessed]
    return [*open_, False].index(False)
