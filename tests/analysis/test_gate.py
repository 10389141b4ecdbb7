"""The gate's decision: what passes, what fails, and that missing data is never a pass."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.analysis.cohorts import median_bounds, wilson
from monitor.analysis.gate import decide
from monitor.records.gate import (
    Bounds,
    Criterion,
    CriterionName,
    Fleet,
    GateResult,
    Kind,
    Outcome,
    Seen,
    Version,
    Watched,
)

BOUNDS = Bounds(
    window_seconds=86400, soak_seconds=28800, share_reporting=0.9, share_healthy=0.99, slower=1.1, op_share=0.01
)
OLD, NEW = Version("0a", "1.32.0", "qnn", "2.7.0", "v2.48"), Version("d2", "1.32.0", "qnn", "2.7.0", "v2.48")
SOCS = (Kind("QCS6490", "aarch64", "files"), Kind("SA8295P", "aarch64", "files"))
DAY = 86400.0


def board(number: int, version: Version, kind: Kind = SOCS[0], **differently: Any) -> Watched:
    """A board that was healthy all day, unless told differently."""
    median = 0.01 * (1 + (number * 7 % 11 - 5) / 500)
    seen = Seen(kind, version, DAY, DAY, 0.0, median, {"Resize": 0.002})
    return Watched(f"{version.sha256}-{number}", "detector", replace(seen, **differently))


def fleet(version: Version, count: int = 20, **differently: Any) -> list[Watched]:
    """``count`` boards, half of them of each SoC."""
    return [board(number, version, SOCS[number % 2], **differently) for number in range(count)]


def whole(watched: list[Watched]) -> Fleet:
    """The fleet of these boards."""
    return Fleet(tuple(sorted({one.board for one in watched})), tuple(watched), len({one.board for one in watched}))


def judged(candidate: list[Watched], baseline: list[Watched] | None = None, bounds: Bounds = BOUNDS) -> GateResult:
    """The verdict, against a healthy baseline unless one is given."""
    return decide(0.0, whole(candidate), whole(fleet(OLD) if baseline is None else baseline), bounds)


def criterion(result: GateResult, name: CriterionName) -> Criterion:
    """The one of this name."""
    (found,) = [one for one in result.criteria if one.name == name]
    return found


def outcomes(result: GateResult) -> dict[str, Outcome]:
    """Those that do not pass."""
    return {one.name: one.outcome for one in result.criteria if one.outcome != "pass"}


def silent(one: Watched) -> Watched:
    """The same board, of which nothing was heard."""
    return replace(one, seen=None, why="silent")


def fallen(one: Watched) -> Watched:
    """The same board in fallback all the time."""
    assert one.seen
    flops = {"Conv": 0.9}
    seen = replace(one.seen, healthy_seconds=0.0, unhealthy_seconds=DAY, median_seconds=0.03, fallback_flops=flops)
    return replace(one, seen=seen)


def on(soc: Kind, change: Callable[[Watched], Watched], boards: list[Watched]) -> list[Watched]:
    """``boards`` with ``change`` done to those of one SoC."""
    return [change(one) if one.seen and one.seen.kind == soc else one for one in boards]


def test_a_good_rollout_passes() -> None:
    """Twenty healthy boards beside twenty others: every criterion passes."""
    result = judged(fleet(NEW))
    assert (result.outcome, outcomes(result)) == ("pass", {})
    assert criterion(result, "cohorts").reason == "2 cohorts compared, none worse"


def test_a_bad_rollout_fails_with_its_cohort_and_op() -> None:
    """One SoC in fallback: the failing cohort is that SoC's, in both signals, and the op is named."""
    result = judged(on(SOCS[1], fallen, fleet(NEW)))
    assert result.outcome == "fail"
    assert outcomes(result) == {"healthy": "fail", "cohorts": "fail", "ops": "fail"}
    (worse,) = [one for one in criterion(result, "cohorts").cohorts if one.outcome == "fail"]
    assert (worse.kind, worse.version, worse.worse) == (SOCS[1], NEW, ("unhealthy", "slower"))
    assert (worse.unhealthy, worse.boards, worse.baseline_unhealthy) == (10, 10, 0)
    (op,) = [one for one in criterion(result, "ops").ops if one.counts]
    assert (op.op_type, op.kind, op.boards, op.of, op.baseline_flops_ratio) == ("Conv", SOCS[1], 10, 10, 0.0)
    assert criterion(result, "healthy").reason == "50 % of the measured time; 10 boards not healthy"


