"""What a check found, for people at a terminal and for programs that read JSON.

The table answers in ten seconds: how much ran on the accelerator (by FLOPs, time and nodes), what the verdict is, and
which ops to do something about. Ops that share type, reason and remedy are one entry. Nothing is wider than 100
columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from monitor.outputs import wording
from monitor.outputs.wording import ABSENT, OpGroup, clip, measured, percent, printable
from monitor.records import CheckResult, Failure, Latency, Placement, Verdict

WIDTH: Final = 100
GROUPS: Final = 8
"""Most op groups in a table; the JSON document has all ops."""

_COLOURS: dict[Verdict, str] = {
    "healthy": "\x1b[32m",
    "degraded": "\x1b[33m",
    "fallback": "\x1b[31m",
    "unknown": "\x1b[35m",
}

# --------------------------------------------------------------------------------------------------- documents


def audit_document(result: CheckResult) -> dict[str, Any]:
    """``audit --json``: the contract's keys; what was not measured is left out, and then ``error`` says why."""
    placement = None if result.error else result.placement
    document: dict[str, Any] = {
        "timestamp": wording.rfc3339(result.timestamp),
        "model": result.model,
        "model_sha256": result.model_sha256,
        "verdict": result.verdict,
        "cause": result.cause,
        "reason": result.reason,
        **(_placement_document(placement) if placement else {}),
        "samples": result.samples.source if result.samples else None,
        "samples_rejected": msgspec.to_builtins(result.samples.rejected) if result.samples else None,
        "runtime": msgspec.to_builtins(result.runtime) if result.runtime else None,
        "notes": [*result.notes, *(placement.notes if placement else ())],
        "error": msgspec.to_builtins(result.error) if result.error else None,
    }
    optional = ("samples_rejected", "notes")
    present = {key: value for key, value in document.items() if value or key not in optional}
    cleaned: dict[str, Any] = _without_absent(present)
    return cleaned


def check_document(result: CheckResult) -> dict[str, Any]:
    """``check --json``: the audit's document, and the latency with every raw replay."""
    document = audit_document(result)
    if result.latency and not result.error:
        document |= _without_absent(
            {
                "median_seconds": result.latency.median_seconds,
                "cv_ratio": result.latency.cv_ratio,
                "replays_seconds": list(result.latency.replays_seconds),
                "warmups_seconds": list(result.latency.warmups_seconds),
            }
        )
    return document


def _placement_document(placement: Placement) -> dict[str, Any]:
    keys = ("npu_flops_ratio", "npu_flops_ratio_range", "npu_time_ratio", "unattributed_flops_ratio")
    document = {key: getattr(placement, key) for key in (*keys, "total_flops")}
    return document | {
        "nodes": msgspec.to_builtins(placement.nodes),
        "partitions": placement.partitions,
        "ops": msgspec.to_builtins(placement.ops),
    }


