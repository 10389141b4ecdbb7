"""The study: what really ran, with which shapes, and the graph that is partitioned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper

from monitor.errors import MeasureError
from monitor.probe import study as studies
from monitor.records import Execution, Failure, Study
from tests import models
from tests.probing import spec


def studied(proto: ModelProto, folder: Path, runs: int = 1, samples: Path | None = None) -> Study:
    """The study of ``proto``."""
    return studies.make(spec(models.saved(proto, folder), samples=str(samples) if samples else None), runs)


def executed(study: Study, run: int = 0) -> dict[str, Execution]:
    """The executions of one inference by node name; each node ran with one set of shapes."""
    by_name = {study.nodes[e.node].name: e for e in study.runs[run]}
    assert len(by_name) == len(study.runs[run])
    return by_name


def failure_of(path: Path, **fields: object) -> Failure:
    """Why there is no study."""
    with pytest.raises(MeasureError) as caught:
        studies.make(spec(path, **fields), 1)
    assert "\n" not in str(caught.value)
    return caught.value.failure


def signed(folder: Path, *values: float) -> Path:
    """A folder with one sample of each value."""
    for number, value in enumerate(values):
        np.savez(folder / f"{number}.npz", x=np.full((1, 8), value, np.float32))
    return folder


def test_every_node_of_a_plain_model_runs_once_with_its_shapes(tmp_path: Path) -> None:
    """Nothing is optimized away from the first run: each node of the model as shipped is there."""
    study = studied(models.fusions(), tmp_path)
    runs = executed(study)
    assert runs.keys() == {node.name for node in study.nodes}
    assert runs["conv"].inputs == ((1, 3, 8, 8), (4, 3, 3, 3), (4,))
    assert runs["matmul"].outputs == ((1, 16),)
    assert {e.count for e in runs.values()} == {1}


def test_the_partitioned_graph_is_the_optimized_one(tmp_path: Path) -> None:
    """It is what the runtime hands to execution providers: fused and folded, with the main graph's ends."""
    study = studied(models.fusions(), tmp_path)
    ops = Counter(node.op_type for node in study.partitioned)
    assert ops["Gemm"] == 1
    assert not ops.keys() & {"BatchNormalization", "MatMul", "Identity"}
    assert "bias2" in study.constants
    assert (study.inputs, study.outputs) == (("x",), ("y",))


def test_a_session_without_optimization_is_partitioned_as_shipped(tmp_path: Path) -> None:
    """Where the application turns optimizations off, the graph that is partitioned is the model's own."""
    path = models.saved(models.fusions(), tmp_path)
    study = studies.make(spec(path, session={"graph_optimization_level": "ORT_DISABLE_ALL"}), 1)
    assert {node.name for node in study.partitioned} == {node.name for node in study.nodes}


def test_an_application_that_forbids_the_cpu_is_studied_on_it(tmp_path: Path) -> None:
    """A session setting that refuses fallback to the CPU does not stop the study, which means to run there."""
    path = models.saved(models.well_named(), tmp_path)
    study = studies.make(spec(path, session={"session.disable_cpu_ep_fallback": "1"}), 1)
    assert executed(study).keys() == {"relu", "neg"}


def test_only_the_branches_taken_are_counted(tmp_path: Path) -> None:
    """Each inference has the branch that its own input took."""
    folder = signed(tmp_path, 1.0, -1.0)
    study = studied(models.branching(), tmp_path, runs=2, samples=folder)
    assert study.samples == "files"
    taken, other = executed(study, 0), executed(study, 1)
    assert "heavy" in taken
    assert "light" not in taken
    assert "light" in other
    assert "heavy" not in other


