"""What systemd hears of a real daemon; a datagram socket stands in for systemd's end of it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from monitor.service.daemon import TICK
from tests.e2e.running import running, wait_until, write_config


def test_systemd_hears_ready_status_watchdog_and_stopping(tmp_path: Path, good: Path) -> None:
    """READY once the service answers, WATCHDOG while it works, STATUS with verdicts, STOPPING at the end."""
    path = str(tmp_path / "notify")
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.setblocking(False)

        def listen() -> bool:
            try:
                while True:
                    heard.append(systemd.recv(4096).decode())
            except BlockingIOError:
                return heard.count("WATCHDOG=1") >= 4 and any("m healthy" in text for text in heard)

        config = write_config(tmp_path, {"m": {"path": good}})
        with running("run", "-c", config, NOTIFY_SOCKET=path, WATCHDOG_USEC="1000000") as daemon:
            wait_until(listen, "watchdog and status")
            assert daemon.stop() == 0
            listen()
    assert heard[0] == "READY=1"
    # a check that ends while the daemon stops may still tell its verdict
    after = heard[heard.index("STOPPING=1") + 1 :]
    assert not [text for text in after if not text.startswith("STATUS=")]
    assert f"STATUS={daemon.address}: m healthy" in heard
    assert {text.partition("=")[0] for text in heard} == {"READY", "STATUS", "WATCHDOG", "STOPPING"}


def test_a_watchdog_for_another_process_is_not_fed(tmp_path: Path, good: Path) -> None:
    """WATCHDOG_PID names who is watched; where that is not this process, nothing but the rest is told."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(0.1)
        config = write_config(tmp_path, {"m": {"path": good}})
        more = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}
        with running("run", "-c", config, **more) as daemon:
            time.sleep(TICK + 1)
            daemon.wait_checks("m")
            assert daemon.stop() == 0
        heard = []
        try:
            while True:
                heard.append(systemd.recv(4096).decode())
        except TimeoutError:
            pass
    assert heard[0] == "READY=1"
    assert "STOPPING=1" in heard
    assert "WATCHDOG=1" not in heard