def test_a_third_that_is_silent_could_not_be_measured() -> None:
    """However well the others are."""
    boards = fleet(NEW, 21)
    result = judged([silent(one) if number % 3 == 0 else one for number, one in enumerate(boards)])
    assert result.outcome == "unmeasured"
    assert criterion(result, "boards").reason == "14 of 21 boards measured; 7 silent"
    assert {one.why for one in result.unmeasured} == {"silent"}
    assert len(result.unmeasured) == 7


def test_boards_that_nobody_heard_of_are_missing_too() -> None:
    """Where 30 boards should be and 20 are, a third could not be measured."""
    candidate = whole(fleet(NEW))
    result = decide(0.0, replace(candidate, expected=30), whole(fleet(OLD)), BOUNDS)
    assert result.outcome == "unmeasured"
    assert criterion(result, "boards").reason == "20 of 30 boards measured; 10 never heard of"


def test_a_few_silent_boards_do_not_spoil_a_large_fleet() -> None:
    """Two of 400 cannot turn any criterion, whatever they would have said."""
    boards = fleet(NEW, 400)
    result = judged([silent(one) if number < 2 else one for number, one in enumerate(boards)], fleet(OLD, 400))
    assert (result.outcome, outcomes(result)) == ("pass", {})


def test_without_a_baseline_nothing_is_compared_and_the_rest_counts() -> None:
    """The comparisons are not asked, which is no pass of them, and spoils none."""
    result = decide(0.0, whole(fleet(NEW)), None, BOUNDS)
    assert result.outcome == "pass"
    assert outcomes(result) == {"cohorts": "not_asked", "ops": "not_asked"}


def test_nothing_at_all_is_no_pass() -> None:
    """No boards and no models could not be measured, nor could a model that no board has."""
    assert decide(0.0, Fleet((), (), 0), None, BOUNDS).outcome == "unmeasured"
    result = decide(0.0, whole(fleet(NEW)), None, BOUNDS, ["pose"])
    assert result.outcome == "unmeasured"
    assert criterion(result, "healthy").reason == "nothing was measured"


def test_a_model_that_only_the_baseline_has_could_not_be_measured() -> None:
    """A rollout that lost a model is no pass."""
    others = [replace(one, model=model) for one in fleet(OLD) for model in ("detector", "pose")]
    result = judged(fleet(NEW), others)
    assert result.outcome == "unmeasured"
    assert {one.model for one in result.criteria if one.outcome == "unmeasured"} == {"pose"}


@pytest.mark.parametrize("count", [3, 20])
def test_a_model_that_the_baseline_lacks_could_not_be_compared(count: int) -> None:
    """However few boards the baseline has: there is nothing that it could be no worse than; the rest of it passes."""
    candidate = [replace(one, model=model) for one in fleet(NEW) for model in ("detector", "pose")]
    result = judged(candidate, fleet(OLD, count))
    mine = {one.name: one.outcome for one in result.criteria if one.model == "pose" and one.outcome != "pass"}
    assert (result.outcome, mine) == ("unmeasured", {"cohorts": "unmeasured", "ops": "unmeasured"})


@pytest.mark.parametrize(
    ("differently", "expected"),
    [
        ({"span_seconds": 25000.0, "healthy_seconds": 25000.0}, {"soak": "unmeasured"}),
        ({"healthy_seconds": 0.985 * DAY, "unhealthy_seconds": 0.015 * DAY}, {"healthy": "fail", "cohorts": "fail"}),
        ({"healthy_seconds": 0.985 * DAY}, {"healthy": "unmeasured", "cohorts": "unmeasured"}),
        ({"median_seconds": 0.0115}, {"cohorts": "fail"}),
        ({"median_seconds": 0.0105}, {}),
        ({"median_seconds": None}, {"cohorts": "unmeasured"}),
        ({"fallback_flops": {"Resize": 0.011}}, {}),
        ({"fallback_flops": {"Resize": 0.013}}, {"ops": "fail"}),
        ({"fallback_flops": {"Softmax": 0.009}}, {}),
        ({"fallback_flops": {"Softmax": 0.011}}, {"ops": "fail"}),
        ({"fallback_flops": None}, {"ops": "unmeasured"}),
    ],
)
def test_each_bound_is_where_it_is_said_to_be(differently: dict[str, Any], expected: dict[str, Outcome]) -> None:
    """One figure of all boards moved a little to either side of its bound changes its criterion and no other."""
    assert outcomes(judged(fleet(NEW, **differently))) == expected


