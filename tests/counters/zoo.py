"""Models of every op family, small enough to count by hand, for the comparison with other counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests import models
from tests.models import Arrays, floats, value

Weights = dict[str, npt.NDArray[Any]]
Operands = dict[str, Sequence[int] | npt.NDArray[Any]]  # an input of this shape, or a constant
Step = tuple[str, Weights, dict[str, Any]]  # op type, its further inputs, its attributes


def chain(shape: Sequence[int], steps: Sequence[Step], opset: int = 18) -> ModelProto:
    """One op after the other."""
    nodes: list[NodeProto] = []
    constants: Arrays = {}
    current = "x"
    for number, (op, weights, attributes) in enumerate(steps):
        named = {f"{key}{number}": array for key, array in weights.items()}
        constants |= named
        nodes.append(helper.make_node(op, [current, *named], [f"t{number}"], f"{op.lower()}{number}", **attributes))
        current = f"t{number}"
    graph = models.graph(nodes, [value("x", shape)], [value(current, None)], constants)
    return models.model(graph, opset)


def single(op: str, operands: Operands, opset: int = 18, outputs: int = 1, **attributes: Any) -> ModelProto:
    """One node."""
    domain = attributes.pop("domain", "")
    made = [f"y{number}" for number in range(outputs)]
    node = helper.make_node(op, list(operands), made, op.lower(), domain=domain, **attributes)
    constants = {name: given for name, given in operands.items() if isinstance(given, np.ndarray)}
    inputs = [value(name, given) for name, given in operands.items() if not isinstance(given, np.ndarray)]
    model = models.model(models.graph([node], inputs, [value(name, None) for name in made], constants), opset)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def conv(*shape: int, bias: bool = True, **attributes: Any) -> Step:
    """A Conv with weights of this shape."""
    weights: Weights = {"w": floats(*shape)}
    return "Conv", weights | ({"b": floats(shape[0])} if bias else {}), attributes


def matmul(*shape: int) -> Step:
    """A MatMul with weights of this shape."""
    return "MatMul", {"w": floats(*shape)}, {}


def plain(op: str, **attributes: Any) -> Step:
    """An op without weights."""
    return op, {}, attributes


def depthwise() -> ModelProto:
    """What mobile networks are made of: 1x1 in, 3x3 for each channel alone, 1x1 out."""
    steps = [conv(48, 16, 1, 1), plain("Clip"), conv(48, 1, 3, 3, group=48, pads=[1, 1, 1, 1]), plain("HardSwish")]
    return chain([1, 16, 14, 14], [*steps, conv(16, 48, 1, 1, bias=False)])


def deformable() -> ModelProto:
    """A convolution whose taps are moved by an input."""
    operands: Operands = {"x": [1, 4, 8, 8], "w": floats(6, 4, 3, 3), "offset": [1, 18, 8, 8]}
    return single("DeformConv", operands, 19, pads=[1, 1, 1, 1])


def gemms() -> ModelProto:
    """Transposed operands, and factors other than one."""
    first = ("Gemm", {"b": floats(24, 32), "c": floats(24)}, {"transB": 1})
    second = ("Gemm", {"b": floats(24, 8), "c": floats(4, 8)}, {"alpha": 0.5, "beta": 0.25})
    third = ("Gemm", {"b": floats(4, 16)}, {"transA": 1})
    return chain([4, 32], [first, second, third])


def batched() -> ModelProto:
    """Stacks of matrices: pairwise, and one for all."""
    return chain([2, 5, 16, 8], [matmul(2, 5, 8, 12), matmul(12, 6)])


def broadcast() -> ModelProto:
    """Stacks of matrices, each of one with each of the other."""
    return chain([5, 16, 8], [matmul(3, 1, 8, 12)])


def vectors() -> ModelProto:
    """Matrix times vector."""
    return chain([16, 24], [matmul(24)])


def einsums(equation: str, left: Sequence[int], right: Sequence[int]) -> ModelProto:
    """One Einsum of two operands."""
    return single("Einsum", {"x": left, "w": floats(*right)}, equation=equation)


def scaled_dot_product() -> ModelProto:
    """Attention as exporters write it: two products with a Softmax between them."""
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], "scores"),
        helper.make_node("Mul", ["s", "scale"], ["t"], "scaled"),
        helper.make_node("Softmax", ["t"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"], "mixed"),
    ]
    shape = [1, 4, 10, 16]
    graph = models.graph(
        nodes, [value(n, shape) for n in "qkv"], [value("y", shape)], {"scale": np.array(0.25, np.float32)}
    )
    return models.model(graph)


def attention() -> ModelProto:
    """The same as one node."""
    return single("Attention", {name: [1, 4, 10, 16] for name in "qkv"}, opset=23)


def multi_head() -> ModelProto:
    """The same as ONNX Runtime's transformer optimizer writes it."""
    operands: Operands = {name: [1, 10, 64] for name in "qkv"}
    return single("MultiHeadAttention", operands, domain="com.microsoft", num_heads=4)


