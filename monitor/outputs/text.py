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
from monitor.records import Agreement, CheckResult, DeepOp, DeepProfile, Failure, Latency, Placement, Verdict

WIDTH: Final = 100
DEEP_OPS: Final = 12
"""Most rows of the accelerator's own profile in a table; the JSON document has more."""
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
        **(placement_document(placement) if placement else {}),
        "samples": result.samples.source if result.samples else None,
        "samples_rejected": msgspec.to_builtins(result.samples.rejected) if result.samples else None,
        "runtime": msgspec.to_builtins(result.runtime) if result.runtime else None,
        **(_agreement_document(result.agreement) if result.agreement and not result.error else {}),
        "notes": _notes(result),
        "deep": msgspec.to_builtins(result.deep) if result.deep else None,
        "error": msgspec.to_builtins(result.error) if result.error else None,
    }
    optional = ("samples_rejected", "notes")
    present = {key: value for key, value in document.items() if value or key not in optional}
    cleaned: dict[str, Any] = without_absent(present)
    return cleaned


def _agreement_document(agreement: Agreement) -> dict[str, Any]:
    outputs = [
        {"name": output.name, "skipped": output.skipped}
        if output.skipped
        else {key: value for key, value in msgspec.to_builtins(output).items() if key != "skipped"}
        for output in agreement.outputs
    ]
    return {"output_error_ratio": agreement.error_ratio, "outputs": outputs or None}


def _notes(result: CheckResult) -> list[str]:
    """All that has to be said beside the figures."""
    parts = (result.placement, None if result.error else result.agreement)
    return [*result.notes, *(note for part in parts if part for note in part.notes)]


def check_document(result: CheckResult) -> dict[str, Any]:
    """``check --json``: the audit's document, and the latency with every raw replay.

    ``replays_disturbed`` are indexes into ``replays_seconds``, ``rounds`` the lengths of the rounds these ran in.
    """
    document = audit_document(result)
    latency = result.latency
    if latency and not result.error:
        document |= without_absent(
            {
                "median_seconds": latency.median_seconds,
                "cv_ratio": latency.cv_ratio,
                "robust_cv_ratio": latency.robust_cv_ratio,
                "slow_ratio": latency.slow_ratio,
                "separation_ratio": latency.separation_ratio,
                "replays_seconds": list(latency.replays_seconds),
                "replays_disturbed": latency.disturbed,
                "rounds": list(latency.rounds),
                "warmups_seconds": list(latency.warmups_seconds),
            }
        )
    return document


def placement_document(placement: Placement) -> dict[str, Any]:
    """The contract's keys about where the work ran."""
    keys = ("npu_flops_ratio", "npu_flops_ratio_range", "npu_time_ratio", "unattributed_flops_ratio")
    document = {key: getattr(placement, key) for key in (*keys, "total_flops")}
    return document | {
        "nodes": msgspec.to_builtins(placement.nodes),
        "partitions": placement.partitions,
        "handoffs": placement.handoffs,
        "ops": msgspec.to_builtins(placement.ops),
    }


