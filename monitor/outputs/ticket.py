"""One incident in full, as a text to paste into a ticket: what was found, on what, and how to see it again.

Whoever reads it has neither the board nor npumon's log, so nothing is cut that the events hold, and nothing needs a
colour or a wide screen.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from monitor.config import Model
from monitor.outputs import wording
from monitor.outputs.history import moment, paragraph
from monitor.outputs.text import WIDTH
from monitor.outputs.wording import ABSENT, printable
from monitor.records import Board, BoardReading, CheckResult, Clock, Event, Incident, OpShare, Runtime

_OVER: Final = ("fallback_cleared", "latency_recovered", "check_recovered")
_ONCE: Final = ("model_changed", "runtime_changed")  # what is told and not left open

_Fact = TypeVar("_Fact")


class Case(Struct, frozen=True):
    """All that the state and the configuration have about one incident.

    ``events`` are its own, oldest first; the oldest of all are not kept for ever. ``incident`` is set while it is open,
    ``last`` is the model's last check, ``subject`` the model as configured now.
    """

    id: str
    model: str
    events: tuple[Event, ...]
    incident: Incident | None
    last: CheckResult | None
    subject: Model | None
    provider: str
    config: Path


def text(case: Case) -> str:
    """The ticket, without a final newline; at most 100 columns, but for what would not work in two lines."""
    blocks = [_head(case), _happened(case.events), _figures(case.events), _runtimes(case.events), _boards(case.events)]
    blocks += [_culprits(case.events), _failures(case.events), _again(case)]
    return "\n\n".join("\n".join(lines) for lines in map(list, blocks) if lines)


# ------------------------------------------------------------------------------------------------- what happened


def _head(case: Case) -> Iterator[str]:
    yield from paragraph(case.id, "npumon incident ")
    yield ""
    yield from paragraph(case.model, "model       ")
    for sha256 in _distinct(event.model_sha256 for event in case.events):
        yield from paragraph(f"sha256 {sha256}", "file        ")
    yield from paragraph(_status(case), "status      ")
    causes = _distinct(event.cause for event in case.events)
    yield from paragraph(", then ".join(causes), "cause       ")
    if case.last is not None:
        cause = f" ({case.last.cause})" if case.last.cause else ""
        verdict = f"{case.last.verdict}{cause} at {moment(case.last.timestamp)}: {case.last.reason}"
        yield from paragraph(verdict, "last check  ")


def _status(case: Case) -> str:
    if case.incident is not None:
        return f"open since {moment(case.incident.since)}"
    first, last = case.events[0], case.events[-1]
    if last.event in _OVER and not _lost(case.events):
        return f"over: from {moment(first.timestamp)} to {moment(last.timestamp)}"
    if last.event in _OVER:
        return f"over since {moment(last.timestamp)}"
    return f"happened at {moment(last.timestamp)}" if last.event in _ONCE else "no longer open, and not told as over"


def _lost(events: Sequence[Event]) -> bool:
    """Whether the event that raised the incident is too old to be kept."""
    return events[0].event in _OVER or events[0].event == "fallback_changed"


def _happened(events: Sequence[Event]) -> Iterator[str]:
    yield "What happened"
    if not events:
        yield "  its events are so old that they are no longer kept"
        return
    if _lost(events):
        yield "  (earlier events of it are no longer kept)"
    for event in events:
        yield f"  {wording.rfc3339(event.timestamp)}  {event.level:<7}  {event.event}"
        yield from paragraph(event.reason, "      ")


def _figures(events: Sequence[Event]) -> Iterator[str]:
    """One row an event; no column for what none of them has."""
    columns: tuple[tuple[str, Callable[[Event], float | None], Callable[[float | None], str]], ...] = (
        ("NPU FLOPs", lambda event: event.npu_flops_ratio, wording.percent),
        ("median", lambda event: event.median_seconds, wording.seconds),
        ("baseline", lambda event: event.baseline_seconds, wording.seconds),
        ("CV", lambda event: event.cv_ratio, wording.percent),
        ("slow share", lambda event: event.slow_ratio, wording.percent),
        ("slower by", lambda event: event.separation_ratio, _times),
    )
    there = [column for column in columns if any(wording.measured(column[1](event)) is not None for event in events)]
    if not there:
        return
    yield f"{'Figures':<22}" + "".join(f"{name:>12}" for name, _, _ in there)
    for event in events:
        yield f"  {moment(event.timestamp)}" + "".join(f"{show(read(event)):>12}" for _, read, show in there)


def _failures(events: Sequence[Event]) -> Iterator[str]:
    for failure in _distinct(event.error for event in events):
        yield f"Nothing was measured: {failure.reason}"
        yield from paragraph(failure.detail, "  why   ")
        yield from paragraph(failure.mend, "  do    ")


# -------------------------------------------------------------------------------------------------- on what


def _runtimes(events: Sequence[Event]) -> Iterator[str]:
    for event, runtime in _changes(events, lambda event: event.runtime):
        yield f"What ran at {moment(event.timestamp)}"
        yield from _runtime(runtime)
        if event.samples:
            made = "synthetic (made from the model's signature, not real data)"
            yield f"  inputs       {made if event.samples == 'synthetic' else event.samples}"


def _runtime(runtime: Runtime) -> Iterator[str]:
    yield f"  target       {wording.target(runtime)}"
    yield from paragraph(f"{runtime.provider} {runtime.provider_version}", "  provider     ")
    yield from paragraph(runtime.backend_version or ABSENT, "  backend      ")
    yield from paragraph(f"{runtime.onnxruntime} {runtime.machine}", "  onnxruntime  ")
    options = ", ".join(f"{key}={value}" for key, value in sorted(runtime.options.items()))
    yield from paragraph(options or "none", "  options      ")


def _boards(events: Sequence[Event]) -> Iterator[str]:
    for event, board in _changes(events, lambda event: event.board):
        yield f"The board at {moment(event.timestamp)}"
        yield from _board(board)
    read = [(event, event.readings) for event in events if event.readings is not None]
    for event, readings in (*read[:1], *read[1:][-1:]):
        yield f"Its state at {moment(event.timestamp)}"
        yield from _readings(readings)


def _board(board: Board) -> Iterator[str]:
    facts = (("host", board.hostname), ("SoC", board.soc), ("machine", board.machine), ("kernel", board.kernel))
    for name, value in facts:
        yield from paragraph(value or "", f"  {name:<13}")


def _readings(readings: BoardReading) -> Iterator[str]:
    yield f"  {'up for':<13}{_long(readings.uptime)}"
    zones = (
        f"{name} {zone.celsius:.1f} °C" + (f" (slowed down from {zone.limit:.1f} °C)" if zone.limit else "")
        for name, zone in sorted(readings.zones.items())
    )
    yield from paragraph(", ".join(zones), f"  {'temperature':<13}")
    for label, clocks in (("CPU clocks", readings.cpu_clocks), ("clocks", readings.device_clocks)):
        for name, clock in sorted(clocks.items()):
            yield from paragraph(f"{name}: {_clock(clock)}", f"  {label:<13}")
    stalled = ", ".join(f"{name} {wording.seconds(value)}" for name, value in sorted(readings.stalled.items()))
    yield from paragraph(f"{stalled} since boot" if stalled else "", f"  {'stalled':<13}")
    processors = (f"{name} {state}" for name, state in sorted(readings.remoteprocs.items()))
    yield from paragraph(", ".join(processors), f"  {'remoteproc':<13}")
    for node, usable in sorted(readings.nodes.items()):
        yield from paragraph(f"{node} {'can be opened' if usable else 'CANNOT be opened'}", f"  {'device':<13}")


def _clock(clock: Clock) -> str:
    parts = (("at", clock.current), ("allowed", clock.allowed), ("made for", clock.highest))
    return ", ".join(f"{word} {_hertz(value)}" for word, value in parts if value is not None)


def _hertz(value: float) -> str:
    return f"{value / 1e9:.3g} GHz" if value >= 1e9 else f"{value / 1e6:.4g} MHz"


def _long(seconds: float) -> str:
    minutes = int(seconds / 60)
    return f"{minutes // 1440} d {minutes // 60 % 24} h {minutes % 60} min"


def _times(ratio: float | None) -> str:
    value = wording.measured(ratio)
    return ABSENT if value is None else f"{value:.3g}x"


# ----------------------------------------------------------------------------------------------- the culprits


def _culprits(events: Sequence[Event]) -> Iterator[str]:
    """The ops of the last event that found some; what is left after the end of a fallback is none of its ops."""
    told = next((event for event in reversed(events) if event.ops and event.event not in _OVER), None)
    if told is None:
        return
    yield f"{f'On the CPU at {moment(told.timestamp)}':<62}{'nodes':>8}{'FLOPs':>10}{'time':>10}"
    yield from _groups(told.ops)
    if told.ops_omitted:
        yield f"  and {wording.plural(told.ops_omitted, 'more op')} of less cost, which the audit below lists"


def _groups(ops: Iterable[OpShare]) -> Iterator[str]:
    for together in wording.by_reason(wording.group_ops(ops)):
        for group in together:
            shares = f"{wording.percent(group.flops_ratio):>10}{wording.percent(group.time_ratio):>10}"
            name = wording.clip(printable(group.op_type), 60)
            yield f"  {name:<60}{len(group.nodes):>8}{shares}"
        yield from paragraph(together[0].reason, "      why    ")
        yield from paragraph(together[0].remedy, "      do     ")
        nodes = ", ".join(node or "unnamed" for group in together for node in group.nodes)
        yield from paragraph(nodes, "      nodes  ")


# ------------------------------------------------------------------------------------------------ how to see it


def _again(case: Case) -> Iterator[str]:
    yield "To see it again"
    audit = _audit(case)
    yield from command([*audit, ["--json"]])
    slow = any(event.event.startswith("latency") or event.cause == "slow_accelerator" for event in case.events)
    if slow:
        yield from command([*audit, ["--deep"]])
    if case.subject is None:
        yield "  (the configuration does not have this model any more: MODEL stands for its file)"
        return
    if slow or any(event.error for event in case.events):
        yield from command([["npumon", "check"], ["-c", str(case.config)], ["--model", case.model], ["--json"]])
    yield ""
    yield "To send along"
    yield "  what the commands above print"
    yield from paragraph(f"the model {case.subject.path}", "  ")
    if case.subject.source:
        yield from paragraph(f"what it was made from {case.subject.source}", "  ")
    if case.subject.samples:
        yield from paragraph(f"the inputs in {case.subject.samples}", "  ")


def _audit(case: Case) -> list[list[str]]:
    """``npumon audit`` with all that shapes the session, one part a line at most."""
    subject, parts = case.subject, [["npumon", "audit"]]
    if subject is None:
        options = next((event.runtime.options for event in reversed(case.events) if event.runtime), {})
        return [*parts, ["MODEL"], *(["-o", f"{key}={value}"] for key, value in options.items())]
    parts.append([str(subject.path)])
    parts += [["--provider", case.provider]] if case.provider != "qnn" else []
    parts += [["-o", f"{key}={value}"] for key, value in subject.options.items()]
    parts += [["--dim", f"{key}={value}"] for key, value in subject.dims.items()]
    parts += [["-s", f"{key}={_setting(value)}"] for key, value in subject.session.items()]
    parts += [["--source", str(subject.source)]] if subject.source else []
    return parts + ([["--samples", str(subject.samples)]] if subject.samples else [])


def _setting(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def command(parts: Iterable[Sequence[str]]) -> list[str]:
    """A shell command that can be copied, continued on the next line where it would be too wide."""
    lines = [" "]
    for words in map(shlex.join, parts):
        if len(lines[-1]) + 1 + len(words) > WIDTH - 2:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {words}"
    return lines


# --------------------------------------------------------------------------------------------------- helpers


def _distinct(facts: Iterable[_Fact | None]) -> list[_Fact]:
    """Each fact that is known once, in the order they came."""
    found: list[_Fact] = []
    for fact in facts:
        if fact is not None and fact not in found:
            found.append(fact)
    return found


def _changes(events: Sequence[Event], read: Callable[[Event], _Fact | None]) -> Iterator[tuple[Event, _Fact]]:
    """The events at which a fact was another one than before."""
    before: _Fact | None = None
    for event in events:
        fact = read(event)
        if fact is not None and fact != before:
            yield event, fact
            before = fact