def fused_matmul() -> ModelProto:
    """A product that took over a Transpose and a scale."""
    operands: Operands = {"x": [1, 8, 12], "w": floats(8, 6)}
    return single("FusedMatMul", operands, domain="com.microsoft", transA=1, alpha=0.125)


def recurrent(op: str, gates: int, direction: str = "bidirectional") -> ModelProto:
    """A recurrent network over 12 steps and a batch of 2."""
    ways, hidden, inputs = (2 if direction == "bidirectional" else 1), 8, 6
    operands: Operands = {
        "x": [12, 2, inputs],
        "w": floats(ways, gates * hidden, inputs),
        "r": floats(ways, gates * hidden, hidden),
        "b": floats(ways, 2 * gates * hidden),
    }
    return single(op, operands, outputs=2, hidden_size=hidden, direction=direction)


def normalized() -> ModelProto:
    """A convolution between normalizations."""
    per_channel: Weights = {"s": np.ones(8, np.float32), "b": floats(8)}
    batch: Weights = per_channel | {"m": floats(8), "v": np.ones(8, np.float32)}
    per_row: Weights = {"s": np.ones(6, np.float32), "b": floats(6)}
    return chain(
        [1, 8, 6, 6],
        [
            ("BatchNormalization", batch, {}),
            conv(8, 8, 3, 3, bias=False),
            ("InstanceNormalization", per_channel, {}),
            conv(8, 8, 1, 1, bias=False, pads=[1, 1, 1, 1]),
            ("LayerNormalization", per_row, {"axis": -1}),
            plain("LRN", size=3),
        ],
        opset=17,
    )


def pooled() -> ModelProto:
    """A convolution between pools."""
    pools = [plain("MaxPool", kernel_shape=[3, 3], strides=[2, 2]), conv(8, 8, 3, 3, bias=False, pads=[1, 1, 1, 1])]
    pools += [plain("AveragePool", kernel_shape=[2, 2]), plain("GlobalAveragePool")]
    return chain([1, 8, 15, 15], pools)


def reduced() -> ModelProto:
    """A product between reductions, and a Softmax."""
    rows = matmul(32, 32)
    axes: Weights = {"axes": np.array([1], np.int64)}
    steps = [plain("Softmax", axis=-1), rows, ("ReduceMean", axes, {}), rows, ("ReduceSum", axes, {})]
    return chain([4, 16, 32], [*steps, plain("ReduceMax", keepdims=0)])


def elementwise() -> ModelProto:
    """A product among activations and arithmetic."""
    row: Weights = {"c": floats(16)}
    calm = matmul(16, 16)
    before = [("Add", row, {}), plain("Relu"), plain("Sigmoid"), ("Mul", row, {}), plain("Tanh"), calm]
    after = [plain("Erf"), plain("Exp"), ("Sub", row, {}), plain("LeakyRelu"), plain("Abs"), plain("Sqrt")]
    return chain([8, 16], [*before, *after, ("Div", row, {}), plain("Elu"), plain("Softplus"), plain("HardSigmoid")])


def quantized() -> ModelProto:
    """Integer kernels with scales and zero points: QLinearConv, QLinearMatMul."""
    constants: Arrays = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "w": models.RANDOM.integers(0, 255, (8, 4, 3, 3)).astype(np.uint8),
        "b": np.arange(8, dtype=np.int32),
        "m": models.RANDOM.integers(0, 255, (6, 5)).astype(np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z", "b"], ["c"], "qconv"),
        helper.make_node("QLinearMatMul", ["c", "s", "z", "m", "s", "z", "s", "z"], ["p"], "qmatmul"),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"], "dequantize"),
    ]
    graph = models.graph(nodes, [value("x", [1, 4, 8, 8])], [value("y", [1, 8, 6, 5])], constants)
    return models.model(graph)


def integer() -> ModelProto:
    """Integer kernels without scales, with one zero point: ConvInteger, MatMulInteger."""
    constants: Arrays = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "w": models.RANDOM.integers(0, 255, (8, 4, 3, 3)).astype(np.uint8),
        "m": models.RANDOM.integers(0, 255, (8, 5)).astype(np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["c"], "conv"),
        helper.make_node("MatMulInteger", ["q", "m", "z"], ["p"], "matmul"),
    ]
    outputs = [value("c", None, TensorProto.INT32), value("p", None, TensorProto.INT32)]
    return models.model(models.graph(nodes, [value("x", [1, 4, 8, 8])], outputs, constants))


def four_bits() -> ModelProto:
    """Weights in blocks of four bits, as language models carry them."""
    packed = models.RANDOM.integers(0, 255, (24, 2, 16)).astype(np.uint8)
    operands: Operands = {"x": [1, 3, 64], "w": packed, "s": floats(24 * 2)}
    return single("MatMulNBits", operands, domain="com.microsoft", K=64, N=24, bits=4, block_size=32)


