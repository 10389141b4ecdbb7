"""How many floating-point operations one execution of an ONNX node takes, from nothing but its shapes.

The NPU-FLOP share, npumon's central figure, is a quotient of sums of these numbers, so they must mean the same for the
op that falls back as for the one that stays, and the same before and after an optimizer or a quantizer rewrote the
graph. Hence: 1 MAC is 2 FLOPs; any other arithmetic op counts what its ONNX function body does per element; data
movement, casts and (de)quantization count 0; what shapes cannot tell is unknown, never guessed. ``docs/flops.md`` lists
every op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monitor.analysis.flops import contrib, standard
from monitor.analysis.flops.call import Call, Dimensions, Kind, UncountableError
from monitor.analysis.flops.rule import Rule
from monitor.records import Node, Shape

__all__ = ["TABLES", "Kind", "flops", "kind"]

_LAYOUT = {**standard.STANDARD, **standard.LAYOUT}
TABLES: Mapping[str, Mapping[str, Rule]] = {
    "": standard.STANDARD,
    "ai.onnx": standard.STANDARD,
    "ai.onnx.ml": standard.ML,
    "com.microsoft": contrib.CONTRIB,
    "com.microsoft.nchwc": _LAYOUT,
    "com.ms.internal.nhwc": _LAYOUT,
}


def flops(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int | None:
    """FLOPs of one execution of ``node`` with these actual shapes; ``None`` if they cannot be told.

    ``inputs`` and ``outputs`` list the present values in order (missing optional ones, ``""`` in the node, are
    skipped); ``None`` stands for a value without a shape. 0 means that the op computes nothing, or computes it for no
    element. Never raises: shapes that do not fit the op make the count unknown.
    """
    rule = TABLES.get(node.domain, {}).get(node.op_type)
    if rule is None:
        return None
    call = Call(node, Dimensions.of(node.inputs, inputs), Dimensions.of(node.outputs, outputs))
    if call.outputs.empty:
        return 0
    try:
        count = rule.count(call)
    except (UncountableError, ArithmeticError, LookupError, ValueError):
        return None
    return count if count >= 0 else None


def kind(op_type: str, domain: str = "") -> Kind:
    """What sort of op this is, whatever its shapes; an op without a rule is ``unknown``."""
    rule = TABLES.get(domain, {}).get(op_type)
    return rule.kind if rule else "unknown"
