"""Makes the onnxruntime session as the application makes it, and records where its nodes were placed.

Everything the application could set goes through verbatim: EP options, SessionOptions attributes, session config
entries, free dimension overrides. What npumon adds: recording of placement, a verbose log, and no silent fallback.

The provider gives its reasons only to a verbose session, and the level cannot be lowered afterwards. Runs are quiet but
for the provider's own lines about each tensor at a partition's edge, some 4 us each: nothing on most models, 0.2 ms on
swift-f0's partition of 17 tensors (measured with onnxruntime-qnn 2.7 on x86-64).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import onnxruntime as ort

from monitor.errors import MeasureError
from monitor.probe.model import Model
from monitor.probe.provider import Context, LogLine, Provider, one_line
from monitor.records import Failure, Fault, Placed, Rejection, Runtime, Tensor
from monitor.wire import Spec

_ENUMS: dict[str, Any] = {
    "graph_optimization_level": ort.GraphOptimizationLevel,
    "execution_mode": ort.ExecutionMode,
    "execution_order": ort.ExecutionOrder,
}
CPU = ["CPUExecutionProvider"]
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_CONTEXT_FILE = "ep.context_file_path"  # beside it lies what a context loaded from memory refers to


class Created:
    """A live session with what was learned while it was created."""

    def __init__(self, session: Any, log: Log, runtime: Runtime, faults: tuple[Fault, ...], seconds: float) -> None:
        self.session = session
        self.runtime = runtime
        self.faults = faults
        self.rejections: tuple[Rejection, ...] = log.rejections
        self.create_seconds = seconds


class Log:
    """Collects the runtime's log lines that matter while a session is created."""

    rejections: tuple[Rejection, ...] = ()

    def __init__(self, wants: Callable[[LogLine], bool]) -> None:
        self._wants = wants
        self._lines: list[LogLine] = []

    def __enter__(self) -> Log:
        ort.set_default_logger_callback(self._receive, 0)
        return self

    def __exit__(self, *_: object) -> None:
        ort.set_default_logger_callback(self._discard, 3)

    def _receive(self, severity: int, _category: str, _logid: str, location: str, message: str) -> None:
        line = LogLine(severity, location, message)
        if self._wants(line):
            self._lines.append(line)

    @staticmethod
    def _discard(*_: object) -> None:
        """Later lines would only repeat what exceptions say."""

    @property
    def lines(self) -> list[LogLine]:
        return self._lines


def create(spec: Spec, model: Model, provider: Provider, profile_prefix: str) -> Created:
    """The EP's session for ``model``; profiled from birth, to be ended by the audit.

    Raises :class:`MeasureError` with ``provider_missing``, ``dims_unknown`` or ``session_failed``.
    """
    devices = provider.devices()
    options = provider.options(spec.options)
    foreign = provider.context_faults(contexts_of(model), spec.options)
    faults = [*provider.ignored_options(spec.options), *foreign]
    so = session_options(spec, model)
    so.log_severity_level = 0
    so.enable_profiling = True
    so.profile_file_prefix = profile_prefix
    so.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if devices:
        so.add_provider_for_devices(devices[:1], options)
    else:
        faults.append(
            Fault(
                "not_on_hardware",
                f"the execution provider {provider.name} finds no device on this machine",
                "run on a board with the accelerator, and check its device nodes and their permissions",
            )
        )
    log = Log(provider.wants)
    start = time.perf_counter()
    try:
        with log:
            session = ort.InferenceSession(model.source(), so)
    except Exception as error:
        raise MeasureError(_not_created(spec, model, provider, log, foreign, error)) from error
    seconds = time.perf_counter() - start
    session.disable_fallback()
    reading = provider.read_log(log.lines)
    log.rejections = reading.rejections
    faults += reading.faults
    came_up = bool(devices) and not any(f.kind == "accelerator_unavailable" for f in faults)
    runtime = Runtime(
        provider=provider.name,
        target=provider.target(devices) if came_up else "cpu",
        onnxruntime=ort.__version__,
        provider_version=provider.version(),
        backend_version=reading.backend_version,
        machine=platform.machine(),
        options=dict(spec.options),
    )
    return Created(session, log, runtime, tuple(faults), seconds)


def contexts_of(model: Model) -> list[Context]:
    """The model's precompiled parts, as its provider wants to see them; the binary itself stays out."""
    metadata = {entry.key: entry.value for entry in model.proto.metadata_props}
    return [
        Context(
            {a.name: a.s.decode("utf-8", "replace") for a in node.attribute if a.s and a.name != "ep_cache_context"},
            metadata,
        )
        for node in model.contexts()
    ]


