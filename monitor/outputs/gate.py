"""The verdict over a fleet, for people at a terminal, for programs, and for the pages that pipelines make of JUnit."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from monitor.duration import format_duration
from monitor.outputs import text, wording
from monitor.outputs.junit import Case
from monitor.outputs.junit import junit as write
from monitor.outputs.text import WIDTH
from monitor.outputs.wording import clip, percent, plural, printable
from monitor.records.gate import CRITERIA, Bounds, Cohort, Criterion, GateResult, Kind, NewOp, Outcome

LISTED: Final = 6
"""Most cohorts, ops, or reasons of one kind in a table; the JSON document has all."""

WORDS: Final[dict[Outcome, str]] = {
    "pass": "pass",
    "fail": "fail",
    "unmeasured": "could not measure",
    "not_asked": "not asked",
}
_COLOURS: Final[dict[Outcome, str]] = {
    "pass": "\x1b[32m",
    "fail": "\x1b[31m",
    "unmeasured": "\x1b[35m",
    "not_asked": "",
}
_SEVERITY: Final[tuple[Outcome, ...]] = ("fail", "unmeasured", "pass", "not_asked")
_WHY: Final = {
    "silent": "silent",
    "stale": "checks are stale",
    "unknown": "checks cannot measure",
    "not_on_hardware": "not on hardware",
    "model_missing": "does not watch this model",
}
_CASES: Final[dict[Outcome, Literal["passed", "failed", "error", "skipped"]]] = {
    "pass": "passed",
    "fail": "failed",
    "unmeasured": "error",
    "not_asked": "skipped",
}


def asked(criterion: Criterion, bounds: Bounds) -> str:
    """The bound of a criterion in words, at most 28 characters where the figures are short."""
    most = f"{100 * bounds.share_reporting:g} %"
    return {
        "boards": f"at least {most} measured",
        "soak": f"{format_duration(bounds.soak_seconds)} on at least {most}",
        "healthy": f"at least {100 * bounds.share_healthy:g} % of the time",
        "cohorts": f"none worse, or {bounds.slower:g} x slower",
        "ops": f"none new above {100 * bounds.op_share:g} % of FLOPs",
    }[criterion.name]


# --------------------------------------------------------------------------------------------------- documents


def document(result: GateResult) -> dict[str, Any]:
    """``gate --json``: the records as docs/gate.md describes them; what was not measured is left out."""
    found: dict[str, Any] = text.without_absent(
        {
            "timestamp": wording.rfc3339(result.timestamp),
            "outcome": result.outcome,
            "expected": result.expected,
            "bounds": msgspec.to_builtins(result.bounds),
            "criteria": msgspec.to_builtins(result.criteria),
            "unmeasured": msgspec.to_builtins(result.unmeasured),
        }
    )
    return found


def junit(result: GateResult) -> str:
    """JUnit XML: a test case for each criterion of each model, an error where it could not be measured."""
    cases = []
    for criterion in result.criteria:
        details = (*map(_cohort, _shown(criterion)), *map(_op, _counting(criterion)))
        asked_for = f"asked: {asked(criterion, result.bounds)}"
        message = f"{WORDS[criterion.outcome]}: {criterion.reason}"
        lines = "\n".join((asked_for, message, *details))
        cases.append(Case(criterion.model, criterion.name, _CASES[criterion.outcome], message, lines))
    return write("npumon gate", wording.rfc3339(result.timestamp), cases)


def failure_document(timestamp: float, error: str) -> dict[str, Any]:
    """``gate --json`` where nothing could be measured: the time, UTC seconds, the outcome, and why, in one line."""
    outcome: Outcome = "unmeasured"
    return {"timestamp": wording.rfc3339(timestamp), "outcome": outcome, "error": error}


def failure_junit(timestamp: float, error: str) -> str:
    """JUnit XML where there is no verdict: one test case, an error."""
    return write("npumon gate", wording.rfc3339(timestamp), [Case("gate", "verdict", "error", error)])


# ------------------------------------------------------------------------------------------------------- table


def table(result: GateResult, colour: bool) -> str:
    """A line for each criterion, then what did not pass and why; at most 100 columns, no final newline."""
    blocks = [
        _headline(result, colour),
        _criteria(result, colour),
        _all_reasons(result),
        _named("worse than the baseline", [_cohort(one) for each in result.criteria for one in _shown(each)]),
        _named("new on the CPU", [_op(one) for each in result.criteria for one in _counting(each)]),
        _named("not measured", _absent(result)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(result: GateResult, colour: bool) -> list[str]:
    window = format_duration(result.bounds.window_seconds)
    until = wording.rfc3339(result.timestamp)[:19].replace("T", " ")
    models = len({criterion.model for criterion in result.criteria})
    over = f"{plural(result.expected, 'board')}, {plural(models, 'model')}, {window} until {until} UTC"
    lines = [f"{_painted(WORDS[result.outcome], result.outcome, colour)}  {over}"]
    if not result.baseline:
        lines.append("no baseline was given (--baseline-match): nothing was compared")
    return lines


def _criteria(result: GateResult, colour: bool) -> list[str]:
    """Each criterion with the model it comes off worst with."""
    lines = [f"{'criterion':<10} {'outcome':<17}  {'asked':<28} measured"]
    for name in CRITERIA:
        every = [criterion for criterion in result.criteria if criterion.name == name]
        if not every:
            continue
        worst = min(every, key=lambda one: (_SEVERITY.index(one.outcome), _least(one)))
        outcome = _painted(f"{WORDS[worst.outcome]:<17}", worst.outcome, colour)
        model = f"{clip(printable(worst.model), 16)}: " if len(every) > 1 and worst.outcome != "not_asked" else ""
        measured = clip(f"{model}{printable(worst.reason)}", WIDTH - 59)
        lines.append(f"{name:<10} {outcome}  {clip(asked(worst, result.bounds), 28):<28} {measured}".rstrip())
    return lines


def _least(criterion: Criterion) -> float:
    """Orders criteria of one name and outcome, the worst first."""
    if criterion.measured is None:
        return float("-inf") if criterion.outcome == "unmeasured" else 0.0
    return -criterion.measured if criterion.name in ("cohorts", "ops") else criterion.measured


def _all_reasons(result: GateResult) -> list[str]:
    lines = []
    for criterion in result.criteria:
        if criterion.outcome in ("fail", "unmeasured"):
            about = f"{clip(printable(criterion.model), 40)}, {criterion.name}: "
            lines += text.wrapped(f"{about}{WORDS[criterion.outcome]}, {criterion.reason}", "")
    return lines


def _named(heading: str, entries: list[str]) -> list[str]:
    lines = [heading] if entries else []
    for entry in entries[:LISTED]:
        first, *more = text.wrapped(entry, "    ")
        lines += [first.removeprefix("  "), *more]
    if entries[LISTED:]:
        lines.append(f"  and {len(entries) - LISTED} more: see --json")
    return lines


def _shown(criterion: Criterion) -> list[Cohort]:
    return [one for one in criterion.cohorts if one.outcome == "fail"]


def _counting(criterion: Criterion) -> list[NewOp]:
    return sorted((one for one in criterion.ops if one.counts), key=lambda one: -one.flops_ratio)


def _cohort(one: Cohort) -> str:
    """A cohort in words: which boards, and in what they are worse."""
    version = one.version
    names = [
        f"{one.model} on {_place(one.kind)}",
        f"model {version.sha256[:12]}" if version.sha256 else "",
        f"SDK {version.backend_version}" if version.backend_version else "",
        f"{version.provider} {version.provider_version}".strip(),
        f"onnxruntime {version.onnxruntime}" if version.onnxruntime else "",
    ]
    unhealthy = (
        f"{one.unhealthy} of {plural(one.boards, 'board')} not healthy"
        f" (baseline {one.baseline_unhealthy} of {one.baseline_boards})"
    )
    slower = f"median {wording.seconds(one.median_seconds)} (baseline {wording.seconds(one.baseline_median_seconds)})"
    return f"{', '.join(filter(None, names))}: {unhealthy}, {slower}"


def _op(one: NewOp) -> str:
    share = f"{percent(one.flops_ratio)} of the FLOPs (baseline {percent(one.baseline_flops_ratio)})"
    return f"{one.model} on {_place(one.kind)}: {one.op_type}, {share}, on {one.boards} of {plural(one.of, 'board')}"


def _place(kind: Kind) -> str:
    return kind.soc or kind.machine or "boards that do not tell their SoC"


def _absent(result: GateResult) -> list[str]:
    """The boards that do not count, by reason; one that is missing for several models is named once."""
    boards: dict[str, list[str]] = {}
    for one in result.unmeasured:
        names = boards.setdefault(one.why, [])
        if one.board not in names:
            names.append(one.board)
    return [
        f"{_WHY[why]}: {plural(len(names), 'board')} ({', '.join(names[:4])}{', …' if names[4:] else ''})"
        for why, names in boards.items()
    ]


def _painted(words: str, outcome: Outcome, colour: bool) -> str:
    return f"{_COLOURS[outcome]}{words}\x1b[0m" if colour and _COLOURS[outcome] else words
