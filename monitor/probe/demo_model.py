"""Makes the demo's healthy model: a small quantized convolutional network that the accelerator takes whole.

``python -m monitor.probe.demo_model FILE``. Weights are random but fixed; every value is quantized to uint8 with
graph-edge Q/DQ, as quantization tools for the NPU write them.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


def build(channels: tuple[int, ...] = (3, 16, 32, 32), size: int = 32) -> onnx.ModelProto:
    """A QDQ network of 3x3 convolutions with Relu, a global average pool and a Gemm; input ``image`` 1x3x32x32."""
    random = np.random.default_rng(7)
    graph = _Graph()
    value = graph.quantized("image", 1 / 255, 0)
    for layer, (before, after) in enumerate(pairwise(channels)):
        weight = graph.weight(f"w{layer}", random.normal(0, 0.2, (after, before, 3, 3)))
        graph.node("Conv", [value, weight], f"conv{layer}_out", f"conv{layer}", pads=[1, 1, 1, 1])
        graph.node("Relu", [f"conv{layer}_out"], f"relu{layer}_out", f"relu{layer}")
        value = graph.quantized(f"relu{layer}_out", 1 / 32, 0)
    graph.node("GlobalAveragePool", [value], "pool_out", "pool")
    value = graph.quantized("pool_out", 1 / 64, 0)
    graph.node("Flatten", [value], "flat_out", "flat")
    value = graph.quantized("flat_out", 1 / 64, 0)
    weight = graph.weight("w_fc", random.normal(0, 0.2, (channels[-1], 10)))
    graph.node("Gemm", [value, weight], "fc_out", "fc")
    graph.quantized("fc_out", 1 / 16, 128, "scores")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "qdq_cnn",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels[0], size, size])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def quantized(self, value: str, scale: float, zero: int, output: str = "") -> str:
        """Q and DQ behind ``value``; the name of the dequantized value."""
        scales = self.constant(f"{value}_scale", np.array(scale, np.float32))
        zeros = self.constant(f"{value}_zero", np.array(zero, np.uint8))
        self.node("QuantizeLinear", [value, scales, zeros], f"{value}_q", f"{value}_quantize")
        output = output or f"{value}_dq"
        self.node("DequantizeLinear", [f"{value}_q", scales, zeros], output, f"{value}_dequantize")
        return output

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """A symmetric int8 weight behind a DQ; the name of the dequantized value."""
        scale = float(np.abs(array).max() / 127)
        scales = self.constant(f"{name}_scale", np.array(scale, np.float32))
        zeros = self.constant(f"{name}_zero", np.array(0, np.int8))
        stored = self.constant(f"{name}_q", np.round(array / scale).astype(np.int8))
        self.node("DequantizeLinear", [stored, scales, zeros], f"{name}_dq", f"{name}_dequantize")
        return f"{name}_dq"


if __name__ == "__main__":
    onnx.save(build(), sys.argv[1])
