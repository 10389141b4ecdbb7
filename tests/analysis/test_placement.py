"""Where the work of real models ran, concluded from real audits on the simulator, and the books that must balance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from monitor.analysis.placement import edge_nodes
from monitor.analysis.placement import placement as conclude
from monitor.analysis.remedies import NO_REASON
from monitor.analysis.verdict import judge
from monitor.config import Gate
from monitor.probe import demo_model
from monitor.records import CheckResult, NodeCounts, Placement, Profile, Rejection, Span
from tests import models
from tests.analysis.evidence import facts, node, placed, study
from tests.probing import audited
from tests.published import NAMES, published

DET = {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 64, "p2o.DynamicDimension.2": 64}
FIXED = {
    "ppocr_det": DET,
    "opennsfw": {"unk__653": 1},
    "minilm": {"batch_size": 1, "sequence_length": 16},
}
CASES = [(name, ()) for name in NAMES] + [(name, tuple(dims.items())) for name, dims in FIXED.items()]
IDS = [f"{name}-fixed" if dims else name for name, dims in CASES]


@cache
def audit(name: str, dims: tuple[tuple[str, int], ...]) -> CheckResult:
    """One audit of a published model on soc_model 60; made once, since several tests look at it."""
    return audited(published(name), dims=dict(dims))


def concluded(result: CheckResult) -> Placement:
    """The placement of a check that must have measured."""
    assert result.error is None, result.error
    assert result.placement is not None
    return result.placement


def assert_balanced(found: Placement) -> None:
    """Accelerator, CPU and unattributed FLOPs are the total."""
    assert found.npu_flops_ratio is not None
    assert found.unattributed_flops_ratio is not None
    cpu = sum(found.fallback_flops.values())
    assert found.npu_flops_ratio + cpu + found.unattributed_flops_ratio == pytest.approx(1, abs=1e-9)
    assert sum(found.unattributed.values()) == pytest.approx(found.unattributed_flops_ratio, abs=1e-12)
    if len(found.ops) < 256:  # the longest list that is kept
        assert sum(op.flops_ratio or 0 for op in found.ops) == pytest.approx(cpu, abs=1e-9)


@pytest.mark.parametrize(("name", "dims"), CASES, ids=IDS)
def test_the_books_balance_for_every_published_model(name: str, dims: tuple[tuple[str, int], ...]) -> None:
    """Accelerator and CPU sum to the total, nothing is unattributed, and both sides know the same nodes."""
    found = concluded(audit(name, dims))
    assert_balanced(found)
    assert found.unattributed_flops_ratio == 0
    assert found.total_flops
    assert not [note for note in found.notes if note.startswith("self-check")]
    assert all(op.reason and op.remedy for op in found.ops)
    assert not [op for op in found.ops if op.flops_ratio and op.reason == NO_REASON]
    assert found.npu_time_ratio is not None
    assert 0 <= found.npu_time_ratio <= 1


def test_swift_f0_falls_back_though_the_accelerator_is_busy() -> None:
    """32 nodes on the accelerator take time but no FLOPs: all 18 Convs are among the 177 on the CPU, with reasons."""
    result = audit("swift_f0", ())
    found = concluded(result)
    assert (result.verdict, result.cause) == ("fallback", "dynamic_shape")
    assert (found.nodes, found.partitions) == (NodeCounts(32, 177, 0), 1)
    assert found.npu_flops_ratio is not None
    assert 0 < found.npu_flops_ratio < 0.05
    convs = [op for op in found.ops if op.op_type == "Conv"]
    assert len(convs) == 18
    assert {op.reason for op in convs} == {"Cannot get shape"}
    assert found.ops[0].op_type == "Conv"


def test_ppocr_det_as_shipped_names_the_dimensions_to_fix() -> None:
    """All 328 nodes are on the CPU for their dynamic shape, and the remedy has the three names."""
    result = audit("ppocr_det", ())
    found = concluded(result)
    assert (result.verdict, result.cause) == ("fallback", "dynamic_shape")
    assert (found.nodes, found.partitions, found.npu_flops_ratio) == (NodeCounts(0, 328, 0), 0, 0.0)
    for name in DET:
        assert f'"{name}" = N' in found.ops[0].remedy
        assert f"--dim {name}=N" in found.ops[0].remedy


def test_dimensions_without_a_usable_name_need_another_file() -> None:
    """Where ppocr cls has no name for its free dimensions no override can help, and the remedy has the command."""
    result = audit("ppocr_cls", ())
    found = concluded(result)
    assert (result.verdict, result.cause, found.nodes.accelerator) == ("fallback", "dynamic_shape", 0)
    assert "{'x': [N0, 3, N2, N3]}" in found.ops[0].remedy
    assert "--dim" not in found.ops[0].remedy


@pytest.mark.parametrize(
    ("name", "shipped", "fixed"),
    [
        ("ppocr_det", NodeCounts(0, 328, 0), NodeCounts(330, 0, 0)),
        ("opennsfw", NodeCounts(0, 125, 0), NodeCounts(124, 0, 0)),
        ("minilm", NodeCounts(18, 129, 0), NodeCounts(128, 0, 0)),
    ],
)
def test_fixed_dimensions_bring_a_model_to_the_accelerator(name: str, shipped: NodeCounts, fixed: NodeCounts) -> None:
    """As shipped a dynamic model is on the CPU; with the application's sizes all of it is on the accelerator."""
    before, after = audit(name, ()), audit(name, tuple(FIXED[name].items()))
    assert (before.verdict, before.cause, concluded(before).nodes) == ("fallback", "dynamic_shape", shipped)
    assert after.verdict != "fallback"
    assert concluded(after).nodes == fixed
    assert concluded(after).npu_flops_ratio == 1
    assert concluded(after).ops == ()


