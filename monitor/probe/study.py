"""The study: what a model computes, established once on the CPU, independent of any accelerator.

(a) The named copy runs with every optimization off and without prepacking, profiled: original node names, actual
shapes, the branches really taken, loop counts. (b) The same copy is saved at the basic optimization level: the
graph that the runtime partitions among execution providers. The analysis joins both with the placement (DESIGN,
"value cover").
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx
import onnxruntime as ort

from monitor.errors import MeasureError
from monitor.probe import model as models
from monitor.probe.model import Model
from monitor.probe.provider import one_line
from monitor.probe.replay import run_once
from monitor.probe.samples import Corpus, assumptions
from monitor.probe.session import CPU, session_options, signature
from monitor.probe.trace import Trace, TraceEvent
from monitor.records import Execution, Failure, Node, Shape, Study
from monitor.wire import Spec

# The runtime calls expanded nodes Mul_5 and the like in its profile, as exporters call theirs; nobody writes these.
_MARKED = re.compile(r"(?:_inlfunc_SequenceMap_)*npumon:(?:node|output|input(?P<index>\d+)):(?P<node>.*)", re.DOTALL)
# A SequenceMap becomes a Loop around its body's nodes, which get this before their names.
_MAPPED = re.compile(r"(?:_inlfunc_SequenceMap_)+")
BUDGET = 5.0  # seconds after which no further sample is run
_BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
_NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def make(spec: Spec, runs: int) -> Study:
    """Study the model of ``spec`` over up to ``runs`` samples.

    Raises :class:`MeasureError`: ``model_missing``, ``model_invalid``, ``dims_unknown``, ``input_unusable`` as they
    are, ``study_failed`` where the CPU cannot run the model.
    """
    deployed = models.load(Path(spec.path))
    model = deployed
    if deployed.contexts():
        if spec.source is None:
            raise MeasureError(_opaque(spec))
        model = models.load(Path(spec.source))
        spec = _of_source(spec, model)
    nodes = model.nodes()
    with tempfile.TemporaryDirectory(prefix="npumon-study-") as scratch:
        folder = Path(scratch)
        corpus, assumed = _feedable(spec, model)
        recorded = _record(spec, model, corpus, runs, folder)
        notes: list[str] = []
        recorded = _with_expanded(spec, model, nodes, corpus, recorded, folder)
        # a context was partitioned when it was compiled, at a level nobody knows: its own leftovers tell, not a new try
        partitioned = _graph(deployed.proto.graph) if deployed is not model else _partitioned(spec, model, folder)
    if assumed:
        sizes = ", ".join(f"{name}={size}" for name, size in assumed.items())
        notes.append(f"free dimensions of the synthesized inputs: {sizes}")
    return Study(
        model_sha256=deployed.sha256,
        dims=dict(spec.dims),
        samples=corpus.facts.source,
        assumed=assumed,
        nodes=nodes,
        runs=tuple(_executions(nodes, events) for events in recorded),
        partitioned=partitioned.nodes,
        constants=partitioned.constants,
        inputs=partitioned.inputs,
        outputs=partitioned.outputs,
        onnxruntime=ort.__version__,
        notes=tuple(notes),
    )


def _opaque(spec: Spec) -> Failure:
    detail = f"{spec.path}: a precompiled context does not tell what it computes"
    return Failure("study_failed", detail, "give the model that it was compiled from (models.source, or --source)")


def _of_source(spec: Spec, source: Model) -> Spec:
    """The spec of the model that a context was compiled from: its file, and of the dims those that it has."""
    known = {d for shape in source.free_dimensions().values() for d in shape if isinstance(d, str)}
    dims = {name: size for name, size in spec.dims.items() if name in known}
    return msgspec.structs.replace(spec, path=str(source.path), dims=dims)


def _options(spec: Spec, model: Model, level: Any) -> Any:
    so = session_options(spec, model)
    so.graph_optimization_level = level
    so.add_session_config_entry("session.disable_cpu_ep_fallback", "0")  # here the CPU is no fallback
    so.log_severity_level = 4
    return so


def _session(spec: Spec, model: Model, so: Any) -> Any:
    try:
        return ort.InferenceSession(model.source(), so, providers=CPU)
    except Exception as error:
        kind = type(error).__name__
        if kind in ("InvalidProtobuf", "NoModel", "InvalidGraph", "NoSuchFile"):
            mend = "copy the model to the board again and compare its checksum"
            raise MeasureError(Failure("model_invalid", f"{spec.path}: {one_line(error)}", mend)) from error
        raise MeasureError(_failed(spec, f"the CPU cannot load it: {one_line(error)}")) from error


def _failed(spec: Spec, why: str) -> Failure:
    return Failure("study_failed", f"{spec.path}: {why}", "FLOP shares stay absent; the placement is still reported")


def _feedable(spec: Spec, model: Model) -> tuple[Corpus, dict[str, int]]:
    """Samples that the model accepts; for synthesized ones the free dimensions that work are found by trying."""
    session = _session(spec, model, _options(spec, model, _NONE))
    wanted = signature(session)
    if spec.samples is not None:
        return Corpus(Path(spec.samples), wanted, {}), {}
    reason = "no attempt was made"
    for assumed in assumptions(wanted):
        corpus = Corpus(None, wanted, assumed)
        try:
            run_once(session, corpus.load(0))
        except MeasureError as error:
            reason = error.failure.detail
            continue
        return corpus, assumed
    detail = f"{spec.path}: no synthesized input works; the last attempt: {one_line(reason, 160)}"
    raise MeasureError(Failure("input_unusable", detail, "give real inputs (models.samples, or --samples)"))


def _record(spec: Spec, model: Model, corpus: Corpus, runs: int, folder: Path) -> list[list[TraceEvent]]:
    """Node events of each run, under the original names."""
    so = _options(spec, model, _NONE)
    so.add_session_config_entry("session.disable_prepacking", "1")
    so.enable_profiling = True
    so.profile_file_prefix = str(folder / "study")
    session = _session(spec, model, so)
    count, start = 0, time.monotonic()
    for _, feeds in corpus.first(runs):
        if count and time.monotonic() - start > BUDGET:
            break
        run_once(session, feeds)
        count += 1
    profile = Path(session.end_profiling())
    trace = Trace(profile, count)
    recorded = list(trace.runs())
    profile.unlink()
    if trace.partial:
        raise MeasureError(_failed(spec, trace.partial))
    return recorded


def _with_expanded(
    spec: Spec, model: Model, nodes: tuple[Node, ...], corpus: Corpus, recorded: list[list[TraceEvent]], folder: Path
) -> list[list[TraceEvent]]:
    """Add events for nodes that the runtime expanded into their schema's function body, which loses their names.

    A second, unoptimized run of a copy in which a named Identity stands at each of their inputs and behind their first
    output tells how often they ran, and with which shapes.
    """
    seen = {event.node for events in recorded for event in events}
    lost = {node.name for node in nodes if node.name not in seen and _is_function(node, model)}
    if not lost:
        return recorded
    marked = onnx.ModelProto()
    marked.CopyFrom(model.proto)
    _mark(marked.graph, lost)
    copy = Model(model.path, model.sha256, marked, renamed=True)
    return [_restored(events) for events in _record(spec, copy, corpus, len(recorded), folder)]


def _is_function(node: Node, model: Model) -> bool:
    version = next((o.version for o in model.proto.opset_import if o.domain in (node.domain, "ai.onnx")), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return node.domain != ""  # a runtime's own op: its schema may have a body that onnx does not know
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def _mark(graph: onnx.GraphProto, lost: set[str]) -> None:
    """Give every node a name that :data:`_MARKED` reads, and those in ``lost`` their Identities."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for _, body in models.bodies(node):
            _mark(body, lost)
        name, node.name = node.name, f"npumon:node:{node.name}"
        if name not in lost:
            graph.node.append(node)
            continue
        inputs = [(index, value) for index, value in enumerate(node.input) if value]
        graph.node.extend(_identity(value, f"npumon:input{index}:{name}") for index, value in inputs)
        graph.node.append(node)
        graph.node.append(_identity(node.output[0], f"npumon:output:{name}"))


