"""The deep audit on the real simulator, and the provider's CSV in every state that a board may leave it in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from monitor import wire
from monitor.analysis.deep import deep
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.outputs import text
from monitor.probe import demo_model
from monitor.probe.provider import DeepCounts, Provider, find
from monitor.records import DeepProfile, DeepReading, Study
from monitor.service.check import Checker
from monitor.service.handle import ProbeHandle
from monitor.service.studies import Memory
from tests import models as built
from tests.probing import TIMEOUT, spec

HEADER = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier,ONNX Source Ops\n"
# One inference as the simulator writes it, in which the readings that only a board gives are put.
INFERENCE = """\
0,BACKEND,4,COUNT,BACKEND,ROOT,Number of HVX threads used,
0,BACKEND,2886,US,BACKEND,ROOT,RPC (execute) time,
0,BACKEND,1000,CYCLES,BACKEND,ROOT,Accelerator (execute) time (cycles),
0,NODE,20,CYCLES,BACKEND,SUB-EVENT,Input OpId_2 (cycles),
0,NODE,900,CYCLES,BACKEND,SUB-EVENT,conv_token_1:OpId_17 (cycles),DequantizeLinear;conv_token_1;q
0,NODE,70,CYCLES,BACKEND,SUB-EVENT,a,b:OpId_18 (cycles),a,b
0,BACKEND,1734,US,BACKEND,ROOT,Accelerator (execute) time,
0,BACKEND,77,US,BACKEND,ROOT,Accelerator (execute excluding wait) time,
0,EXECUTE,3001,US,BACKEND,ROOT,QNN (execute) time,
"""


def read(folder: Path, *inferences: str, limit: int = 2**20) -> list[DeepCounts]:
    """What is read of a profile to which each of ``inferences`` was appended behind a mark."""
    source = find("qnn").deep(folder)
    assert source is not None
    file = Path(source.options["profiling_file_path"])
    file.write_text(HEADER)
    for appended in inferences:
        source.mark()
        with file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(appended)
    return source.read(limit)


def ask(path: Path, runs: int = 3, budget: float = 5.0, **fields: Any) -> DeepReading:
    """One deep audit in a probe of its own."""
    handle = ProbeHandle()
    try:
        return handle.request(wire.Deepen(spec(path, **fields), runs, budget), TIMEOUT)
    finally:
        handle.close()


def joined(path: Path, runs: int = 3, **fields: Any) -> DeepProfile:
    """A deep audit joined to the model's study."""
    handle = ProbeHandle()
    try:
        study: Study = handle.request(wire.MakeStudy(spec(path, **fields), 1), TIMEOUT)
    finally:
        handle.close()
    return deep(ask(path, runs, **fields), study)


def quantized(source: Path, shape: list[int], folder: Path) -> Path:
    """``source`` quantized as onnxruntime's tools do it for this provider, its input fixed to ``shape``."""
    from onnxruntime.quantization import CalibrationDataReader, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

    proto = onnx.load(str(source))
    initialized = {tensor.name for tensor in proto.graph.initializer}
    (value,) = (value for value in proto.graph.input if value.name not in initialized)
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    del proto.metadata_props[:], proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    fixed, ready, path = (folder / f"{name}.onnx" for name in ("fixed", "ready", "quantized"))
    onnx.save(onnx.shape_inference.infer_shapes(proto), str(fixed))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Two random inputs."""

        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.left: Iterator[Any] = iter([{value.name: random.random(shape, dtype=np.float32)} for _ in range(2)])

        def get_next(self) -> Any:
            """The next input, or nothing."""
            return next(self.left, None)

    ready = ready if qnn_preprocess_model(str(fixed), str(ready)) else fixed
    quantize(str(ready), str(path), get_qnn_qdq_config(str(ready), Reader()))
    return path


# ---------------------------------------------------------------------------------------------------- real models


def test_the_demo_model_joins(tmp_path: Path) -> None:
    """At least 95 % of the demo model's cycles are ops of the model, the rest is the layout row; none is lost."""
    path = built.saved(demo_model.build(), tmp_path)
    found = joined(path, runs=9)
    assert found.partial is None
    assert found.joined_ratio is not None
    assert found.joined_ratio >= 0.95
    assert found.unjoined_ratio == 0
    assert {op.node for op in found.ops if op.part == "op"} >= {"conv0", "conv1", "conv2", "fc"}
    assert next(op for op in found.ops if op.node == "conv2").fused == ("relu2",)
    assert sum(op.cycles for op in found.ops) == found.total_cycles


