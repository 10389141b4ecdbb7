"""One verdict over a fleet. What was not measured never helps: a pass has to hold whatever the silent boards would say.

Each criterion has three answers. It *fails* on what was measured. It *passes* only if it also would with every board
and minute that is missing counted as bad for it: a silent candidate board as unhealthy and slow, a silent baseline
board as healthy and fast. Anything else is *unmeasured*. So a board that falls silent can spoil a pass, and can make
none.
docs/gate.md argues the bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import median

from monitor.analysis.cohorts import LEAST_BOARDS, Boards, compare, new_ops, placed, undecided_ops
from monitor.records.gate import (
    CRITERIA,
    Bounds,
    Cohort,
    Criterion,
    Fleet,
    GateResult,
    Kind,
    NewOp,
    Outcome,
    Unmeasured,
    Version,
    Watched,
)

_ROUNDING = 1e-9
"""Shares are sums of fractions: 1 less this is all of them."""

WHY_WORDS = {
    "silent": "silent",
    "stale": "with stale checks",
    "unknown": "whose checks cannot measure",
    "not_on_hardware": "not on hardware",
    "model_missing": "without this model",
}


def decide(
    timestamp: float, candidate: Fleet, baseline: Fleet | None, bounds: Bounds, models: Collection[str] = ()
) -> GateResult:
    """Judge ``candidate``, against ``baseline`` if there is one, in ``models`` or in all that either fleet watches.

    ``timestamp`` is the end of the window, in UTC seconds.
    """
    everyone = candidate.watched + (baseline.watched if baseline else ())
    names = sorted(set(models) or {one.model for one in everyone})
    criteria = [criterion for name in names for criterion in _judge(name, candidate, baseline, bounds)]
    return GateResult(
        timestamp=timestamp,
        outcome=_worst(criterion.outcome for criterion in criteria),
        bounds=bounds,
        criteria=tuple(criteria),
        unmeasured=tuple(one for name in names for one in _unmeasured(candidate, name)),
        expected=_expected(candidate),
        baseline=baseline is not None,
    )


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    if "fail" in found:
        return "fail"
    # What nobody asked for neither passes nor spoils; nothing at all is no pass.
    return "unmeasured" if "unmeasured" in found or "pass" not in found else "pass"


def _expected(fleet: Fleet) -> int:
    return max(fleet.expected, len(set(fleet.boards)))


def _judge(model: str, candidate: Fleet, baseline: Fleet | None, bounds: Bounds) -> list[Criterion]:
    boards = _boards(candidate, model)
    judged = [_reporting(candidate, boards, bounds), _soaked(boards, bounds), _healthy(boards, bounds)]
    if baseline is None:
        judged += [_not_asked("cohorts", model, boards, bounds), _not_asked("ops", model, boards, bounds)]
    else:
        reference = _boards(baseline, model)
        judged += [_cohorts(boards, reference, bounds), _ops(boards, reference, bounds)]
    assert tuple(one.name for one in judged) == CRITERIA
    return judged


def _boards(fleet: Fleet, model: str) -> Boards:
    return Boards(model, tuple(one for one in fleet.watched if one.model == model), _expected(fleet))


def _unmeasured(fleet: Fleet, model: str) -> list[Unmeasured]:
    """Each board that does not count, by name; those that nobody ever heard of have none."""
    heard = {one.board: one for one in fleet.watched if one.model == model}
    found = []
    for board in sorted(set(fleet.boards)):
        why = heard[board].why if board in heard else "silent"
        if why is not None:
            found.append(Unmeasured(board, model, why))
    return found


# ---------------------------------------------------------------------------------------------------- criteria


def _reporting(fleet: Fleet, boards: Boards, bounds: Bounds) -> Criterion:
    """Enough boards answer at the window's end, with a check on hardware that is fresh and measured."""
    count = sum(one.why is None and one.seen is not None for one in boards.watched)
    reason = f"{count} of {_plural(boards.expected, 'board')} measured"
    absent = [one.why for one in _unmeasured(fleet, boards.model)]
    parts = [f"{absent.count(why)} {words}" for why, words in WHY_WORDS.items() if why in absent]
    unheard = boards.expected - len(set(fleet.boards))
    parts += [f"{unheard} never heard of"] if unheard else []
    return Criterion(
        "boards",
        boards.model,
        _enough(count, boards.expected, bounds.share_reporting),
        "; ".join([reason, ", ".join(parts)] if parts else [reason]),
        bounds.share_reporting,
        _share(count, boards.expected),
        count,
        boards.expected,
    )


def _soaked(boards: Boards, bounds: Bounds) -> Criterion:
    """Enough boards were measured for long enough in the version that they have now."""
    times = [one.healthy_seconds + one.unhealthy_seconds for one in boards.seen]
    count = sum(time >= bounds.soak_seconds * (1 - _ROUNDING) for time in times)
    return Criterion(
        "soak",
        boards.model,
        _enough(count, boards.expected, bounds.share_reporting),
        f"{count} of {_plural(boards.expected, 'board')} reached it",
        bounds.soak_seconds,
        median(times) if times else None,
        count,
        boards.expected,
    )