def test_silero_without_ifs_is_three_to_eighty_seven() -> None:
    """A model with a refused If: what is inside is on the CPU, and says which If is to blame."""
    result = audit("silero_ifless", ())
    assert (result.verdict, concluded(result).nodes) == ("fallback", NodeCounts(3, 87, 0))
    assert any(op.reason.startswith("inside If node_cond__1, which was refused: ") for op in concluded(result).ops)


def test_a_dynamic_model_is_a_full_fallback() -> None:
    """Each published model with free dimensions is at most a trace on the accelerator, and says why."""
    dynamic = [name for name in NAMES if name != "silero_openvino"]
    for name in dynamic:
        result = audit(name, ())
        assert (name, result.verdict, result.cause) == (name, "fallback", "dynamic_shape")
        assert (concluded(result).npu_flops_ratio or 0) < 0.001
    assert concluded(audit("silero_openvino", ())).npu_flops_ratio == 1


# ------------------------------------------------------------------------------------------------ small models


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """A function that writes a model to a file of the test's own."""
    return lambda proto: models.saved(proto, tmp_path)


Save = Callable[[onnx.ModelProto], Path]


def test_a_healthy_quantized_model_raises_nothing(save: Save) -> None:
    """The Q/DQ at the edges of the graph stay on the CPU by design; they are counted apart and are no culprits."""
    for proto in (demo_model.build(), models.selu_qdq()):
        result = audited(save(proto))
        found = concluded(result)
        assert result.verdict == "healthy"
        assert (found.npu_flops_ratio, found.ops) == (1, ())
        assert (found.nodes.cpu, found.nodes.edge) == (0, 2)


def test_one_op_falls_back_on_another_soc(save: Save) -> None:
    """On soc_model 58 exactly the Selu is lost, with its reason; a gate above its share makes that a fallback."""
    result = audited(save(models.selu_qdq()), options={"soc_model": "58"}, gate=Gate(npu_flops=0.99))
    found = concluded(result)
    (selu,) = found.ops
    assert (selu.node, selu.op_type, selu.reason) == ("selu", "Selu", "Selu: failed to create ELU node.")
    assert (result.verdict, result.cause) == ("fallback", "op_unsupported")
    assert selu.flops_ratio == pytest.approx(1 - (found.npu_flops_ratio or 0))
    assert found.fallback_flops == {"Selu": selu.flops_ratio}
    assert (found.nodes.cpu, found.nodes.edge, found.partitions) == (1, 2, 2)


@pytest.mark.parametrize(
    "options",
    [{"soc_model": "9999"}, {"soc_model": "80"}, {"soc_model": "60", "backend_path": "/nonexistent/libQnnHtp.so"}],
    ids=["unknown soc", "soc 80", "backend path"],
)
def test_an_accelerator_that_does_not_come_up_is_told_in_one_audit(options: dict[str, str], save: Save) -> None:
    """Ratio 0, target cpu, and the session's fault as every op's reason."""
    result = audited(save(models.selu_qdq()), options=options)
    found = concluded(result)
    assert (result.verdict, result.cause) == ("fallback", "accelerator_unavailable")
    assert (found.npu_flops_ratio, found.nodes.accelerator, found.npu_time_ratio) == (0, 0, 0)
    assert result.runtime is not None
    assert result.runtime.target == "cpu"
    assert {op.reason.split(" failed ")[0] for op in found.ops} == {"QNN SetupBackend"}


@pytest.mark.parametrize(
    "build", [models.fusions, models.badly_named, models.local_functions, models.looping, models.branching]
)
def test_the_books_balance_for_models_that_are_rewritten(build: Callable[[], onnx.ModelProto], save: Save) -> None:
    """Fused, folded, renamed, inlined and expanded nodes are all found again."""
    found = concluded(audited(save(build())))
    assert_balanced(found)
    assert found.unattributed == {}