def test_the_model_with_a_selu_joins(tmp_path: Path) -> None:
    """At least 95 % of the cycles of the other quantized model are its ops too."""
    found = joined(built.saved(built.selu_qdq(), tmp_path), runs=9)
    assert found.joined_ratio is not None
    assert found.joined_ratio >= 0.95
    assert found.unjoined_ratio == 0


def test_the_simulator_reports_neither_rpc_nor_waiting(tmp_path: Path) -> None:
    """What does not exist is absent; the accelerator's time and the host's make up the inference."""
    found = joined(built.saved(built.selu_qdq(), tmp_path))
    assert (found.rpc_seconds, found.wait_seconds) == (None, None)
    assert found.accelerator_seconds is not None
    assert found.host_seconds is not None
    assert found.accelerator_seconds + found.host_seconds == pytest.approx(found.inference_seconds)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("ppocr_cls", [1, 3, 48, 64]), ("opennsfw", [1, 224, 224, 3])])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_published_models_join_when_quantized(
    published: Callable[[str], Path], name: str, shape: list[int], tmp_path: Path
) -> None:
    """At least 95 % of the cycles of quantized published models are ops of the model, none match nothing."""
    found = joined(quantized(published(name), shape, tmp_path))
    assert found.joined_ratio is not None
    assert found.joined_ratio >= 0.95
    assert found.unjoined_ratio == 0


def test_names_may_hold_anything(tmp_path: Path) -> None:
    """Commas, semicolons, line breaks and QNN's own markers in node names do not cost a cycle of the join."""
    names = ["a,b", "semi;colon", "x:OpId_9 (cycles),y", "line\nbreak"]
    nodes = [
        onnx.helper.make_node("MatMul", ["x" if n == 0 else f"v{n - 1}", "w"], [f"v{n}"], name)
        for n, name in enumerate(names)
    ]
    ends = (built.value("x", [1, 8]), built.value(f"v{len(names) - 1}", [1, 8]))
    found = joined(
        built.saved(built.model(built.graph(nodes, [ends[0]], [ends[1]], {"w": built.floats(8, 8)})), tmp_path)
    )
    assert {op.node for op in found.ops if op.part == "op"} == set(names)
    assert found.unjoined_ratio == 0


def test_nothing_on_the_accelerator_is_said(tmp_path: Path) -> None:
    """A session that fell back whole has no profile, and the reading says why."""
    found = ask(built.saved(demo_model.build(), tmp_path), options={"soc_model": "9999"})
    assert (found.runs, found.rows, found.partial) == (0, (), "no op ran on the accelerator")


def test_a_session_that_is_refused_fails_like_any_other(tmp_path: Path) -> None:
    """A provider that cannot create the session gives one bounded failure."""
    with pytest.raises(MeasureError) as caught:
        ask(built.saved(built.selu_qdq(), tmp_path), options={"soc_model": "0"})
    assert caught.value.failure.reason == "session_failed"


# --------------------------------------------------------------------------------------------------------- bounds


def test_a_spent_budget_leaves_one_inference(tmp_path: Path) -> None:
    """No inference is begun once the budget is spent; the only one then is the measurement."""
    found = ask(built.saved(demo_model.build(), tmp_path), runs=1000, budget=0.0)
    assert found.runs == 1
    assert found.rows
    assert found.partial is None


def test_no_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the scratch directory nor the working directory keeps anything of the profile."""
    path = built.saved(demo_model.build(), tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = set(Path.cwd().iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert ask(path).rows
    assert list(scratch.iterdir()) == []
    assert set(Path.cwd().iterdir()) == before


def test_the_kernel_bounds_the_files(tmp_path: Path) -> None:
    """A profile beyond the limit is cut by the kernel while the session goes on, and said to be cut; nothing stays."""
    path = built.saved(demo_model.build(), tmp_path)
    code = """
import sys, threading, msgspec
from pathlib import Path
from monitor import wire
from monitor.probe import deep
request = wire.Deepen(msgspec.json.decode(sys.argv[1], type=wire.Spec), 5, 60.0)
reading = deep.deepen(request, Path(sys.argv[2]), threading.Event(), limit=int(sys.argv[3]))
sys.stdout.buffer.write(msgspec.json.encode(reading))
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    arguments = [sys.executable, "-c", code, msgspec.json.encode(spec(path)).decode(), str(folder), "1500"]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=TIMEOUT)
    found = msgspec.json.decode(done.stdout[done.stdout.index(b'{"placement"') :], type=DeepReading)
    assert found.runs == 1
    assert found.partial == "the profile reached its limit of 1,500 bytes and is cut"
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- the CSV


