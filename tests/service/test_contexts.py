"""Precompiled models, compiled here: their share of the FLOPs is what their own leftovers imply.

A context was partitioned when it was compiled. Its leftovers stand under names that the layout transformer gave to
their values, and loading may fuse them; FLOPs come from the source, the processor from the compiled graph alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from monitor.records import CheckResult, Placement
from tests import models
from tests.compiling import compiled, made_by
from tests.models import floats, graph, model, value
from tests.probing import audited

SHIPPED = {"graph_optimization_level": "ORT_DISABLE_ALL"}


def around_an_odd_op() -> ModelProto:
    """Two convolutions around a Sinh, which no SoC takes: the compiler puts Transposes at both of its sides."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Sinh", ["c"], ["s"], "odd"),
        helper.make_node("Conv", ["s", "w2"], ["y"], "conv2", pads=[1, 1, 1, 1]),
    ]
    constants: models.Arrays = {"w": floats(4, 4, 3, 3), "w2": floats(4, 4, 3, 3)}
    shape = [1, 4, 8, 8]
    return model(graph(nodes, [value("x", shape)], [value("y", shape)], constants))


def shape_made_on_the_way() -> ModelProto:
    """A Reshape whose target only constant folding knows: without it, the MatMul behind has no shape for the NPU."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["c"], ["sizes"], "shape"),
        helper.make_node("Gather", ["sizes", "first"], ["batch"], "gather"),
        helper.make_node("Concat", ["batch", "rest"], ["target"], "concat", axis=0),
        helper.make_node("Reshape", ["c", "target"], ["flat"], "reshape"),
        helper.make_node("MatMul", ["flat", "m"], ["product"], "matmul"),
        helper.make_node("Relu", ["product"], ["y"], "relu"),
    ]
    constants: models.Arrays = {
        "w": floats(4, 3, 3, 3),
        "m": floats(256, 16),
        "first": np.array([0]),
        "rest": np.array([-1]),
    }
    return model(graph(nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 16])], constants))


def beside_a_free_size() -> ModelProto:
    """A convolution beside a MatMul and an Add of a free size: left over, and fused into a Gemm by who loads them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["z", "m"], ["product"], "matmul"),
        helper.make_node("Add", ["product", "b"], ["sum"], "add"),
    ]
    inputs, outputs = [value("x", [1, 3, 8, 8]), value("z", ["n", 16])], [value("y", None), value("sum", None)]
    return model(graph(nodes, inputs, outputs, {"w": floats(4, 3, 3, 3), "m": floats(16, 16), "b": floats(16)}))


def without_names(proto: ModelProto) -> ModelProto:
    """``proto`` as exporters write it that name no node."""
    for node in proto.graph.node:
        node.name = ""
    return proto


def placed(result: CheckResult) -> Placement:
    """The placement of a check that measured something, with balanced books and an explained leftover."""
    assert result.error is None
    assert result.placement is not None
    assert result.placement.unattributed_flops_ratio == 0
    assert not [note for note in result.placement.notes if note.startswith("self-check")]
    assert all("when the model was compiled" in op.reason for op in result.placement.ops)
    return result.placement


def costly(placement: Placement) -> set[str]:
    """Op types on the CPU that have FLOPs."""
    return {op.op_type for op in placement.ops if op.flops_ratio}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(
    ("build", "soc", "odd", "ratio"),
    [
        (models.selu_qdq, "58", "Selu", 0.02),
        # 2 convolutions of 4 * 4 * 9 MACs at 64 places against 256 hyperbolic sines
        (around_an_odd_op, "60", "Sinh", 256 / (2 * 2 * 64 * 4 * 4 * 9 + 256)),
    ],
)
def test_one_leftover_is_all_that_a_context_lost(
    build: Callable[[], ModelProto], soc: str, odd: str, ratio: float, named: bool, tmp_path: Path
) -> None:
    """The convolutions are in the contexts, though the values between them and the leftover have other names."""
    proto = build() if named else without_names(build())
    source = models.saved(proto, tmp_path, "source.onnx")
    result = placed(audited(compiled(source, soc), source=source, options={"soc_model": soc}))
    assert costly(result) == {odd}
    assert result.fallback_flops[odd] == pytest.approx(ratio, rel=1e-3)
    assert result.npu_flops_ratio == pytest.approx(1 - ratio, rel=1e-3)
    assert result.nodes.accelerator == 2


