"""Incidents: raised once, changed when they change, cleared when they are over, over restarts and failures."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.assess import assess
from monitor.analysis.incidents import MOST_CULPRITS, MOST_OPS, MOST_PATIENCE
from monitor.config import Gate
from monitor.records import CheckResult, Event, Failure, ModelState, OpShare
from tests.analysis.course import START, Course
from tests.analysis.evidence import BOARD, RUNTIME, latency, op, placement, result

BROKEN = Failure("probe_crashed", "the probe died of SIGSEGV")
HUNG = Failure("probe_timeout", "the probe did not answer Replay within 30 s")

HEALTHY = result(placement=placement(1.0), latency=latency())


def fallen(*ops: OpShare, cause: str = "op_unsupported") -> CheckResult:
    """A check that found a fallback."""
    return result(verdict="fallback", cause=cause, reason="fell", placement=placement(0.5, *ops), latency=latency())


def slow() -> CheckResult:
    """A check that found the placement intact and a median beyond the gate of :data:`GATED`."""
    return result(placement=placement(1.0), latency=latency(0.03))


def failure(error: Failure) -> CheckResult:
    """A check that could not measure."""
    return result(verdict="unknown", reason=error.detail, error=error, model_sha256=None, runtime=None, samples=None)


GATED = Gate(median=0.02)
UNDECIDED = result(verdict="unknown", reason="cannot be attributed", placement=placement(0.9, op("a", 0.02)))
SELU = fallen(op("selu", 0.5, time=0.1))


def played(*results: CheckResult) -> list[Event]:
    """The events of these checks, a minute apart; each is valid, and every state survives a restart."""
    course = Course(GATED)
    for one in results:
        course.take(one)
    return course.events


def names(events: list[Event]) -> list[str]:
    """What happened."""
    return [event.event for event in events]


def test_a_healthy_model_is_silent() -> None:
    """Nothing is logged while nothing changes."""
    assert played(HEALTHY, HEALTHY, HEALTHY) == []


def test_a_fallback_is_raised_once() -> None:
    """However long it lasts, one line tells of it, with its ops, its cause and what was measured."""
    (event,) = played(HEALTHY, SELU, SELU, SELU)
    assert (event.event, event.level, event.cause, event.reason) == (
        "fallback_detected",
        "error",
        "op_unsupported",
        "fell",
    )
    assert [o.node for o in event.ops] == ["selu"]
    assert (event.npu_flops_ratio, event.median_seconds, event.cv_ratio) == (0.5, 0.01, 0.02)
    assert (event.samples, event.runtime, event.timestamp) == ("synthetic", RUNTIME, START + 60)


def test_a_fallback_is_told_at_the_first_check() -> None:
    """A model that starts out on the CPU is an incident too."""
    assert names(played(SELU)) == ["fallback_detected"]


def test_other_culprits_change_an_incident() -> None:
    """New ops or another cause are told under the same id; another order or other times are not."""
    both = fallen(op("selu", 0.3, time=0.1), op("conv", 0.2, time=0.3))
    again = fallen(op("conv", 0.2, time=0.2), op("selu", 0.3, time=0.4))
    other = fallen(op("conv", 0.2), op("selu", 0.3), cause="dynamic_shape")
    events = played(SELU, both, again, other)
    assert names(events) == ["fallback_detected", "fallback_changed", "fallback_changed"]
    assert len({event.id for event in events}) == 1


def test_a_fallback_is_cleared_when_it_is_over() -> None:
    """The line that clears has the id of the one that raised, and no culprits; the next fallback has another id."""
    events = played(SELU, HEALTHY, HEALTHY, SELU)
    assert names(events) == ["fallback_detected", "fallback_cleared", "fallback_detected"]
    assert events[0].id == events[1].id != events[2].id
    assert events[1].ops == ()
    assert events[1].level == "info"


@pytest.mark.parametrize("blind", [UNDECIDED, failure(BROKEN)], ids=["undecided", "failed"])
def test_what_could_not_be_judged_clears_nothing(blind: CheckResult) -> None:
    """An unknown verdict keeps the incident: it neither ends it nor raises it again."""
    events = [event for event in played(SELU, blind, SELU, HEALTHY) if event.event.startswith("fallback")]
    assert [(event.event, event.timestamp - START) for event in events] == [
        ("fallback_detected", 0),
        ("fallback_cleared", 180),
    ]


def test_culprits_do_not_come_and_go_with_their_times() -> None:
    """With more equal ops than an incident keeps, their changing times do not change which are kept."""
    count = MOST_CULPRITS + 10
    early = [op(f"n{n:02}", 0.01, time=n / 100) for n in range(count)]
    late = [op(f"n{n:02}", 0.01, time=(count - n) / 100) for n in range(count)]
    for flops in (0.01, 0.0):
        first = fallen(*(msgspec.structs.replace(o, flops_ratio=flops) for o in reversed(early)))
        second = fallen(*(msgspec.structs.replace(o, flops_ratio=flops) for o in late))
        assert names(played(first, second)) == ["fallback_detected"]


def test_data_movement_is_no_culprit_beside_arithmetic() -> None:
    """A Reshape more or less on the CPU does not change an incident about a Conv."""
    assert names(played(SELU, fallen(op("selu", 0.5), op("reshape", 0.0)))) == ["fallback_detected"]


def test_a_failing_check_is_told_once_for_each_reason() -> None:
    """The same failures are not repeated, another one is told under the same id, and recovery ends it."""
    events = played(*[failure(one) for one in (BROKEN, BROKEN, HUNG, BROKEN, HUNG)], HEALTHY, HEALTHY)
    assert names(events) == ["check_failed", "check_failed", "check_recovered"]
    assert len({event.id for event in events}) == 1
    assert [event.error for event in events] == [BROKEN, HUNG, None]
    assert events[0].npu_flops_ratio is None


def test_a_check_that_fails_now_and_then_is_a_handful_of_lines() -> None:
    """Six hours of every other check failing is told, and told to be over only once it stays so."""
    events = played(*[failure(BROKEN), HEALTHY] * 180, *[HEALTHY] * MOST_PATIENCE * 2)
    assert 2 <= len(events) <= 6
    assert names(events)[::2] == ["check_failed"] * (len(events) // 2)
    assert names(events)[1::2] == ["check_recovered"] * (len(events) // 2)


def test_patience_is_forgotten() -> None:
    """An incident that ends once a day ends at once each time."""
    course = Course(GATED)
    for _ in range(4):
        for one in (failure(BROKEN), HEALTHY, *[HEALTHY] * 1440):
            course.take(one)
        assert course.state.failure is None
        assert course.state.relapses == {}
    times = [event.timestamp for event in course.events]
    assert [later - earlier for earlier, later in zip(times[::2], times[1::2], strict=True)] == [60.0] * 4


def test_an_incident_keeps_the_time_it_began() -> None:
    """Since when is the first check that found it, whatever changed later."""
    course = Course()
    for one in (failure(BROKEN), failure(HUNG)):
        course.take(one)
    assert course.state.failure is not None
    assert (course.state.failure.since, course.state.failure.ops) == (START, ("probe_crashed", "probe_timeout"))
    for one in (SELU, fallen(op("conv", 0.5))):
        course.take(one)
    assert course.state.fallback is not None
    assert (course.state.fallback.since, course.state.fallback.ops) == (START + 120, ("conv",))


def test_a_second_look_is_told_with_the_fallback() -> None:
    """A fallback that a latency alarm's fresh audit found says so."""
    seen = msgspec.structs.replace(SELU, second_look="a fresh audit found another placement")
    (event,) = played(HEALTHY, seen)
    assert event.reason == "fell; a fresh audit found another placement"


