"""The study: what a model computes, established once on the CPU, independent of any accelerator.

(a) The named copy runs with every optimization off and without prepacking, profiled: original node names, actual shapes,
the branches really taken, loop counts. (b) The same copy is saved at the basic optimization level: the graph that the
runtime partitions among execution providers. The analysis joins both with the placement (DESIGN, "value cover").
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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

_MARK = "npumon_mark_"
_BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
_NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def make(spec: Spec, runs: int) -> Study:
    """Study the model of ``spec`` over up to ``runs`` samples.

    Raises :class:`MeasureError`: ``model_missing``, ``model_invalid``, ``dims_unknown``, ``input_unusable`` as they are,
    ``study_failed`` where the CPU cannot run the model.
    """
    model = models.load(Path(spec.path))
    nodes = model.nodes()
    with tempfile.TemporaryDirectory(prefix="npumon-study-") as scratch:
        folder = Path(scratch)
        corpus, assumed = _feedable(spec, model)
        recorded = _record(spec, model, corpus, runs, folder)
        notes: list[str] = []
        recorded = _with_expanded(spec, model, nodes, corpus, recorded, folder)
        partitioned, constants, inputs, outputs = _partitioned(spec, model, folder)
    if assumed:
        sizes = ", ".join(f"{name}={size}" for name, size in assumed.items())
        notes.append(f"free dimensions of the synthesized inputs: {sizes}")
    return Study(
        model_sha256=model.sha256,
        dims=dict(spec.dims),
        samples=corpus.facts.source,
        assumed=assumed,
        nodes=nodes,
        runs=tuple(_executions(nodes, events) for events in recorded),
        partitioned=partitioned,
        constants=constants,
        inputs=inputs,
        outputs=outputs,
        onnxruntime=ort.__version__,
        notes=tuple(notes),
    )


def _options(spec: Spec, model: Model, level: Any) -> Any:
    so = session_options(spec, model)
    so.graph_optimization_level = level
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


def _record(
    spec: Spec, model: Model, corpus: Corpus, runs: int, folder: Path
) -> list[list[TraceEvent]]:
    """Node events of each run, under the original names."""
    so = _options(spec, model, _NONE)
    so.add_session_config_entry("session.disable_prepacking", "1")
    so.enable_profiling = True
    so.profile_file_prefix = str(folder / "study")
    session = _session(spec, model, so)
    count = min(runs, len(corpus))
    for index in range(count):
        run_once(session, corpus.load(index))
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

    A second, unoptimized run of a copy in which each of them is followed by a named Identity tells how often it ran and
    with which output shape; its input shapes are those of the values' producers.
    """
    seen = {event.node for events in recorded for event in events}
    lost = [node for node in nodes if node.name not in seen and _is_function(node, model)]
    if not lost:
        return recorded
    marked = onnx.ModelProto()
    marked.CopyFrom(model.proto)
    names = {node.name for node in lost}
    _mark(marked.graph, names)
    copy = Model(model.path, model.sha256, marked, renamed=True)
    again = _record(spec, copy, corpus, len(recorded), folder)
    by_name = {node.name: node for node in lost}
    return [_restored(nodes, by_name, events) for events in again]


def _is_function(node: Node, model: Model) -> bool:
    version = next((o.version for o in model.proto.opset_import if o.domain in (node.domain, "ai.onnx")), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return node.domain != ""  # a runtime's own op: its schema may have a body that onnx does not know
    return bool(schema.has_function or schema.has_context_dependent_function)


def _mark(graph: onnx.GraphProto, names: set[str]) -> None:
    position = 0
    while position < len(graph.node):
        node = graph.node[position]
        for _, body in models.bodies(node):
            _mark(body, names)
        position += 1
        if node.name in names:
            mark = onnx.helper.make_node("Identity", [node.output[0]], [_MARK + node.output[0]], name=_MARK + node.name)
            graph.node.insert(position, mark)
            position += 1


def _restored(
    nodes: tuple[Node, ...], lost: Mapping[str, Node], events: list[TraceEvent]
) -> list[TraceEvent]:
    """``events`` with each mark replaced by the event of the node that it marks."""
    producers = {node.name: node for node in nodes}
    shapes: dict[str, Shape | None] = {}
    for event in events:
        node = producers.get(event.node)
        if node:
            shapes.update(zip((o for o in node.outputs if o), event.outputs(), strict=False))
            present = [name for name in node.inputs if name]
            shapes.update(zip(present, event.inputs(), strict=False))
        elif event.node.startswith(_MARK) and event.outputs():
            shapes[lost[event.node.removeprefix(_MARK)].outputs[0]] = event.outputs()[0]
    restored = []
    for event in events:
        if event.node.startswith(_MARK):
            node = lost[event.node.removeprefix(_MARK)]
            event = TraceEvent("Node", f"{node.name}_kernel_time", event.ts, event.dur)
            event.args.op_name = node.op_type
            event.args.input_type_shape = _raw([shapes.get(name) for name in node.inputs if name])
            event.args.output_type_shape = _raw([shapes.get(name) for name in node.outputs if name])
        restored.append(event)
    return restored


def _raw(shapes: Iterable[Shape | None]) -> Any:
    import msgspec

    return msgspec.Raw(msgspec.json.encode([{} if shape is None else {"": shape} for shape in shapes]))


def _executions(nodes: tuple[Node, ...], events: Iterable[TraceEvent]) -> tuple[Execution, ...]:
    index = {node.name: position for position, node in enumerate(nodes)}
    counts: Counter[tuple[int, Any, Any]] = Counter()
    for event in events:
        position = index.get(event.node)
        if position is not None:
            counts[position, event.inputs(), event.outputs()] += 1
    return tuple(Execution(node, inputs, outputs, count) for (node, inputs, outputs), count in counts.items())


def _partitioned(
    spec: Spec, model: Model, folder: Path
) -> tuple[tuple[Node, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The graph that is partitioned: nodes, constants, and the main graph's inputs and outputs."""
    deployed = session_options(spec, model).graph_optimization_level
    so = _options(spec, model, _NONE if deployed == _NONE else _BASIC)
    path = folder / "partitioned.onnx"
    so.optimized_model_filepath = str(path)
    _session(spec, model, so)
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = tuple(models.constants(graph))
    known = set(constants)
    inputs = tuple(value.name for value in graph.input if value.name not in known)
    return tuple(models.walk(graph)), constants, inputs, tuple(value.name for value in graph.output)
