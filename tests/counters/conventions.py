"""Where another counter counts otherwise, and what it would say of a node if that were the only difference.

A convention that does not reproduce the other's number to the last multiply-accumulate explains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np
from onnx_tool.node import ADD_MACS, EXP_MACS, MUL_MACS, NODE_REGISTRY, TANH_MACS

from tests.counters.tally import Line


class Convention(NamedTuple):
    """``predict`` gives the other counter's MACs of one execution, or ``None`` where the convention is not at issue."""

    name: str
    theirs: str
    ours: str
    because: str
    predict: Callable[[Line], float | None]


def _missing(line: Line) -> float | None:
    return None if f"{line.node.op_type}Node" in NODE_REGISTRY._obj_map else 0


def _bias(line: Line) -> float | None:
    """Also of a Gemm, whose factors onnx-tool leaves out."""
    op, elements = line.node.op_type, prod(line.output)
    position = {"Conv": 2, "Gemm": 2, "QLinearConv": 8}.get(op)
    if position not in line.inputs:
        return None
    factors = 0.0
    if op == "Gemm":
        attributes = line.node.attributes
        factors += elements / 2 * (attributes.get("alpha", 1.0) != 1.0)
        factors += prod(line.inputs[2]) / 2 * (attributes.get("beta", 1.0) != 1.0)
    return line.macs - factors + elements / 2


def _transposed(line: Line) -> float | None:
    if line.node.op_type != "ConvTranspose":
        return None
    return prod(line.output) * (prod(line.inputs[1][1:]) + (2 in line.inputs))


def _broadcast(line: Line) -> float | None:
    left, right = line.inputs.get(0, ()), line.inputs.get(1, ())
    if line.node.op_type != "MatMul" or len(right) < 2:
        return None
    batches = left[:-2], right[:-2]
    return line.macs * max(map(prod, batches)) / prod(np.broadcast_shapes(*batches))


def _vector(line: Line) -> float | None:
    return prod(line.output) if line.node.op_type == "MatMul" and len(line.inputs[1]) == 1 else None


def _outer(line: Line) -> float | None:
    return 2 * line.macs if line.node.op_type == "Einsum" else None


def _zero_point(line: Line) -> float | None:
    return line.macs + prod(line.output) if line.node.op_type == "MatMulInteger" and set(line.inputs) == {0, 1, 2} else None


# onnx-tool's activations and element-wise steps of one direction, per hidden unit, step and batch.
_CELLS = {
    "LSTM": 3 * EXP_MACS + 2 * TANH_MACS + 4 * ADD_MACS + ADD_MACS + 3 * MUL_MACS,
    "GRU": 2 * EXP_MACS + TANH_MACS + 3 * ADD_MACS + 2 * ADD_MACS + 3 * MUL_MACS,
}


def _recurrent(line: Line) -> float | None:
    if line.node.op_type not in _CELLS:
        return None
    steps, hidden = prod(line.inputs[0][:2]), line.inputs[2][2]
    return steps * (sum(prod(line.inputs[i]) for i in (1, 2, 3)) + hidden * _CELLS[line.node.op_type])


CONVENTIONS = (
    Convention("op unknown", "0", "our rule", "onnx-tool has no such op and says so in a warning", _missing),
    Convention(
        "bias",
        "1 MAC per output element; factors of Gemm 0",
        "1 FLOP per output element, half a MAC; alpha, beta 1 FLOP per element",
        "an addition is not a multiplication and an addition; it matters where the filter has few taps (depthwise)",
        _bias,
    ),
    Convention(
        "transposed convolution",
        "output x (Cout / group) x kernel",
        "input x (Cout / group) x kernel",
        "each input element feeds one kernel; the output has stride^d times as many elements, and its channels are not"
        " the ones that are summed",
        _transposed,
    ),
    Convention(
        "recurrent cell",
        f"gates and activations of one direction: {_CELLS['LSTM']} (LSTM) or {_CELLS['GRU']} (GRU) per hidden unit and"
        " step; every bias element 1",
        "of every direction by the documented equations, 1 FLOP a primitive; bias 2 FLOPs per gate",
        f"onnx-tool weighs by instructions (an exponential is {EXP_MACS}); the products with W and R agree",
        _recurrent,
    ),
    Convention(
        "batch broadcast",
        "the larger of both batches",
        "the batch that broadcasting gives",
        "onnx-tool's shape of MatMul does not broadcast batches against each other",
        _broadcast,
    ),
    Convention("vector operand", "1 per output element", "output x K", "onnx-tool reads K from the last but one axis of B only", _vector),
    Convention(
        "outer product",
        "1 MAC per point",
        "1 FLOP per point",
        "an Einsum that sums over nothing multiplies and does not add",
        _outer,
    ),
    Convention(
        "zero point",
        "1 MAC per output element",
        "0",
        "onnx-tool takes the third input of MatMulInteger for a bias; zero points are dequantization",
        _zero_point,
    ),
)  # fmt: skip


def explain(line: Line) -> str | None:
    """The convention that reproduces the other's number; ``None`` if there is none."""
    for convention in CONVENTIONS:
        predicted = convention.predict(line)
        if predicted is not None and abs(predicted - line.theirs) < 1:  # they truncate
            return convention.name
    return None
