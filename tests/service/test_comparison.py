"""Output agreement end to end: the execution provider on the simulator against the CPU, each in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from monitor import wire
from monitor.errors import MeasureError
from monitor.outputs import text
from monitor.probe import demo_model
from monitor.records import Agreement, CheckResult, Comparison
from monitor.service.comparison import memory_bound
from monitor.service.handle import ProbeHandle
from monitor.service.life import AUDIT_RUNS
from tests import models
from tests.probing import TIMEOUT, audited, spec

PLENTY = 2 * 2**30


def elementwise(*nodes: tuple[str, list[str], str], **constants: float) -> ModelProto:
    """A graph over one row of 64 floats, from ``x`` to ``y``."""
    made = [helper.make_node(op_type, sources, [to], f"{op_type}_{to}") for op_type, sources, to in nodes]
    arrays: models.Arrays = {name: np.full((1, 64), value, np.float32) for name, value in constants.items()}
    row = [1, 64]
    return models.model(models.graph(made, [models.value("x", row)], [models.value("y", row)], arrays))


def overflowing() -> ModelProto:
    """Squares of up to 16,000,000, then their roots: harmless in fp32; in fp16 whatever is above 65,504 is cut off."""
    return elementwise(("Mul", ["x", "gain"], "a"), ("Mul", ["a", "a"], "b"), ("Sqrt", ["b"], "y"), gain=4000.0)


def exploding() -> ModelProto:
    """Two large products that all but cancel out, unless fp16 cuts one off: then the CPU's Cosh of the rest is Inf.

    The simulator's own arithmetic saturates and makes no Inf; the MatMul gives the accelerator its share of the FLOPs.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "eye"], ["m"], "matmul"),
        helper.make_node("Mul", ["m", "huge"], ["h"], "huge_product"),
        helper.make_node("Mul", ["h", "small"], ["g"], "small_product"),
        helper.make_node("Mul", ["m", "factor"], ["k"], "product"),
        helper.make_node("Sub", ["k", "g"], ["d"], "difference"),
        helper.make_node("Cosh", ["d"], ["y"], "cosh"),
    ]
    row = (1, 64)
    constants: models.Arrays = {
        "eye": np.eye(64, dtype=np.float32),
        "huge": np.full(row, 2e6, np.float32),
        "small": np.full(row, 1e-3, np.float32),
        "factor": np.full(row, 2000.0, np.float32),
    }
    return models.model(models.graph(nodes, [models.value("x", row)], [models.value("y", row)], constants))


def agreement(result: CheckResult) -> Agreement:
    """The agreement of a check that has one."""
    assert result.error is None, result.error
    assert result.agreement is not None
    return result.agreement


@pytest.fixture
def probe() -> Iterator[ProbeHandle]:
    """A process for one comparison."""
    handle = ProbeHandle()
    yield handle
    handle.close()


def kept(path: Path, folder: Path, **fields: Any) -> None:
    """What an audit leaves in ``folder``."""
    handle = ProbeHandle()
    try:
        handle.request(wire.Open(spec(path, **fields), 1), TIMEOUT)
        handle.request(wire.Audit(AUDIT_RUNS, 5.0, str(folder)), TIMEOUT)
    finally:
        handle.close()


def compared(probe: ProbeHandle, path: Path, folder: Path, memory: int = PLENTY, **fields: Any) -> Comparison:
    """What the comparison finds in ``folder``."""
    return probe.request(wire.Compare(spec(path, **fields), str(folder), memory, 0.1), TIMEOUT)


def test_a_quantized_model_agrees(tmp_path: Path) -> None:
    """The demo's model is within a few percent of the CPU on every sample, and the table and JSON say so."""
    result = audited(models.saved(demo_model.build(), tmp_path))
    found = agreement(result)
    assert result.verdict == "healthy"
    assert found.samples == AUDIT_RUNS
    assert found.error_ratio is not None
    assert 0 < found.error_ratio < 0.1
    (output,) = found.outputs
    assert (output.name, output.nan, output.inf, output.elements) == ("scores", 0, 0, 10 * AUDIT_RUNS)
    assert (output.cosine or 0) > 0.99
    document = text.audit_document(result)
    assert document["output_error_ratio"] == found.error_ratio
    assert document["outputs"][0]["name"] == "scores"
    assert f"from the CPU's, over {AUDIT_RUNS} samples" in text.audit_table(result, colour=False)


def test_an_overflow_degrades_a_model_whose_placement_is_perfect(tmp_path: Path) -> None:
    """All FLOPs on the accelerator, and the numbers wrong: degraded, without a cause, the output named."""
    result = audited(models.saved(overflowing(), tmp_path))
    assert result.placement is not None
    assert result.placement.npu_flops_ratio == 1.0
    assert (result.verdict, result.cause) == ("degraded", None)
    assert result.reason.startswith("output `y` differs from the CPU's by ")
    assert (agreement(result).error_ratio or 0) > 0.5


def test_infinities_of_the_accelerators_session_are_counted(tmp_path: Path) -> None:
    """Inf that the CPU alone does not give is counted, and degrades whatever the gate."""
    result = audited(models.saved(exploding(), tmp_path))
    (output,) = agreement(result).outputs
    assert output.inf > 0
    assert (output.cpu_inf, output.nan, output.cpu_nan) == (0, 0, 0)
    assert result.placement is not None
    assert (result.placement.npu_flops_ratio or 0) > 0.95
    assert result.verdict == "degraded"
    assert f"holds {output.inf} Inf on the accelerator, none on the CPU" in result.reason


