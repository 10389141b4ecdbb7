"""Reads onnxruntime's profile, as a stream: one event a line, so that a profile of any size costs little memory.

Format as measured with onnxruntime 1.32: a JSON array with one object per line; node events are called
``<node name>_kernel_time`` and carry op, provider and shapes; a ``model_run`` event closes each inference; the event of
a control-flow node spans those of its body, which stand before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from monitor.records import Profile, Shape, Span

MOST_EVENTS = 1_000_000  # the runtime's own cap: what lies beyond is lost
_SUFFIX = "_kernel_time"
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


class _Args(Struct):
    op_name: str = ""
    provider: str = ""
    input_type_shape: msgspec.Raw = msgspec.Raw(b"[]")
    output_type_shape: msgspec.Raw = msgspec.Raw(b"[]")


class TraceEvent(Struct):
    """One line of the profile. ``ts`` and ``dur`` are microseconds."""

    cat: str = ""
    name: str = ""
    ts: int = 0
    dur: int = 0
    args: _Args = msgspec.field(default_factory=_Args)

    @property
    def node(self) -> str:
        """The node's name (the runtime's ``Op_index`` if it has none)."""
        return self.name.removesuffix(_SUFFIX)

    def inputs(self) -> tuple[Shape | None, ...]:
        """Shapes of the inputs that are present; ``None`` for a value without a shape."""
        return _shapes(self.args.input_type_shape)

    def outputs(self) -> tuple[Shape | None, ...]:
        """Shapes of the outputs."""
        return _shapes(self.args.output_type_shape)


class Trace:
    """The inferences in a profile file. ``partial`` is set, after reading, if events are missing."""

    def __init__(self, path: Path, runs: int) -> None:
        self._path = path
        self._runs = runs
        self.partial: str | None = None

    def runs(self) -> Iterator[list[TraceEvent]]:
        """Node events of one inference after the other, in the order they ended."""
        decoder = msgspec.json.Decoder(TraceEvent)
        events: list[TraceEvent] = []
        lines = runs = 0
        with self._path.open("rb") as file:
            for line in file:
                text = line.strip().rstrip(b",")
                if text in (b"", b"[", b"]"):
                    continue
                lines += 1
                try:
                    event = decoder.decode(text)
                except msgspec.MsgspecError:
                    self.partial = f"line {lines} of the profile is cut or damaged"
                    continue
                if event.cat == "Node" and event.name.endswith(_SUFFIX):
                    events.append(event)
                elif event.name == "model_run":
                    runs += 1
                    yield events
                    events = []
        if lines >= MOST_EVENTS:
            self.partial = f"the profile reached the runtime's limit of {MOST_EVENTS} events"
        elif runs != self._runs and self.partial is None:
            self.partial = f"the profile holds {runs} of {self._runs} inferences"


def read_profile(path: Path, runs: int, ep_name: str) -> Profile:
    """The spans of a few profiled inferences on the execution provider ``ep_name``."""
    trace = Trace(path, runs)
    read = tuple(_spans(events, ep_name) for events in trace.runs())
    return Profile(read, trace.partial)


def _spans(events: list[TraceEvent], ep_name: str) -> tuple[Span, ...]:
    nested = [False] * len(events)
    for position, event in enumerate(events):
        if event.args.op_name in CONTROL:
            inner = position - 1
            while inner >= 0 and events[inner].ts >= event.ts:
                nested[inner] = True
                inner -= 1
    return tuple(
        Span(
            event.node,
            event.args.op_name,
            "accelerator" if event.args.provider == ep_name else "cpu",
            event.dur / 1e6,
            inside,
        )
        for event, inside in zip(events, nested, strict=True)
    )


_SHAPES = msgspec.json.Decoder(list[dict[str, list[int]]])


def _shapes(raw: msgspec.Raw) -> tuple[Shape | None, ...]:
    try:
        values = _SHAPES.decode(raw)
    except msgspec.MsgspecError:
        return ()  # sequences and optionals are written in forms of their own
    return tuple(tuple(next(iter(v.values()))) if v else None for v in values)