def test_an_expanded_op_in_a_loop_is_weighed_by_its_trips(save: Save) -> None:
    """The Mish in the Loop's body has no name left in the session; it is still the worst op, with the Loop's reason."""
    found = concluded(audited(save(models.looping())))
    assert (found.ops[0].node, found.ops[0].op_type) == ("loop_mish", "Mish")
    for op in found.ops:
        assert "Operators of type `Loop` are not supported" in op.reason


def test_samples_that_take_other_branches_show_a_range(tmp_path: Path, save: Save) -> None:
    """The share depends on the input: the range tells its ends, and the verdict is the worst one's."""
    for number, value in enumerate((1.0, -1.0)):
        np.savez(tmp_path / f"{number}.npz", x=np.full((1, 8), value, np.float32))
    result = audited(save(models.branching()), samples=tmp_path)
    found = concluded(result)
    assert_balanced(found)
    assert found.npu_flops_ratio_range is not None
    low, high = found.npu_flops_ratio_range
    assert found.npu_flops_ratio is not None
    assert low < found.npu_flops_ratio < high
    assert (result.verdict, result.cause) == ("fallback", "input_dependent")


def test_a_baked_input_removes_the_silero_if(tmp_path: Path) -> None:
    """With its sample rate baked in and its sizes fixed the If is gone, and every node is on the accelerator."""
    proto = onnx.load(str(published("silero_ifless")))
    rate = next(value for value in proto.graph.input if value.name == "sr")
    proto.graph.input.remove(rate)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(16_000, np.int64), "sr"))
    result = audited(models.saved(proto, tmp_path), dims={"batch": 1, "sequence": 512})
    found = concluded(result)
    assert (found.nodes, found.npu_flops_ratio, found.ops) == (NodeCounts(45, 0, 0), 1, ())
    assert_balanced(found)
    assert found.unattributed == {}


# ------------------------------------------------------------------------------------------------ by hand


def test_without_a_study_the_flops_are_absent() -> None:
    """What was not measured is none, not zero; the nodes and the partitions are still known."""
    session = facts(placed("a", "Conv", unit=0), placed("b", "Conv", unit=2), placed("c", "Selu", "cpu", unit=1))
    found = conclude(session, None, None, ("FLOPs are not known",))
    assert (found.npu_flops_ratio, found.unattributed_flops_ratio, found.total_flops) == (None, None, None)
    assert (found.npu_time_ratio, found.npu_flops_ratio_range, found.fallback_flops) == (None, None, {})
    assert (found.nodes, found.partitions, found.notes) == (NodeCounts(2, 1, 0), 2, ("FLOPs are not known",))
    assert [(op.node, op.flops_ratio, op.time_ratio) for op in found.ops] == [("c", None, None)]
    assert judge(Gate(), session, found, None).verdict == "unknown"


def test_a_partial_profile_gives_no_times() -> None:
    """Times are never derived from a profile with holes, and the hole is told."""
    runs = ((Span("unit", "QNN", "accelerator", 0.5), Span("c", "Selu", "cpu", 0.5)),)
    session = facts(placed("a", "Conv"), placed("c", "Selu", "cpu", unit=1))
    whole, partial = (conclude(session, None, Profile(runs, why)) for why in (None, "it is cut"))
    assert (whole.npu_time_ratio, whole.ops[0].time_ratio) == (0.5, 0.5)
    assert (partial.npu_time_ratio, partial.ops[0].time_ratio) == (None, None)
    assert partial.notes == ("it is cut",)


def test_an_inserted_edge_node_is_known_by_its_reason() -> None:
    """A DQ put in an edge's place is an edge; one that was put elsewhere, or refused for another reason, is not."""
    graph = [node("q", "QuantizeLinear", "x s z", "xq"), node("dq", "DequantizeLinear", "yq s z", "y")]
    by_design, other = "configured to not take DQ nodes that generate a graph output", "rank 5 is not supported"
    session = facts(
        placed("q", "QuantizeLinear", "cpu"),
        placed("dq", "DequantizeLinear"),
        placed("DequantizeLinear_token_24", "DequantizeLinear", "cpu"),
        placed("DequantizeLinear_token_25", "DequantizeLinear", "cpu"),
        rejections=(
            Rejection("dq", "DequantizeLinear", by_design),
            Rejection("DequantizeLinear_token_24", "DequantizeLinear", by_design),
            Rejection("DequantizeLinear_token_25", "DequantizeLinear", other),
        ),
        edges=("q", "dq"),
    )
    assert edge_nodes(session, study(graph, graph)) == {"q", "DequantizeLinear_token_24"}
