"""The profile reader: what it reads from the runtime's real files, and that it notices when events are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from monitor.probe import trace
from monitor.probe.trace import Trace, read_profile
from monitor.records import Profile
from tests import models

X = np.ones((1, 8), np.float32)


def profiled(proto: ModelProto, folder: Path, runs: int = 2) -> Path:
    """A profile that the runtime writes."""
    so = ort.SessionOptions()
    so.enable_profiling = True
    so.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(proto.SerializeToString(), so, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, {"x": X})
    return Path(session.end_profiling())


def event(name: str, ts: int, dur: int, op: str = "Relu", provider: str = "CPUExecutionProvider") -> dict[str, Any]:
    """A node event as the runtime writes it."""
    args = {"op_name": op, "provider": provider, "input_type_shape": [], "output_type_shape": []}
    return {
        "cat": "Node",
        "pid": 1,
        "tid": 1,
        "dur": dur,
        "ts": ts,
        "ph": "X",
        "name": f"{name}_kernel_time",
        "args": args,
    }


RUN = {"cat": "Session", "pid": 1, "tid": 1, "dur": 100, "ts": 0, "ph": "X", "name": "model_run", "args": {}}


def written(folder: Path, *events: dict[str, Any]) -> Path:
    """A profile of these events, one a line."""
    path = folder / "written.json"
    path.write_text("[\n" + ",\n".join(json.dumps(e) for e in events) + "\n]\n")
    return path


def test_a_real_profile_gives_the_spans_of_each_inference(tmp_path: Path) -> None:
    """Every node of every run, by name, op and processor, with its time in seconds."""
    profile = read_profile(profiled(models.well_named(), tmp_path, runs=3), 3, "CPUExecutionProvider")
    assert profile.partial is None
    assert [[(s.name, s.op_type, s.processor) for s in run] for run in profile.runs] == [
        [("relu", "Relu", "accelerator"), ("neg", "Neg", "accelerator")]
    ] * 3
    assert all(0 <= s.seconds < 1 for run in profile.runs for s in run)


def test_spans_inside_a_real_control_node_are_nested(tmp_path: Path) -> None:
    """What runs in a Loop's body is marked, so that its time is not counted twice; the Loop itself is not."""
    path = profiled(models.looping(3), tmp_path, runs=1)
    (run,) = read_profile(path, 1, "QNNExecutionProvider").runs
    assert {s.op_type for s in run if not s.nested} == {"Loop"}
    (events,) = Trace(path, 1).runs()
    durations = [event.dur for event in events if event.node == "loop_mul"]
    assert len(durations) == 3
    assert [s.seconds for s in run if s.name == "loop_mul"] == [pytest.approx(sum(durations) / 1e6)]
    assert {s.processor for s in run} == {"cpu"}


def test_real_events_carry_actual_shapes(tmp_path: Path) -> None:
    """Shapes are those of the run."""
    ((first, *_),) = Trace(profiled(models.well_named(), tmp_path, runs=1), 1).runs()
    assert (first.node, first.inputs(), first.outputs()) == ("relu", ((1, 8),), ((1, 8),))


def test_control_nodes_within_control_nodes(tmp_path: Path) -> None:
    """An If in a Loop is nested itself; what stands before and behind the Loop is not."""
    path = written(
        tmp_path,
        event("before", 0, 10),
        event("exp", 22, 3, "Exp"),
        event("if", 21, 5, "If"),
        event("loop", 20, 15, "Loop"),
        event("after", 40, 5),
        RUN,
    )
    (run,) = read_profile(path, 1, "QNNExecutionProvider").runs
    assert [(s.name, s.nested) for s in run] == [
        ("before", False),
        ("exp", True),
        ("if", True),
        ("loop", False),
        ("after", False),
    ]


def test_a_node_that_runs_in_two_loops_and_outside_is_not_mixed_up(tmp_path: Path) -> None:
    """Executions are summed within one control node only, and each inference starts anew."""
    path = written(
        tmp_path,
        event("exp", 0, 10, "Exp"),
        event("exp", 21, 1, "Exp"),
        event("exp", 23, 2, "Exp"),
        event("first", 20, 10, "Loop"),
        event("exp", 41, 4, "Exp"),
        event("second", 40, 10, "Loop"),
        RUN,
        event("exp", 60, 7, "Exp"),
        RUN,
    )
    first, second = read_profile(path, 2, "QNNExecutionProvider").runs
    told = [(s.name, s.nested, round(1e6 * s.seconds)) for s in first]
    assert told[:3] == [("exp", False, 10), ("exp", True, 3), ("first", False, 10)]
    assert told[3:] == [("exp", True, 4), ("second", False, 10)]
    assert [(s.name, s.nested, round(1e6 * s.seconds)) for s in second] == [("exp", False, 7)]


