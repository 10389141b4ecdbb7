"""Reads a model file and makes the copy whose every node can be followed through the runtime.

The runtime reports placement and profile by node name. Published models often have unnamed or repeated names, and then
nothing joins. The *named copy* is the same model, in memory, with local functions inlined and node, body-value and
body-graph names made unique over all scopes. The main graph's name stays (partition names hash it). Measured on 86
sessions of published models: no change of placement, none of latency beyond noise (DESIGN, section 2).
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from monitor.errors import MeasureError
from monitor.probe import deployed
from monitor.records import Failure, Node

_TOKEN = re.compile(r"_token_\d+$")  # the layout transformer's suffix: a name that ends so would be mistaken for one
_LONGEST_LIST = 64
_LONGEST_STRING = 256


class Model:
    """One model file: its hash, the named copy, and the copy's nodes as plain records.

    ``renamed`` tells whether the copy differs from the file; if it does not, sessions load the file itself, as the
    application does.
    """

    def __init__(self, path: Path, sha256: str, proto: ModelProto, renamed: bool) -> None:
        self.path = path
        self.sha256 = sha256
        self.proto = proto
        self.renamed = renamed

    def source(self) -> str | bytes:
        """What a session is made from: the path, or the named copy's bytes."""
        return self.proto.SerializeToString() if self.renamed else str(self.path)

    @cached_property
    def external(self) -> tuple[str, ...]:
        """Locations of the files that hold the weights, as the model gives them, relative to its folder."""
        locations = {
            entry.value
            for tensor in _all_tensors(self.proto.graph)
            if tensor.data_location == TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
        return tuple(sorted(locations))

    @property
    def self_contained(self) -> bool:
        """Whether all those files really lie below the model's folder, where the runtime may follow links."""
        folder = self.path.parent.resolve()
        return all((self.path.parent / location).resolve().is_relative_to(folder) for location in self.external)

    @cached_property
    def mapped(self) -> tuple[mmap.mmap, ...]:
        """The contents of the ``external`` files. Raises :class:`MeasureError` (``model_missing``)."""
        maps = []
        for location in self.external:
            path = self.path.parent / location
            try:
                with path.open("rb") as file:
                    maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", "") or str(error)
                raise MeasureError(deployed.unreadable(path, why)) from error
        return tuple(maps)

    def nodes(self) -> tuple[Node, ...]:
        """All nodes of all scopes, bodies after the control node that holds them."""
        return tuple(walk(self.proto.graph))

    def contexts(self) -> tuple[NodeProto, ...]:
        """The precompiled parts, opaque to everyone but their provider; empty for an ordinary model."""
        return tuple(node for node in _all_nodes(self.proto.graph) if node.op_type == "EPContext")

    def edges(self) -> tuple[str, ...]:
        """Names of the Q/DQ nodes that read a graph input or make a graph output."""
        inputs = {value.name for value in self.proto.graph.input}
        outputs = {value.name for value in self.proto.graph.output}
        return tuple(
            node.name
            for node in self.proto.graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
            and (node.input[0] in inputs or node.output[0] in outputs)
        )

    def free_dimensions(self) -> dict[str, tuple[int | str | None, ...]]:
        """Shape of each true input (initializers left out): numbers, names of free dimensions, or ``None``."""
        initialized = {tensor.name for tensor in self.proto.graph.initializer}
        return {v.name: _shape(v) for v in self.proto.graph.input if v.name not in initialized}


def load(path: Path) -> Model:
    """Load ``path`` and make its named copy; external data stays where it is.

    Raises :class:`MeasureError` with ``model_missing`` or ``model_invalid``.
    """
    data = deployed.read(path)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises its own, undocumented kinds
        raise MeasureError(_invalid(path, "it does not parse as ONNX (truncated?)")) from error
    del data
    if not proto.graph.node:
        raise MeasureError(_invalid(path, "it holds no graph (truncated, or not ONNX)"))
    repeated = _repeated(proto.graph)
    if repeated is not None:
        detail = f"{path}: two nodes of one graph are called {repeated}, and the runtime refuses that"
        raise MeasureError(Failure("model_invalid", detail, "export the model again, or rename one of them"))
    deployed.check_external(path, _all_tensors(proto.graph))
    for node in _all_nodes(proto.graph):
        if node.op_type == "EPContext":
            deployed.check_context(path, node)
    inlined = bool(proto.functions)
    if inlined:
        proto = onnx.inliner.inline_local_functions(proto)
    renamed = _Namer(proto.graph).run()
    return Model(path, sha256, proto, renamed=inlined or renamed)


def walk(graph: GraphProto, scope: str = "") -> Iterator[Node]:
    """Plain records of ``graph``'s nodes and of those of its bodies."""
    for node in graph.node:
        yield Node(
            name=node.name,
            op_type=node.op_type,
            domain="" if node.domain == "ai.onnx" else node.domain,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            scope=scope,
            attributes={a.name: value for a in node.attribute if (value := _plain(a)) is not None},
        )
        for attribute, body in bodies(node):
            yield from walk(body, f"{node.name}/{attribute}")


def bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that ``node`` holds, with the attribute that holds each."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for index, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{index}]", graph


def constants(graph: GraphProto) -> Iterator[str]:
    """Names of all initializers, over all scopes."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        for _, body in bodies(node):
            yield from constants(body)


def _invalid(path: Path, why: str) -> Failure:
    return Failure("model_invalid", f"{path}: {why}", "copy the model to the board again and compare its checksum")


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else (d.dim_param or None) for d in dims
    )


def _plain(attribute: AttributeProto) -> Any:
    """The attribute as a number, string or list (cut if long); a body as its outputs; ``None`` for tensors."""
    kind = attribute.type
    if kind in (AttributeProto.INT, AttributeProto.FLOAT):
        return attribute.i if kind == AttributeProto.INT else attribute.f
    if kind == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")[:_LONGEST_STRING]
    if kind == AttributeProto.INTS:
        return list(attribute.ints[:_LONGEST_LIST])
    if kind == AttributeProto.FLOATS:
        return list(attribute.floats[:_LONGEST_LIST])
    if kind == AttributeProto.STRINGS:
        return [s.decode("utf-8", "replace")[:_LONGEST_STRING] for s in attribute.strings[:_LONGEST_LIST]]
    if kind == AttributeProto.GRAPH:
        return [value.name for value in attribute.g.output]
    return None


class _Namer:
    """Makes names unique over all scopes of one graph, in place."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.changed = False
        self.nodes: set[str] = set()
        self.values: set[str] = set()
        self.graphs: set[str] = {graph.name}
        self.reserved = {node.name for node in _all_nodes(graph)}
        self.all_values = set(_all_values(graph))

    def run(self) -> bool:
        """True if anything had to be renamed."""
        self._name_nodes(self.graph)
        self.values.update(_defined(self.graph))
        self._name_bodies(self.graph, {})
        return self.changed

    def _name_nodes(self, graph: GraphProto) -> None:
        for index, node in enumerate(graph.node):
            if not node.name or node.name in self.nodes or _TOKEN.search(node.name):
                node.name = self._fresh(f"{node.op_type}_{index}", self.reserved)
                self.changed = True
            self.nodes.add(node.name)
            for _, body in bodies(node):
                self._name_nodes(body)

    def _name_bodies(self, graph: GraphProto, renames: dict[str, str]) -> None:
        """Rewrite references in ``graph`` by ``renames``, then make its bodies' own values and names unique."""
        for node in graph.node:
            _replace(node.input, renames)
            _replace(node.output, renames)
            for _, body in bodies(node):
                if not body.name or body.name in self.graphs:
                    body.name = self._fresh(f"{body.name or 'body'}_{node.name}", self.graphs)
                    self.changed = True
                self.graphs.add(body.name)
                own = _defined(body)
                inner = {old: new for old, new in renames.items() if old not in own}
                for name in own:
                    if name in self.values:
                        inner[name] = self._fresh(f"{name}_{node.name}", self.all_values)
                        self.changed = True
                    self.values.add(inner.get(name, name))
                _rename_values(body, inner)
                self._name_bodies(body, inner)

    @staticmethod
    def _fresh(stem: str, taken: set[str]) -> str:
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        return name


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for _, body in bodies(node):
            yield from _all_nodes(body)


def _repeated(graph: GraphProto) -> str | None:
    """A name that two nodes of one graph share, or ``None``.

    Between scopes names may repeat. Here the named copy would heal the model, and npumon would run what the application
    cannot.
    """
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type == "Constant":
            continue  # the runtime makes initializers of these before it looks at names
        if node.name in seen:
            return str(node.name)
        if node.name:
            seen.add(node.name)
        for _, body in bodies(node):
            if (found := _repeated(body)) is not None:
                return found
    return None


def _all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and tensor attributes of all scopes."""
    yield from graph.initializer
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)
        for _, body in bodies(node):
            yield from _all_tensors(body)


def _all_values(graph: GraphProto) -> Iterator[str]:
    yield from _defined(graph)
    for node in graph.node:
        for _, body in bodies(node):
            yield from _all_values(body)


def _defined(graph: GraphProto) -> dict[str, None]:
    """The values that ``graph`` itself defines, in order (a set that keeps its order)."""
    names = [v.name for v in graph.input]
    names += [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    names += [name for node in graph.node for name in node.output if name]
    return dict.fromkeys(names)


def _rename_values(graph: GraphProto, renames: dict[str, str]) -> None:
    """Rename what stands in ``graph`` outside its nodes."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renames.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = renames.get(sparse.values.name, sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = renames.get(annotation.tensor_name, annotation.tensor_name)


def _replace(names: Any, renames: dict[str, str]) -> None:
    for index, name in enumerate(names):
        if name in renames:
            names[index] = renames[name]
