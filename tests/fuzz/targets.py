"""What is fuzzed: each reader of a file or a pipe that others write, and all that may come out of it.

A reader gives what it documents: a record, a refusal of its documented kind, or a sentence that says what is missing.
Another exception, a hang or memory without bound is a finding. The fuzzer (``__main__.py``) and the tests run the same
functions.
"""

from __future__ import annotations

import io
import sqlite3
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from monitor import wire
from monitor.config import load
from monitor.errors import MeasureError, UsageError
from monitor.outputs import database
from monitor.outputs.state import State
from monitor.probe import deep, trace
from monitor.probe.provider import find
from monitor.probe.samples import Corpus
from monitor.records import Failure, ModelState, Study, Tensor
from monitor.service import studies
from tests.outputs import recorded, specimens

TESTS = Path(__file__).parents[1]


class Target(NamedTuple):
    """A reader: ``read`` is handed bytes and an empty folder of its own; ``seeds`` are where mutations begin.

    ``runs`` is how many of them the fuzzer makes unless told otherwise, a minute's worth or two.
    """

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    runs: int


def _told(message: str, start: str) -> None:
    """A refusal is one line, not too long, that names what it is about."""
    assert message.startswith(start)
    assert message.isprintable()
    assert len(message) < 1000


# -------------------------------------------------------------------------------------------- onnxruntime's profile

EVENT = (
    '{"cat" : "Node","pid" :1,"tid" :1,"dur" :%d,"ts" :%d,"ph" : "X","name" :"%s_kernel_time","args" : {"op_name" : '
    '"%s","provider" : "QNNExecutionProvider","input_type_shape" : [{"float":[1,8]},{}],"output_type_shape" : []}},\n'
)
RUN = '{"cat" : "Session","pid" :1,"tid" :1,"dur" :9,"ts" :0,"ph" : "X","name" :"model_run","args" : {}},\n'


def read_profile(data: bytes, folder: Path) -> None:
    """Spans of runs, and events with their shapes; what is missing is said in ``partial``."""
    path = folder / "profile.json"
    path.write_bytes(data)
    profile = trace.read_profile(path, 2, "QNNExecutionProvider")
    assert profile.partial or len(profile.runs) == 2
    assert all(span.seconds == span.seconds for run in profile.runs for span in run)
    wire.encode(wire.Profiled(profile))
    for run in trace.Trace(path, 2).runs():
        for event in run:
            event.inputs()
            event.outputs()


def _profiles() -> list[bytes]:
    one = EVENT % (10, 0, "relu", "Relu")
    loop = EVENT % (2, 21, "exp", "Exp") + EVENT % (15, 20, "loop", "Loop")
    return [f"[\n{one}{RUN}{loop}{RUN}]\n".encode(), f"[\n{one}{one[:40]}\n{RUN}".encode()]


# ------------------------------------------------------------------------------------------------ QNN's own profile

HEADER = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier,ONNX Source Ops\n"
INFERENCE = """\
0,BACKEND,2886,US,BACKEND,ROOT,RPC (execute) time,
0,BACKEND,1000,CYCLES,BACKEND,ROOT,Accelerator (execute) time (cycles),
0,NODE,20,CYCLES,BACKEND,SUB-EVENT,Input OpId_2 (cycles),
0,NODE,900,CYCLES,BACKEND,SUB-EVENT,conv_token_1:OpId_17 (cycles),DequantizeLinear;conv_token_1
0,BACKEND,1734,US,BACKEND,ROOT,Accelerator (execute) time,
0,EXECUTE,3001,US,BACKEND,ROOT,QNN (execute) time,
"""
GRAPH = '{"graph":{"nodes":{"conv_token_1":{"input_names":["x"],"output_names":["y"]}}}}'
_BETWEEN = b"\0graph\0"


def read_cycles(data: bytes, folder: Path) -> None:
    """Cycles of ops, or the reason why there are none. The first byte is where an inference begins."""
    provider = _qnn()
    source = provider.deep(folder)
    assert source is not None
    rows, _, graph = data[1:].partition(_BETWEEN)
    start = int.from_bytes(data[:1], "big") * len(rows) // 256
    csv = Path(source.options["profiling_file_path"])
    csv.write_bytes(rows[:start])
    source.mark()
    csv.write_bytes(rows)
    source.mark()
    (folder / "graph.json").write_bytes(graph)
    counts = source.read(2**20)
    wire.encode(wire.Deepened(deep._reading((), [0.1] * len(counts), counts)))


@cache
def _qnn() -> Any:
    return find("qnn")


