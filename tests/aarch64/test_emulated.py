"""The board's own binaries: the aarch64 wheels run, and both total fallbacks that need no NPU are told apart.

QEMU runs them on this machine. There is no DSP behind the device node, so that nothing can be healthy here; what the
backend says, when it does not come up, are its own words on a real board.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import parse_tag

from monitor.probe import priority
from tests import published
from tests.aarch64.conftest import MODEL, PATIENCE, SAMPLES
from tests.e2e import running
from tools import emulation

pytestmark = pytest.mark.slow

BACKEND_ERROR = "QNN_BACKEND_ERROR_CANNOT_INITIALIZE"
HEAVY = re.compile(r"/(?:numpy|onnx|onnxruntime|onnxruntime_qnn)/\S+\.so")
IDLE = 3 << 13  # IOPRIO_CLASS_IDLE


def check(board: emulation.Board, config: Path) -> dict[str, Any]:
    """What ``npumon check`` finds on the board, which is no healthy model."""
    done = board.run(board.npumon, "check", "-c", config, "--json")
    assert done.returncode == 1, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["verdict"] == "fallback"
    assert (result["runtime"]["target"], result["runtime"]["machine"]) == ("cpu", "aarch64")
    assert result["npu_flops_ratio"] == 0
    assert result["nodes"]["accelerator"] == 0
    return dict(result)


def reasons(result: dict[str, Any]) -> set[tuple[str, str]]:
    """Why the ops run on the CPU, and what mends it."""
    return {(op["reason"], op["remedy"]) for op in result["ops"]}


def test_the_pinned_packages_are_installed(installed: emulation.Board) -> None:
    """The board's pip takes every pin's aarch64 wheel by its hash, and npumon's own; the command starts."""
    (site,) = installed.environment.glob("lib/python*/site-packages")
    tags = {
        folder.name.split("-")[0]: {tag.platform for name in named(folder) for tag in parse_tag(name)}
        for folder in site.glob("*.dist-info")
    }
    pins = {pin.partition("==")[0].replace("-", "_") for pin in emulation.wanted()}
    assert tags.keys() == pins | {"npumon"}
    native = {name for name, platforms in tags.items() if platforms != {"any"}}
    assert {"msgspec", "numpy", "onnx", "onnxruntime", "onnxruntime_qnn"} <= native
    assert all(platform.endswith("_aarch64") for name in native for platform in tags[name])
    done = installed.run(installed.npumon, "--help")
    assert done.returncode == 0, done.stderr
    assert "check-config" in done.stdout


def named(folder: Path) -> list[str]:
    """The tags of the wheel that a package came in."""
    return re.findall(r"^Tag: (.*)$", (folder / "WHEEL").read_text(), re.M)


def test_without_a_device_node_it_is_not_on_hardware(board: emulation.Board, config: Path) -> None:
    """The runtime finds no device: the cause and every op's reason say so, and the model's FLOPs are x86-64's."""
    result = check(board, config)
    assert result["cause"] == "not_on_hardware"
    assert reasons(result) == {
        (
            "the execution provider qnn finds no device on this machine",
            "run on a board with the accelerator, and check its device nodes and their permissions",
        )
    }
    options = ("--dim", f"samples={SAMPLES}", "-o", "soc_model=9999")
    here = running.npumon("audit", published.published(MODEL), *options, "--json")
    assert result["total_flops"] == json.loads(here.out)["total_flops"]


def test_an_accelerator_behind_its_node_that_does_not_come_up(board: emulation.Board, config: Path) -> None:
    """With a node, the runtime lists an NPU, creates the session, and runs all of it on the CPU: the silent fallback.

    It is told as such, with the backend's own error for every op, and with what to look at.
    """
    board.node.touch()
    result = check(board, config)
    assert result["cause"] == "accelerator_unavailable"
    ((reason, remedy),) = reasons(result)
    assert reason.startswith("QNN SetupBackend failed")
    assert BACKEND_ERROR in reason
    assert all(words in remedy for words in ("/dev/fastrpc-cdsp", "libcdsprpc.so", "ADSP_LIBRARY_PATH"))
    assert result["runtime"]["backend_version"].startswith("v2.")


def test_the_daemon_watches_it(board: emulation.Board, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few checks of the daemon: metrics, event, a parent without runtimes, and a probe behind the others."""
    board.node.touch()
    monkeypatch.setattr(running, "COMMAND", (str(board.npumon),))
    monkeypatch.setattr(running, "environment", emulation.environment)
    monkeypatch.setattr(running, "PATIENCE", PATIENCE)
    with running.running("run", "-c", config) as daemon:
        running.wait_until(lambda: daemon.checks("swift") >= 3, "three checks", PATIENCE)
        check_metrics(daemon)
        (event,) = daemon.told("fallback_detected", "swift")
        assert event["cause"] == "accelerator_unavailable"
        assert all(BACKEND_ERROR in op["reason"] for op in event["ops"])
        (probe,) = daemon.children()
        assert HEAVY.findall(mapped(probe))
        assert not HEAVY.findall(mapped(daemon.process.pid))
        running.wait_until(
            lambda: places(probe) == {(priority.BEHIND, IDLE)}, "a probe that has stepped back", PATIENCE
        )


def check_metrics(daemon: running.Running) -> None:
    """The scrape says what ran, where and why, and sees the node."""
    assert daemon.metric("verdict", model="swift", state="fallback") == 1
    assert daemon.metric("verdict_cause", model="swift", cause="accelerator_unavailable") == 1
    assert daemon.metric("fallback_events_total", model="swift", cause="accelerator_unavailable") == 1
    assert daemon.metric("check_failures_total", model="swift", reason="probe_timeout") in (None, 0)
    assert daemon.metric("npu_flops_ratio", model="swift") == 0
    assert (daemon.metric("latency_median_seconds", model="swift") or 0) > 0
    ((labels, _),) = daemon.metrics("runtime_info").items()
    assert {("target", "cpu"), ("machine", "aarch64"), ("provider", "qnn")} <= labels
    # Seen, that is; whether it may be opened QEMU asks of this machine's /dev.
    assert daemon.metric("board_device_node_accessible", node="/dev/fastrpc-cdsp") is not None


def mapped(pid: int) -> str:
    """The files that a process has mapped; QEMU maps the board's libraries as they are."""
    return Path(f"/proc/{pid}/maps").read_text()


def places(pid: int) -> set[tuple[int, int | None]]:
    """Niceness and I/O priority of a process's threads, as this machine's kernel has them."""
    tasks = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return {(os.getpriority(os.PRIO_PROCESS, task), priority._ioprio(task)) for task in tasks}