@pytest.mark.parametrize("trips", [1, 5])
def test_a_loops_body_is_counted_as_often_as_it_ran(trips: int, tmp_path: Path) -> None:
    """Loop counts are the run's, also for an op in the body that the runtime expands."""
    runs = executed(studied(models.looping(trips), tmp_path))
    assert runs["loop"].count == 1
    assert runs["loop_mul"].count == trips
    mish = runs["loop_mish"]
    assert (mish.count, mish.inputs, mish.outputs) == (trips, ((1, 8),), ((1, 8),))


def test_expanded_schema_functions_are_restored(tmp_path: Path) -> None:
    """Ops that the runtime replaces by their function's body, which loses their names, are there."""
    study = studied(models.schema_functions(), tmp_path, runs=2)
    for run in (0, 1):
        runs = executed(study, run)
        whole = (1, 8, 4, 4)
        assert (runs["gn"].inputs, runs["gn"].outputs) == ((whole, (8,), (8,)), (whole,))
        for name in ("mish", "hardswish", "then_hs"):
            assert (runs[name].inputs, runs[name].outputs, runs[name].count) == ((whole,), (whole,), 1)
        assert "else_mish" not in runs


def test_expanded_nodes_are_not_taken_for_the_models_own(tmp_path: Path) -> None:
    """The runtime calls a nameless expanded node ``Mul_5``; a model's own Mul_5 is still counted once."""
    runs = executed(studied(models.schema_functions(), tmp_path))
    assert {runs[f"Mul_{n}"].count for n in range(24)} == {1}


def test_functions_of_the_model_itself(tmp_path: Path) -> None:
    """Local functions are studied as the nodes that they hold."""
    study = studied(models.local_functions(), tmp_path)
    assert Counter(study.nodes[e.node].op_type for e in study.runs[0]) == {"Relu": 2, "Mul": 2}


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    """A model that has to be renamed still finds its weights."""
    study = studies.make(spec(models.external(tmp_path)), 1)
    assert study.runs[0][0].inputs == ((1, 64), (64, 64))


def test_external_data_behind_links_is_found(tmp_path: Path) -> None:
    """As in a model hub's cache: model and weights are links to blobs with hashes for names, in another folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    real = models.external(tmp_path / "blobs")
    real.rename(tmp_path / "blobs" / "5f3a")
    (tmp_path / "blobs" / "weights.bin").rename(tmp_path / "blobs" / "9c1b")
    (tmp_path / "snapshot" / "external.onnx").symlink_to("../blobs/5f3a")
    (tmp_path / "snapshot" / "weights.bin").symlink_to("../blobs/9c1b")
    study = studies.make(spec(tmp_path / "snapshot" / "external.onnx"), 1)
    assert study.runs[0][0].inputs == ((1, 64), (64, 64))


def test_external_data_that_is_missing_is_named(tmp_path: Path) -> None:
    """The file that was not deployed is told, not the runtime's words about a tensor."""
    path = models.external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(MeasureError) as caught:
        studies.make(spec(path), 1)
    assert caught.value.failure == Failure(
        "model_missing",
        f"{tmp_path}/weights.bin: the model's external data cannot be read: No such file or directory",
        "deploy it beside the model",
    )


@pytest.mark.slow
def test_a_model_above_two_gigabytes(tmp_path: Path) -> None:
    """A table of 2.3 GiB, unnamed nodes and all, is studied like any other model; the file is sparse."""
    rows, columns = 300_000, 2_048
    table = onnx.TensorProto(
        name="table", data_type=onnx.TensorProto.FLOAT, dims=[rows, columns], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, text in (("location", "table.bin"), ("offset", "0"), ("length", str(rows * columns * 4))):
        table.external_data.add(key=key, value=text)
    with (tmp_path / "table.bin").open("wb") as file:
        file.truncate(rows * columns * 4)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])]
    ends = [models.value("ids", [4], onnx.TensorProto.INT64)], [models.value("y", [4, 8])]
    graph = models.graph(nodes, *ends, {"w": models.floats(columns, 8)})
    graph.initializer.append(table)
    study = studies.make(spec(models.saved(models.model(graph), tmp_path)), 1)
    assert [execution.inputs for execution in study.runs[0]] == [((rows, columns), (4,)), ((4, columns), (columns, 8))]