def test_a_board_s_readings(tmp_path: Path) -> None:
    """Cycles by op, edges apart, commas in names, and the nested durations in seconds."""
    first, second = read(tmp_path, INFERENCE, INFERENCE + INFERENCE)
    assert [(row.name, row.sources, row.cycles, row.edge) for row in first.rows] == [
        ("Input", (), 20, True),
        ("conv_token_1", ("DequantizeLinear", "conv_token_1", "q"), 900, False),
        ("a,b", ("a,b",), 70, False),
    ]
    assert (first.cycles, first.partial) == (1000, None)
    assert (first.call, first.accelerator, first.busy) == (0.002886, 0.001734, 0.000077)
    assert (second.cycles, second.call) == (2000, 0.005772)


def test_what_comes_before_the_mark_is_not_read(tmp_path: Path) -> None:
    """The graph's preparation and the first inference do not count into a later one."""
    prepared = "0,FINALIZE,42436,US,BACKEND,ROOT,QNN (finalize) time,\n"
    assert [counts.cycles for counts in read(tmp_path, prepared + INFERENCE, INFERENCE)] == [1000, 1000]


def test_a_reading_that_only_some_executions_give_is_absent(tmp_path: Path) -> None:
    """A sum over a part of the partitions would be too small: it is left out."""
    half = INFERENCE.replace("0,BACKEND,2886,US,BACKEND,ROOT,RPC (execute) time,\n", "")
    (counts,) = read(tmp_path, INFERENCE + half)
    assert (counts.call, counts.accelerator) == (None, 0.003468)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no inference"),
        ("\0\0\0\n", "is damaged"),
        (INFERENCE[:-10], "is cut"),
        (INFERENCE + INFERENCE[:300], "is cut"),
        (INFERENCE.replace("OpId_17 (cycles)", "OpId"), "is damaged"),
        ("0,NODE,900,CYCLES,BACKEND,SUB-EVENT,conv:OpId_17 (cycles),conv\n", "is cut"),
    ],
    ids=["empty", "zeros", "cut row", "cut between", "foreign row", "no end"],
)
def test_a_profile_that_is_not_whole_is_partial(text: str, says: str, tmp_path: Path) -> None:
    """Whatever is missing from the file, the reason is told and no sum is."""
    (counts,) = read(tmp_path, text)
    assert says in str(counts.partial)
    assert counts.rows == ()


def test_a_missing_profile_is_told(tmp_path: Path) -> None:
    """A provider that ignored or refused the options wrote nothing."""
    source = find("qnn").deep(tmp_path / "nowhere")
    assert source is not None
    source.mark()
    (counts,) = source.read(2**20)
    assert counts.partial == "the execution provider wrote no profile: No such file or directory"


def test_a_huge_profile_costs_little_memory(tmp_path: Path) -> None:
    """3 MB are read as a stream: what is kept grows with the ops, not with the file."""
    source = find("qnn").deep(tmp_path)
    assert source is not None
    source.mark()
    with Path(source.options["profiling_file_path"]).open("w") as file:
        for _ in range(5_000):
            file.write(INFERENCE)
    tracemalloc.start()
    try:
        (counts,) = source.read(2**30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts.cycles == 5_000_000
    assert peak < 2**20


def test_other_providers_have_none() -> None:
    """A provider that npumon does not know in particular is said to have no profile of its own."""
    assert Provider.deep(find("qnn"), Path()) is None


def test_the_audit_shows_it(tmp_path: Path) -> None:
    """After an audit, the same checker adds the profile to the table, within 100 columns, and to the JSON document."""
    path = built.saved(demo_model.build(), tmp_path)
    checker = Checker(Model(name="m", path=path, options={"soc_model": "60"}), "qnn", float("inf"), Memory())
    try:
        result = checker.deepen(checker.check(replays=False))
    finally:
        checker.close()
    table = text.audit_table(result, colour=False)
    assert "Conv (conv2 + relu2)" in table
    assert max(map(len, table[table.index("\ndeep ") :].splitlines())) <= 100
    document = text.audit_document(result)["deep"]
    assert document["runs"] >= 1
    assert "rpc_seconds" not in document
    assert sum(op["cycles"] for op in document["ops"]) == document["total_cycles"]


def test_an_audit_that_failed_is_not_deepened(tmp_path: Path) -> None:
    """There is nothing to profile where no session could be made; the failure stays as it is."""
    path = built.saved(built.selu_qdq(), tmp_path)
    checker = Checker(Model(name="m", path=path, options={"soc_model": "0"}), "qnn", float("inf"), Memory())
    try:
        failed = checker.check(replays=False)
        assert failed.error is not None
        assert checker.deepen(failed) == failed
    finally:
        checker.close()
