"""Ops made of multiply-accumulates: convolutions, matrix products, Einsum and recurrent networks.

1 MAC is 2 FLOPs. A bias costs 1 FLOP per output element and is no MAC. Taps that fall on padding count, as in every
published MAC figure. Zero points and scales of the quantized forms are (de)quantization and count 0, so an op costs the
same before and after quantization.
"""

from __future__ import annotations

from math import prod

from monitor.analysis.flops.call import Call, UncountableError
from monitor.analysis.flops.elementwise import activation, fused
from monitor.records import Shape


def conv(call: Call, weights: int = 1, bias: int = 2, addend: int = 3) -> int:
    """Output elements times the taps of one filter; ``weights.shape[1:]`` in OIHW as in OHWI."""
    flops = 2 * call.elements * prod(call.inputs[weights][1:])
    return flops + call.elements * (call.inputs.has(bias) + call.inputs.has(addend)) + fused(call)


def integer_conv(call: Call) -> int:
    """ConvInteger, whose inputs 2 and 3 are zero points."""
    return 2 * call.elements * prod(call.inputs[1][1:])


def quantized_conv(call: Call) -> int:
    """QLinearConv: weights at 3, bias at 8."""
    return conv(call, weights=3, bias=8, addend=9)


def conv_transpose(call: Call, weights: int = 1, bias: int = 2) -> int:
    """Input elements times the taps that each of them feeds; ``weights.shape[1:]`` in IOHW."""
    flops = 2 * prod(call.inputs[0]) * prod(call.inputs[weights][1:])
    return flops + call.elements * call.inputs.has(bias) + fused(call)


def dynamic_conv_transpose(call: Call) -> int:
    """ConvTransposeWithDynamicPads, whose input 2 holds the pads."""
    return conv_transpose(call, bias=3)


def quantized_conv_transpose(call: Call) -> int:
    """QLinearConvTranspose: weights at 3, bias at 8."""
    return conv_transpose(call, weights=3, bias=8)


def deform_conv(call: Call) -> int:
    """A Conv (bias at 3) over samples that are interpolated for every tap, and scaled if there is a mask (at 4)."""
    data, kernel = call.inputs[0], call.inputs[1][2:]
    samples = prod(data[:2]) * prod(kernel) * prod(call.outputs[0][2:])
    interpolation = 2 * prod(2 for _ in kernel) - 1
    flops = 2 * call.elements * prod(call.inputs[1][1:]) + call.elements * call.inputs.has(3)
    return flops + samples * (interpolation + call.inputs.has(4))


def causal_conv(call: Call) -> int:
    """A depthwise Conv with bias at 2; input 3 is the carried state and costs nothing."""
    return 2 * call.elements * prod(call.inputs[1][1:]) + call.elements * call.inputs.has(2) + fused(call)


def matmul(call: Call, bias: int | None = None) -> int:
    """Output elements times the contracted length, the last axis of A."""
    biased = bias is not None and call.inputs.has(bias)
    return 2 * call.elements * _last(call.inputs[0]) + call.elements * biased


def fused_matmul(call: Call) -> int:
    """MatMul with transposed operands, ``alpha`` and an activation.

    ``transBatchA`` stands for an A whose first axis is the rows, in front of the batch axes.
    """
    left = call.inputs[0]
    if len(left) < 2 or not call.integer("transA", 0):
        contracted = _last(left)
    else:
        contracted = left[0] if call.integer("transBatchA", 0) else left[-2]
    scaled = call.number("alpha", 1.0) != 1.0
    return 2 * call.elements * contracted + call.elements * scaled + fused(call)


def gemm(call: Call, right: int = 1, addend: int = 2) -> int:
    """``alpha * A @ B + beta * C``; factors of 1 cost nothing, adding C 1 per output element."""
    left = call.inputs[0]
    flops = 2 * call.elements * (left[0] if call.integer("transA", 0) else _last(left))
    flops += call.elements * (call.number("alpha", 1.0) != 1.0)
    if call.inputs.has(addend) and call.number("beta", 1.0) != 0.0:
        flops += call.elements
        flops += prod(call.inputs[addend]) if call.number("beta", 1.0) != 1.0 else 0
    return flops + fused(call)


def quantized_gemm(call: Call) -> int:
    """QGemm: B at 3, C at 6; ``alpha`` is part of the requantization."""
    left = call.inputs[0]
    contracted = left[0] if call.integer("transA", 0) else _last(left)
    return 2 * call.elements * contracted + call.elements * call.inputs.has(6)