def test_a_file_of_many_blocks_reads_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reader's blocks end, also within a line, and one damaged line among many, change nothing else."""
    events = [event(f"node{number}", number, number) for number in range(50)]
    path = written(tmp_path, *events, RUN)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[8] = lines[8][:20] + b"\n"
    path.write_bytes(b"".join(lines))
    expected = [f"node{number}" for number in range(50) if number != 7]
    for size in (1, 100, 1000, 2**16):
        monkeypatch.setattr(trace, "_BLOCK", size)
        profile = read_profile(path, 1, "EP")
        assert [[s.name for s in run] for run in profile.runs] == [expected]
        assert profile.partial == "line 8 of the profile is cut or damaged"


def test_the_accelerator_is_told_by_its_provider(tmp_path: Path) -> None:
    """Events of the execution provider are the accelerator's, all others the CPU's; times are seconds."""
    path = written(tmp_path, event("unit", 0, 1500, "QNN_1", "QNNExecutionProvider"), event("relu", 1600, 250), RUN)
    (run,) = read_profile(path, 1, "QNNExecutionProvider").runs
    assert [(s.processor, s.seconds) for s in run] == [("accelerator", 0.0015), ("cpu", 0.00025)]


@pytest.mark.parametrize("lost", [1, 40])
def test_a_cut_file_is_partial(lost: int, tmp_path: Path) -> None:
    """A file that ends in the middle of a line is said to be cut, and what it holds is still read."""
    path = written(tmp_path, event("relu", 0, 10), RUN, event("neg", 20, 10))
    content = path.read_bytes().rstrip(b"\n]")
    path.write_bytes(content[:-lost])
    profile = read_profile(path, 2, "QNNExecutionProvider")
    assert profile.partial == "line 3 of the profile is cut or damaged"
    assert [[s.name for s in run] for run in profile.runs] == [["relu"]]


def test_missing_inferences_are_partial(tmp_path: Path) -> None:
    """A profile with fewer inferences than were run says how many it holds."""
    profile = read_profile(written(tmp_path, event("relu", 0, 10), RUN, event("relu", 20, 10)), 2, "EP")
    assert profile.partial == "the profile holds 1 of 2 inferences"


def test_a_real_profile_with_a_line_less_is_partial(tmp_path: Path) -> None:
    """The runtime's own file, cut as a full disk would, is noticed."""
    path = profiled(models.well_named(), tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b"model_run" in line)
    path.write_bytes(b"".join(lines[:last]))
    assert read_profile(path, 2, "EP").partial == "the profile holds 1 of 2 inferences"


def test_the_runtimes_event_limit_is_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that reached the runtime's cap has lost events, whatever else it says."""
    monkeypatch.setattr(trace, "MOST_EVENTS", 3)
    path = written(tmp_path, event("relu", 0, 10), event("neg", 10, 10), RUN)
    assert read_profile(path, 1, "EP").partial == "the profile reached the runtime's limit of 3 events"


def test_an_empty_file_is_partial(tmp_path: Path) -> None:
    """A profile without a single event holds no inference, and says so."""
    path = tmp_path / "empty.json"
    path.write_text("")
    assert read_profile(path, 1, "EP") == Profile((), "the profile holds 0 of 1 inferences")


def test_values_without_a_shape(tmp_path: Path) -> None:
    """A missing shape is none, a scalar's is empty, and forms of another kind are no shapes."""
    plain = event("a", 0, 1)
    plain["args"]["input_type_shape"] = [{"float": [2, 3]}, {}, {"int64": []}]
    odd = event("b", 1, 1)
    odd["args"]["input_type_shape"] = [{"sequence": {"float": [1]}}]
    ((first, second),) = Trace(written(tmp_path, plain, odd, RUN), 1).runs()
    assert first.inputs() == ((2, 3), None, ())
    assert second.inputs() == ()
