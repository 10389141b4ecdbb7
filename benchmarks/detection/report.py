"""The tables: what was counted, as Markdown, with the bounds of the issue beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.detection.measure import Delays, Healthy, Interval
from benchmarks.detection.replayed import PLANTED
from benchmarks.detection.series import BACKGROUNDS, FAULTS, HEALTHY, MONTH, Fault

BEGIN: Final = "<!-- tables: begin (python -m benchmarks.detection --write) -->"
END: Final = "<!-- tables: end -->"
ORACLE: Final = "limit, 30 replays"
ORACLE_CLOSER: Final = "limit, 150 replays"
AGES: Final = ("mature", "young")


@dataclass
class Findings:
    """Everything that was counted, by rule and then by what it was counted on."""

    healthy: dict[tuple[str, str], Healthy] = field(default_factory=dict)
    delays: dict[tuple[str, str, str, str], Delays] = field(default_factory=dict)  # rule, age, background, fault
    recorded: dict[tuple[str, str], Healthy] = field(default_factory=dict)
    planted: dict[tuple[str, str, str], Delays] = field(default_factory=dict)  # rule, recording, fault

    def __or__(self, other: Findings) -> Findings:
        """Both, for different rules."""
        return Findings(
            self.healthy | other.healthy,
            self.delays | other.delays,
            self.recorded | other.recorded,
            self.planted | other.planted,
        )


def tables(findings: Findings, rules: Sequence[str]) -> str:
    """All tables as Markdown; ``rules`` are the columns."""
    parts = [_healthy(findings, rules), _summary(findings, rules)]
    parts += [_detail(findings, rules, age) for age in AGES]
    if findings.recorded:
        parts.append(_recorded(findings, rules))
    return "\n\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    """Put the tables between the markers of ``path``; raises :class:`ValueError` if it has none."""
    page = path.read_text(encoding="utf-8")
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no lines {BEGIN!r} and {END!r} to put the tables between")
    path.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")


def _healthy(findings: Findings, rules: Sequence[str]) -> str:
    rows = []
    columns = [rule for rule in rules if any(key[0] == rule for key in findings.healthy)]
    for scenario in HEALTHY:
        counted = [findings.healthy.get((rule, scenario.name)) for rule in columns]
        rows.append([scenario.name, *(_rate(one.rate(MONTH)) if one else "" for one in counted)])
    totals = [_total(findings, rule) for rule in columns]
    rows.append(["model-months of each", *(f"{one.checks / MONTH / len(HEALTHY):g}" for one in totals)])
    rows.append(["time of a check, ms", *(f"{1e3 * one.seconds / one.checks:.3f}" for one in totals)])
    return "### False events per model-month\n\n" + _table(["healthy series", *columns], rows)


def _total(findings: Findings, rule: str) -> Healthy:
    return sum((one for key, one in findings.healthy.items() if key[0] == rule), Healthy())


def _summary(findings: Findings, rules: Sequence[str]) -> str:
    rows = []
    for fault in FAULTS:
        for age in AGES:
            parts = ([findings.delays.get((rule, age, one.name, fault.name)) for one in BACKGROUNDS] for rule in rules)
            cells = [_pooled(counted, fault) for counted in parts]
            if any(cells):
                rows.append([f"{fault.name}, within {fault.bound}", age, *cells])
    title = "### Found in time, % of all cases (and of the worst background)\n\n"
    return title + _table(["fault", "baseline", *rules], rows)


def _pooled(parts: Iterable[Delays | None], fault: Fault) -> str:
    there = [part for part in parts if part is not None]
    if not there:
        return ""
    worst = min(part.within(fault.bound).value for part in there)
    return f"{_share(sum(there, Delays()).within(fault.bound))} ({100 * worst:.1f})"


def _detail(findings: Findings, rules: Sequence[str], age: str) -> str:
    rows = []
    columns = [rule for rule in rules if any(key[:2] == (rule, age) for key in findings.delays)]
    for fault in FAULTS:
        for background in BACKGROUNDS:
            counted = [findings.delays.get((rule, age, background.name, fault.name)) for rule in columns]
            rows.append([f"{fault.name}, within {fault.bound}", background.name, *(_found(d, fault) for d in counted)])
    title = f"### Found in time by background, {age} baseline, %; then the median delay in checks\n\n"
    return title + _table(["fault", "background", *columns], rows)


def _recorded(findings: Findings, rules: Sequence[str]) -> str:
    rows = []
    columns = [rule for rule in rules if any(key[0] == rule for key in findings.recorded)]
    for name in sorted({key[1] for key in findings.recorded}):
        counted = [findings.recorded[rule, name] for rule in columns]
        checks = counted[0].checks
        rows.append([name, f"as it is: events in {checks} checks", *(str(one.events) for one in counted)])
        for fault in PLANTED:
            delays = [findings.planted.get((rule, name, fault.name)) for rule in columns]
            rows.append([name, f"{fault.name}, within {fault.bound}", *(_found(one, fault) for one in delays)])
    return "### Recorded series\n\n" + _table(["recording", "planted", *columns], rows)


def _found(delays: Delays | None, fault: Fault) -> str:
    if delays is None or not delays.cases:
        return ""
    median = delays.median
    return f"{_share(delays.within(fault.bound))}; {'never' if median is None else median}"


def _share(interval: Interval) -> str:
    value, low, high = (100 * part for part in interval)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _rate(interval: Interval) -> str:
    form = ".0f" if interval.value >= 100 else ".1f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as it is."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
