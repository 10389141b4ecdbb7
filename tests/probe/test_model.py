"""The named copy: every node can be followed by name, and the model computes what it did before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, helper

from monitor.errors import MeasureError
from monitor.probe import model as models
from monitor.records import Failure
from tests import models as built

VALUES = [f"{letter}{number}" for number in range(8) for letter in "abcdefgh"]
Array = npt.NDArray[np.float32]


def run(source: str | bytes, x: Array) -> list[Array]:
    """The model's outputs on the CPU, unoptimized, so that every node really runs."""
    so = ort.SessionOptions()
    so.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    so.log_severity_level = 4
    session = ort.InferenceSession(source, so, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, {"x": x})
    return outputs


def all_graphs(graph: GraphProto) -> list[GraphProto]:
    """The graph and all bodies in it."""
    inner = [body for node in graph.node for _, body in models.bodies(node)]
    return [graph, *[deep for body in inner for deep in all_graphs(body)]]


def assert_followable(proto: ModelProto) -> None:
    """Names of nodes, values and graphs are each unique over all scopes, and none looks like the runtime's own."""
    graphs = all_graphs(proto.graph)
    nodes = [node.name for graph in graphs for node in graph.node]
    assert all(nodes)
    assert len(set(nodes)) == len(nodes)
    assert not any(name.rpartition("_token_")[1] for name in nodes)
    assert len({graph.name for graph in graphs}) == len(graphs)
    values = [name for graph in graphs for node in graph.node for name in node.output if name]
    values += [v.name for graph in graphs for v in (*graph.input, *graph.initializer)]
    assert len(set(values)) == len(values)


def failure_of(path: Path) -> Failure:
    """Why ``path`` is no model."""
    with pytest.raises(MeasureError) as caught:
        models.load(path)
    assert "\n" not in str(caught.value)
    return caught.value.failure


def test_bad_names_are_mended_and_the_outputs_stay(tmp_path: Path) -> None:
    """Unnamed, repeated and token-like names become unique over all scopes, and the model computes the same."""
    path = built.saved(built.badly_named(), tmp_path)
    loaded = models.load(path)
    assert loaded.renamed
    assert_followable(loaded.proto)
    assert loaded.proto.graph.name == "kept name"
    for x in (np.full((1, 8), 2, np.float32), np.full((1, 8), -2, np.float32)):
        np.testing.assert_array_equal(run(str(path), x)[0], run(loaded.source(), x)[0])


def test_the_first_bearer_of_a_name_keeps_it(tmp_path: Path) -> None:
    """Only what has to be renamed is."""
    names = [node.name for node in models.load(built.saved(built.badly_named(), tmp_path)).proto.graph.node]
    assert names == ["Relu_0", "same", "Add_2", "ReduceSum_3", "greater", "If_5"]


@pytest.mark.parametrize("proto", [built.well_named(), built.selu_qdq()], ids=["plain", "quantized"])
def test_a_model_with_good_names_is_loaded_as_it_is(proto: ModelProto, tmp_path: Path) -> None:
    """Where nothing needs a name, sessions are made from the file itself, as the application makes them."""
    path = built.saved(proto, tmp_path)
    loaded = models.load(path)
    assert not loaded.renamed
    assert loaded.source() == str(path)
    assert loaded.proto == onnx.load(str(path))


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    """A function of the model's own is replaced by its nodes, each use under names of its own."""
    path = built.saved(built.local_functions(), tmp_path)
    loaded = models.load(path)
    assert loaded.renamed
    assert [node.op_type for node in loaded.nodes()] == ["Relu", "Mul", "Relu", "Mul"]
    assert_followable(loaded.proto)
    x = np.arange(-4, 4, dtype=np.float32).reshape(1, 8)
    np.testing.assert_array_equal(run(str(path), x)[0], run(loaded.source(), x)[0])


