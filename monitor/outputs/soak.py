"""What a soak found, for a terminal, for programs, and for a pipeline's list of tests."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from monitor.duration import format_duration
from monitor.outputs import wording
from monitor.outputs.junit import Case, junit
from monitor.outputs.text import WIDTH, without_absent
from monitor.records.soak import Compared, Heat, ModelSoak, SoakResult, Span

FORMAT: Final = 1
"""Of the summary; a key that changes its meaning raises it."""
_QUESTIONS: Final = ("verdict", "failures", "placement", "drift", "memory")
_COLOURS: Final = {"healthy": "32", "degraded": "33", "fallback": "31", "unknown": "35"}


def document(result: SoakResult) -> dict[str, Any]:
    """The summary: every answer with its interval; what was not measured is left out (docs/soak.md)."""
    whole: dict[str, Any] = without_absent(
        {
            "format": FORMAT,
            "started": wording.rfc3339(result.started),
            "ended": wording.rfc3339(result.ended),
            "wanted_seconds": result.wanted_seconds,
            "measured_seconds": result.measured_seconds,
            "complete": result.complete,
            "target": result.target,
            "subject": msgspec.to_builtins(result.subject),
            "board": msgspec.to_builtins(result.sessions[-1].board),
            "gaps": [
                {
                    "after_seconds": gap.elapsed,
                    "since": wording.rfc3339(gap.since),
                    "until": wording.rfc3339(gap.until),
                    "rebooted": gap.rebooted,
                }
                for gap in result.gaps
            ],
            "models": [_model(model) for model in result.models],
        }
    )
    return whole


def summary(result: SoakResult) -> str:
    """:func:`document` as text."""
    return json.dumps(document(result), indent=2) + "\n"


def cases(result: SoakResult) -> str:
    """JUnit XML: five questions of each model, and whether the soak lasted as long as it should."""
    found = [case for model in result.models for case in _cases(model)]
    lasted = f"{length(result.measured_seconds)} of {length(result.wanted_seconds)} were measured"
    if result.complete:
        found.append(Case("soak", "duration", "passed", text=lasted, seconds=result.measured_seconds))
    else:
        found.append(Case("soak", "duration", "error", lasted, seconds=result.measured_seconds))
    return junit("npumon soak", wording.rfc3339(result.started), found)


def table(result: SoakResult, colour: bool) -> str:
    """A few lines a model, at most 100 columns wide, without a final newline."""
    lines = [f"{length(result.measured_seconds)} of {length(result.wanted_seconds)} measured"]
    if result.gaps:
        lines[0] += f", {wording.plural(len(result.gaps), 'interruption')}"
    if result.target == "simulator":
        lines.append("on a simulator: placement predicts a board, times mean nothing")
    for model in result.models:
        lines += ["", *_entry(model, colour)]
    return "\n".join(lines)


def length(seconds: float) -> str:
    """A duration as people say it: ``8h``, ``1h30m``, ``42.5s``."""
    if seconds >= 3600:
        return format_duration(60 * round(seconds / 60))
    return format_duration(round(seconds)) if round(seconds, 1) >= 60 else f"{round(seconds, 1):g}s"


def drift(model: ModelSoak) -> str:
    """How far the median moved, with its interval."""
    found = model.drift
    if found.ratio is None and not found.why and found.within_ratio is not None:
        return f"tenths of the run differ by at most {wording.percent(found.within_ratio)}"
    if found.ratio is None:
        return f"cannot be told ({found.why})"
    doubt = f"; {found.why}" if found.why else ""
    return f"{signed(found.ratio)} over the run ({signed(found.low)} to {signed(found.high)}){doubt}"


def growth(model: ModelSoak) -> str:
    """How much memory grew a check, with its interval."""
    found = model.memory
    if found.bytes_per_check is None and not found.why and found.within_bytes is not None:
        return f"tenths of a probe's life differ by at most {kib(found.within_bytes).removeprefix('+')}"
    if found.bytes_per_check is None:
        return f"cannot be told ({found.why})"
    doubt = f"; {found.why}" if found.why else ""
    return f"{kib(found.bytes_per_check)} a check ({kib(found.low)} to {kib(found.high)}){doubt}"


def stalls(model: ModelSoak) -> str:
    """How many replays stalled, and the slowest."""
    found = model.stalls
    if not found.replays:
        return wording.ABSENT
    share = wording.percent(found.count / found.replays)
    text = f"{found.count:,} of {found.replays:,} replays ({share})"
    times = f", {found.slowest_ratio:.2g} times its check's median" if found.slowest_ratio else ""
    return f"{text}, the slowest {wording.seconds(found.slowest_seconds)}{times}"


def signed(ratio: float | None) -> str:
    """A change with its sign."""
    if ratio is None:
        return wording.ABSENT
    return f"{round(100 * ratio, 1) or 0.0:+.1f} %".replace("-", "−")  # noqa: RUF001


def kib(size: float | None) -> str:
    """Bytes with a sign, in the unit that suits them."""
    if size is None:
        return wording.ABSENT
    value, unit = (size / 2**20, "MiB") if abs(size) >= 2**20 else (size / 1024, "KiB")
    return f"{value:+.{2 if abs(value) < 1 else 3}g} {unit}".replace("-", "−")  # noqa: RUF001


# ------------------------------------------------------------------------------------------------- two compared


def comparison_document(found: Sequence[Compared]) -> dict[str, Any]:
    """``soak compare --json``: each model's record; what could not be compared is left out."""
    whole: dict[str, Any] = without_absent({"format": FORMAT, "models": msgspec.to_builtins(found)})
    return whole


