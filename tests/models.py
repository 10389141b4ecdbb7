"""Small models for the tests: each shows one thing that runtimes and exporters do to a graph.

They are built here because their oddities (a missing name, a repeated value, a branch that depends on the input) must
be exact; the published models show the same things in the wild and in bulk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Dim = int | str | None
Arrays = dict[str, npt.NDArray[Any]]
RANDOM = np.random.default_rng(11)


def value(name: str, shape: Sequence[Dim] | None, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    constants: Arrays | None = None,
    name: str = "g",
) -> GraphProto:
    """A graph or a body, its initializers given as arrays."""
    tensors = [numpy_helper.from_array(array, key) for key, array in (constants or {}).items()]
    return helper.make_graph(nodes, name, inputs, outputs, tensors)


def model(main: GraphProto, opset: int = 17, functions: list[onnx.FunctionProto] | None = None) -> ModelProto:
    """A model of the standard operators, with a domain ``local`` for its own functions."""
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("local", 1)] if functions else [])]
    return helper.make_model(main, opset_imports=opsets, ir_version=10, functions=functions or [])


def saved(proto: ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """``proto`` as a file."""
    path = folder / name
    onnx.save(proto, str(path))
    return path


def floats(*shape: int) -> npt.NDArray[np.float32]:
    """Small weights."""
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------ quantized


def selu_qdq(channels: int = 16, size: int = 16) -> ModelProto:
    """Two quantized convolutions with a Selu between them, as quantization tools for the NPU write it.

    Healthy on soc_model 60; on 58 exactly ``selu`` is refused; on 80 everything.
    """
    nodes: list[NodeProto] = []
    constants: Arrays = {}

    def quantized(name: str, scale: float, output: str | None = None) -> str:
        constants[f"{name}_scale"] = np.array(scale, np.float32)
        constants[f"{name}_zero"] = np.array(128, np.uint8)
        parameters = [f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], f"{name}_quantize"))
        output = output or f"{name}_dq"
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [output], f"{name}_dequantize"))
        return output

    def conv(source: str, name: str, before: int) -> str:
        constants[f"{name}_w"] = RANDOM.integers(-100, 100, (channels, before, 3, 3)).astype(np.int8)
        constants[f"{name}_s"] = np.array(0.003, np.float32)
        constants[f"{name}_z"] = np.array(0, np.int8)
        weight = [f"{name}_w", f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("DequantizeLinear", weight, [f"{name}_wd"], f"{name}_weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_wd"], [f"{name}_out"], name, pads=[1, 1, 1, 1]))
        return quantized(f"{name}_out", 1 / 32)

    hidden = conv(quantized("image", 1 / 128), "conv1", 3)
    nodes.append(helper.make_node("Selu", [hidden], ["selu_out"], "selu"))
    hidden = conv(quantized("selu_out", 1 / 32), "conv2", channels)
    nodes.append(helper.make_node("Relu", [hidden], ["relu_out"], "relu"))
    quantized("relu_out", 1 / 32, "scores")
    shape = [1, channels, size, size]
    return model(graph(nodes, [value("image", [1, 3, size, size])], [value("scores", shape)], constants, "selu_qdq"))


# ------------------------------------------------------------------------------------------------ names


def badly_named() -> ModelProto:
    """Unnamed and token-like node names; names and values that scopes repeat (within one, the runtime refuses that)."""

    def branch(op_type: str) -> GraphProto:
        nodes = [helper.make_node(op_type, ["h"], ["t"], "same"), helper.make_node("Abs", ["t"], ["out"])]
        return graph(nodes, [], [value("out", None)], {"unused": floats(2)}, "body")

    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Mul", ["a", "w"], ["b"], "same"),
        helper.make_node("Add", ["b", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["total"], "sum_token_3", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], "greater"),
        helper.make_node("If", ["positive"], ["y"], "", then_branch=branch("Exp"), else_branch=branch("Neg")),
    ]
    constants: Arrays = {"w": floats(1, 8), "zero": np.array(0, np.float32)}
    return model(graph(nodes, [value("x", [1, 8])], [value("y", [1, 8])], constants, "kept name"))


def well_named() -> ModelProto:
    """A model in which nothing needs to be renamed."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], "relu"), helper.make_node("Neg", ["a"], ["y"], "neg")]
    return model(graph(nodes, [value("x", [1, 8])], [value("y", [1, 8])]))


# ------------------------------------------------------------------------------------------------ control flow


def branching() -> ModelProto:
    """An If that multiplies matrices when the input's sum is positive, and only negates otherwise."""
    then = graph([helper.make_node("MatMul", ["a", "w"], ["then_out"], "heavy")], [], [value("then_out", None)])
    other = graph([helper.make_node("Neg", ["a"], ["else_out"], "light")], [], [value("else_out", None)], name="else")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("ReduceSum", ["x"], ["total"], "sum", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], "greater"),
        helper.make_node("If", ["positive"], ["y"], "choice", then_branch=then, else_branch=other),
    ]
    constants: Arrays = {"w": floats(8, 8), "zero": np.array(0, np.float32)}
    return model(graph(nodes, [value("x", [1, 8])], [value("y", [1, 8])], constants))