def test_few_boards_prove_nothing() -> None:
    """Four boards of a SoC are not compared; with two such SoCs nothing is, which is no pass."""
    result = judged(on(SOCS[1], fallen, fleet(NEW, 8)), fleet(OLD))
    assert criterion(result, "cohorts").outcome == criterion(result, "ops").outcome == "unmeasured"
    assert {one.outcome for one in criterion(result, "cohorts").cohorts} == {"not_asked"}


def test_boards_of_a_soc_that_the_baseline_lacks_are_not_compared() -> None:
    """Half of the boards have nothing beside them: could not measure."""
    result = judged(fleet(NEW), [one for one in fleet(OLD) if one.seen and one.seen.kind == SOCS[0]])
    assert outcomes(result) == {"cohorts": "unmeasured", "ops": "unmeasured"}
    assert criterion(result, "cohorts").reason == "1 cohort compared, none worse; 10 boards not compared"


LENIENT = replace(BOUNDS, share_reporting=0.9, share_healthy=0.5, soak_seconds=1.0)


def many(count: int = 100) -> list[Watched]:
    """Healthy boards of the first SoC, so that a few of the second are hardly a share of the fleet."""
    return [board(number, NEW) for number in range(count)]


def few(count: int, **differently: Any) -> list[Watched]:
    """Boards of the second SoC."""
    return [board(1000 + number, NEW, SOCS[1], **differently) for number in range(count)]


def others(count: int = 20) -> list[Watched]:
    """The baseline: healthy boards of both SoCs, ``count`` of each."""
    return fleet(OLD, 2 * count)


def both(candidate: list[Watched], reference: list[Watched]) -> dict[str, Outcome]:
    """What does not pass of the comparisons."""
    return outcomes(judged(candidate, reference, LENIENT))


def test_a_slow_cohort_does_not_pass_because_one_board_of_it_is_silent() -> None:
    """Five boards of a SoC are too slow; with one of them silent too few are left to say so, and that is no pass."""
    slow = few(5, median_seconds=0.02)
    assert both([*many(), *slow], others()) == {"cohorts": "fail"}
    assert both([*many(), silent(slow[0]), *slow[1:]], others())["cohorts"] == "unmeasured"


def test_an_unhealthy_cohort_does_not_pass_because_one_board_of_it_is_silent() -> None:
    """Four of ten are unhealthy, beyond chance; three of nine are within it, but one may be the fourth."""
    ill = few(4, healthy_seconds=0.0, unhealthy_seconds=DAY)
    well = few(10)[4:]
    assert both([*many(), *ill, *well], others()) == {"cohorts": "fail"}
    assert both([*many(), silent(ill[0]), *ill[1:], *well], others())["cohorts"] == "unmeasured"


def test_a_baseline_does_not_get_slower_because_a_fast_board_of_it_is_silent() -> None:
    """Of eight boards one is slow, which bounds their median from above once one of the others is missing."""
    reference = [board(number, OLD, SOCS[0], median_seconds=0.02 if number == 0 else 0.01) for number in range(8)]
    candidate = [board(number, NEW, SOCS[0], median_seconds=0.0115) for number in range(20)]
    assert both(candidate, reference) == {"cohorts": "fail"}
    assert both(candidate, [*reference[:-1], silent(reference[-1])]) == {"cohorts": "unmeasured"}