def session_options(spec: Spec, model: Model) -> Any:
    """SessionOptions as the application sets them, over the named copy.

    Raises :class:`MeasureError`: ``dims_unknown`` for an override that the model does not have (the runtime would
    ignore it silently), ``session_failed`` for a setting that does not exist.
    """
    so = ort.SessionOptions()
    for key, value in spec.session.items():
        if "." in key:
            so.add_session_config_entry(key, _text(value))
        else:
            _set_attribute(so, key, value)
    known = {d for shape in model.free_dimensions().values() for d in shape if isinstance(d, str)}
    for name, size in spec.dims.items():
        if name not in known:
            has = ", ".join(sorted(known)) or "none with a name"
            raise MeasureError(
                Failure("dims_unknown", f"{spec.path}: dims.{name}: no such free dimension", f"the model has: {has}")
            )
        so.add_free_dimension_override_by_name(name, size)
    if model.renamed and model.external:
        _hand_over(so, model)
    if model.renamed and model.contexts() and _CONTEXT_FILE not in spec.session:
        so.add_session_config_entry(_CONTEXT_FILE, str(model.path))
    return so


def _hand_over(so: Any, model: Model) -> None:
    """Tell the runtime where the named copy's weights are; loading a path, it would have found them by itself.

    It takes a folder, but follows no link out of it (model hubs' caches are such links), or the files' contents, but no
    initializer above 2 GiB then (both measured with onnxruntime 1.32).
    """
    sizes = [len(contents) for contents in model.mapped]  # a missing file is told by its name
    if model.self_contained:
        so.add_session_config_entry(_EXTERNAL_FOLDER, str(model.path.parent))
    else:
        so.add_external_initializers_from_files_in_memory(list(model.external), list(model.mapped), sizes)


def placement(session: Any, ep_name: str) -> tuple[Placed, ...]:
    """Where the runtime placed every node; each accelerator unit is one partition."""
    return tuple(
        Placed(node.name, node.op_type, node.domain, "accelerator" if unit.ep_name == ep_name else "cpu", number)
        for number, unit in enumerate(session.get_provider_graph_assignment_info())
        for node in unit.get_nodes()
    )


def signature(session: Any) -> tuple[Tensor, ...]:
    """Inputs as the session wants them; free dimensions by name, or ``None``."""
    return tuple(
        Tensor(
            value.name,
            value.type,
            tuple(
                d if isinstance(d, int) and d >= 0 else (d if isinstance(d, str) and d else None) for d in value.shape
            ),
        )
        for value in session.get_inputs()
    )


def _set_attribute(so: Any, key: str, value: Any) -> None:
    if not hasattr(so, key):
        raise MeasureError(
            Failure(
                "session_failed",
                f"session.{key}: SessionOptions has no such attribute",
                "correct the name; a session config entry has a dot in its name",
            )
        )
    if key in _ENUMS:
        value = getattr(_ENUMS[key], str(value), value)
    try:
        setattr(so, key, value)
    except (TypeError, AttributeError) as error:  # AttributeError: a method, not an attribute
        allowed = f"one of {', '.join(_ENUMS[key].__members__)}" if key in _ENUMS else "another type of value"
        raise MeasureError(
            Failure("session_failed", f"session.{key}: {value!r} is refused", f"write {allowed}")
        ) from error


def _text(value: str | float | bool) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)


def _not_created(
    spec: Spec, model: Model, provider: Provider, log: Log, foreign: list[Fault], error: Exception
) -> Failure:
    detail = f"{spec.path}: {one_line(error)}"
    read = provider.read_log(log.lines).faults
    down = next((fault for fault in read if fault.kind == "accelerator_unavailable"), None)
    if down is not None:
        return Failure("session_failed", f"{detail}: {down.message}", down.mend, "accelerator_unavailable")
    context = next((fault for fault in (*foreign, *read) if fault.kind.startswith("context")), None)
    if context is not None or model.contexts():
        said = f"{detail}: {context.message}" if context else detail
        mend = context.mend if context else provider.context_mend(detail)
        return Failure("session_failed", said, mend, "context_mismatch")
    if type(error).__name__ in ("InvalidProtobuf", "NoModel", "InvalidGraph"):
        return Failure("model_invalid", detail, "copy the model to the board again and compare its checksum")
    mend = "try another soc_model or fix the model; the message is the runtime's own"
    return Failure("session_failed", detail, mend)