def nested(
    draw: st.DrawFn, depth: int, visible: list[str], banned: list[str]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Nodes over the values in ``visible``, with few names, so that those of different bodies clash."""
    nodes: list[onnx.NodeProto] = []
    own: list[str] = []
    inside: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from([*visible, *own]))
        # The runtime refuses a value that a body around it has too, and two nodes of one name in the same graph.
        output = draw(st.sampled_from([v for v in VALUES if v not in (*own, *inside, *visible, *banned)]))
        taken = {node.name for node in nodes} - {""}
        name = draw(st.sampled_from([n for n in ("", "n", "m", "n_token_1", "Relu_0") if n not in taken]))
        if depth and draw(st.booleans()):
            branches = {}
            for key in ("then_branch", "else_branch"):
                inner, values = nested(draw, depth - 1, [*visible, *own], [*banned, output])
                branches[key] = built.graph(inner, [], [built.value(values[-1], None)])
                inside += [v for deep in all_graphs(branches[key]) for node in deep.node for v in node.output]
            nodes.append(helper.make_node("If", ["go"], [output], name, **branches))
        else:
            nodes.append(helper.make_node(draw(st.sampled_from(["Relu", "Neg", "Exp"])), [source], [output], name))
        own.append(output)
    return nodes, own


@st.composite
def random_models(draw: st.DrawFn) -> ModelProto:
    """Nested Ifs over a small pool of names."""
    nodes, own = nested(draw, 2, ["x"], [])
    nodes.append(helper.make_node("Tanh", [own[-1]], ["y"], "last"))
    constants: built.Arrays = {"go": np.array(draw(st.booleans()))}
    return built.model(built.graph(nodes, [built.value("x", [4])], [built.value("y", [4])], constants))


@settings(max_examples=50)
@given(random_models())
def test_any_nesting_of_names_is_mended_without_changing_results(proto: ModelProto) -> None:
    """Whatever names bodies repeat, the copy's names are unique and its outputs equal the original's."""
    original = proto.SerializeToString()
    copy = ModelProto()
    copy.ParseFromString(original)
    models._Namer(copy.graph).run()
    assert_followable(copy)
    x = np.array([-2, -0.5, 0.5, 2], np.float32)
    np.testing.assert_array_equal(run(original, x)[0], run(copy.SerializeToString(), x)[0])


def test_nodes_are_told_with_their_scope_and_attributes(tmp_path: Path) -> None:
    """A node's record names the body that holds it; of a body only its outputs are kept, of a tensor nothing."""
    nodes = {n.name: n for n in models.load(built.saved(built.branching(), tmp_path)).nodes()}
    assert nodes["heavy"].scope == "choice/then_branch"
    assert nodes["relu"].scope == ""
    assert nodes["choice"].attributes == {"then_branch": ["then_out"], "else_branch": ["else_out"]}
    assert nodes["sum"].attributes == {"keepdims": 0}


def test_free_dimensions_are_told_by_name(tmp_path: Path) -> None:
    """Numbers, names, and nothing where a dimension has neither; initializers are no inputs."""
    assert models.load(built.saved(built.free_dims("batch", 3, None, "?"), tmp_path)).free_dimensions() == {
        "x": ("batch", 3, None, "?")
    }


def test_a_missing_model(tmp_path: Path) -> None:
    """The failure names the file and what the system says."""
    path = tmp_path / "gone.onnx"
    mend = "deploy the model or correct models.path"
    assert failure_of(path) == Failure("model_missing", f"{path}: No such file or directory", mend)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    """A path to a folder is said to be one."""
    assert failure_of(tmp_path).detail == f"{tmp_path}: Is a directory"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it holds no graph (truncated, or not ONNX)"),
        (b"not an ONNX model at all", "it does not parse as ONNX (truncated?)"),
        (built.selu_qdq().SerializeToString()[:-300], "it does not parse as ONNX (truncated?)"),
        (ModelProto(ir_version=8).SerializeToString(), "it holds no graph (truncated, or not ONNX)"),
    ],
    ids=["empty", "text", "truncated", "no graph"],
)
def test_a_file_that_is_no_model(content: bytes, why: str, tmp_path: Path) -> None:
    """Truncated files and files of another kind are refused with one line, before the runtime sees them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    mend = "copy the model to the board again and compare its checksum"
    assert failure_of(path) == Failure("model_invalid", f"{path}: {why}", mend)


def test_two_nodes_of_one_name_in_one_graph_are_refused_as_the_runtime_does(tmp_path: Path) -> None:
    """The named copy must not heal what the application cannot load; Constants may repeat, as they may there."""
    constant = helper.make_tensor("c", onnx.TensorProto.FLOAT, [4], [1.0] * 4)
    nodes = [
        helper.make_node("Constant", [], ["k"], "twice", value=constant),
        helper.make_node("Constant", [], ["l"], "twice", value=constant),
        helper.make_node("Add", ["k", "l"], ["m"], "once"),
        helper.make_node("Add", ["x", "m"], ["y"], "twice"),
    ]
    graph = built.graph(nodes, [built.value("x", [1, 4])], [built.value("y", [1, 4])])
    assert models.load(built.saved(built.model(graph), tmp_path)).renamed
    nodes[2].name = "twice"
    graph = built.graph(nodes, [built.value("x", [1, 4])], [built.value("y", [1, 4])])
    path = built.saved(built.model(graph), tmp_path)
    with pytest.raises(MeasureError) as caught:
        models.load(path)
    assert caught.value.failure == Failure(
        "model_invalid",
        f"{path}: two nodes of one graph are called twice, and the runtime refuses that",
        "export the model again, or rename one of them",
    )