def test_the_comparison_can_be_switched_off(tmp_path: Path) -> None:
    """With compare_outputs = false nothing is measured, exported or judged."""
    result = audited(models.saved(overflowing(), tmp_path), compare_outputs=False)
    assert result.verdict == "healthy"
    assert result.agreement is None
    assert "output_error_ratio" not in text.audit_document(result)


def test_a_random_output_is_not_held_against_the_accelerator(tmp_path: Path) -> None:
    """The CPU runs twice where the two differ: what differs from itself is called not deterministic."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "random", scale=10.0),
        helper.make_node("MatMul", ["x", "w"], ["h"], "matmul"),
        helper.make_node("Add", ["h", "noise"], ["y"], "add"),
        helper.make_node("Relu", ["h"], ["steady"], "relu"),
    ]
    ends = [models.value("y", [1, 64]), models.value("steady", [1, 64])]
    main = models.graph(nodes, [models.value("x", [1, 64])], ends, {"w": np.eye(64, dtype=np.float32)})
    result = audited(models.saved(models.model(main), tmp_path))
    found = agreement(result)
    assert any("output `y` was not compared: not deterministic" in note for note in found.notes)
    assert found.error_ratio is not None
    assert found.error_ratio < 0.01


def test_a_sequence_and_a_flag(tmp_path: Path, probe: ProbeHandle) -> None:
    """A sequence is said not to be compared; a flag of the same model is, element by element."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("SequenceConstruct", ["r", "r"], ["list"], "pack"),
        helper.make_node("Greater", ["r", "half"], ["flag"], "greater"),
    ]
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [1, 8])
    ends = [sequence, models.value("flag", [1, 8], TensorProto.BOOL)]
    main = models.graph(nodes, [models.value("x", [1, 8])], ends, {"half": np.full((1, 8), 0.5, np.float32)})
    path = models.saved(models.model(main), tmp_path)
    kept(path, tmp_path)
    pack, flag = compared(probe, path, tmp_path).outputs
    assert pack.skipped == "a sequence or map"
    assert (flag.kind, flag.unequal_ratio, flag.relative_error) == ("discrete", 0.0, None)


def test_a_large_output_is_compared_in_part(tmp_path: Path, probe: ProbeHandle) -> None:
    """What exceeds the bound on disk is compared in a subset that both sides choose alike."""
    size = 2**22  # 16 MiB in each of three inferences
    node = helper.make_node("Cosh", ["x"], ["y"], "cosh")  # the CPU's: the simulator would take half a minute
    main = models.graph([node], [models.value("x", [1, size])], [models.value("y", [1, size])])
    path = models.saved(models.model(main), tmp_path)
    kept(path, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) < 33 * 2**20
    (output,) = compared(probe, path, tmp_path).outputs
    assert output.elements == AUDIT_RUNS * size
    assert output.elements * 0.4 < output.compared < output.elements
    assert output.relative_error is not None
    assert output.relative_error < 0.01


def test_too_little_memory_is_told(tmp_path: Path, probe: ProbeHandle) -> None:
    """A model that does not fit ends in one sentence, in a process that can still answer."""
    weight = np.eye(4096, dtype=np.float32)  # 64 MiB
    matmul = helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")
    row = [1, 4096]
    main = models.graph([matmul], [models.value("x", row)], [models.value("y", row)], {"w": weight})
    path = models.saved(models.model(main), tmp_path)
    with pytest.raises(MeasureError, match="memory: the CPU's run needs more than the 64 MiB that it may use"):
        compared(probe, path, tmp_path, memory=64 * 2**20)
    with pytest.raises(MeasureError, match="the audit left no outputs"):
        compared(probe, path, tmp_path)


def test_other_inputs_are_noticed(tmp_path: Path, probe: ProbeHandle) -> None:
    """Samples that changed between audit and comparison are not compared with each other."""
    path = models.saved(models.well_named(), tmp_path)
    samples, folder = tmp_path / "samples", tmp_path / "kept"
    samples.mkdir()
    folder.mkdir()
    np.savez(samples / "0.npz", x=np.ones((1, 8), np.float32))
    kept(path, folder, samples=str(samples))
    assert compared(probe, path, folder, samples=str(samples)).samples == 1
    np.savez(samples / "0.npz", x=np.zeros((1, 8), np.float32))
    with pytest.raises(MeasureError, match="the inputs are not those of the audit"):
        compared(probe, path, folder, samples=str(samples))


def test_samples_that_were_replaced_meanwhile_are_left_out(tmp_path: Path, probe: ProbeHandle) -> None:
    """Where files came and went, those that the audit saw are found by what is in them, and compared."""
    path = models.saved(models.well_named(), tmp_path)
    samples, folder = tmp_path / "samples", tmp_path / "kept"
    samples.mkdir()
    folder.mkdir()
    for number in range(4):
        np.savez(samples / f"{number}.npz", x=np.full((1, 8), number, np.float32))
    kept(path, folder, samples=str(samples))
    (samples / "0.npz").unlink()
    np.savez(samples / "00.npz", x=np.full((1, 8), 10, np.float32))
    np.savez(samples / "01.npz", x=np.full((1, 8), 11, np.float32))
    (samples / "1.npz").rename(samples / "9.npz")
    assert compared(probe, path, folder, samples=str(samples)).samples == AUDIT_RUNS - 1


def test_the_bound_is_half_of_what_the_board_has_to_spare(tmp_path: Path) -> None:
    """At most 2 GiB; 512 MiB where the kernel does not tell."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        4000000 kB\nMemAvailable:    1048576 kB\n")
    assert memory_bound(meminfo) == 512 * 2**20
    meminfo.write_text("MemAvailable:    99999999 kB\n")
    assert memory_bound(meminfo) == 2 * 2**30
    assert memory_bound(tmp_path / "none") == 512 * 2**20
