"""Numbers, times and op groups as people read them, so that terminal, page and log cannot word one fact in two ways.

Rounding never crosses a border that matters: 99.97 % is not shown as 100 %, and 0.01 % is not shown as 0 %. What was
not measured is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from monitor.records import Agreement, OpShare, Placement, Runtime, Samples, Target, Verdict

ABSENT = "–"  # noqa: RUF001  (an en dash, on purpose: a hyphen reads as a minus)

TARGETS: dict[Target, str] = {
    "hexagon": "hexagon",
    "simulator": "simulator (a prediction, not hardware)",
    "cpu": "cpu (the accelerator did not come up)",
}

VERDICT_ORDER: tuple[Verdict, ...] = ("fallback", "degraded", "unknown", "healthy")


class OpGroup(Struct, frozen=True):
    """Ops of one type that share reason and remedy. The ratios are sums over ``nodes``."""

    op_type: str
    reason: str
    remedy: str
    nodes: tuple[str, ...]
    flops_ratio: float | None
    time_ratio: float | None


def measured(value: float | None) -> float | None:
    """``value``, or ``None`` if it is not a finite number: what is not measured must not be shown."""
    return value if value is not None and math.isfinite(value) else None


def rfc3339(timestamp: float) -> str:
    """UTC seconds since the epoch as RFC 3339 with milliseconds, e.g. ``2026-11-22T16:29:00.125Z``."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def percent(ratio: float | None) -> str:
    """A ratio 0-1 as a percentage with one decimal; exact ends stay exact and near ends stay near."""
    value = measured(ratio)
    if value is None:
        return ABSENT
    if value in (0, 1):
        return f"{value:.0%}".replace("%", " %")
    if 0 < value < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if value >= 1000:
        return "> 99999 %"
    return f"{100 * value:.1f} %" if value < 10 else f"{100 * value:.0f} %"


def seconds(value: float | None) -> str:
    """A duration with three significant digits in the unit that suits it."""
    value = measured(value)
    if value is None:
        return ABSENT
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms" if value < 0.9995 else "1.00 s"
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def flops(total: int | None) -> str:
    """A number of FLOPs in the unit that suits it, e.g. ``1.2 GFLOPs``."""
    if total is None:
        return ABSENT
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if total >= scale:
            return f"{total / scale:.3g} {unit}FLOPs" if total < 999.5 * scale else f"{total / scale:.0f} {unit}FLOPs"
    return f"{total} FLOPs"


def ago(then: float, now: float) -> str:
    """How long ago ``then`` was. A clock that was set back gives no negative age."""
    passed = max(0.0, now - then)
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * scale:
            return f"{passed / scale:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def clip(text: str, limit: int) -> str:
    """``text`` with at most ``limit`` characters, the last one an ellipsis if something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    """``text`` on one line and without control characters: names and reasons come from files and native code."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def target(runtime: Runtime | None) -> str:
    """What the model ran on; says of the simulator that it is one."""
    return TARGETS[runtime.target] if runtime else ABSENT


def versions(runtime: Runtime) -> str:
    """The parts that were observed in the session, on one line."""
    backend = f", backend {runtime.backend_version}" if runtime.backend_version else ""
    machine = f", {runtime.machine}" if runtime.machine else ""
    return printable(
        f"{runtime.provider} {runtime.provider_version}{backend}, onnxruntime {runtime.onnxruntime}{machine}"
    )


def samples(given: Samples | None) -> str:
    """Where the inputs came from; says of synthetic ones that they are."""
    if given is None:
        return ABSENT
    rejected = f", {len(given.rejected)} rejected" if given.rejected else ""
    if given.source == "synthetic":
        return f"synthetic (made from the signature, not real data){rejected}"
    return f"{given.accepted} {'file' if given.accepted == 1 else 'files'}{rejected}"


def agreement(found: Agreement | None) -> str:
    """How far the outputs are from the CPU's; a dash if nothing could be compared."""
    if found is None or measured(found.error_ratio) is None:
        return ABSENT
    return f"at most {percent(found.error_ratio)} from the CPU's, over {plural(found.samples, 'sample')}"


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def partitions(placement: Placement) -> str:
    """``4 partitions, 7 hand-offs``; the latter only if a profiled run was there to count them."""
    text = plural(placement.partitions, "partition")
    return text if placement.handoffs is None else f"{text}, {plural(placement.handoffs, 'hand-off')}"


def group_ops(ops: Iterable[OpShare]) -> tuple[OpGroup, ...]:
    """Ops of one type, reason and remedy as one group, the most expensive group first.

    A group's share is known only if that of each of its ops is.
    """
    members: dict[tuple[str, str, str], list[OpShare]] = {}
    for op in ops:
        members.setdefault((op.op_type, op.reason, op.remedy), []).append(op)
    groups = [
        OpGroup(
            op_type=op_type,
            reason=reason,
            remedy=remedy,
            nodes=tuple(op.node for op in group),
            flops_ratio=_sum(op.flops_ratio for op in group),
            time_ratio=_sum(op.time_ratio for op in group),
        )
        for (op_type, reason, remedy), group in members.items()
    ]
    return tuple(sorted(groups, key=_rank))


def by_reason(groups: Iterable[OpGroup]) -> tuple[tuple[OpGroup, ...], ...]:
    """Groups that share reason and remedy together, so that neither is said twice; the costliest group leads."""
    shared: dict[tuple[str, str], list[OpGroup]] = {}
    for group in groups:
        shared.setdefault((group.reason, group.remedy), []).append(group)
    return tuple(tuple(together) for together in shared.values())


def _rank(group: OpGroup) -> tuple[float, float, int, str]:
    return -(group.flops_ratio or 0.0), -(group.time_ratio or 0.0), -len(group.nodes), group.op_type


def _sum(ratios: Iterable[float | None]) -> float | None:
    known: list[float] = []
    for ratio in ratios:
        if ratio is None:
            return None
        known.append(ratio)
    return math.fsum(known)