def _last(shape: Shape) -> int:
    if not shape:
        raise UncountableError("a scalar operand of a matrix product")
    return shape[-1]


def einsum(call: Call) -> int:
    """The operands contracted from left to right, as ONNX Runtime does.

    An index that only one operand of a step has and nobody needs later is summed first (1 per element); the step then
    costs one multiplication per point of the union of indices, and one addition if it sums anything.
    """
    terms, result = _subscripts(call)
    shapes = [call.inputs[i] for i in range(len(call.inputs))]
    sizes: dict[str, int] = {}
    operands = [_labels(term, shape, sizes) for term, shape in zip(terms, shapes, strict=True)]
    kept = _result_labels(terms, operands, result)
    flops, left = 0, operands[0]
    for step, right in enumerate(operands[1:], start=1):
        needed = kept.union(*operands[step + 1 :])
        flops += _sum_private(left, right | needed, sizes) + _sum_private(right, left | needed, sizes)
        union = (left & (right | needed)) | (right & (left | needed))
        flops += _points(union, sizes) * (1 + bool(union - needed))
        left = union & needed
    return flops + _sum_private(left, kept, sizes)


def _subscripts(call: Call) -> tuple[list[str], str | None]:
    left, arrow, right = call.text("equation", "").replace(" ", "").replace("...", ".").partition("->")
    return left.split(","), right if arrow else None


def _labels(term: str, shape: Shape, sizes: dict[str, int]) -> frozenset[str]:
    """The index names of one operand; those an ellipsis stands for are numbered from the right, as they broadcast."""
    named = len(term.replace(".", ""))
    before, _, after = term.partition(".")
    hidden = [f".{axis}" for axis in reversed(range(len(shape) - named))] if "." in term else []
    labels = [*before, *hidden, *after]
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return frozenset(labels)


def _result_labels(terms: list[str], operands: list[frozenset[str]], result: str | None) -> frozenset[str]:
    every = frozenset[str]().union(*operands)
    if result is None:
        written = "".join(terms)
        return frozenset(label for label in every if label[0] == "." or written.count(label) == 1)
    return frozenset(label for label in every if label in result or (label[0] == "." and "." in result))


def _sum_private(labels: frozenset[str], needed: frozenset[str], sizes: dict[str, int]) -> int:
    return _points(labels, sizes) if labels - needed else 0


def _points(labels: frozenset[str], sizes: dict[str, int]) -> int:
    return prod(sizes[label] for label in labels)


# Per step, direction and hidden unit: gates, default activations, and the element-wise operations of the equations in
# the op's documentation that are neither MAC, bias, peephole nor activation.
_CELLS = {
    "RNN": (1, ("Tanh",), 1),  # X W + H R
    "GRU": (3, ("Sigmoid", "Tanh"), 3 + 1 + 4),  # as above per gate; r * H; (1 - z) * h + z * H
    "LSTM": (4, ("Sigmoid", "Tanh", "Tanh"), 4 + 3 + 1),  # as above per gate; f * C + i * c; o * h(C)
}
_USES = {"RNN": (1,), "GRU": (2, 1), "LSTM": (3, 1, 1)}


def recurrent(call: Call) -> int:
    """RNN, GRU, LSTM: all gates, both directions, every step of X (``sequence_lens`` cannot shorten it: it is data)."""
    return _recurrent(call, call.node.op_type, hidden=call.inputs[2][2], peepholes=7)


def quantized_lstm(call: Call) -> int:
    """DynamicQuantizeLSTM: an LSTM whose weights are stored transposed."""
    return _recurrent(call, "LSTM", hidden=call.inputs[2][1], peepholes=7)


def _recurrent(call: Call, cell: str, hidden: int, peepholes: int) -> int:
    gates, defaults, extra = _CELLS[cell]
    weights, steps = call.inputs[1], prod(call.inputs[0][:2])
    names = call.items("activations") or defaults
    per_unit = extra + 2 * gates * call.inputs.has(3)
    if cell == "LSTM":
        per_unit += 6 * call.inputs.has(peepholes)
    per_unit += sum(n * activation(str(name)) for n, name in zip(_USES[cell], names, strict=False))
    macs = prod(weights) + prod(call.inputs[2])
    return steps * (2 * macs + weights[0] * hidden * per_unit)