def functions() -> ModelProto:
    """A model whose author packed a layer into a function, used twice."""
    opset = [helper.make_opsetid("", 18)]
    body = [helper.make_node("MatMul", ["a", "w"], ["b"], "m"), helper.make_node("Relu", ["b"], ["c"], "r")]
    layer = helper.make_function("local", "Layer", ["a", "w"], ["c"], body, opset)
    nodes = [helper.make_node("Layer", [f"v{i}", "w"], [f"v{i + 1}"], f"layer{i}", domain="local") for i in range(2)]
    graph = models.graph(nodes, [value("v0", [4, 16])], [value("v2", [4, 16])], {"w": floats(16, 16)})
    return models.model(graph, 18, [layer])


def loop(trips: int = 5) -> ModelProto:
    """A layer in a Loop."""
    body = models.graph(
        [
            helper.make_node("MatMul", ["carried", "w"], ["next"], "loop_matmul"),
            helper.make_node("Identity", ["go"], ["go_on"], "loop_go"),
        ],
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("carried", [4, 16])],
        [value("go_on", [], TensorProto.BOOL), value("next", [4, 16])],
        name="body",
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], "loop", body=body)]
    constants: Arrays = {"trips": np.array(trips, np.int64), "w": floats(16, 16)}
    return models.model(models.graph(nodes, [value("x", [4, 16])], [value("y", [4, 16])], constants), 18)


def scan() -> ModelProto:
    """A layer in a Scan over seven rows."""
    body = models.graph(
        [
            helper.make_node("MatMul", ["row", "w"], ["m"], "scan_matmul"),
            helper.make_node("Add", ["m", "state"], ["after"], "scan_add"),
            helper.make_node("Identity", ["after"], ["out"], "scan_out"),
        ],
        [value("state", [1, 8]), value("row", [1, 16])],
        [value("after", [1, 8]), value("out", [1, 8])],
        name="body",
    )
    nodes = [helper.make_node("Scan", ["zero", "x"], ["last", "y"], "scan", body=body, num_scan_inputs=1)]
    constants: Arrays = {"zero": np.zeros((1, 8), np.float32), "w": floats(16, 8)}
    outputs = [value("last", [1, 8]), value("y", [7, 1, 8])]
    return models.model(models.graph(nodes, [value("x", [7, 1, 16])], outputs, constants), 18)


def transposed(rank: int, **attributes: Any) -> ModelProto:
    """A transposed convolution over ``rank`` axes, with bias."""
    space, kernel = [9] * rank, [4] * rank
    weights: Weights = {"w": floats(6, 4 // attributes.get("group", 1), *kernel), "b": floats(4)}
    return chain([1, 6, *space], [("ConvTranspose", weights, {"strides": [2] * rank, **attributes})])


ZOO: dict[str, Callable[[], ModelProto]] = {
    "conv_1d_dilated": lambda: chain([1, 8, 64], [conv(16, 8, 5, dilations=[4], pads=[8, 8])]),
    "conv_2d_strided": lambda: chain([1, 3, 32, 32], [conv(16, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])]),
    "conv_3d": lambda: chain([1, 2, 8, 8, 8], [conv(4, 2, 3, 3, 3, bias=False)]),
    "conv_grouped": lambda: chain([1, 12, 10, 10], [conv(8, 3, 3, 3, bias=False, group=4)]),
    "conv_depthwise": depthwise,
    "conv_deformable": deformable,
    "conv_transpose_1d": lambda: transposed(1),
    "conv_transpose_2d_grouped": lambda: transposed(2, group=2, pads=[1, 1, 1, 1]),
    "gemm": gemms,
    "matmul_batched": batched,
    "matmul_broadcast": broadcast,
    "matmul_vector": vectors,
    "matmul_fused": fused_matmul,
    "einsum_contraction": lambda: einsums("bij,jk->bik", [2, 8, 12], [12, 6]),
    "einsum_outer": lambda: einsums("bi,bj->bij", [2, 8], [2, 6]),
    "attention_parts": scaled_dot_product,
    "attention": attention,
    "attention_multi_head": multi_head,
    "lstm_bidirectional": lambda: recurrent("LSTM", 4),
    "gru": lambda: recurrent("GRU", 3, "forward"),
    "rnn_bidirectional": lambda: recurrent("RNN", 1),
    "normalizations": normalized,
    "pooling": pooled,
    "reductions": reduced,
    "elementwise": elementwise,
    "qdq": models.selu_qdq,
    "qlinear": quantized,
    "integer": integer,
    "weights_of_four_bits": four_bits,
    "functions": functions,
    "if": models.branching,
    "loop": loop,
    "scan": scan,
    "fusions": models.fusions,
}