def test_free_dimensions_of_synthesized_inputs_are_said(tmp_path: Path) -> None:
    """The sizes that were assumed stand in the record and in a note; those that the application fixes do not."""
    path = models.saved(models.free_dims("batch", "length", 3), tmp_path)
    study = studies.make(spec(path, dims={"length": 7}), 1)
    assert study.assumed == {"batch": 1}
    assert study.dims == {"length": 7}
    assert study.notes == ("free dimensions of the synthesized inputs: batch=1",)
    assert study.runs[0][0].inputs == ((1, 7, 3),)


def test_assumed_sizes_are_found_by_trying(tmp_path: Path) -> None:
    """A model that only takes one length gets it, though nothing in its signature says so."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    ends = [models.value("x", [1, "length"])], [models.value("y", [1, 4])]
    study = studied(models.model(models.graph(nodes, *ends, {"w": models.floats(320, 4)})), tmp_path)
    assert study.assumed == {"length": 320}


def test_no_size_works(tmp_path: Path) -> None:
    """A model for which no synthesized input works says what the last attempt ran into, in one line."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    ends = [models.value("x", [1, "length"])], [models.value("y", [1, 4])]
    path = models.saved(models.model(models.graph(nodes, *ends, {"w": models.floats(77, 4)})), tmp_path)
    failure = failure_of(path)
    assert failure.reason == "input_unusable"
    assert failure.detail.startswith(f"{path}: no synthesized input works; the last attempt: an inference raised ")
    assert failure.mend == "give real inputs (models.samples, or --samples)"


def test_a_dimension_that_does_not_exist(tmp_path: Path) -> None:
    """The runtime ignores such an override silently; npumon names it and what there is."""
    path = models.saved(models.free_dims("batch", 8), tmp_path)
    detail = f"{path}: dims.bacth: no such free dimension"
    assert failure_of(path, dims={"bacth": 1}) == Failure("dims_unknown", detail, "the model has: batch")


def test_a_model_that_the_cpu_cannot_load(tmp_path: Path) -> None:
    """An op that no runtime here knows costs the study, in one line."""
    nodes = [helper.make_node("Unheard", ["x"], ["y"], "odd", domain="vendor")]
    proto = models.model(models.graph(nodes, [models.value("x", [1])], [models.value("y", [1])]))
    proto.opset_import.append(helper.make_opsetid("vendor", 1))
    failure = failure_of(models.saved(proto, tmp_path))
    assert failure.reason in ("study_failed", "model_invalid")
    assert "Unheard" in failure.detail


def test_the_study_names_what_it_stands_for(tmp_path: Path) -> None:
    """Hash and versions say which model and which runtime the figures belong to."""
    study = studied(models.well_named(), tmp_path)
    assert len(study.model_sha256) == 64
    assert study.onnxruntime == ort.__version__
    assert (study.samples, study.assumed, study.notes) == ("synthetic", {}, ())


def test_a_sequence_maps_body_is_counted_for_each_element(tmp_path: Path) -> None:
    """The runtime makes a Loop of it, whose body's nodes get another name; they are still the model's."""
    tanh = helper.make_node("Tanh", ["e"], ["t"], "tanh")
    body = models.graph([tanh], [models.value("e", None)], [models.value("t", None)])
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x", "x"], ["q"], "make"),
        helper.make_node("SequenceMap", ["q"], ["m"], "map", body=body),
        helper.make_node("ConcatFromSequence", ["m"], ["y"], "join", axis=0),
    ]
    main = models.graph(nodes, [models.value("x", [2, 4])], [models.value("y", [6, 4])])
    ran = executed(studied(models.model(main, opset=18), tmp_path))["tanh"]
    assert (ran.count, ran.outputs) == (3, ((2, 4),))
