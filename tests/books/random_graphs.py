"""Random graphs of everyday operators, for the property that the books balance.

They are random where attribution goes wrong: names missing or repeated, patterns that fuse, constants that fold,
branches, operators that the runtime expands, operators that the accelerator refuses. Shapes stay small and static.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests import models

CHANNELS, SIZE = 8, 6


class Builder:
    """Grows a graph over one value of shape [1, 8, 6, 6]."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[NodeProto] = []
        self.constants: models.Arrays = {}
        self.values = ["x"]
        self.count = 0

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{stem}{self.count}"

    def constant(self, *shape: int) -> str:
        """A new initializer."""
        name = self.fresh("c")
        self.constants[name] = models.floats(*shape)
        return name

    def add(self, op_type: str, inputs: list[str], nodes: list[NodeProto] | None = None, **attributes: Any) -> str:
        """Append a node, badly named half the time (a name may repeat in another scope only); its output."""
        output = self.fresh("v")
        again = "" if nodes is None or nodes else "again"
        name = self.random.choice(["", again, self.fresh(f"{op_type.lower()}_"), self.fresh("n")])
        target = self.nodes if nodes is None else nodes
        target.append(helper.make_node(op_type, inputs, [output], str(name), **attributes))
        return output

    def any(self) -> str:
        """One of the latest values, so that graphs branch and join."""
        return str(self.random.choice(self.values[-3:]))


def scalar(value: float) -> npt.NDArray[np.float32]:
    """A constant without dimensions."""
    return np.array(value, np.float32)


def _convolution(b: Builder) -> str:
    kernel = int(b.random.choice([1, 3]))
    group = int(b.random.choice([1, 1, CHANNELS]))
    weight = b.constant(CHANNELS, CHANNELS // group, kernel, kernel)
    inputs = [b.any(), weight] + ([b.constant(CHANNELS)] if b.random.random() < 0.5 else [])
    value = b.add("Conv", inputs, pads=[kernel // 2] * 4, group=group)
    follow = b.random.random()
    if follow < 0.25:
        names = [b.constant(CHANNELS) for _ in range(4)]
        b.constants[names[3]] = np.abs(b.constants[names[3]]) + 0.5
        return b.add("BatchNormalization", [value, *names])
    if follow < 0.5:
        return b.add(str(b.random.choice(["Relu", "Clip", "HardSigmoid"])), [value])
    if follow < 0.6:
        return b.add("Mul", [value, b.constant(1, CHANNELS, 1, 1)])
    return value


def _matmul(b: Builder) -> str:
    value = b.add("MatMul", [b.any(), b.constant(SIZE, SIZE)])
    return b.add("Add", [value, b.constant(SIZE)]) if b.random.random() < 0.7 else value


def _elementwise(b: Builder) -> str:
    ops = ["Relu", "Sigmoid", "Tanh", "Selu", "Elu", "Softplus", "Abs", "Mish", "HardSwish", "Erf"]
    refused = ["Sinh", "Cosh", "Atan", "Shrink", "Celu"]  # by the accelerator, at least some
    return b.add(str(b.random.choice(ops + 2 * refused)), [b.any()])


def _binary(b: Builder) -> str:
    return b.add(str(b.random.choice(["Add", "Mul", "Sub", "Max"])), [b.any(), b.any()])


def _gelu(b: Builder) -> str:
    x = b.any()
    half, one, root = (b.fresh("k") for _ in range(3))
    b.constants |= {half: scalar(0.5), one: scalar(1), root: scalar(1.4142135)}
    erf = b.add("Erf", [b.add("Div", [x, root])])
    return b.add("Mul", [b.add("Mul", [x, b.add("Add", [erf, one])]), half])


def _normalized(b: Builder) -> str:
    if b.random.random() < 0.5:
        return b.add("LayerNormalization", [b.any(), b.constant(SIZE), b.constant(SIZE)], axis=-1)
    return b.add("Softmax", [b.any()], axis=int(b.random.choice([1, -1])))


def _moved(b: Builder) -> str:
    value = b.add("Transpose", [b.any()], perm=[0, 1, 3, 2])
    return b.add("Identity", [value]) if b.random.random() < 0.5 else value


def _reduced(b: Builder) -> str:
    axes = b.fresh("a")
    b.constants[axes] = np.array([2, 3], np.int64)
    mean = b.add("ReduceMean", [b.any(), axes], keepdims=1)
    return b.add("Sub", [b.any(), mean])


def _folded(b: Builder) -> str:
    """Arithmetic on constants alone, which the runtime does once and for all."""
    scale = b.add("Exp", [b.constant(1, CHANNELS, 1, 1)])
    return b.add("Mul", [b.any(), scale])


def _idle(b: Builder) -> str:
    """A product with one, which the runtime drops."""
    one = b.fresh("k")
    b.constants[one] = scalar(1)
    return b.add("Mul", [b.any(), one])


def _branch(b: Builder) -> str:
    x, bodies = b.any(), []
    for op in ("Sigmoid", "Selu"):
        nodes: list[NodeProto] = []
        inner = b.add(op, [x], nodes)
        inner = b.add("Mul", [inner, x], nodes)
        bodies.append(models.graph(nodes, [], [models.value(inner, [1, CHANNELS, SIZE, SIZE])], name=b.fresh("body")))
    condition = b.fresh("q")
    if b.random.random() < 0.5:  # a constant: the runtime inlines the branch
        b.constants[condition] = np.array(bool(b.random.integers(2)))
    else:
        axes, zero = b.fresh("a"), b.fresh("k")
        b.constants |= {axes: np.array([0, 1, 2, 3], np.int64), zero: scalar(0)}
        condition = b.add("Greater", [b.add("ReduceSum", [x, axes], keepdims=0), zero])
    return b.add("If", [condition], then_branch=bodies[0], else_branch=bodies[1])


STEPS: tuple[Callable[[Builder], str], ...] = (
    _convolution,
    _matmul,
    _elementwise,
    _binary,
    _gelu,
    _normalized,
    _moved,
    _reduced,
    _folded,
    _idle,
    _branch,
)


def random_model(seed: int, steps: int) -> ModelProto:
    """The same graph for the same numbers."""
    builder = Builder(np.random.default_rng(seed))
    for _ in range(steps):
        step = STEPS[int(builder.random.integers(len(STEPS)))]
        builder.values.append(step(builder))
    shape = [1, CHANNELS, SIZE, SIZE]
    graph = models.graph(
        builder.nodes,
        [models.value("x", shape)],
        [models.value(builder.values[-1], shape, TensorProto.FLOAT)],
        builder.constants,
    )
    return models.model(graph, opset=18)