def comparison_table(found: Sequence[Compared]) -> str:
    """One block a model, A against B, without a final newline."""
    lines: list[str] = []
    for one in found:
        lines += ["", *_compared(one)]
    return "\n".join(lines[1:])


def _compared(one: Compared) -> Iterator[str]:
    yield f"{one.model}  {_outcome(one)}"
    yield f"  {'':<10}{'A':>26}{'B':>26}   B against A"
    medians = [wording.seconds(side.median_seconds) if side else wording.ABSENT for side in (one.a, one.b)]
    change = wording.ABSENT
    if one.ratio is not None and one.low is not None and one.high is not None:
        change = f"{signed(one.ratio - 1)} ({signed(one.low - 1)} to {signed(one.high - 1)}), p {one.p:.2g}"
    yield _row("median", medians, change)
    if one.cliffs_delta is not None:
        yield _row("", ["", ""], f"Cliff's delta {one.cliffs_delta:+.2f}".replace("-", "−"))  # noqa: RUF001
    shares = [wording.percent(side.npu_flops_ratio) if side else wording.ABSENT for side in (one.a, one.b)]
    ops = ", ".join(f"{op} ({wording.percent(share)})" for op, share in one.new_ops.items())
    yield _row("NPU share", shares, f"new on the CPU: {ops}" if ops else "")
    sizes = [
        f"{side.rss_bytes / 2**20:.0f} MiB" if side and side.rss_bytes else wording.ABSENT for side in (one.a, one.b)
    ]
    yield _row("memory", sizes, signed(one.rss_ratio - 1) if one.rss_ratio is not None else "")
    yield _row("checks", [f"{side.checks:,}" if side else wording.ABSENT for side in (one.a, one.b)], "")
    yield _row(
        "findings", [", ".join(side.findings) or "none" if side else wording.ABSENT for side in (one.a, one.b)], ""
    )
    for name, side in (("A", one.a), ("B", one.b)):
        if side and side.runtime:
            yield f"  {name}: {wording.versions(side.runtime)}"
    for note in (one.why, *one.notes) if one.why else one.notes:
        yield from textwrap.wrap(note, WIDTH, initial_indent="  note  ", subsequent_indent="        ")


def _outcome(one: Compared) -> str:
    if one.worse:
        return f"worse: {', '.join(one.worse)}"
    if one.a is None or one.b is None:
        return "not compared"
    return "cannot be told" if one.why else "not worse"


def _row(name: str, values: Sequence[str], change: str) -> str:
    return f"  {name:<10}{values[0]:>26}{values[1]:>26}   {change}".rstrip()


# -------------------------------------------------------------------------------------------------------- parts


def _model(model: ModelSoak) -> dict[str, Any]:
    whole: dict[str, Any] = msgspec.to_builtins(model)
    whole["spans"] = [_span(span) for span in model.spans]
    whole["events"] = [
        {
            "timestamp": wording.rfc3339(event.timestamp),
            "level": event.level,
            "event": event.event,
            "id": event.id,
            "reason": event.reason,
        }
        for event in model.events
    ]
    return whole


def _span(span: Span) -> dict[str, Any]:
    place = span.place
    return {
        "start": span.start,
        "end": span.end,
        "change": span.change or None,
        "model_sha256": place.model_sha256,
        "npu_flops_ratio": place.npu_flops_ratio,
        "nodes_cpu": place.nodes_cpu,
        "partitions": place.partitions,
        "fallback_flops": place.fallback_flops,
        "runtime": msgspec.to_builtins(place.runtime) if place.runtime else None,
        "samples": place.samples.source if place.samples else None,
    }


def _cases(model: ModelSoak) -> Iterator[Case]:
    findings = {kind: [one.text for one in model.findings if one.kind == kind] for kind in _QUESTIONS}
    nothing = model.checks == model.failed
    untold = {"drift": model.drift.why, "memory": model.memory.why}
    for kind in _QUESTIONS:
        if texts := findings[kind]:
            yield Case(model.model, kind, "failed", texts[0], "\n".join(texts))
        elif nothing or (kind == "verdict" and model.verdict == "unknown"):
            yield Case(model.model, kind, "error", model.reason)
        elif why := untold.get(kind):
            yield Case(model.model, kind, "skipped", why)
        else:
            yield Case(model.model, kind, "passed")


def _entry(model: ModelSoak, colour: bool) -> Iterator[str]:
    painted = f"\x1b[{_COLOURS[model.verdict]}m{model.verdict}\x1b[0m" if colour else model.verdict
    yield f"{model.model}  {painted}"
    yield from _wrapped(model.reason, "  ")
    failed = f", {model.failed} failed" if model.failed else ""
    yield f"  checks     {model.checks:,}{failed}, median {wording.seconds(model.median_seconds)}"
    yield from _wrapped(drift(model), "  drift      ")
    yield from _wrapped(growth(model), "  memory     ")
    shares = [wording.percent(span.place.npu_flops_ratio) for span in model.spans]
    yield f"  NPU share  {', then '.join(shares[:6]) or wording.ABSENT}{' …' if shares[6:] else ''}"
    yield f"  stalls     {stalls(model)}"
    for heat in model.heat:
        yield f"  heat       {_heat(heat)}"


def _heat(heat: Heat) -> str:
    zone = f"the {heat.zone.upper()}'s temperature"
    if heat.rho is None:
        return f"cannot be told whether the latency follows {zone}"
    follows = "follows" if heat.found else "does not follow"
    return f"the latency {follows} {zone} (rank correlation {heat.rho:+.2f})".replace("-", "−")  # noqa: RUF001


def _wrapped(text: str, label: str) -> Iterable[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False)