def _cycles() -> list[bytes]:
    start = bytes([256 * len(HEADER) // len(HEADER + INFERENCE) + 1])
    return [start + f"{HEADER}{INFERENCE}".encode() + _BETWEEN + GRAPH.encode()]


# ---------------------------------------------------------------------------------------------------------- samples

SIGNATURE = (Tensor("image", "tensor(float)", ("batch", 3, None)), Tensor("scale", "tensor(int64)", ()))


def read_sample(data: bytes, folder: Path) -> None:
    """Arrays that fit the model, or a failure that tells of a rejected file."""
    (folder / "0.npz").write_bytes(data)
    try:
        corpus = Corpus(folder, SIGNATURE, {})
        ((_, feeds),) = corpus.first(1)
    except MeasureError as error:
        _told(str(error), f"{folder}: ")
        wire.encode(wire.Failed(error.failure, error.rejected))
        return
    image, scale = feeds["image"], feeds["scale"]
    assert (image.dtype, image.ndim, image.shape[1], image.flags.c_contiguous) == (np.float32, 3, 3, True)
    assert (scale.dtype, scale.shape) == (np.int64, ())


def _samples() -> list[bytes]:
    arrays: dict[str, Any] = {"image": np.ones((2, 3, 4), np.float32), "scale": np.array(7)}
    files = []
    for save in (np.savez, np.savez_compressed):
        for content in (arrays, {**arrays, "scale": np.array([None])}):
            buffer = io.BytesIO()
            save(buffer, **content)
            files.append(buffer.getvalue())
    return files


# ------------------------------------------------------------------------------------------------------------ state

_TABLES = ("results", "models", "events", "replays", "requests", "studies")


def read_rows(data: bytes, folder: Path) -> None:
    """A row of the state as its daemon reads it: a record, or a note. The first byte chooses the table."""
    table, blob = _TABLES[data[0] % len(_TABLES)] if data else "events", data[1:]
    connection = _database()
    for each in _TABLES:
        connection.execute(f"DELETE FROM {each}")
    before = "'m', " if table in ("results", "models") else "'m', 0, " if table == "studies" else "NULL, "
    before += "'m', " if table == "replays" else ""
    packed = zlib.compress(blob, 1) if table == "studies" and len(data) % 2 else blob
    connection.execute(f"INSERT INTO {table} VALUES ({before}?)", (packed,))
    state = State(connection)
    found: list[Any] = [
        *state.results().values(),
        *state.model_states().values(),
        *state.events(),
        *state.replays("m"),
        *state.requests("m"),
    ]
    study = state.study("m")
    asked_of_another = table == "requests" and not state.notes
    assert found or study or state.notes or asked_of_another
    assert all(note.isprintable() for note in state.notes)
    msgspec.json.encode([found, study])


@cache
def _database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    database._migrate(connection)
    return connection


def _rows() -> list[bytes]:
    records: list[tuple[int, Any]] = [
        (0, specimens.FALLBACK),
        (0, specimens.FAILED),
        (1, recorded.WAITING_STATE),
        (1, ModelState("m")),
        *((2, event) for event in recorded.EVENTS),
        (3, specimens.SLOW.latency),
        (4, recorded.WAITING.requests[0]),
        (5, _study()),
    ]
    return [bytes([table]) + msgspec.msgpack.encode(record) for table, record in records]


def _study() -> Study:
    return Study("a1" * 32, {"batch": 1}, "files", {}, (), (), (), (), (), (), "1.32.0")


def read_database(data: bytes, folder: Path) -> None:
    """A database as the daemon finds it after whatever befell its disk: used, or kept aside and begun anew."""
    (folder / database.FILE).write_bytes(data)
    try:
        state = State.open(folder, folder / "npumon.toml")
    except UsageError as error:
        _told(str(error), f"{folder / 'npumon.toml'}: monitor.state: ")
        return
    try:
        state.results(), state.model_states(), state.events(), state.replays("m"), state.requests("m"), state.study("m")
        assert all(note.isprintable() for note in state.notes)
    finally:
        state.close()


def _databases() -> list[bytes]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA page_size = 512")  # small: a mutation then meets what matters
    database._migrate(connection)
    state = State(connection)
    state.save_check(specimens.HEALTHY, ModelState(specimens.HEALTHY.model), recorded.EVENTS[:1])
    content = connection.serialize()
    state.close()
    return [content]


# ---------------------------------------------------------------------------------------------- what people write


def read_configuration(data: bytes, folder: Path) -> None:
    """A configuration, or one line that names the file."""
    file = folder / "npumon.toml"
    file.write_bytes(data)
    try:
        load(file)
    except UsageError as error:
        _told(str(error), f"{file}:")


def _configurations() -> list[bytes]:
    return [file.read_bytes() for file in sorted((TESTS / "config").glob("*/*.toml"))]


def read_study(data: bytes, folder: Path) -> None:
    """A study that lies beside a model: used, or ignored with a sentence."""
    model = folder / "m.onnx"
    model.write_bytes(b"model")
    studies.beside(model).write_bytes(data)
    study, note = studies.read(wire.Spec("m", str(model), "qnn"))
    assert note
    assert "\n" not in note
    assert study or "is ignored" in note


def _studies() -> list[bytes]:
    return [msgspec.json.encode(studies.StudyFile(studies.VERSION, "0", None, "", _study()))]


# --------------------------------------------------------------------------------------------------------- the pipe


def read_frame(data: bytes, folder: Path) -> None:
    """A frame from a probe that talks nonsense: a reply, or a :class:`ProtocolError`."""
    try:
        wire.frame_length(data[: wire.HEADER.size].ljust(wire.HEADER.size, b"\0"))
        reply = wire.decode_reply(data[wire.HEADER.size :])
    except wire.ProtocolError:
        return
    wire.encode(reply)


def _frames() -> list[bytes]:
    return [wire.encode(wire.Failed(Failure("run_failed", "why"))), wire.encode(wire.Studied(_study()))]


TARGETS: dict[str, Target] = {
    "profile": Target(read_profile, _profiles, 200_000),
    "cycles": Target(read_cycles, _cycles, 100_000),
    "sample": Target(read_sample, _samples, 100_000),
    "rows": Target(read_rows, _rows, 200_000),
    "database": Target(read_database, _databases, 2_000),
    "configuration": Target(read_configuration, _configurations, 200_000),
    "study": Target(read_study, _studies, 200_000),
    "frame": Target(read_frame, _frames, 500_000),
}
