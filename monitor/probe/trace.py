"""Reads onnxruntime's profile, as a stream: one event a line, so that a profile of any size costs little memory.

Format as measured with onnxruntime 1.32: a JSON array with one object per line; node events are called
``<node name>_kernel_time`` and carry op, provider and shapes; a ``model_run`` event closes each inference; the event of
a control-flow node spans those of its body, which stand before it. Lines are decoded by the block, a third faster than
one by one, and one by one only where a block is damaged.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import msgspec
from msgspec import Struct

from monitor.records import Processor, Profile, Shape, Span

MOST_EVENTS = 1_000_000  # the runtime's own cap: what lies beyond is lost
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_SUFFIX = "_kernel_time"
_RUN = "model_run"
_BLOCK = 64 * 2**10  # bytes; with what is decoded from them they fit into a core's cache
_LONGEST_LINE = 2**20  # bytes; a file without line ends must not be held in memory
# Node names are anybody's bytes, and brackets may nest without end.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# So that no sum of durations, of as many as there can be, exceeds 64 bits.
_Start = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Duration = Annotated[int, msgspec.Meta(ge=-(2**40), le=2**40)]


class _Step(Struct, gc=False):
    op_name: str = ""
    provider: str = ""


class _Shapes(_Step, gc=False):
    input_type_shape: msgspec.Raw = msgspec.Raw(b"[]")
    output_type_shape: msgspec.Raw = msgspec.Raw(b"[]")


class TimedEvent(Struct, gc=False):
    """One line of the profile without its shapes, whose decoding takes time. ``ts`` and ``dur`` are microseconds."""

    cat: str = ""
    name: str = ""
    ts: _Start = 0
    dur: _Duration = 0
    args: _Step = msgspec.field(default_factory=_Step)

    @property
    def node(self) -> str:
        """The node's name (the runtime's ``Op_index`` if it has none)."""
        return self.name.removesuffix(_SUFFIX)


class TraceEvent(TimedEvent, gc=False):
    """One line of the profile."""

    args: _Shapes = msgspec.field(default_factory=_Shapes)

    def inputs(self) -> tuple[Shape | None, ...]:
        """Shapes of the inputs that are present; ``None`` for a value without a shape."""
        return _shapes(self.args.input_type_shape)

    def outputs(self) -> tuple[Shape | None, ...]:
        """Shapes of the outputs."""
        return _shapes(self.args.output_type_shape)


_Event = TypeVar("_Event", bound=TimedEvent)


class Trace:
    """The inferences in a profile file. ``partial`` is set, after reading, if events are missing."""

    def __init__(self, path: Path, runs: int) -> None:
        self._path = path
        self._runs = runs
        self.partial: str | None = None

    def runs(self) -> Iterator[list[TraceEvent]]:
        """Node events of one inference after the other, in the order they ended."""
        events: list[TraceEvent] = []
        for event in self.events(TraceEvent):
            if event.name == _RUN:
                yield events
                events = []
            else:
                events.append(event)

    def events(self, kind: type[_Event]) -> Iterator[_Event]:
        """Node events in the order they ended, and ``model_run`` at the end of each inference."""
        lines = runs = 0
        for batch in self._batches(kind):
            for event in batch:
                lines += 1
                if event is None:
                    self.partial = f"line {lines} of the profile is cut or damaged"
                elif event.cat == "Node" and event.name.endswith(_SUFFIX):
                    yield event
                elif event.name == _RUN:
                    runs += 1
                    yield event
        if lines >= MOST_EVENTS:
            self.partial = f"the profile reached the runtime's limit of {MOST_EVENTS} events"
        elif runs != self._runs and self.partial is None:
            self.partial = f"the profile holds {runs} of {self._runs} inferences"

    def _batches(self, kind: type[_Event]) -> Iterator[list[_Event] | list[_Event | None]]:
        """The events of some lines at a time; ``None`` for a line that cannot be read."""
        decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        with self._path.open("rb", buffering=0) as file:
            for block in _blocks(file):
                text = block.strip(b"[],\r\n\t ")
                try:
                    yield decoder.decode(b"[%b]" % text)
                except _UNDECODABLE:
                    yield _one_by_one(text, kind)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    rest = b""
    while block := file.read(_BLOCK):
        lines, _, rest = (rest + block).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            rest = b"{"  # one damaged line
        yield lines
    yield rest


def _one_by_one(text: bytes, kind: type[_Event]) -> list[_Event | None]:
    decoder = msgspec.json.Decoder(kind)
    events: list[_Event | None] = []
    for line in text.splitlines():
        if not (stripped := line.strip(b"[], \t")):
            continue
        try:
            events.append(decoder.decode(stripped))
        except _UNDECODABLE:
            events.append(None)
    return events


def read_profile(path: Path, runs: int, ep_name: str) -> Profile:
    """The spans of a few profiled inferences on the execution provider ``ep_name``.

    The executions of one node within a control-flow node are summed: what a body takes in memory does not depend on how
    often it ran.
    """
    trace = Trace(path, runs)
    events = trace.events(TimedEvent)
    steps = _Steps(ep_name)
    read: list[tuple[Span, ...]] = []
    while (spans := steps.take(events)) is not None:
        read.append(spans)
    return Profile(tuple(read), trace.partial)


class _Steps:
    """The steps of one inference, packed: which are a body's is known only when its control node's event comes."""

    def __init__(self, ep_name: str) -> None:
        self._ep_name = ep_name
        self._known: dict[tuple[str, str, str], int] = {}  # event, op and provider -> their number
        self._labels: list[tuple[str, str, Processor]] = []  # and what their span says
        self._numbers, self._starts, self._durations, self._nested = (array("q") for _ in range(4))

    def take(self, events: Iterator[TimedEvent]) -> tuple[Span, ...] | None:
        """The spans of the next inference; ``None`` if there is no whole one."""
        known = self._known
        for event in events:
            if event.name == _RUN:
                return self._close()
            key = event.name, event.args.op_name, event.args.provider
            if key[1] in CONTROL:
                self._enclose(event.ts)
            number = known.get(key)
            self._numbers.append(self._learn(key) if number is None else number)
            self._starts.append(event.ts)
            self._durations.append(event.dur)
            self._nested.append(False)
        return None

    def _enclose(self, start: int) -> None:
        """Sum up, node by node, what began at ``start`` or later."""
        first = len(self._starts)
        while first and self._starts[first - 1] >= start:
            first -= 1
        columns = self._numbers, self._starts, self._durations, self._nested
        sums: dict[int, tuple[int, int]] = {}
        for number, began, duration, _ in zip(*(column[first:] for column in columns), strict=True):
            earlier, total = sums.get(number, (began, 0))
            sums[number] = earlier, total + duration
        for column in columns:
            del column[first:]
        for number, (began, total) in sums.items():
            for column, value in zip(columns, (number, began, total, True), strict=True):
                column.append(value)

    def _learn(self, key: tuple[str, str, str]) -> int:
        name, op_type, provider = key
        processor: Processor = "accelerator" if provider == self._ep_name else "cpu"
        self._labels.append((name.removesuffix(_SUFFIX), op_type, processor))
        return self._known.setdefault(key, len(self._known))

    def _close(self) -> tuple[Span, ...]:
        spans = tuple(
            Span(*self._labels[number], duration / 1e6, bool(nested))
            for number, duration, nested in zip(self._numbers, self._durations, self._nested, strict=True)
        )
        for column in (self._numbers, self._starts, self._durations, self._nested):
            del column[:]
        return spans


_SHAPES = msgspec.json.Decoder(list[dict[str, list[int]]])


def _shapes(raw: msgspec.Raw) -> tuple[Shape | None, ...]:
    try:
        values = _SHAPES.decode(raw)
    except _UNDECODABLE:
        return ()  # sequences and optionals are written in forms of their own
    return tuple(tuple(next(iter(v.values()))) if v else None for v in values)
