"""What reaches systemd's socket; a real datagram socket stands in for systemd's end of it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.service import notify


@pytest.fixture(params=["path", "abstract"])
def receive(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], str]]:
    """Systemd's end of the socket, both as a file and in the abstract namespace."""
    path = str(tmp_path / "notify") if request.param == "path" else f"@npumon-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(path.replace("@", "\0", 1))
        end.settimeout(5)
        yield lambda: end.recv(4096).decode()


def test_each_call_is_one_datagram(receive: Callable[[], str]) -> None:
    """Every state arrives under systemd's name for it, in order."""
    before = time.monotonic_ns() // 1000
    notify.reloading()
    notify.ready()
    notify.status("2 models,\n1 fallback ü")
    notify.watchdog()
    notify.stopping()
    reloading, _, stamp = receive().partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert before <= int(stamp) <= time.monotonic_ns() // 1000
    expected = ["READY=1", "STATUS=2 models, 1 fallback ü", "WATCHDOG=1", "STOPPING=1"]
    assert [receive() for _ in expected] == expected


@pytest.mark.parametrize(
    "address", [None, "", "/nonexistent/notify", "vsock:2:1", "@npumon-nobody-listens", "/" + "x" * 300]
)
def test_without_a_listener_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, a dead one or one of a kind that we do not speak: the daemon goes on."""
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()


def _fill(sender: socket.socket, path: str) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"x", path)


def test_a_listener_that_does_not_read_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When systemd's queue is full, a call gives up after a second."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full,
    ):
        end.bind(path)
        full.setblocking(False)
        _fill(full, path)
        start = time.monotonic()
        notify.watchdog()
        assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", None, 15.0),
        pytest.param("30000000", str(os.getpid()), 15.0, id="this process"),
        ("30000000", "1", None),
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_watchdog_interval(
    usec: str | None, pid: str | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the time that systemd allows, and only if it watches this very process."""
    for key, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(key, raising=False)
        if value is not None:
            monkeypatch.setenv(key, value)
    assert notify.watchdog_interval() == expected
