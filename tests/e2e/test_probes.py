"""Probes that die, hang or are in the middle of an inference when the daemon ends; incidents that outlive a daemon."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.running import INSIDE_PROBES, Running, children, exists, running, wait_until, write_config

INTERVAL, TIMEOUT = 2.0, 3.0


@pytest.fixture
def exits(tmp_path: Path) -> Path:
    """Where probes note that they ended by themselves."""
    folder = tmp_path / "exits"
    folder.mkdir()
    return folder


def noting(exits: Path) -> dict[str, str]:
    """The environment in which probes do that."""
    return {"PYTHONPATH": INSIDE_PROBES, "NPUMON_TEST_EXITS": str(exits)}


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (signal.SIGKILL, "probe_crashed", "the probe died of SIGKILL"),
        (signal.SIGSTOP, "probe_timeout", "the probe did not answer Replay within 3 s, stopped by a signal"),
    ],
)
def test_a_lost_probe_is_told_replaced_and_disturbs_no_other(
    tmp_path: Path, good: Path, number: signal.Signals, reason: str, words: str
) -> None:
    """Within one timeout of the next check the metrics say so; the other model is checked on; the probe returns."""
    model = {"path": good, "timeout": f"{TIMEOUT:g}s"}
    with running("run", "-c", write_config(tmp_path, {"one": model, "two": model}, f"{INTERVAL:g}s")) as daemon:
        daemon.wait_checks("one", "two", more=2)
        before = daemon.children()
        assert len(before) == 2
        victim = min(before)
        os.kill(victim, number)
        start = time.monotonic()
        wait_until(lambda: any(daemon.metrics("check_failures_total").values()), "a failure is counted")
        assert time.monotonic() - start < INTERVAL + TIMEOUT + 2.0
        failed = daemon.wait("check_failed")
        lost, other = (failed["model"], "one" if failed["model"] == "two" else "two")
        assert daemon.metric("check_failures_total", model=lost, reason=reason) == 1
        assert failed["error"]["reason"] == reason
        assert failed["error"]["detail"].startswith(words)
        daemon.wait_checks(other)
        recovered = daemon.wait("check_recovered", lost)
        assert recovered["id"] == failed["id"]
        assert not exists(victim)
        after = daemon.children()
        assert len(after) == 2
        assert len(before & after) == 1
        assert daemon.metric("verdict", model=lost, state="healthy") == 1
        assert daemon.metric("verdict", model=other, state="healthy") == 1
        others = {
            value for labels, value in daemon.metrics("check_failures_total").items() if ("model", other) in labels
        }
        assert others == {0.0}
        assert len([line for line in daemon.lines if line.get("model")]) == 2


@pytest.fixture
def busy(tmp_path: Path, slow: Path) -> Path:
    """A configuration that keeps an inference running nearly all the time."""
    return write_config(tmp_path, {"slow": {"path": slow, "replays": 3, "timeout": "60s"}}, "1s")


def in_mid_inference(daemon: Running) -> set[int]:
    """The daemon's children in the midst of its second check: the one probe, in an inference of about half a second."""
    daemon.wait_checks("slow")
    pids = daemon.children()
    (pid,) = pids
    used = cpu(pid)
    wait_until(lambda: cpu(pid) > used + 20, "the probe computes")
    return pids


def cpu(pid: int) -> int:
    """Processor time of a process so far, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_sigterm_lets_the_running_inference_end(busy: Path, exits: Path) -> None:
    """The probe leaves by itself after its inference, and the daemon with 0, in a few seconds."""
    with running("run", "-c", busy, **noting(exits)) as daemon:
        pids = in_mid_inference(daemon)
        start = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - start < 8
        assert daemon.lines[-1]["event"] == "stopped"
        for pid in pids:
            assert (exits / str(pid)).read_text() == "0"


def test_no_probe_outlives_a_daemon_that_is_killed(busy: Path, exits: Path) -> None:
    """After kill -9 of the daemon its probe finishes the inference and leaves by itself."""
    with running("run", "-c", busy, **noting(exits)) as daemon:
        pids = in_mid_inference(daemon)
        daemon.process.kill()
        daemon.process.wait()
        wait_until(lambda: not any(exists(pid) for pid in pids), "the probes leave", 15)
        for pid in pids:
            assert (exits / str(pid)).read_text() == "0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_first_checks_starts_no_more(tmp_path: Path, slow: Path, number: int) -> None:
    """With the first of three checks under way, the daemon ends with 0 in a few seconds and checks nothing more."""
    models = {name: {"path": slow, "timeout": "60s"} for name in ("one", "two", "three")}
    with running("run", "-c", write_config(tmp_path, models, "1s")) as daemon:
        wait_until(lambda: bool(daemon.children()), "the first probe")
        time.sleep(1.5)
        start = time.monotonic()
        assert daemon.stop(number) == 0
        assert time.monotonic() - start < 8
        assert {line["event"] for line in daemon.lines} == {"started", "stopped"}


def test_an_incident_outlives_the_daemon(tmp_path: Path, selu: Path, good: Path) -> None:
    """An open fallback is not told again after a restart; once a healthy model is deployed it is cleared, by its id."""
    deployed = tmp_path / "deployed.onnx"
    shutil.copy(selu, deployed)
    model = {"path": deployed, "options": {"soc_model": "58"}, "gate": {"npu_flops": 0.99}}
    config = write_config(tmp_path, {"m": model}, "1s")
    with running("run", "-c", config) as daemon:
        raised = daemon.wait("fallback_detected", "m")
    with running("run", "-c", config) as daemon:
        assert "Selu: failed to create ELU node." in daemon.get("/")[1]  # remembered: nothing has been checked yet
        daemon.wait_checks("m", more=2)
        assert not [line for line in daemon.lines if line.get("model")]
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        (before,) = daemon.children()
        shutil.copy(good, tmp_path / "new.onnx")
        (tmp_path / "new.onnx").replace(deployed)
        cleared = daemon.wait("fallback_cleared", "m")
        assert cleared["id"] == raised["id"]
        changed = daemon.wait("model_changed", "m")
        assert changed["model_sha256"] == cleared["model_sha256"] != raised["model_sha256"]
        assert before not in children(daemon.process.pid)
