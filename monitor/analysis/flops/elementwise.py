"""Ops that do the same work for every element of their output.

One primitive (``PRIMITIVES``) is one FLOP, whatever the silicon makes of it: an ``Exp`` weighs as much as an ``Add``,
and so do comparisons, logic, bit operations, rounding, minimum, maximum and the selection by ``Where``. Every other op
is spelled as the primitives that its ONNX function body (or, where the schema has none, its documented formula)
executes per element, and its cost follows from the spelling. Scalars that a body computes once (``-lambda`` in Shrink)
are left out.
"""

from __future__ import annotations

from monitor.analysis.flops.call import Call, UncountableError

_PRIMITIVES = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Cos Cosh Div
    Equal Erf Exp Floor Greater IsInf IsNaN Less Log Max Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sin Sinh Sqrt
    Sub Tan Tanh Where Xor
"""
PRIMITIVES = frozenset(_PRIMITIVES.split())

# Spelled by the op's ONNX function body, per element.
BODIES = {
    "Bernoulli": "Greater",
    "Celu": "Div Elu Mul",
    "Elu": "Less Exp Sub Mul Where",
    "GreaterOrEqual": "Greater Equal Or",
    "HardSigmoid": "Mul Add Min Max",
    "HardSwish": "HardSigmoid Mul",
    "LeakyRelu": "Less Mul Where",
    "LessOrEqual": "Less Equal Or",
    "Mish": "Softplus Tanh Mul",
    "PRelu": "Less Mul Where",
    "Relu": "Max",
    "Selu": "Exp Mul Sub Mul Mul Less Where",
    "Shrink": "Less Add Sub Less Where Where",
    "Softplus": "Exp Add Log",
    "Softsign": "Abs Add Div",
    "SwiGLU": "Swish Mul",
    "Swish": "Mul Sigmoid Mul",
    "ThresholdedRelu": "Less Where",
    "BlackmanWindow": "Mul Mul Cos Mul Cos Mul Sub Add Range",
    "HammingWindow": "Mul Mul Cos Mul Cos Mul Sub Add Range",
    "HannWindow": "Mul Mul Cos Mul Cos Mul Sub Add Range",
    "Range": "Add",
}

# Spelled by the formula in the op's documentation; its schema has no function body.
FORMULAS = {
    "Sigmoid": "Neg Exp Add Div",
    "MelWeightMatrix": "Sub Div",
}

# Activations that only exist inside recurrent and fused ops.
ACTIVATIONS = {
    "Affine": "Mul Add",
    "ScaledTanh": "Mul Tanh Mul",
    "Clip": "Less Where Less Where",
    "Silu": "Sigmoid Mul",
    "Gelu": "Div Erf Add Mul Mul",
    "FastGelu": "Pow Mul Add Mul Tanh Add Mul Mul",
    "QuickGelu": "Mul Sigmoid Mul",
}

_SPELLINGS = {**BODIES, **FORMULAS, **ACTIVATIONS}
_BY_LOWER = {name.lower(): name for name in (*PRIMITIVES, *_SPELLINGS)}


def cost(name: str) -> int:
    """FLOPs per element of ``name``, a primitive or a spelled op; ``KeyError`` if it is neither."""
    return 1 if name in PRIMITIVES else spell(_SPELLINGS[name])


def spell(steps: str) -> int:
    """FLOPs per element of the blank-separated ``steps``."""
    return sum(map(cost, steps.split()))


def activation(name: str) -> int:
    """FLOPs per element of an activation attribute, whose case ONNX leaves open; empty or ``none``: 0."""
    if name.lower() in ("", "none", "identity", "linear"):
        return 0
    lowered = {"swish": "silu"}.get(name.lower(), name.lower())
    if lowered not in _BY_LOWER:
        raise UncountableError(f"activation {name!r}")
    return cost(_BY_LOWER[lowered])


def fused(call: Call) -> int:
    """FLOPs of the activation that ORT's optimizer fused into a node, over its first output."""
    name = call.text("activation", "")
    return call.elements * activation(name) if name else 0


def clip(call: Call) -> int:
    """Less and Where per bound that is given, as inputs or (up to opset 6) as attributes."""
    bounds = sum(call.inputs.has(i) for i in (1, 2)) + sum(name in call.node.attributes for name in ("min", "max"))
    return 2 * bounds * call.elements if bounds else 0


def gelu(call: Call) -> int:
    """The function body of the exact form or, with ``approximate="tanh"``, of the approximation."""
    return call.elements * cost("FastGelu" if call.text("approximate", "none") == "tanh" else "Gelu")


def fold(call: Call) -> int:
    """Of n operands, n-1 operations per output element (Sum, Max, Min)."""
    return max(len(call.inputs) - 1, 0) * call.elements


def mean(call: Call) -> int:
    """Of n operands, n-1 additions and the division per output element."""
    return len(call.inputs) * call.elements