def _identity(value: str, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Identity", [value], [name], name=name)


def _restored(events: Iterable[TraceEvent]) -> list[TraceEvent]:
    """Events of the model's own nodes, under their own names; those of expanded nodes are made of their marks'."""
    own = [(found, event) for event in events if (found := _MARKED.fullmatch(event.node))]
    fed: dict[str, dict[int, Shape | None]] = defaultdict(dict)
    for found, event in own:
        if found["index"]:
            fed[found["node"]][int(found["index"])] = next(iter(event.outputs()), None)
    restored = []
    for found, event in own:
        if found["index"]:
            continue
        event.name = f"{found['node']}_kernel_time"
        if inputs := fed.get(found["node"]):
            event.args.input_type_shape = _raw(inputs[index] for index in sorted(inputs))
        restored.append(event)
    return restored


def _raw(shapes: Iterable[Shape | None]) -> Any:
    import msgspec

    return msgspec.Raw(msgspec.json.encode([{} if shape is None else {"": shape} for shape in shapes]))


def _executions(nodes: tuple[Node, ...], events: Iterable[TraceEvent]) -> tuple[Execution, ...]:
    index = {node.name: position for position, node in enumerate(nodes)}
    counts: Counter[tuple[int, Any, Any]] = Counter()
    for event in events:
        position = index.get(event.node, index.get(_MAPPED.sub("", event.node)))
        if position is not None:
            counts[position, event.inputs(), event.outputs()] += 1
    return tuple(Execution(node, inputs, outputs, count) for (node, inputs, outputs), count in counts.items())


class _Graph(NamedTuple):
    """A graph with placed nodes: nodes, constants, and the main graph's inputs and outputs."""

    nodes: tuple[Node, ...]
    constants: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _partitioned(spec: Spec, model: Model, folder: Path) -> _Graph:
    """The graph that the runtime hands to the execution providers."""
    deployed = session_options(spec, model).graph_optimization_level
    so = _options(spec, model, _NONE if deployed == _NONE else _BASIC)
    path = folder / "partitioned.onnx"
    so.optimized_model_filepath = str(path)
    # only the graph is of interest; weights beyond protobuf's 2 GiB would not fit into one file with it
    so.add_session_config_entry("session.optimized_model_external_initializers_file_name", "partitioned.bin")
    so.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    _session(spec, model, so)
    return _graph(onnx.load(str(path), load_external_data=False).graph)


def _graph(graph: onnx.GraphProto) -> _Graph:
    constants = tuple(models.constants(graph))
    known = set(constants)
    inputs = tuple(value.name for value in graph.input if value.name not in known)
    return _Graph(tuple(models.walk(graph)), constants, inputs, tuple(value.name for value in graph.output))
