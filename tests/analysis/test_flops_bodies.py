"""Every ONNX function body, run node by node on the reference evaluator and counted, against its op's own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import defs, helper, inliner, shape_inference
from onnx.reference import ReferenceEvaluator

from monitor.analysis.flops import flops, kind, standard
from monitor.records import Node, Shape

Array = NDArray[Any]
Ran = tuple[onnx.NodeProto, list[Shape | None], list[Shape | None]]


class Recorder(ReferenceEvaluator):
    """Notes every node that runs, with its shapes, also in the bodies of If, Loop and Scan."""

    def run(
        self,
        output_names: Any,
        feed_inputs: dict[str, Any],
        attributes: dict[str, Any] | None = None,
        intermediate: bool = False,
        check_shape_annotations: bool | None = None,
        _bindings: Any = None,
    ) -> dict[str, Any] | list[Any]:
        """Run as the evaluator does; nodes inside the body of a function are that function's, not ours."""
        wanted = self.output_names if output_names is None else output_names
        values = super().run(output_names, feed_inputs, attributes, True, check_shape_annotations, _bindings)
        if not isinstance(self.proto_, onnx.FunctionProto):
            for running in self.rt_nodes_:
                node = running.onnx_node
                shapes = [[shape_of(values[name]) for name in names if name] for names in (node.input, node.output)]
                RAN.append((node, shapes[0], shapes[1]))
        return values if intermediate else [values[name] for name in wanted]


RAN: list[Ran] = []


def shape_of(value: Any) -> Shape | None:
    """The shape of a tensor; sequences have none."""
    return None if value is None or isinstance(value, list) else np.shape(value)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's plain attributes, as the records keep them."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type not in (a.GRAPH, a.TENSOR)}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def count(ran: Ran) -> int:
    """FLOPs of one executed node, which must be known."""
    node, inputs, outputs = ran
    known = flops(
        Node(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes=attributes(node)),
        inputs,
        outputs,
    )
    assert known is not None, node.op_type
    return known


def execute(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Ran]:
    """The nodes of one run of ``model``."""
    RAN.clear()
    Recorder(model).run(None, feeds)
    return list(RAN)


def single(op: str, arrays: list[Array], outputs: int, given: dict[str, Any]) -> onnx.ModelProto:
    """A model of one node, its default attributes spelled out because the inliner does not."""
    schema = defs.get_schema(op)
    names = [f"i{i}" for i in range(len(arrays))]
    node = helper.make_node(op, names, [f"o{i}" for i in range(outputs)], **given)
    defaults = [a.default_value for n, a in schema.attributes.items() if n not in given and a.default_value.type]
    node.attribute.extend(defaults)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=name) for name in node.output])
    opset = helper.make_opsetid("", max(schema.since_version, 18))
    return shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[opset]))