def test_a_context_is_judged_by_its_own_leftovers(tmp_path: Path) -> None:
    """Compiled at ORT_DISABLE_ALL it lost what its source, and what the same compiler at the basic level, did not."""
    source = models.saved(shape_made_on_the_way(), tmp_path, "source.onnx")
    lossy = placed(audited(compiled(source), source=source, session=SHIPPED))
    whole = placed(audited(compiled(source, level="ORT_ENABLE_BASIC"), source=source))
    shipped = audited(source).placement
    conv, matmul = 2 * 64 * 4 * 3 * 9, 2 * 256 * 16
    assert lossy.npu_flops_ratio == pytest.approx(conv / (conv + matmul + 16))
    assert costly(lossy) == {"MatMul", "Relu"}
    assert whole.npu_flops_ratio == 1
    assert shipped is not None
    assert shipped.npu_flops_ratio == 1


def test_leftovers_that_loading_fuses_are_still_the_cpus(tmp_path: Path) -> None:
    """MatMul and Add become a Gemm in the session of the compiled model; they stay two nodes of the source."""
    source = models.saved(beside_a_free_size(), tmp_path, "source.onnx")
    result = placed(audited(compiled(source), source=source))
    conv, pair = 2 * 64 * 4 * 3 * 9, 2 * 16 * 16 + 16
    assert result.npu_flops_ratio == pytest.approx(conv / (conv + pair))
    assert costly(result) == {"MatMul", "Add"}


def test_without_a_source_the_leftovers_have_names_and_no_flops(tmp_path: Path) -> None:
    """The share is absent, the time is there, and the leftover and the way to the share are named."""
    source = models.saved(models.selu_qdq(), tmp_path, "source.onnx")
    result = audited(compiled(source, "58"), options={"soc_model": "58"})
    assert result.verdict == "unknown"
    assert result.placement is not None
    assert result.placement.npu_flops_ratio is None
    assert result.placement.npu_time_ratio is not None
    assert [(op.node, op.flops_ratio) for op in result.placement.ops] == [("selu", None)]
    assert any("a precompiled context does not tell" in note for note in result.placement.notes)


def test_a_context_of_another_sdk_or_soc_is_called_out(tmp_path: Path) -> None:
    """A foreign maker's version and another SoC stand among the notes, also where the session could be made."""
    source = models.saved(models.selu_qdq(), tmp_path, "source.onnx")
    context = compiled(source, "58")
    foreign = audited(made_by(context, "v2.30.0.250101"), source=source, options={"soc_model": "58"})
    assert any("was made by SDK 2.30.0.250101, this runtime has" in note for note in foreign.notes)
    other = audited(context, source=source, options={"soc_model": "57"})
    assert any("was made for soc_model 58, this session has 57" in note for note in other.notes)


def test_a_context_that_is_cut_is_a_mismatch(tmp_path: Path) -> None:
    """A binary that cannot be loaded is one line with cause and mend."""
    context = compiled(models.saved(models.selu_qdq(), tmp_path, "source.onnx"), "58")
    proto = onnx.load(str(context))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_cache_context":
                attribute.s = attribute.s[: len(attribute.s) // 3]
    onnx.save(proto, str(context))
    result = audited(context, options={"soc_model": "58"})
    assert (result.verdict, result.cause) == ("unknown", "context_mismatch")
    assert result.error is not None
    assert "\n" not in result.error.detail
    assert "compile" in result.error.mend