def _without_absent(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_absent(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_absent(item) for item in value]
    return measured(value) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------------------ tables


def audit_table(result: CheckResult, colour: bool) -> str:
    """One model on one screen, at most 100 columns wide, without a final newline."""
    blocks = [list(_headline(result, colour))]
    if result.error:
        blocks.append(list(_failure(result.error, "")))
    elif result.placement:
        blocks.append(list(_shares(result.placement)))
    blocks.append(list(_circumstances(result)))
    if result.placement and not result.error:
        blocks.append(list(_culprits(result.placement)))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def check_table(results: Sequence[CheckResult], colour: bool = False) -> str:
    """One row a model, then why each one that is not healthy is not; at most 100 columns, no final newline."""
    width = max([len("model"), *(min(len(printable(result.model)), 24) for result in results)])
    header = ("model".ljust(width), "verdict ", "NPU FLOPs", "NPU time", "  median", "     CV", "target    ", "inputs")
    rows = ["  ".join(header)]
    for result in results:
        placement = None if result.error else result.placement
        latency = None if result.error else result.latency
        cells = (
            clip(printable(result.model), width).ljust(width),
            _painted(f"{result.verdict:<8}", result.verdict, colour),
            percent(placement.npu_flops_ratio if placement else None).rjust(9),
            percent(placement.npu_time_ratio if placement else None).rjust(8),
            wording.seconds(latency.median_seconds if latency else None).rjust(8),
            percent(latency.cv_ratio if latency else None).rjust(7),
            (result.runtime.target if result.runtime else ABSENT).ljust(10),
            result.samples.source if result.samples else ABSENT,
        )
        rows.append("  ".join(cells).rstrip())
    blocks = [rows]
    blocks += [list(_unhealthy(result)) for result in results if result.verdict != "healthy"]
    blocks.append(list(_caveats(results)))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(result: CheckResult, colour: bool) -> Iterator[str]:
    cause = f" ({result.cause})" if result.cause else ""
    yield clip(printable(result.model), 60) + "  " + _painted(result.verdict, result.verdict, colour) + cause
    yield from _wrapped(result.reason, "")


def _failure(error: Failure, indent: str) -> Iterator[str]:
    yield f"{indent}nothing was measured: {error.reason}"
    yield from _wrapped(error.detail, f"{indent}  why  ")
    yield from _wrapped(error.mend, f"{indent}  do   ")


def _shares(placement: Placement) -> Iterator[str]:
    npu, unattributed = measured(placement.npu_flops_ratio), measured(placement.unattributed_flops_ratio)
    cpu = None if npu is None or unattributed is None else min(1.0, max(0.0, 1 - npu - unattributed))
    time = measured(placement.npu_time_ratio)
    nodes = placement.nodes
    yield f"{'':<8}{'NPU':>10}{'CPU':>10}{'unattributed':>14}"
    yield f"{'FLOPs':<8}{percent(npu):>10}{percent(cpu):>10}{percent(unattributed):>14}   {_total(placement)}".rstrip()
    yield f"{'time':<8}{percent(time):>10}{percent(None if time is None else 1 - time):>10}"
    edge = f", {nodes.edge} edge Q/DQ on the CPU by design" if nodes.edge else ""
    partitions = wording.plural(placement.partitions, "partition")
    yield f"{'nodes':<8}{nodes.accelerator:>10}{nodes.cpu:>10}{'':14}   {partitions}{edge}"


def _total(placement: Placement) -> str:
    total = f"{wording.flops(placement.total_flops)} an inference" if placement.total_flops is not None else ""
    if placement.npu_flops_ratio_range is None:
        return total
    low, high = placement.npu_flops_ratio_range
    return f"{total}, NPU {percent(low)} to {percent(high)} by input".removeprefix(", ")


def _circumstances(result: CheckResult) -> Iterator[str]:
    yield f"target   {wording.target(result.runtime)}"
    if result.runtime:
        yield from _wrapped(wording.versions(result.runtime), "runtime  ")
    yield f"inputs   {wording.samples(result.samples)}"
    for rejected in result.samples.rejected[:3] if result.samples else ():
        yield from _wrapped(f"rejected {rejected.file}: {rejected.detail}", "         ")
    if result.latency and not result.error:
        simulated = bool(result.runtime and result.runtime.target == "simulator")
        yield f"latency  {_latency(result.latency)}{' (a simulator: means nothing)' if simulated else ''}"
    notes = [*result.notes, *(result.placement.notes if result.placement else ())]
    for note in notes:
        yield from _wrapped(note, "note     ")


def _latency(latency: Latency) -> str:
    replays = wording.plural(len(latency.replays_seconds), "replay")
    return f"median {wording.seconds(latency.median_seconds)}, CV {percent(latency.cv_ratio)} over {replays}"


def _culprits(placement: Placement) -> Iterator[str]:
    groups = wording.group_ops(placement.ops)
    if not groups:
        return
    yield f"{'on the CPU':<62}{'FLOPs':>10}{'time':>10}"
    for group in groups[:GROUPS]:
        yield f"{_names(group):<62}{percent(group.flops_ratio):>10}{percent(group.time_ratio):>10}"
        yield from _wrapped(group.reason, "    why  ")
        yield from _wrapped(group.remedy, "    do   ")
    if groups[GROUPS:]:
        rest = sum(len(group.nodes) for group in groups[GROUPS:])
        yield f"and {wording.plural(rest, 'more op')} in {wording.plural(len(groups[GROUPS:]), 'group')}: see --json"


def _names(group: OpGroup, width: int = 60) -> str:
    """``Conv x 18 (conv1, conv2, ...)``, cut to ``width``."""
    count = f" x {len(group.nodes)}" if len(group.nodes) > 1 else ""
    names = ", ".join(printable(node) or "(unnamed)" for node in group.nodes[:6])
    more = ", ..." if len(group.nodes) > 6 else ""
    return clip(f"{printable(group.op_type)}{count} ({names}{more})", width)


def _unhealthy(result: CheckResult) -> Iterator[str]:
    cause = f" ({result.cause})" if result.cause else ""
    yield f"{clip(printable(result.model), 60)}: {result.verdict}{cause}"
    yield from _wrapped(result.reason, "  ")
    if result.error:
        yield from _failure(result.error, "  ")
        return
    for group in wording.group_ops(result.placement.ops if result.placement else ())[:3]:
        yield f"  {percent(group.flops_ratio):>8}  {_names(group, 80)}"
        yield from _wrapped(group.reason, "            why  ")
        yield from _wrapped(group.remedy, "            do   ")


def _caveats(results: Iterable[CheckResult]) -> Iterator[str]:
    results = tuple(results)
    if any(result.runtime and result.runtime.target == "simulator" for result in results):
        yield f"target: {wording.TARGETS['simulator']}"
    if any(result.samples and result.samples.source == "synthetic" for result in results):
        yield "inputs: synthetic ones are made from the model's signature; they are not real data"


def _painted(text: str, verdict: Verdict, colour: bool) -> str:
    return f"{_COLOURS[verdict]}{text}\x1b[0m" if colour else text


def _wrapped(text: str, label: str) -> list[str]:
    """``text`` behind ``label``, at most four lines of it."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        max_lines=4,
        placeholder=" …",
    )