def without_absent(value: Any) -> Any:
    """``value`` without what was not measured, at any depth."""
    if isinstance(value, dict):
        kept = {key: without_absent(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, list | tuple):
        return [item for item in map(without_absent, value) if item is not None]
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
    if result.deep:
        blocks.append(list(_deep(result.deep, bool(result.runtime and result.runtime.target == "simulator"))))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def check_table(results: Sequence[CheckResult], colour: bool = False) -> str:
    """One row a model, then why each one that is not healthy is not; at most 100 columns, no final newline."""
    width = max([len("model"), *(min(len(printable(result.model)), 24) for result in results)])
    header = (
        "model".ljust(width),
        "verdict ",
        "NPU FLOPs",
        "NPU time",
        "   median",
        "       CV",
        "target    ",
        "inputs",
    )
    rows = ["  ".join(header)]
    for result in results:
        placement = None if result.error else result.placement
        latency = None if result.error else result.latency
        cells = (
            clip(printable(result.model), width).ljust(width),
            painted(f"{result.verdict:<8}", result.verdict, colour),
            percent(placement.npu_flops_ratio if placement else None).rjust(9),
            percent(placement.npu_time_ratio if placement else None).rjust(8),
            wording.seconds(latency.median_seconds if latency else None).rjust(9),
            percent(latency.cv_ratio if latency else None).rjust(9),
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
    yield clip(printable(result.model), 60) + "  " + painted(result.verdict, result.verdict, colour) + cause
    if result.error is None:  # else it is told with what mends it
        yield from wrapped(result.reason, "")


def _failure(error: Failure, indent: str) -> Iterator[str]:
    yield f"{indent}nothing was measured: {error.reason}"
    yield from wrapped(error.detail, f"{indent}  why  ")
    yield from wrapped(error.mend, f"{indent}  do   ")


def _shares(placement: Placement) -> Iterator[str]:
    npu, unattributed = measured(placement.npu_flops_ratio), measured(placement.unattributed_flops_ratio)
    cpu = None if npu is None or unattributed is None else min(1.0, max(0.0, 1 - npu - unattributed))
    time = measured(placement.npu_time_ratio)
    nodes = placement.nodes
    yield f"{'':<8}{'NPU':>10}{'CPU':>10}{'unattributed':>14}"
    total = f"   {wording.flops(placement.total_flops)} an inference" if placement.total_flops is not None else ""
    yield f"{'FLOPs':<8}{percent(npu):>10}{percent(cpu):>10}{percent(unattributed):>14}{total}"
    if placement.npu_flops_ratio_range:
        low, high = placement.npu_flops_ratio_range
        yield f"{'':<8}{percent(low)} to {percent(high)} on the NPU, depending on the input"
    yield f"{'time':<8}{percent(time):>10}{percent(None if time is None else 1 - time):>10}"
    edge = f", {nodes.edge} edge Q/DQ on the CPU by design" if nodes.edge else ""
    partitions = wording.partitions(placement)
    yield f"{'nodes':<8}{nodes.accelerator:>10}{nodes.cpu:>10}{'':14}   {partitions}{edge}"


def _circumstances(result: CheckResult) -> Iterator[str]:
    yield f"target   {wording.target(result.runtime)}"
    if result.runtime:
        yield from wrapped(wording.versions(result.runtime), "runtime  ")
    yield f"inputs   {wording.samples(result.samples)}"
    for rejected in result.samples.rejected[:3] if result.samples else ():
        yield from wrapped(f"rejected {rejected.file}: {rejected.detail}", "         ")
    if result.latency and not result.error:
        simulated = bool(result.runtime and result.runtime.target == "simulator")
        yield f"latency  {_latency(result.latency)}{' (a simulator: means nothing)' if simulated else ''}"
    if result.agreement and not result.error:
        yield f"outputs  {wording.agreement(result.agreement)}"
    for note in _notes(result):
        yield from wrapped(note, "note     ")


def _latency(latency: Latency) -> str:
    replays = wording.plural(len(latency.replays_seconds), "replay")
    return f"median {wording.seconds(latency.median_seconds)}, CV {percent(latency.cv_ratio)} over {replays}"


def _culprits(placement: Placement) -> Iterator[str]:
    groups = wording.group_ops(placement.ops)
    if not groups:
        return
    yield f"{'on the CPU':<62}{'FLOPs':>10}{'time':>10}"
    for together in wording.by_reason(groups[:GROUPS]):
        for group in together:
            yield f"{op_names(group):<62}{percent(group.flops_ratio):>10}{percent(group.time_ratio):>10}"
        yield from wrapped(together[0].reason, "    why  ")
        yield from wrapped(together[0].remedy, "    do   ")
    if groups[GROUPS:]:
        rest = sum(len(group.nodes) for group in groups[GROUPS:])
        yield f"and {wording.plural(rest, 'more op')} in {wording.plural(len(groups[GROUPS:]), 'group')}: see --json"


def op_names(group: OpGroup, width: int = 60) -> str:
    """``Conv x 18 (conv1, conv2, …)`` with as many names as fit in ``width``, at least a part of one."""
    count = f" x {len(group.nodes)}" if len(group.nodes) > 1 else ""
    head = f"{clip(printable(group.op_type), width // 2)}{count} ("
    names = [printable(node) or "unnamed" for node in group.nodes]
    listed = ", ".join(names)
    for shown in range(min(len(names), 6), 0, -1):
        listed = ", ".join([*names[:shown], *(["…"] if names[shown:] else [])])
        if len(head) + len(listed) + 1 <= width:
            break
    return f"{head}{clip(listed, width - len(head) - 1)})"


def _deep(deep: DeepProfile, simulated: bool) -> Iterator[str]:
    """The accelerator's own profile: where an inference's time goes, then the ops that cost most there."""
    if deep.partial is not None:
        yield from wrapped(f"not known: {deep.partial}", "deep     ")
        return
    meaning = "; a simulator's times and cycles mean nothing" if simulated else ""
    yield from wrapped(f"{_durations(deep)}{meaning}", "deep     ")
    yield from wrapped(
        f"{percent(deep.joined_ratio)} of {deep.total_cycles:,} cycles are ops of the model, "
        f"{percent(deep.layout_ratio)} layout, {percent(deep.unjoined_ratio)} match no op",
        "         ",
    )
    yield ""
    yield f"{'on the accelerator':<62}{'cycles':>18}{'share':>10}"
    for op in deep.ops[:DEEP_OPS]:
        yield f"{_deep_name(op):<62}{op.cycles:>18,}{percent(op.cycles_ratio):>10}"
    if deep.ops[DEEP_OPS:]:
        yield f"and {wording.plural(len(deep.ops) - DEEP_OPS, 'more row')}: see --json"


def _durations(deep: DeepProfile) -> str:
    """The known parts of an inference; one that holds another, because nobody told them apart, says so."""
    parts = (
        ("accelerator" if deep.wait_seconds is not None else "accelerator with its waiting", deep.accelerator_seconds),
        ("waiting", deep.wait_seconds),
        ("RPC", deep.rpc_seconds),
        ("host" if deep.rpc_seconds is not None else "host with the transport", deep.host_seconds),
    )
    known = ", ".join(f"{name} {wording.seconds(value)}" for name, value in parts if value is not None)
    count = "one" if deep.runs == 1 else f"{deep.runs}, the median"
    return f"an inference under this profile took {wording.seconds(deep.inference_seconds)} (of {count}): {known}"


def _deep_name(op: DeepOp, width: int = 60) -> str:
    if op.part == "layout":
        return "layout: Transpose, Q/DQ and copies that were put in between"
    head = f"{clip(printable(op.op_type), width // 2) or '?'} ("
    name = " + ".join(printable(node) or "unnamed" for node in (op.node, *op.fused))
    room = width - len(head) - 1
    if len(name) > room and op.fused:
        name = printable(op.node)
    # what tells the ops of one model apart is the end of their names
    return f"{head}{name if len(name) <= room else '…' + name[1 - room :]})"


def _unhealthy(result: CheckResult) -> Iterator[str]:
    cause = f" ({result.cause})" if result.cause else ""
    yield f"{clip(printable(result.model), 60)}: {result.verdict}{cause}"
    yield from wrapped(result.reason, "  ")
    if result.error:
        yield from _failure(result.error, "  ")
        return
    for group in wording.group_ops(result.placement.ops if result.placement else ())[:3]:
        yield f"  {percent(group.flops_ratio):>8}  {op_names(group, 80)}"
        yield from wrapped(group.reason, "            why  ")
        yield from wrapped(group.remedy, "            do   ")


def _caveats(results: Iterable[CheckResult]) -> Iterator[str]:
    results = tuple(results)
    if any(result.runtime and result.runtime.target == "simulator" for result in results):
        yield f"target: {wording.TARGETS['simulator']}"
    if any(result.samples and result.samples.source == "synthetic" for result in results):
        yield "inputs: synthetic ones are made from the model's signature; they are not real data"


def painted(text: str, verdict: Verdict, colour: bool) -> str:
    """``text`` in the verdict's colour, where there are colours."""
    return f"{_COLOURS[verdict]}{text}\x1b[0m" if colour else text


def wrapped(text: str, label: str) -> list[str]:
    """``text`` behind ``label``, at most eight lines of it: a command that is told can be copied whole."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        max_lines=8,
        placeholder=" …",
    )
