"""The verdict with its memory: alarms that are worth a line, told once, and over when they are over."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest

from monitor.analysis.assess import assess, standing
from monitor.analysis.baselines import MOST as MOST_BASELINES
from monitor.analysis.instability import undecided
from monitor.analysis.latency import summarize
from monitor.analysis.slow import MOST as MOST_DIGESTS
from monitor.config import Gate
from monitor.records import (
    BaselineRequest,
    BoardReading,
    Event,
    Failure,
    Replays,
    Zone,
)
from tests.analysis.course import REPLAYS, Course, Healthy, measured, steady
from tests.analysis.evidence import BOARD, RUNTIME, latency, op, placement, result

SEEDS = range(4)
ACCEPT = BaselineRequest("m", "accept")
FORGET = BaselineRequest("m", "forget")
FALLEN = {"verdict": "fallback", "cause": "op_unsupported", "reason": "fell", "placement": placement(0.5, op("a", 0.5))}
CROSSED = {"verdict": "degraded", "cause": None, "reason": "wrong outputs"}
BROKEN = result(verdict="unknown", error=Failure("probe_crashed", "it died"), runtime=None, model_sha256=None)


def grown(seed: int = 1, checks: int = 80, gate: Gate | None = None) -> tuple[Course, Healthy]:
    """A model with a baseline of 10 ms and nothing wrong so far."""
    course, draw = Course(gate), Healthy(seed)
    course.checks(checks, draw)
    assert (course.events, set(course.verdicts)) == ([], {"healthy"})
    return course, draw


def raised(course: Course, name: str) -> Event:
    """The only event of this name."""
    (event,) = [event for event in course.events if event.event == name]
    return event


# --------------------------------------------------------------------------------------------------- unstable


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.35])
def test_an_intermittent_slowdown_is_raised_once_and_cleared(seed: int, share: float) -> None:
    """With the placement intact it is the accelerator's; while it lasts the verdict is degraded, afterwards healthy."""
    course, draw = grown(seed)
    course.checks(60, draw.slow(share))
    event = raised(course, "latency_unstable")
    assert (event.level, event.cause, event.ops, event.baseline_seconds) == (
        "warning",
        "slow_accelerator",
        (),
        course.state.baselines[0].median_seconds,
    )
    assert "times as long as the others, in healthy checks" in event.reason
    assert event.reason.endswith("with the placement intact")
    first = course.events[0].timestamp
    during = [one.result for one in course.assessed if one.result.timestamp >= first]
    assert {one.verdict for one in during} == {"degraded"}
    assert {one.cause for one in during} == {"slow_accelerator"}
    course.checks(30, draw.slow(0.0))
    assert raised(course, "latency_recovered").id == event.id
    assert (course.verdicts[-1], course.state.unstable) == ("healthy", None)


