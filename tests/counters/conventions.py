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
    before, elements, bias = prod(line.inputs[0]), prod(line.output), 2 in line.inputs
    return (line.macs - bias * elements / 2) * elements / before + bias * elements


def _broadcast(line: Line) -> float | None:
    left, right = line.inputs.get(0, ()), line.inputs.get(1, ())
    if line.node.op_type != "MatMul" or len(right) < 2:
        return None
    batches = left[:-2], right[:-2]
    return line.macs * float(max(map(prod, batches))) / prod(np.broadcast_shapes(*batches))


def _vector(line: Line) -> float | None:
    right = line.inputs.get(1, ())
    return line.macs / prod(right) if line.node.op_type == "MatMul" and len(right) == 1 else None


def _outer(line: Line) -> float | None:
    return 2 * line.macs if line.node.op_type == "Einsum" else None


def _zero_point(line: Line) -> float | None:
    return (
        line.macs + prod(line.output)
        if line.node.op_type == "MatMulInteger" and set(line.inputs) == {0, 1, 2}
        else None
    )


class Cell(NamedTuple):
    """What is no product, per hidden unit, step and batch: ours of each direction, in FLOPs, and onnx-tool's of one."""

    ours: int
    theirs: int


# Ours: bias, sums and products of the equations, activations (a Sigmoid is 4, a Tanh 1).
_CELLS = {
    "LSTM": Cell(8 + 8 + 3 * 4 + 2 * 1, 3 * EXP_MACS + 2 * TANH_MACS + 4 * ADD_MACS + ADD_MACS + 3 * MUL_MACS),
    "GRU": Cell(6 + 8 + 2 * 4 + 1 * 1, 2 * EXP_MACS + TANH_MACS + 3 * ADD_MACS + 2 * ADD_MACS + 3 * MUL_MACS),
}


def _recurrent(line: Line) -> float | None:
    cell = _CELLS.get(line.node.op_type)
    if cell is None:
        return None
    steps, (directions, _, hidden) = prod(line.inputs[0][:2]), line.inputs[2]
    products = line.macs - steps * directions * hidden * cell.ours / 2
    return products + steps * (prod(line.inputs[3]) + hidden * cell.theirs)


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
        f"gates and activations of one direction: {_CELLS['LSTM'].theirs} (LSTM) or {_CELLS['GRU'].theirs} (GRU) per"
        " hidden unit and step; every bias element 1",
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
    Convention(
        "vector operand",
        "1 per output element",
        "output x K",
        "onnx-tool reads K from the last but one axis of B only",
        _vector,
    ),
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
)


def explain(line: Line) -> str | None:
    """The convention that reproduces the other's number; ``None`` if there is none."""
    for convention in CONVENTIONS:
        if convention.predict(line) == line.theirs:
            return convention.name
    return None


def predict(line: Line) -> float:
    """The other's number by the convention at issue, or ours where there is none."""
    name = None if line.macs == line.theirs else explain(line)
    found = next((c.predict(line) for c in CONVENTIONS if c.name == name), None)
    return line.macs if found is None else found
