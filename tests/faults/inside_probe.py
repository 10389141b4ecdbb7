"""Faults of native code, committed inside of a real probe where it calls the runtime, by the C library where it can.

A file named after a model in the folder of faults says what its probe does at its next request of a kind, as
``Replay segfault``: the file is removed and the fault is committed, once, in the runtime's stead. ``Replay segfault *``
stays until the test removes it. ``sitecustomize.py`` of ``tests/e2e/inside_probes`` installs this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitor import wire

MIB = 2**20
ENOUGH = 4 * 2**30
"""Bytes and threads are bounded here too: a daemon that lets its probe take all must fail a test, not the machine."""
MOST_THREADS = 20_000

native = ctypes.CDLL(None)
locked = ctypes.PyDLL(None)  # its calls keep the interpreter's lock


def install(folder: Path) -> None:
    """Have every request look into ``folder``, and the runtime's sessions commit what was found there."""
    decode = wire.decode_request
    model = ""

    def decode_request(payload: bytes) -> wire.Request:
        nonlocal model
        request = decode(payload)
        if isinstance(request, (wire.Open, wire.MakeStudy)):
            model = request.spec.name
        if fault := _wanted(folder / model, type(request).__name__):
            no_backend() if fault == "no_backend" else _arm(fault)
        return request

    wire.decode_request = decode_request


def _wanted(file: Path, kind: str) -> str:
    """The fault that the file asks for at a request of this kind; once, unless it says otherwise."""
    try:
        where, fault, *stays = file.read_text().split()
    except (OSError, ValueError):
        return ""
    if where != kind:
        return ""
    if not stays:
        file.unlink()
    return fault


def _arm(fault: str) -> None:
    """Commit ``fault`` at the next call that creates a session or runs one."""
    from onnxruntime import InferenceSession

    committed = threading.Event()
    for name in ("__init__", "run", "run_with_iobinding"):
        _before(InferenceSession, name, committed, FAULTS[fault])


def _before(session: type[Any], name: str, committed: threading.Event, fault: Callable[[], None]) -> None:
    method = getattr(session, name)

    def faulty(*arguments: Any, **more: Any) -> Any:
        if not committed.is_set():
            committed.set()
            fault()
        return method(*arguments, **more)

    setattr(session, name, faulty)


def hang() -> None:
    """Never return from the C library; other threads of the probe go on."""
    while True:
        native.pause()


def hang_locked() -> None:
    """Never return from the C library, and let no other thread of the interpreter run."""
    locked.sleep(3600)


def chatter() -> None:
    """Print without an end."""
    while True:
        os.write(1, b"QnnDsp <V> still here\n" * 3000)


def gigabyte() -> None:
    """Log a gigabyte, then go on."""
    lines = b"QnnDsp <W> a line of log that nobody asked for\n" * 20_000
    for _ in range(2**30 // len(lines)):
        os.write(2, lines)


def garbage() -> None:
    """Print where the protocol runs, as native code does that has its descriptors wrong."""
    os.write(int(sys.orig_argv[-1]), b"QnnDsp <E> not a frame\n")


def nonsense() -> None:
    """A frame as it should be, with noise in it."""
    os.write(int(sys.orig_argv[-1]), wire.HEADER.pack(512) + b"\xff" * 512)


def grow() -> None:
    """Take memory until stopped, and keep it."""
    held = []
    for _ in range(ENOUGH // (64 * MIB)):
        held.append(b"\x01" * (64 * MIB))
        time.sleep(0.05)
    hang()


def no_memory() -> None:
    """Ask for more memory than there is, all at once."""
    bytearray(2**46)


def bomb() -> None:
    """Start threads that never end, as many as can be had."""
    threading.stack_size(64 * 1024)
    for _ in range(MOST_THREADS):
        threading.Thread(target=native.pause, daemon=True).start()
    hang()


def orphan() -> None:
    """Leave children behind that hold every descriptor, one in a group of its own, and die."""
    for apart in (False, True):
        if os.fork() == 0:
            if apart:
                os.setpgid(0, 0)
            hang()
    time.sleep(0.2)
    segfault()


def segfault() -> None:
    """Read where nothing is."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def raises(name: str) -> Callable[[], None]:
    """An error of the runtime, of its own class."""

    def fail() -> None:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        raise getattr(state, name)(f"{name}: QNN graph execute error. Error code: 1007")

    return fail


def no_backend() -> None:
    """The accelerator does not come up: its backend is not where it was."""
    import onnxruntime_qnn

    onnxruntime_qnn.get_qnn_htp_path = lambda: "/nonexistent/libQnnHtp.so"


FAULTS: dict[str, Callable[[], None]] = {
    "segfault": segfault,
    "abort": lambda: native.abort(),
    "exit": lambda: native._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
    "hang_locked": hang_locked,
    "chatter": chatter,
    "gigabyte": gigabyte,
    "garbage": garbage,
    "nonsense": nonsense,
    "grow": grow,
    "no_memory": no_memory,
    "bomb": bomb,
    "orphan": orphan,
    **{name: raises(name) for name in ("EPFail", "EngineError", "DeviceReset", "Fail")},
}