def test_what_is_over_is_not_raised_again_by_its_own_past() -> None:
    """The checks of an incident that was cleared are still remembered, but convict nobody twice."""
    for seed in SEEDS:
        course, draw = grown(seed)
        course.checks(40, draw.slow(0.1))
        course.checks(8, draw.slow(0.0))
        assert course.names == ["latency_unstable", "latency_recovered"]
        for _ in range(3):
            course.check(lambda: (0.01,) * (REPLAYS - 1) + (0.03,))
            course.checks(MOST_DIGESTS // 2, draw)
        assert course.names == ["latency_unstable", "latency_recovered"]


def test_an_alarm_says_what_the_verdict_rests_on() -> None:
    """The verdict's sentence has the share, the separation and since when; the breach is the spread's."""
    course, draw = grown()
    course.checks(10, draw.slow(0.2))
    found = course.assessed[-1].result
    since = course.state.unstable
    assert since is not None
    assert found.breach == "cv"
    assert found.reason == (
        f"{100 * since.ratio:.2g} % of the replays took {since.separation:.2g} times as long, "
        "since 2023-11-14 23:34 UTC, with the placement intact"
    )


def test_a_slow_mode_that_hardly_matters_is_left_alone() -> None:
    """What adds less than half of the spread that the gate allows is raised only where the gate is as tight."""
    for cv, expected in ((1.0, []), (0.15, ["latency_unstable"])):
        course, draw = grown(gate=Gate(cv=cv))
        course.checks(30, draw.slow(0.05))
        assert course.names == expected


def test_all_replays_slow_is_no_calm() -> None:
    """While nearly all replays are slow the fast mode comes and goes; that ends nothing and repeats nothing."""
    for seed in SEEDS:
        for share in (0.5, 0.8):
            course, draw = grown(seed)
            course.checks(120, draw.slow(share))
            assert sorted(course.names) == ["latency_shifted", "latency_unstable"]
            assert set(course.verdicts[82:]) == {"degraded"}
            course.checks(30, draw.slow(0.0))
            assert course.names[2:] == ["latency_recovered", "latency_recovered"]
            assert course.verdicts[-1] == "healthy"


def test_a_spread_beyond_its_gate_is_told_without_a_mode() -> None:
    """Replays that scatter by more than the gate in most of the checks are told, and over when they do not."""
    course, draw = grown(gate=Gate(median=0.05))
    course.checks(20, lambda: [0.0085, 0.011] * (REPLAYS // 2))
    event = raised(course, "latency_unstable")
    assert "without its outliers, the gate is 15 %" in event.reason
    assert course.state.unstable is not None
    assert course.state.unstable.band is None
    assert course.assessed[-1].result.reason.startswith("the latency scatters beyond its gate of 15 %")
    course.checks(8, draw)
    assert course.names[-1] == "latency_recovered"
    assert course.verdicts.count("degraded") >= 15


# ---------------------------------------------------------------------------------------------------- shifted


@pytest.mark.parametrize(("factor", "within"), [(1.3, 3), (3.0, 3)])
def test_a_step_beyond_the_gate(factor: float, within: int) -> None:
    """It is raised within three checks, says from where to where and when, and clears when the median is back."""
    for seed in SEEDS:
        course, draw = grown(seed)
        draw.median *= factor
        course.checks(within, draw)
        event = raised(course, "latency_shifted")
        assert "exceeds its gate of 12." in event.reason
        assert "it stepped from " in event.reason
        assert course.assessed[-1].result.breach == "median"
        course.checks(50, draw)
        assert set(course.verdicts[80 + within :]) == {"degraded"}
        draw.median /= factor
        course.checks(6, draw)
        assert course.names == ["latency_shifted", "latency_recovered"]
        assert course.events[1].id == event.id
        assert course.verdicts[-1] == "healthy"


def test_a_step_within_the_gate_is_told_and_changes_no_verdict() -> None:
    """1.15x is healthy by the gate, but somebody did something: one line, and a remark on the verdict."""
    course, draw = grown()
    draw.median *= 1.15
    course.checks(40, draw)
    event = raised(course, "latency_shifted")
    assert event.reason.startswith("it stepped from 9.97 ms to 11.5 ms at 2023-11-14 23:33 UTC, within its gate")
    assert set(course.verdicts) == {"healthy"}
    last = course.assessed[-1].result
    assert last.reason.startswith("because; the median rose from 9.97 ms to 11.5 ms at 2023-11-14 ")
    assert last.reason.endswith("within its gate")
    draw.median /= 1.15
    course.checks(10, draw)
    assert course.names == ["latency_shifted", "latency_recovered"]
    assert "the median is back at " in course.events[1].reason


def test_a_drift_beyond_the_gate_is_called_one() -> None:
    """A level that crept up over hours did not step."""
    course, draw = grown()
    for _ in range(400):
        draw.median *= 1.3 ** (1 / 400)
        course.check(draw)
    event = raised(course, "latency_shifted")
    assert "it drifted there from 10 ms" in event.reason


def test_a_drift_within_the_gate_is_the_weather() -> None:
    """A day that is 8 % slower at noon than at night raises nothing."""
    course = Course()
    draw = Healthy(3)
    for minute in range(1440):
        draw.median = 0.01 * (1 + 0.08 * math.sin(math.tau * minute / 1440))
        course.check(draw)
    assert course.events == []


def test_two_slow_checks_are_no_shift() -> None:
    """A median is beyond its gate if three checks in a row are."""
    course, draw = grown()
    course.checks(2, steady(0.03))
    course.checks(20, draw)
    assert (course.events, set(course.verdicts)) == ([], {"healthy"})


def test_the_gate_has_a_memory() -> None:
    """Between 97 % of the gate and the gate nothing changes: a level there ends no alarm and begins none."""
    course, _ = grown(gate=Gate(median=0.0125))
    course.checks(60, steady(0.0124))
    assert (course.names, set(course.verdicts)) == (["latency_shifted"], {"healthy"})
    course.checks(5, steady(0.0127))
    assert course.verdicts[-1] == "degraded"
    course.checks(60, steady(0.0124))
    assert set(course.verdicts[-60:]) == {"degraded"}
    assert course.assessed[-1].result.reason.startswith("the median of 12.4 ms is not yet back for good")
    course.checks(5, steady(0.0112))
    assert course.verdicts[-2:] == ["healthy", "healthy"]
    assert [event.event for event in course.events[1:]] == ["latency_shifted", "latency_recovered"]
    assert len({event.id for event in course.events}) == 1


def test_a_level_that_rises_further_within_the_gate_is_told_again() -> None:
    """A second step is told under the id of the first, and not with every check."""
    course, draw = grown(gate=Gate(median=0.05))
    draw.median = 0.013
    course.checks(30, draw)
    draw.median = 0.02
    course.checks(60, draw)
    assert course.names == ["latency_shifted", "latency_shifted"]
    assert course.events[0].id == course.events[1].id
    assert course.events[1].reason.startswith("the median rose further, from 1")
    draw.median = 0.06
    course.checks(10, draw)
    assert course.names == ["latency_shifted"] * 3
    assert course.events[2].reason.startswith("the median of 6")
    assert course.verdicts[-1] == "degraded"


def test_the_first_check_beyond_a_configured_gate_is_told() -> None:
    """One look decides where there is only one; nothing is said about an earlier level that nobody knows."""
    course = Course(Gate(median=0.005))
    (event,) = course.check(steady(0.01)).events
    assert event.reason == (
        "the median of 10 ms exceeds its gate of 5 ms; no earlier level is known, with the placement intact"
    )
    assert course.verdicts == ["degraded"]


# ------------------------------------------------------------------------------------------------ the whole of it


def test_a_fallback_neither_ends_nor_repeats_a_latency_incident() -> None:
    """While the placement is broken nothing is known of the accelerator's speed."""
    course, draw = grown()
    course.checks(20, draw.slow(0.2))
    opened, digests = course.state.unstable, course.state.digests
    course.checks(5, steady(0.01), **FALLEN)
    assert set(course.verdicts[-5:]) == {"fallback"}
    assert (course.state.unstable, course.state.digests) == (opened, digests)
    course.checks(20, draw)
    course.checks(20, draw.slow(0))
    assert course.names == ["latency_unstable", "fallback_detected", "fallback_cleared", "latency_recovered"]


def test_what_could_not_be_measured_changes_nothing_about_the_latency() -> None:
    """A failed check and an audit without replays leave open incidents and what is remembered as they are."""
    course, draw = grown()
    course.checks(20, draw.slow(0.2))
    before = course.state
    course.take(BROKEN)
    course.take(result(placement=placement(1.0)))
    after = course.state
    assert (after.unstable, after.digests, after.baselines) == (before.unstable, before.digests, before.baselines)


def test_wrong_outputs_keep_their_reason() -> None:
    """A slow latency besides is raised and told; the verdict's sentence stays the graver one's."""
    course, draw = grown()
    course.checks(10, draw.slow(0.3), **CROSSED)
    last = course.assessed[-1].result
    assert (last.verdict, last.cause, last.reason) == ("degraded", None, "wrong outputs")
    assert course.names == ["latency_unstable"]
    assert standing(course.state, last, course.gate).incidents == {
        "fallback": False,
        "unstable": True,
        "shifted": False,
        "outputs": True,
        "production": False,
        "failure": False,
    }


def test_the_standing_is_what_is_measured_against() -> None:
    """Gates and baseline in force, and no baseline before there is one."""
    course = Course(Gate(npu_flops=0.9, cv=0.2))
    course.check(steady(0.01))
    young = standing(course.state, course.assessed[-1].result, course.gate)
    assert (young.baseline_seconds, young.gate_median_seconds) == (None, None)
    course.checks(20, steady(0.01))
    old = standing(course.state, course.assessed[-1].result, course.gate)
    assert (old.baseline_seconds, old.gate_npu_flops, old.gate_cv) == (0.01, 0.9, 0.2)
    assert old.gate_median_seconds == pytest.approx(0.0125)
    assert not any(old.incidents.values())


def test_an_alarm_names_the_boards_circumstances() -> None:
    """What was read around the replays is told with the latency, at most two things of it."""
    course, draw = grown()
    hot = BoardReading(100.0, zones={"npu": Zone(96.0, 95.0), "cpu": Zone(99.0, 95.0)}, remoteprocs={"cdsp": "crashed"})
    draw.median = 0.03
    course.checks(3, draw, before=hot, after=hot)
    event = raised(course, "latency_shifted")
    assert event.reason.endswith(
        "with the placement intact; the compute DSP cdsp is crashed; "
        "the NPU reached 96.0 °C; it is slowed down from 95 °C on"
    )
    assert event.readings == hot


def test_an_alarm_tells_of_the_second_look() -> None:
    """What a fresh audit found takes the place of what the last one had found."""
    course, draw = grown()
    draw.median = 0.03
    course.checks(3, draw, second_look="a fresh audit found the placement intact")
    assert raised(course, "latency_shifted").reason.endswith(
        "ms at 2023-11-14 23:33 UTC; a fresh audit found the placement intact"
    )


def test_a_latency_alarm_calls_for_a_second_look_once() -> None:
    """The check that raises it does, the checks after it and other events do not."""
    course, draw = grown()
    draw.median = 0.03
    assert [one.alarms for one in course.checks(6, draw)] == [False, False, True, False, False, False]
    draw.median = 0.01
    assert not any(one.alarms for one in course.checks(8, draw))
    assert not course.take(BROKEN).alarms


def test_odd_replays_call_for_more_only_where_they_would_tell() -> None:
    """Calm ones do not, a second odd check does, and during an incident nothing is left to find out."""
    course, draw = grown()
    calm, odd = summarize(Replays(draw(), ())), summarize(Replays((0.01,) * 29 + (0.03,), ()))
    assert not undecided(course.state, odd, course.gate)
    course.check(lambda: (0.01,) * 27 + (0.03,) * 3)
    assert not undecided(course.state, calm, course.gate)
    assert undecided(course.state, odd, course.gate)
    assert not undecided(course.state, odd, Gate(cv=1.0))
    course.checks(20, draw.slow(0.2))
    assert not undecided(course.state, odd, course.gate)


def test_the_same_evidence_has_the_same_answer() -> None:
    """Assessing a check twice, as the second look does, starts from the same state and leaves it untouched."""
    course, _ = grown()
    one = measured(latency(0.05), timestamp=course.now)
    frozen = msgspec.msgpack.encode(course.state)
    assert assess(course.state, one, course.gate, BOARD) == assess(course.state, one, course.gate, BOARD)
    assert msgspec.msgpack.encode(course.state) == frozen


# --------------------------------------------------------------------------------------------------- requests


def test_accepting_a_level_ends_its_incident() -> None:
    """A slower runtime that somebody accepted is normal from the next check on."""
    course, draw = grown()
    draw.median = 0.0131
    newer = msgspec.structs.replace(RUNTIME, backend_version="v2.60.0")
    course.checks(20, draw, runtime=newer)
    assert course.verdicts[-1] == "degraded"
    found = course.check(draw, ACCEPT, runtime=newer)
    (event,) = found.events
    assert (event.event, event.reason) == ("latency_recovered", "this level was accepted as normal")
    assert event.id == raised(course, "latency_shifted").id
    assert found.result.verdict == "healthy"
    now = found.state.baselines[0]
    assert now.median_seconds == pytest.approx(0.0131, rel=0.02)
    assert now.accepted == found.result.timestamp
    course.checks(60, draw, runtime=newer)
    assert (set(course.verdicts[-60:]), course.names[-1]) == ({"healthy"}, "latency_recovered")


def test_a_request_is_served_by_a_check_that_fails_too() -> None:
    """Asking does not wait for the accelerator to come back."""
    course, draw = grown()
    draw.median = 0.0131
    course.checks(5, draw)
    found = course.take(BROKEN, ACCEPT)
    assert [event.event for event in found.events] == ["latency_recovered", "check_failed"]
    assert found.state.shifted is None


def test_accepting_does_not_override_a_configured_gate() -> None:
    """The level counts as normal for later comparisons, but what the configuration forbids goes on being wrong."""
    course, draw = grown(gate=Gate(median=0.0125))
    draw.median = 0.014
    course.checks(5, draw)
    found = course.check(draw, ACCEPT)
    assert (found.events, found.result.verdict) == ((), "degraded")
    assert found.state.baselines[0].median_seconds == pytest.approx(0.014, rel=0.02)


def test_forgetting_all_ends_what_was_held_against_it() -> None:
    """Without a baseline there is no shift from it; the present level is learned."""
    course, draw = grown()
    draw.median = 0.02
    course.checks(5, draw)
    found = course.check(draw, FORGET)
    assert [event.event for event in found.events] == ["latency_recovered"]
    assert found.result.verdict == "healthy"
    course.checks(20, draw)
    assert course.state.baselines[0].median_seconds == pytest.approx(0.02, rel=0.02)
    assert course.names[-1] == "latency_recovered"


def test_forgetting_keeps_what_another_baseline_holds() -> None:
    """With an older accepted one left, the incident goes on against that."""
    course, draw = grown()
    newer = msgspec.structs.replace(RUNTIME, backend_version="v2.60.0")
    draw.median = 0.014
    course.checks(5, draw, runtime=newer)
    found = course.check(draw, BaselineRequest("m", "forget", course.state.baselines[0].id), runtime=newer)
    assert found.result.verdict == "degraded"
    assert found.state.shifted is not None


# ------------------------------------------------------------------------------------------- floods and bounds


def afternoon(seed: int, kind: str) -> Course:
    """Six hours of trouble after a calm morning."""
    course, draw = grown(seed)
    mood = random.Random(seed)
    for minute in range(360):
        if kind == "bursts":
            draw.slow(0.3 if mood.random() < 0.3 else 0.0)
        elif kind == "coin":
            draw.median = 0.01 if mood.random() < 0.5 else 0.014
        elif kind == "at the gate":
            draw.median = 0.01 * (1.25 + 0.04 * math.sin(math.tau * minute / 20))
        elif kind == "stalls":
            draw.slow(0.02, mood.uniform(2, 10))
        elif kind == "on and off":
            draw.slow(0.2 if minute % 60 < 30 else 0.0)
        course.check(draw)
    return course


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kind", "most"), [("bursts", 8), ("coin", 8), ("at the gate", 4), ("stalls", 8), ("on and off", 12)]
)
def test_a_bad_afternoon_is_a_handful_of_lines(seed: int, kind: str, most: int) -> None:
    """Trouble that comes and goes for six hours does not flood the log."""
    course = afternoon(seed, kind)
    assert 1 <= len(course.events) <= most


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restless_board_is_one_incident(seed: int) -> None:
    """Load that comes for twenty minutes of every hour and slows everything within the gate raises nothing lasting."""
    course, draw = grown(seed)
    for minute in range(360):
        draw.median = 0.01 * (1.08 if minute % 60 < 10 else 1.0)
        course.check(draw)
    assert course.events == []


def test_the_state_is_bounded() -> None:
    """Whatever comes, for however long: the digests, the baselines and the bytes have a limit."""
    chance = random.Random(1)
    course = Course()
    sizes = []
    for number in range(1000):
        draw = Healthy(number, 0.01 * chance.choice([1, 1, 1, 1.4, 3]))
        draw.slow(chance.choice([0, 0, 0.1, 0.6]), chance.uniform(1, 20))
        fields = FALLEN if chance.random() < 0.05 else {}
        runtime = msgspec.structs.replace(RUNTIME, backend_version=f"v2.{number // 25}")
        if chance.random() < 0.03:
            course.take(BROKEN)
        course.check(draw, *[ACCEPT][: chance.random() < 0.01], runtime=runtime, **fields)
        assert len(course.state.digests) <= MOST_DIGESTS
        assert len(course.state.baselines) <= MOST_BASELINES
        sizes.append(len(msgspec.msgpack.encode(course.state)))
    assert max(sizes) < 64 * 1024


def test_the_state_of_a_fallback_is_bounded() -> None:
    """So is what is kept of a model with a thousand ops on the CPU."""
    ops = [op(f"a/rather/long/name/of/an/op/{number}", 0.001) for number in range(1000)]
    course = Course()
    for _ in range(20):
        course.take(result(verdict="fallback", cause="op_unsupported", placement=placement(0.0, *ops)))
        course.take(measured(latency(), placement=placement(0.96, *ops)))
    assert len(msgspec.msgpack.encode(course.state)) < 16 * 1024


def few(replays: int, sigma: float) -> Callable[[], list[float]]:
    """Draws rounds of so many replays that scatter by ``sigma`` around 10 ms, twice that at most."""
    chance = random.Random(5)
    return lambda: [
        0.010 * math.exp(max(-2 * sigma, min(sigma * chance.gauss(0, 1), 2 * sigma))) for _ in range(replays)
    ]


@pytest.mark.parametrize("replays", [5, 8, 12])
def test_few_replays_raise_no_spread_that_many_would_not(replays: int) -> None:
    """A model that scatters by 10 %, below a gate of 15 %, is healthy for a day, however few replays a check has."""
    course = Course(Gate(cv=0.15, median=1.0))
    course.checks(1000, few(replays, 0.1))
    assert (course.events, set(course.verdicts)) == ([], {"healthy"})


@pytest.mark.parametrize("replays", [5, 30])
def test_a_spread_beyond_the_gate_shows_in_few_replays_too(replays: int) -> None:
    """A model that scatters by 30 % is told within an hour."""
    course = Course(Gate(cv=0.15, median=1.0))
    course.checks(60, few(replays, 0.3))
    assert "latency_unstable" in course.names


def test_one_check_of_few_replays_tells_no_spread() -> None:
    """Four replays that happen to scatter beyond the gate decide nothing; thirty do, as a command has them."""
    for pairs, verdict in ((2, "healthy"), (15, "degraded")):
        course, scattered = Course(Gate(cv=0.15, median=1.0)), [0.0085, 0.011] * pairs
        course.checks(1, scattered.copy)
        assert course.verdicts == [verdict]
