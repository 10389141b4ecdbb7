"""A child that speaks the wire and misbehaves on demand; it stands for a probe whose native code does so.

Run as ``fake_probe.py FAULT... --fds READ WRITE``. Without a fault it answers every request soundly.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monitor import wire
from monitor.records import Comparison, Failure, Profile, Replays, Runtime, Samples, SessionFacts, Study

FACTS = SessionFacts(
    model_sha256="ab" * 32,
    inputs=(),
    runtime=Runtime("qnn", "cpu", "1", "2"),
    placement=(),
    rejections=(),
    faults=(),
    samples=Samples("synthetic", 0),
    create_seconds=0.5,
)
STUDY = Study(
    model_sha256="ab" * 32,
    dims={},
    samples="synthetic",
    assumed={},
    nodes=(),
    runs=(),
    partitioned=(),
    constants=(),
    inputs=(),
    outputs=(),
    onnxruntime="1",
)
BIG = 3 * 2**20
READ, WRITE = (int(fd) for fd in sys.argv[-2:])


def answer(request: wire.Request) -> wire.Reply:
    """The sound answer to ``request``."""
    match request:
        case wire.Open():
            return wire.Facts(FACTS)
        case wire.Audit(runs=runs):
            return wire.Profiled(Profile(((),) * runs))
        case wire.Replay(count=count):
            return wire.Replayed(Replays((0.001,) * count, ()))
        case wire.MakeStudy(spec=spec):
            return wire.Studied(msgspec.structs.replace(STUDY, notes=("x" * BIG, spec.name)))
        case wire.Deepen():
            return wire.Failed(Failure("provider_missing", "no accelerator here"))
        case wire.Compare():
            return wire.Compared(Comparison(0, ()))


def write(data: bytes) -> None:
    """All of ``data`` to the parent."""
    while data:
        data = data[os.write(WRITE, data) :]


def hang() -> None:
    """Never return, and never read the request pipe again."""
    while True:
        time.sleep(60)


def crash() -> None:
    """A Python error, as it ends a process."""
    raise RuntimeError("the accelerator \x1b[31mis on fire")


def kill_self(number: int) -> Callable[[], None]:
    """Die of a signal, as native code does."""
    return lambda: os.kill(os.getpid(), number)


def chatter() -> None:
    """Print without an end and never answer."""
    while True:
        os.write(1, b"noise " * 10_000)


def dribble() -> None:
    """A frame of which a byte comes every few milliseconds."""
    write(wire.HEADER.pack(10_000_000))
    while True:
        write(b"x")
        time.sleep(0.005)


def close_pipe() -> None:
    """Hang up and live on."""
    os.close(WRITE)
    hang()


def grandchild() -> None:
    """Leave a process behind that holds every descriptor, and die."""
    if os.fork():
        os._exit(7)
    hang()


def gigabyte() -> None:
    """A great deal of output in one request; then a last line."""
    for _ in range(256):
        os.write(2, b"I am verbose\n" * 20_000)
    os.write(2, b"enough said\n")


def partial() -> None:
    """Half a frame, then the end."""
    write(wire.HEADER.pack(100) + b"half")
    os._exit(0)


FAULTS: dict[str, Callable[[], None]] = {
    "crash": crash,
    "segfault": kill_self(signal.SIGSEGV),
    "abort": os.abort,
    "killed": kill_self(signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "hang": hang,
    "chatter": chatter,
    "dribble": dribble,
    "close_pipe": close_pipe,
    "grandchild": grandchild,
    "gigabyte": gigabyte,
    "garbage": lambda: write(wire.HEADER.pack(3) + b"\xff\xff\xff"),
    "giant": lambda: write(b"\xff" * 64),
    "partial": partial,
    "wrong": lambda: write(wire.encode(wire.Replayed(Replays((), ())))),
    "twice": lambda: write(wire.encode(answer(wire.Audit(1, 5.0))) * 2),
    "failed": lambda: write(wire.encode(wire.Failed(Failure("run_failed", "no", "try")))),
    "slow": lambda: time.sleep(1.0),
}


def receive() -> wire.Request | None:
    """The next request; ``None`` once the parent has hung up."""
    header = os.read(READ, wire.HEADER.size)
    if not header:
        return None
    with open(os.dup(READ), "rb", buffering=0) as pipe:
        data, length = b"", wire.frame_length(header)
        while len(data) < length:
            data += pipe.read(length - len(data))
    return wire.decode_request(data)


def main(fault: str, argument: str = "") -> None:
    """Answer requests until the parent hangs up; misbehave as told, at the first request only."""
    if fault == "exit_at_once":
        sys.exit("no such library")
    if fault == "unasked":
        write(b"hello")
    request = receive()
    if request and fault in FAULTS:
        FAULTS[fault]()
        request = receive() if fault in ("failed", "wrong") else request
    while request:
        write(wire.encode(answer(request)))
        if fault == "idle_chatter":
            os.write(1, b"x" * BIG + b"\nsaid while idle\n")
        if fault == "idle_exit":
            os._exit(4)
        request = receive()
    if fault == "stubborn":
        hang()
    if fault == "inference":
        time.sleep(0.3)
        Path(argument).write_text("ended by itself", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:-3])