def test_a_new_op_is_not_gone_because_its_board_is_silent() -> None:
    """One of six boards with it, and two of fifteen: with one of these silent it may still be so."""
    for count, total in ((1, 6), (2, 15)):
        having, rest = few(count, fallback_flops={"Conv": 0.2}), few(total)[count:]
        assert both([*many(), *having, *rest], others()) == {"ops": "fail"}
        assert both([*many(), silent(having[0]), *having[1:], *rest], others()) == {"ops": "unmeasured"}


def test_an_op_is_still_new_if_the_boards_that_lacked_it_are_silent() -> None:
    """With all of the baseline's boards of the SoC silent, it is not known what was normal there."""
    candidate = [*many(), *few(6, fallback_flops={"Conv": 0.2})]
    reference = [*others()[::2], *others()[1:4:2]]
    assert both(candidate, reference)["ops"] == "fail"
    assert both(candidate, on(SOCS[1], silent, reference))["ops"] == "unmeasured"


def test_a_broken_board_of_the_baseline_hides_no_new_op() -> None:
    """With its accelerator down one of ten has every op on its CPU; an op that all others lack is new all the same."""
    candidate = [board(number, NEW, fallback_flops={"LayerNormalization": 0.05}) for number in range(10)]
    reference = [board(number, OLD) for number in range(10)]
    assert outcomes(judged(candidate, [dead(reference[0]), *reference[1:]])) == {"ops": "fail"}
    # Where all of them are so, it is what is normal: a candidate that mends it has no new op.
    assert outcomes(judged(candidate, [dead(one) for one in reference])) == {}


def dead(one: Watched) -> Watched:
    """The same board with its accelerator down."""
    sick = fallen(one)
    assert sick.seen
    return replace(sick, seen=replace(sick.seen, fallback_flops={"Conv": 0.9, "LayerNormalization": 0.1}))


def test_an_op_is_not_normal_because_the_baselines_other_boards_are_silent() -> None:
    """Two of twelve boards have it, so that it is normal; with ten more that are silent it may be two of 22."""
    having = [board(number, OLD, SOCS[0], fallback_flops={"Conv": 0.2}) for number in range(2)]
    reference = [*having, *(board(number, OLD) for number in range(2, 12))]
    candidate = [board(number, NEW, SOCS[0], fallback_flops={"Conv": 0.2}) for number in range(10)]
    assert both(candidate, reference) == {}
    unheard = [silent(board(number, OLD)) for number in range(50, 60)]
    assert both(candidate, [*reference, *unheard])["ops"] == "unmeasured"


def test_a_cohort_that_is_silent_altogether_is_not_forgotten() -> None:
    """Five silent boards may be a cohort of their own, however large the fleet is."""
    bad = [fallen(one) for one in few(5)]
    assert {"cohorts", "ops"} <= both([*many(200), *bad], others()).keys()
    assert both([*many(200), *map(silent, bad)], others()) == {"cohorts": "unmeasured", "ops": "unmeasured"}


def test_other_failures_do_not_hide_a_new_op() -> None:
    """Ten boards that are unhealthy without it are not ten boards that are well without it."""
    having, ill = few(2, fallback_flops={"Conv": 0.2}), few(21, healthy_seconds=0.0, unhealthy_seconds=DAY)[11:]
    rest = few(11)[2:]
    assert both([*many(), *having, *rest], others())["ops"] == "fail"
    assert both([*many(), *having, *rest, *ill], others())["ops"] == "fail"


def test_boards_that_fail_fast_do_not_make_a_cohort_fast() -> None:
    """Two of ten are unhealthy and quick; the others are slow, and so is the cohort."""
    quick = few(2, healthy_seconds=0.0, unhealthy_seconds=DAY, median_seconds=0.001)
    result = judged([*many(), *quick, *few(10, median_seconds=0.02)[2:]], others(), LENIENT)
    (worse,) = [one for one in criterion(result, "cohorts").cohorts if one.outcome == "fail"]
    assert worse.worse == ("slower",)


def test_a_silent_board_does_not_make_a_group_large_enough_to_count() -> None:
    """Four and three boards are too few to compare; a silent one of the three may be of the four."""
    bounds = replace(LENIENT, share_reporting=0.5)
    candidate = [*many(4), *few(3)]
    assert criterion(judged(candidate, others(), bounds), "ops").outcome == "unmeasured"
    less = [*candidate[:-1], silent(candidate[-1])]
    assert criterion(judged(less, others(), bounds), "ops").outcome == "unmeasured"