def looping(trips: int = 5) -> ModelProto:
    """A Loop whose body runs ``trips`` times and holds a Mish, which the runtime expands."""
    body = graph(
        [
            helper.make_node("Mish", ["carried"], ["m"], "loop_mish"),
            helper.make_node("Mul", ["m", "x"], ["next"], "loop_mul"),
            helper.make_node("Identity", ["go"], ["go_on"], "loop_go"),
        ],
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("carried", [1, 8])],
        [value("go_on", [], TensorProto.BOOL), value("next", [1, 8])],
        name="body",
    )
    nodes = [helper.make_node("Loop", ["trips", "go0", "x"], ["y"], "loop", body=body)]
    constants: Arrays = {"trips": np.array(trips, np.int64), "go0": np.array(True)}
    return model(graph(nodes, [value("x", [1, 8])], [value("y", [1, 8])], constants), opset=18)


# ------------------------------------------------------------------------------------------------ expansion, fusion


def schema_functions() -> ModelProto:
    """Ops that the runtime expands into their schema's body, in the main graph and in the branches of an If.

    The Mul nodes carry the names that expanded, nameless nodes get in the runtime's profile.
    """
    then = graph(
        [
            helper.make_node("Exp", ["r"], ["e"], "then_exp"),
            helper.make_node("HardSwish", ["e"], ["then_out"], "then_hs"),
        ],
        [],
        [value("then_out", None)],
        name="then",
    )
    other = graph([helper.make_node("Mish", ["r"], ["else_out"], "else_mish")], [], [value("else_out", None)])
    nodes = [
        helper.make_node("GroupNormalization", ["x", "s", "b"], ["g"], "gn", num_groups=2),
        helper.make_node("Mish", ["g"], ["m"], "mish"),
        helper.make_node("HardSwish", ["m"], ["hs"], "hardswish"),
        *[
            helper.make_node("Mul", ["hs" if n == 0 else f"mul{n - 1}", "one"], [f"mul{n}"], f"Mul_{n}")
            for n in range(24)
        ],
        helper.make_node("Identity", ["mul23"], ["r"], "Identity_0"),
        helper.make_node("ReduceMax", ["r"], ["top"], "top", keepdims=0),
        helper.make_node("Less", ["top", "far"], ["near"], "less"),
        helper.make_node("If", ["near"], ["y"], "choice", then_branch=then, else_branch=other),
    ]
    constants: Arrays = {
        "s": np.ones(8, np.float32),
        "b": np.zeros(8, np.float32),
        "one": np.full((1, 8, 4, 4), 1.5, np.float32),
        "far": np.array(1e30, np.float32),
    }
    return model(graph(nodes, [value("x", [1, 8, 4, 4])], [value("y", [1, 8, 4, 4])], constants), opset=21)


def local_functions() -> ModelProto:
    """A model whose author packed Relu and Mul into a function of their own, used twice."""
    function = helper.make_function(
        "local",
        "Scaled",
        ["a"],
        ["c"],
        [helper.make_node("Relu", ["a"], ["b"], "relu"), helper.make_node("Mul", ["b", "b"], ["c"], "mul")],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Scaled", ["x"], ["h"], "first", domain="local"),
        helper.make_node("Scaled", ["h"], ["y"], "second", domain="local"),
    ]
    return model(graph(nodes, [value("x", [1, 8])], [value("y", [1, 8])]), functions=[function])


def fusions() -> ModelProto:
    """What basic optimization rewrites.

    BatchNormalization into its Conv, MatMul and Add into Gemm, a sum of constants folded, an Identity eliminated;
    Gelu in its parts, which stay.
    """
    nodes = [
        helper.make_node("Conv", ["x", "w", "wb"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "bn"),
        helper.make_node("Identity", ["n"], ["same"], "identity"),
        helper.make_node("Flatten", ["same"], ["f"], "flat"),
        helper.make_node("Add", ["bias", "bias"], ["bias2"], "folded"),
        helper.make_node("MatMul", ["f", "m"], ["mm"], "matmul"),
        helper.make_node("Add", ["mm", "bias2"], ["h"], "add"),
        helper.make_node("Div", ["h", "root2"], ["g1"], "gelu_div"),
        helper.make_node("Erf", ["g1"], ["g2"], "gelu_erf"),
        helper.make_node("Add", ["g2", "one"], ["g3"], "gelu_add"),
        helper.make_node("Mul", ["h", "g3"], ["g4"], "gelu_mul"),
        helper.make_node("Mul", ["g4", "half"], ["y"], "gelu_half"),
    ]
    constants: Arrays = {
        "w": floats(4, 3, 3, 3),
        "wb": floats(4),
        "scale": np.ones(4, np.float32),
        "shift": floats(4),
        "mean": floats(4),
        "var": np.ones(4, np.float32),
        "m": floats(256, 16),
        "bias": floats(16),
        "root2": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    return model(graph(nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 16])], constants))


# ------------------------------------------------------------------------------------------------ files and shapes


def external(folder: Path) -> Path:
    """An unnamed MatMul whose weight lies in a file beside the model."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(graph(nodes, [value("x", [1, 64])], [value("y", [1, 64])], {"w": floats(64, 64)}))
    path = folder / "external.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def free_dims(*dims: Dim) -> ModelProto:
    """One Relu over an input with these dimensions."""
    return model(graph([helper.make_node("Relu", ["x"], ["y"], "relu")], [value("x", dims)], [value("y", dims)]))