CULPRITS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
RESULTS = st.one_of(
    st.just(HEALTHY),
    st.just(UNDECIDED),
    st.just(slow()),
    st.sampled_from([failure(BROKEN), failure(HUNG)]),
    CULPRITS.map(lambda culprits: fallen(*(op(name, 0.1) for name in culprits))),
)
RAISES = {"fallback_detected": "fallback", "latency_unstable": "unstable", "latency_shifted": "shifted"}
CLEARS = {"fallback_cleared": ["fallback"], "latency_recovered": ["unstable", "shifted"], "check_recovered": ["check"]}


@given(st.lists(RESULTS, max_size=30))
def test_any_history_pairs_its_events(history: list[CheckResult]) -> None:
    """Each incident is raised once, then changed, then cleared at most once, and never two of a kind are open."""
    open_: dict[str, str] = {}
    used: set[str] = set()
    for event in played(*history, *[HEALTHY] * 2 * MOST_PATIENCE):
        if kind := RAISES.get(event.event):
            assert kind not in open_
            assert event.id not in used
            open_[kind] = event.id
            used.add(event.id)
        elif event.event == "check_failed":
            assert open_.setdefault("check", event.id) == event.id
        elif event.event == "fallback_changed":
            assert open_["fallback"] == event.id
        else:
            kind = next(kind for kind in CLEARS[event.event] if open_.get(kind) == event.id)
            del open_[kind]
    assert open_ == {}


def test_an_event_names_the_costliest_types_whole() -> None:
    """Of many culprits a bounded number is told: those of the costliest types, in their order; the rest is counted."""
    cheap = [msgspec.structs.replace(op(f"mul{number}", 0.004), op_type="Mul") for number in range(100)]
    convs = [
        msgspec.structs.replace(op(f"conv{number}", 0.03 if number else 0.0001), op_type="Conv") for number in range(18)
    ]
    (event,) = played(fallen(*sorted([*cheap, *convs], key=lambda one: -(one.flops_ratio or 0))))
    assert len(event.ops) == MOST_OPS
    assert event.ops_omitted == 118 - MOST_OPS
    assert {one.node for one in event.ops} >= {one.node for one in convs}
    shares = [one.flops_ratio or 0 for one in event.ops]
    assert shares == sorted(shares, reverse=True)


@given(st.lists(st.sampled_from([7.0, 7.0004, 0.0, 1.75e9, 4e9]), min_size=2, max_size=12))
def test_no_two_incidents_have_one_name_whatever_the_clock_does(clock: list[float]) -> None:
    """Where it stands still, jumps and comes back to a moment, each fallback has its own id, also after a restart."""
    state, raised = ModelState("m"), []
    for now in clock:
        for one in (SELU, HEALTHY):
            found = assess(state, msgspec.structs.replace(one, timestamp=now), Gate(), BOARD)
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(found.state), type=ModelState)
            raised += [event.id for event in found.events if event.event == "fallback_detected"]
    assert len(raised) == len(set(raised)) == len(clock)
