"""Multiply-accumulates of a model as two counters see them, joined node by node.

Ours: the study's record of one real inference, FLOPs / 2 of the nodes that multiply and accumulate. Theirs: onnx-tool,
by its own shape inference over the whole graph where that goes through; else (control flow, ops that it does not know)
by its formula for each node, with the shapes and the number of executions that the study recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_tool
import onnxruntime as ort
from onnx_tool.node import create_node
from onnx_tool.tensor import Tensor

from monitor.analysis.flops import flops, kind
from monitor.probe import model as models
from monitor.probe import study as studies
from monitor.probe.samples import Corpus
from monitor.probe.session import CPU, signature
from monitor.records import Node, Shape, Study
from tests import probing

# The ops whose rules count multiply-accumulates, as far as the models here have them.
_MAC_OPS = """
    Attention Conv ConvInteger ConvTranspose DeformConv Einsum FusedMatMul GRU Gemm LSTM MatMul MatMulInteger
    MatMulNBits MultiHeadAttention QLinearConv QLinearMatMul RNN
"""
MAC_OPS = frozenset(_MAC_OPS.split())


class Line(NamedTuple):
    """All executions of one node with the same shapes. ``ours`` are FLOPs of one of them, ``theirs`` its "MACs"."""

    node: Node
    inputs: dict[int, Shape]  # by formal position; a missing one has no entry
    output: Shape
    executions: int
    ours: int
    theirs: int

    @property
    def macs(self) -> float:
        """Ours, of one execution."""
        return self.ours / 2


class Tally(NamedTuple):
    """One model. ``stopped`` is what ended onnx-tool's own shape inference, or ``None``."""

    name: str
    lines: tuple[Line, ...]
    stopped: str | None

    @property
    def mac_lines(self) -> list[Line]:
        """The lines that count in the comparison of multiply-accumulates."""
        return [line for line in self.lines if line.node.op_type in MAC_OPS]

    def ours(self) -> float:
        """Our multiply-accumulates of the inference."""
        return sum(line.macs * line.executions for line in self.mac_lines)

    def theirs(self) -> int:
        """onnx-tool's."""
        return sum(line.theirs * line.executions for line in self.mac_lines)


def tally(name: str, path: Path) -> Tally:
    """Count the model at ``path`` with both."""
    study = studies.make(probing.spec(path), 1)
    model = models.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nodes that onnx-tool does not know, and there is a row for these
        try:
            counted, stopped = _whole(model, study), None
        except Exception as error:
            counted, stopped = {}, _said(error)
        return Tally(name, tuple(_lines(study, _protos(model.proto.graph), counted)), stopped)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _whole(model: models.Model, study: Study) -> dict[str, int]:
    """Each node of a graph without bodies, shapes and counts by onnx-tool."""
    session = ort.InferenceSession(model.source(), providers=CPU)
    feeds = Corpus(None, signature(session), study.assumed).load(0)
    graph = onnx_tool.Model(model.proto).graph
    graph.graph_reorder_nodes()
    graph.shape_infer(dict(feeds))
    graph.profile()
    return {name: int(node.macs[0]) for name, node in graph.nodemap.items()}


def _lines(study: Study, protos: dict[str, onnx.NodeProto], counted: dict[str, int]) -> Iterator[Line]:
    for execution in study.runs[0]:
        node = study.nodes[execution.node]
        if kind(node.op_type, node.domain) != "arithmetic":
            continue
        ours = flops(node, execution.inputs, execution.outputs)
        assert ours is not None, node
        given = [position for position, name in enumerate(node.inputs) if name]
        inputs = {position: shape for position, shape in zip(given, execution.inputs, strict=True) if shape is not None}
        outputs = [shape for shape in execution.outputs if shape is not None]
        theirs = counted[node.name] if counted else _alone(protos[node.name], inputs, outputs)
        yield Line(node, inputs, outputs[0], execution.count, ours, theirs)


def _alone(proto: onnx.NodeProto, inputs: dict[int, Shape], outputs: list[Shape]) -> int:
    """One node by onnx-tool's formula for it."""
    before = [_tensor(name, inputs.get(position)) for position, name in enumerate(proto.input)]
    after = [_tensor(name, shape) for name, shape in zip(filter(None, proto.output), outputs, strict=True)]
    return int(create_node(proto).profile(before, after)[0])


def _tensor(name: str, shape: Shape | None) -> Tensor:
    tensor = Tensor(name)
    if shape is not None:
        tensor.update_shape(list(shape))
    return tensor


def _protos(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    found = {}
    for node in graph.node:
        found[node.name] = node
        for _, body in models.bodies(node):
            found |= _protos(body)
    return found