def _healthy(boards: Boards, bounds: Bounds) -> Criterion:
    """Healthy for enough of the time, each board counting alike; what was not measured may have been anything."""
    healthy = [one.healthy_seconds / one.span_seconds for one in boards.seen]
    unhealthy = [one.unhealthy_seconds / one.span_seconds for one in boards.seen]
    least = _share(sum(healthy), boards.expected)
    most = None if least is None else 1 - sum(unhealthy) / boards.expected
    known = sum(healthy) + sum(unhealthy)
    measured = sum(healthy) / known if known else None
    outcome: Outcome = "unmeasured"
    if most is not None and most < bounds.share_healthy - _ROUNDING:
        outcome = "fail"
    elif least is not None and least >= bounds.share_healthy - _ROUNDING:
        outcome = "pass"
    reason = "nothing was measured"
    if measured is not None and least is not None and most is not None:
        reason = f"{_percent(measured)} of the measured time"
        if most - least > 1e-4:
            reason += f", {_percent(least)} to {_percent(most)} of all"
    sick = sum(_unwell(one.unhealthy_seconds, one.span_seconds, bounds) for one in boards.seen)
    reason += f"; {_plural(sick, 'board')} not healthy" if sick else ""
    good = len(boards.seen) - sick
    return Criterion("healthy", boards.model, outcome, reason, bounds.share_healthy, measured, good, boards.expected)


def _unwell(unhealthy: float, span: float, bounds: Bounds) -> bool:
    return unhealthy / span > 1 - bounds.share_healthy + _ROUNDING


def _cohorts(boards: Boards, reference: Boards, bounds: Bounds) -> Criterion:
    """No cohort is worse than the baseline's boards with this model and SoC."""
    groups: dict[tuple[Kind, Version], list[Watched]] = {}
    for one in boards.watched:
        if one.seen:
            groups.setdefault((one.seen.kind, one.seen.version), []).append(one)
    compared = [compare(boards, reference, key, bounds) for key in sorted(groups)]
    covered = sum(one.boards for one in compared if one.outcome in ("pass", "fail"))
    outcome = _together(compared, boards, covered, bounds)
    worse = sum(one.outcome == "fail" for one in compared)
    count = sum(one.outcome in ("pass", "fail") for one in compared)
    reason = f"{_plural(count, 'cohort')} compared, {worse or 'none'} worse"
    left = boards.expected - covered
    reason += f"; {_plural(left, 'board')} not compared" if left else ""
    return Criterion(
        "cohorts",
        boards.model,
        outcome,
        reason,
        bounds.slower,
        _most_slower(compared),
        covered,
        boards.expected,
        cohorts=tuple(compared),
    )


def _together(compared: Sequence[Cohort], boards: Boards, covered: int, bounds: Bounds) -> Outcome:
    outcomes = {one.outcome for one in compared}
    if "fail" in outcomes:
        return "fail"
    # As many boards as make a cohort, of which nothing is known, may be one that is worse.
    if "unmeasured" in outcomes or boards.unheard >= LEAST_BOARDS:
        return "unmeasured"
    return _enough(covered, boards.expected, bounds.share_reporting)


def _most_slower(compared: Sequence[Cohort]) -> float | None:
    """The largest ratio of a cohort's median latency to its baseline's."""
    ratios = [
        one.median_seconds / one.baseline_median_seconds
        for one in compared
        if one.outcome != "not_asked" and one.median_seconds is not None and one.baseline_median_seconds
    ]
    return max(ratios, default=None)


def _ops(boards: Boards, reference: Boards, bounds: Bounds) -> Criterion:
    """No op type falls back that does not on the baseline's boards with this model and SoC."""
    kinds = sorted({one.kind for one in boards.seen})
    found: list[NewOp] = []
    covered, undecided = 0, boards.unheard >= LEAST_BOARDS
    for kind in kinds:
        mine, others = boards.of(kind), reference.of(kind)
        if len(mine) + boards.unheard < LEAST_BOARDS or not (others or reference.unheard):
            continue
        found += new_ops(boards, reference, kind, bounds)
        undecided = undecided or undecided_ops(boards, reference, kind, bounds)
        known = placed(mine)
        covered += len(known) if placed(others) and len(known) >= LEAST_BOARDS else 0
    outcome: Outcome = _enough(covered, boards.expected, bounds.share_reporting)
    if any(op.counts for op in found):
        outcome = "fail"
    elif undecided:
        outcome = "unmeasured"
    named = sorted({op.op_type for op in found if op.counts})
    reason = f"new on the CPU: {', '.join(named)}" if named else "no op fell back that does not on the baseline"
    left = boards.expected - covered
    reason += f"; {_plural(left, 'board')} not compared" if left else ""
    most = max((op.flops_ratio for op in found if op.counts), default=None)
    return Criterion(
        "ops", boards.model, outcome, reason, bounds.op_share, most, covered, boards.expected, ops=tuple(found)
    )


def _not_asked(name: str, model: str, boards: Boards, bounds: Bounds) -> Criterion:
    reason = "no baseline was given to compare with"
    if name == "cohorts":
        return Criterion("cohorts", model, "not_asked", reason, bounds.slower, expected=boards.expected)
    return Criterion("ops", model, "not_asked", reason, bounds.op_share, expected=boards.expected)


def _enough(count: int, expected: int, share: float) -> Outcome:
    return "pass" if expected and count / expected >= share - _ROUNDING else "unmeasured"


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(ratio: float) -> str:
    """Cut, not rounded: no share is told as one that it does not reach."""
    return f"{int(ratio * 1000 + 1e-6) / 10:g} %"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