def f(*shape: int) -> Array:
    """Some positive numbers."""
    return np.linspace(0.1, 1.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def scalar(value: float) -> Array:
    """A float of rank 0."""
    return np.array(value, np.float32)


def has_body(schema: Any) -> bool:
    """Whether an op's schema defines it by other ops (onnx's type stubs do not know these flags)."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def labels(count: int) -> Array:
    """Class labels of five classes."""
    return np.arange(count) % 5


ONE = [f(30, 40)]
TWO = [f(30, 40), f(30, 40)]
IMAGE = [f(3, 8, 10, 10), f(8), f(8)]
LINEAR = [f(2, 5, 64), f(2, 5, 32), f(2, 5, 32), f(2, 2, 16, 16)]
HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
QUERY, KEY, PAST = f(2, 10, 128), f(2, 12, 32), f(2, 2, 10, 16)
# op (and variant): inputs, attributes, number of outputs
CASES: dict[str, tuple[list[Array], dict[str, Any], int]] = {
    **{
        op: (ONE, {}, 1)
        for op in (
            *(
                "Bernoulli",
                "Celu",
                "Elu",
                "Gelu",
                "HardSigmoid",
                "HardSwish",
                "LeakyRelu",
                "LogSoftmax",
                "Mish",
                "Relu",
            ),
            *(
                "ReduceL1",
                "ReduceL2",
                "ReduceLogSum",
                "ReduceLogSumExp",
                "ReduceSumSquare",
                "Selu",
                "Shrink",
                "Softmax",
            ),
            *("Softplus", "Softsign", "Swish", "ThresholdedRelu"),
        )
    },
    **{op: (TWO, {}, 1) for op in ("GreaterOrEqual", "LessOrEqual", "PRelu", "SwiGLU")},
    **{op: ([np.array(2000)], {}, 1) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")},
    "Range": ([scalar(0), scalar(900), scalar(1)], {}, 1),
    "Gelu tanh": (ONE, {"approximate": "tanh"}, 1),
    "Clip": ([*ONE, scalar(0.2), scalar(0.3)], {}, 1),
    "Clip one bound": ([*ONE, scalar(0.2)], {}, 1),
    "LogSoftmax axis": ([f(3, 40, 5)], {"axis": 1}, 1),
    "LayerNormalization": ([f(30, 4, 40), f(40), f(40)], {}, 1),
    "LayerNormalization axis": ([f(30, 4, 40), f(4, 40)], {"axis": 1}, 1),
    "RMSNormalization": ([f(30, 40), f(40)], {}, 1),
    "GroupNormalization": (IMAGE, {"num_groups": 2}, 1),
    "MeanVarianceNormalization": (IMAGE[:1], {}, 1),
    "NegativeLogLikelihoodLoss": ([f(500, 5), labels(500)], {}, 1),
    "NegativeLogLikelihoodLoss weighted": ([f(500, 5), labels(500), f(5)], {}, 1),
    "NegativeLogLikelihoodLoss none": ([f(500, 5), labels(500)], {"reduction": "none"}, 1),
    "SoftmaxCrossEntropyLoss": ([f(500, 5), labels(500)], {}, 1),
    "AffineGrid": ([f(3, 2, 3), np.array([3, 1, 30, 40])], {}, 1),
    "AffineGrid 3-D": ([f(2, 3, 4), np.array([2, 1, 10, 12, 14])], {"align_corners": 1}, 1),
    "Attention": ([f(2, 8, 10, 16), f(2, 8, 12, 16), f(2, 8, 12, 24)], {}, 1),
    "Attention grouped": (
        [QUERY, KEY, KEY, f(10, 22), PAST, PAST],
        {"q_num_heads": 8, "kv_num_heads": 2, "softcap": 2.0, "is_causal": 1},
        3,
    ),
    "LinearAttention linear": (LINEAR, {**HEADS, "update_rule": "linear"}, 2),
    "LinearAttention gated": ([*LINEAR, f(2, 5, 32)], {**HEADS, "update_rule": "gated"}, 2),
    "LinearAttention": ([*LINEAR, f(2, 5, 32), f(2, 5, 2)], HEADS, 2),
    "RotaryEmbedding": ([f(2, 4, 10, 16), f(2, 10, 8), f(2, 10, 8)], {}, 1),
    "RotaryEmbedding partial": (
        [f(2, 10, 64), f(50, 4), f(50, 4), np.zeros((2, 10), np.int64)],
        {"num_heads": 4, "rotary_embedding_dim": 8},
        1,
    ),
    "CausalConvWithState": ([f(2, 6, 100), f(6, 1, 4), f(6), f(2, 6, 3)], {"activation": "silu"}, 2),
}

# Function bodies of ops that move or quantize: what they compute on shapes or ranges is none of the data's arithmetic.
NOT_ARITHMETIC = {
    "CastLike",
    "CenterCropPad",
    "DepthToSpace",
    "DynamicQuantizeLinear",
    "SequenceMap",
    "SpaceToDepth",
}


@pytest.mark.parametrize("case", CASES)
def test_rule_equals_function_body(case: str) -> None:
    """An op costs what its function body costs; scalars that the body computes once may make 0.5 %."""
    arrays, given, outputs = CASES[case]
    op = case.split()[0]
    model = single(op, arrays, outputs, given)
    feeds = {f"i{i}": array for i, array in enumerate(arrays)}
    (whole,) = execute(model, feeds)
    spelled = execute(inliner.inline_selected_functions(model, [("", op)], inline_schema_functions=True), feeds)
    assert op not in {node.op_type for node, *_ in spelled}
    assert count(whole) == pytest.approx(sum(map(count, spelled)), rel=0.005)


def test_every_function_body_is_checked() -> None:
    """No op whose schema has a function body goes unchecked, unless it is no arithmetic; no rule claims one in vain."""
    bodies = {schema.name for schema in defs.get_all_schemas() if schema.domain == "" and has_body(schema)}
    checked = {case.split()[0] for case in CASES}
    assert bodies - checked == NOT_ARITHMETIC
    assert {kind(op) for op in NOT_ARITHMETIC} == {"movement", "control"}
    claims = {op for op, rule in standard.STANDARD.items() if rule.source == "function body"}
    assert claims <= checked
