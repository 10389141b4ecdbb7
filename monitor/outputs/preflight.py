"""The matrix of a preflight: SoC by share, verdict and culprits, for people and for programs.

It says what it is. On the simulator it predicts placement, from the vendor's own op validation; on a board every row is
that board's NPU told to be another SoC, which predicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from monitor.outputs import text, wording
from monitor.outputs.text import WIDTH
from monitor.outputs.wording import ABSENT, OpGroup, clip, measured, percent, printable
from monitor.records import Failure, Forecast, Preflight

REASONS: Final = 6
"""Most reasons explained for one set of SoCs; the JSON document has all ops."""

_PREDICTION: Final = (
    "a PREDICTION by the simulator's op validation, not evidence from a board; it says nothing about latency"
)
_HARDWARE: Final = (
    "NO prediction: this machine has the real accelerator, and each row is that one, told to be another SoC; "
    "run it where the package ships a simulator (x86-64), or audit on a board of each kind"
)
_NOTHING: Final = "NO prediction: no session's accelerator came up on this machine"


_PREFIX: Final = re.compile(r".*?\[ONNXRuntimeError\] : \d+ : \w+ : ")


def predicts(result: Preflight) -> bool:
    """Whether the forecasts are predictions: made on the simulator, and on nothing else but a CPU it fell back to."""
    targets = _targets(result)
    return "simulator" in targets and "hexagon" not in targets


def document(result: Preflight) -> dict[str, Any]:
    """``preflight --json``: keys as in ``audit --json``, those of a SoC in ``socs``."""
    return _cleaned(
        {
            "timestamp": wording.rfc3339(result.timestamp),
            "model": result.model,
            "model_sha256": result.model_sha256,
            "prediction": predicts(result),
            "samples": result.samples,
            "socs": [_row_document(forecast) for forecast in result.forecasts],
            "notes": list(result.notes) or None,
        }
    )


def _row_document(forecast: Forecast) -> dict[str, Any]:
    return {
        "soc": forecast.soc,
        "verdict": forecast.verdict,
        "cause": forecast.cause,
        "reason": forecast.reason,
        **(text.placement_document(forecast.placement) if forecast.placement else {}),
        "runtime": msgspec.to_builtins(forecast.runtime) if forecast.runtime else None,
        "error": msgspec.to_builtins(forecast.error) if forecast.error else None,
    }


def _cleaned(document: dict[str, Any]) -> dict[str, Any]:
    cleaned: dict[str, Any] = text.without_absent(document)
    return cleaned


def table(result: Preflight, colour: bool) -> str:
    """One row a SoC, then each reason once with the SoCs it holds for; at most 100 columns, no final newline."""
    blocks = [
        [clip(printable(result.model), 60), *text.wrapped(_standing(result), "")],
        list(_rows(result, colour)),
        *(list(_explained(socs, forecast)) for socs, forecast in _alike(result)),
        list(_circumstances(result)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _standing(result: Preflight) -> str:
    targets = _targets(result)
    if "hexagon" in targets:
        return _HARDWARE
    return _PREDICTION if "simulator" in targets else _NOTHING


def _targets(result: Preflight) -> set[str]:
    return {forecast.runtime.target for forecast in result.forecasts if forecast.runtime}


def _rows(result: Preflight, colour: bool) -> Iterator[str]:
    width = max(3, *(min(len(printable(forecast.soc)), 12) for forecast in result.forecasts))
    head = f"{'SoC':<{width}}  verdict   NPU FLOPs   NPU nodes   CPU nodes   "
    yield f"{head}on the CPU"
    for forecast in result.forecasts:
        name = clip(printable(forecast.soc), width).ljust(width)
        verdict = text.painted(f"{forecast.verdict:<8}", forecast.verdict, colour)
        placement = forecast.placement
        if placement is None:
            said = f"no session: {_said(forecast.error)}" if forecast.error else ABSENT
            yield f"{name}  {verdict}  {clip(said, WIDTH - width - 12)}"
            continue
        nodes = placement.nodes
        share = percent(measured(placement.npu_flops_ratio))
        cells = (name, verdict, f"{share:>9}", f"{nodes.accelerator:>10}", f"{nodes.cpu:>10}")
        yield f"{'  '.join(cells)}   {clip(_culprits(forecast), WIDTH - len(head))}".rstrip()


def _culprits(forecast: Forecast) -> str:
    """``Selu (selu) 2.0 %, Conv x 2 (conv1, conv2) 98 %``: what fell, the most expensive first."""
    if forecast.runtime and forecast.runtime.target == "cpu":
        return "everything: the accelerator did not come up"
    groups = wording.group_ops(forecast.placement.ops if forecast.placement else ())
    costly = [group for group in groups if group.flops_ratio] or list(groups)
    return ", ".join(f"{text.op_names(group, 28)} {_cost(group)}".rstrip() for group in costly)


def _cost(group: OpGroup) -> str:
    return percent(group.flops_ratio) if group.flops_ratio else ""


def _said(error: Failure) -> str:
    """What the runtime says, without the path and the code before it: every row is about the same file."""
    return _PREFIX.sub("", printable(error.detail))


def _alike(result: Preflight) -> list[tuple[str, Forecast]]:
    """SoCs that lose the same ops for the same reasons, once each; those that lose nothing are left out."""
    members: dict[tuple[object, ...], list[Forecast]] = {}
    for forecast in result.forecasts:
        ops = forecast.placement.ops if forecast.placement else ()
        if forecast.error or ops:
            same = (forecast.error, frozenset((op.node, op.reason, op.remedy) for op in ops))
            members.setdefault(same, []).append(forecast)
    return [(", ".join(printable(one.soc) for one in group), group[0]) for group in members.values()]


def _explained(socs: str, forecast: Forecast) -> Iterator[str]:
    yield clip(f"on {socs}", WIDTH)
    if forecast.error:
        yield from text.wrapped(forecast.error.detail, "    why  ")
        yield from text.wrapped(forecast.error.mend, "    do   ")
        return
    reasons: dict[tuple[str, str], list[OpGroup]] = {}
    for group in wording.group_ops(forecast.placement.ops if forecast.placement else ()):
        reasons.setdefault((group.reason, group.remedy), []).append(group)
    for (reason, remedy), groups in list(reasons.items())[:REASONS]:
        ops = "; ".join(f"{text.op_names(group, 60)} {_cost(group)}".rstrip() for group in groups)
        yield from text.wrapped(ops, "  ")
        yield from text.wrapped(reason, "    why  ")
        yield from text.wrapped(remedy, "    do   ")
    if len(reasons) > REASONS:
        yield f"  and {wording.plural(len(reasons) - REASONS, 'more reason')} for cheaper ops: see --json"


def _circumstances(result: Preflight) -> Iterator[str]:
    runtime = next((forecast.runtime for forecast in result.forecasts if forecast.runtime), None)
    if runtime:
        yield from text.wrapped(wording.versions(runtime), "runtime  ")
    for note in dict.fromkeys(result.notes):
        yield from text.wrapped(note, "note     ")