def test_one_broken_board_is_not_the_rollout() -> None:
    """One of 200 in fallback is within the share that is asked, and makes no op new."""
    boards = fleet(NEW, 200)
    assert judged([fallen(boards[0]), *boards[1:]], fleet(OLD, 200)).outcome == "pass"


def test_the_ways_not_to_be_measured_are_told_apart() -> None:
    """Each reason is counted in the words of the criterion."""
    ways = ["silent", "stale", "unknown", "not_on_hardware", "model_missing"]
    boards = [replace(one, why=why) for one, why in zip(fleet(NEW, 5), ways, strict=True)]
    assert criterion(judged(boards), "boards").reason == (
        "0 of 5 boards measured; 1 silent, 1 with stale checks, 1 whose checks cannot measure, 1 not on hardware, "
        "1 without this model"
    )


# --------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [(0, 5, (0.0, 0.4345)), (5, 5, (0.5655, 1.0)), (10, 100, (0.0552, 0.1744)), (1, 2, (0.0945, 0.9055))],
)
def test_wilson_is_as_published(count: int, of: int, expected: tuple[float, float]) -> None:
    """Values of R's binom.confint(methods = "wilson")."""
    assert wilson(count, of) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("count", "rank"), [(5, 1), (7, 1), (8, 2), (10, 2), (11, 3), (20, 6), (25, 8), (100, 42)])
def test_ranks_are_those_of_the_sign_test(count: int, rank: int) -> None:
    """Critical values of the one-sided sign test at 5 %, plus one, from its published table."""
    assert median_bounds(range(count)) == (rank - 1, count - rank)


def test_bounds_of_a_median_hold_as_often_as_they_say() -> None:
    """Of 2000 samples of 12 from a skewed distribution, either bound misses the median in at most about 5 %."""
    source = random.Random(7)
    draws = [median_bounds([source.expovariate(0.6931471805599453) for _ in range(12)]) for _ in range(2000)]
    assert sum(low > 1 for low, _ in draws) < 130
    assert sum(high < 1 for _, high in draws) < 130


# ------------------------------------------------------------------------------------------------ what must hold

KINDS = st.sampled_from((SOCS[0], SOCS[0], *SOCS))
SHARES = st.sampled_from([0.0, 0.005, 0.02, 0.5, 1.0])


@st.composite
def boards_of(draw: st.DrawFn, version: Version, most: int) -> list[Watched]:
    """Boards in any condition."""
    found = []
    for number in range(draw(st.integers(0, most))):
        ill, gap = draw(SHARES), draw(st.sampled_from([0.0, 0.0, 0.004, 0.3]))
        seen = Seen(
            draw(KINDS),
            replace(version, backend_version=draw(st.sampled_from(["v1", "v1", "v2"]))),
            DAY,
            (1 - ill) * (1 - gap) * DAY,
            ill * (1 - gap) * DAY,
            draw(st.sampled_from([None, 0.01, 0.0102, 0.0112, 0.03])),
            draw(st.sampled_from([None, {}, {"Conv": 0.005}, {"Conv": 0.4}, {"Resize": 0.02}])),
        )
        known = draw(st.booleans()) or draw(st.booleans())
        board = Watched(f"{version.sha256}-{number}", "detector", seen)
        found.append(board if known else silent(board))
    return found


FLEETS = st.tuples(
    boards_of(NEW, 16),
    boards_of(OLD, 16),
    st.builds(
        lambda reporting, healthy: replace(BOUNDS, share_reporting=reporting, share_healthy=healthy),
        st.sampled_from([0.3, 0.5, 0.9, 1.0]),
        st.sampled_from([0.3, 0.5, 0.99, 1.0]),
    ),
    st.integers(0, 3),
)
Case = tuple[list[Watched], list[Watched], Bounds, int]


def decided(case: Case) -> GateResult:
    """The verdict in a case."""
    candidate, baseline, bounds, unheard = case
    fleet_ = whole(candidate)
    return decide(0.0, replace(fleet_, expected=fleet_.expected + unheard), whole(baseline), bounds, ["detector"])


@settings(max_examples=100, deadline=None)
@given(FLEETS, st.data())
def test_a_board_that_falls_silent_makes_no_pass(case: Case, data: st.DataObject) -> None:
    """Of either fleet, in any number: what did not pass with them does not pass without, criterion by criterion."""
    candidate, baseline, bounds, unheard = case
    before = decided(case)
    fewer = [silent(one) if data.draw(st.booleans()) else one for one in candidate]
    others = [silent(one) if data.draw(st.integers(0, 3)) == 0 else one for one in baseline]
    after = decided((fewer, others, bounds, unheard))
    for one, then in zip(before.criteria, after.criteria, strict=True):
        assert one.outcome == "pass" or then.outcome != "pass", (one, then)


@settings(max_examples=60, deadline=None)
@given(FLEETS, st.data())
def test_time_that_is_lost_makes_no_pass(case: Case, data: st.DataObject) -> None:
    """A gap in a board's time, whether it was healthy then or not, turns nothing into a pass."""
    candidate, baseline, bounds, unheard = case
    lost = [gap(one, data.draw(SHARES), data.draw(SHARES)) for one in candidate]
    before, after = decided(case), decided((lost, baseline, bounds, unheard))
    for one, then in zip(before.criteria, after.criteria, strict=True):
        assert one.outcome == "pass" or then.outcome != "pass", (one, then)


def gap(one: Watched, well: float, ill: float) -> Watched:
    """The board with these shares of its times not measured."""
    if one.seen is None:
        return one
    times = (one.seen.healthy_seconds * (1 - well), one.seen.unhealthy_seconds * (1 - ill))
    return replace(one, seen=replace(one.seen, healthy_seconds=times[0], unhealthy_seconds=times[1]))


@settings(max_examples=100, deadline=None)
@given(FLEETS, st.data())
def test_placement_that_is_lost_makes_no_pass(case: Case, data: st.DataObject) -> None:
    """Where ops ran is not known of some boards of either fleet any more: nothing passes that did not."""
    candidate, baseline, bounds, unheard = case
    lost = [unplaced(one) if data.draw(st.booleans()) else one for one in candidate]
    others = [unplaced(one) if data.draw(st.integers(0, 3)) == 0 else one for one in baseline]
    before, after = decided(case), decided((lost, others, bounds, unheard))
    for one, then in zip(before.criteria, after.criteria, strict=True):
        assert one.outcome == "pass" or then.outcome != "pass", (one, then)


def unplaced(one: Watched) -> Watched:
    """The board without what fell back on it."""
    return one if one.seen is None else replace(one, seen=replace(one.seen, fallback_flops=None))


@settings(max_examples=100, deadline=None)
@given(FLEETS, KINDS, st.sampled_from([{}, {"Conv": 0.4}]), st.sampled_from([None, 0.001, 0.03]))
def test_one_more_failing_board_makes_no_pass_of_a_failure(
    case: Case, kind: Kind, flops: dict[str, float], median: float | None
) -> None:
    """Not even one that fails fast, or has lost other ops than those that failed the gate."""
    candidate, baseline, bounds, unheard = case
    before = decided(case)
    more = Watched("more", "detector", Seen(kind, replace(NEW, backend_version="v1"), DAY, 0.0, DAY, median, flops))
    after = decided(([*candidate, more], baseline, bounds, unheard))
    for one, then in zip(before.criteria, after.criteria, strict=True):
        assert one.outcome != "fail" or then.outcome == "fail", (one, then)


@pytest.mark.parametrize(("unhealthy", "expected"), [(6, ()), (7, ("unhealthy",))])
def test_the_documented_examples_of_chance_hold(unhealthy: int, expected: tuple[str, ...]) -> None:
    """Of 25 boards against 25 healthy ones: 6 unhealthy are chance, 7 are not (docs/gate.md)."""
    boards = [board(number, NEW) for number in range(25)]
    candidate = [fallen(one) for one in boards[:unhealthy]] + boards[unhealthy:]
    result = judged(candidate, [board(number, OLD) for number in range(25)])
    (cohort,) = criterion(result, "cohorts").cohorts
    assert cohort.worse == expected
