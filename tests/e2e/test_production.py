"""An application whose own session is another one than npumon's: seen from outside, told, and cleared."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.running import environment, running, wait_until, write_config

APPLICATION = Path(__file__).with_name("tapped_application.py")


@contextlib.contextmanager
def application(model: Path, folder: Path, target: str) -> Iterator[None]:
    """The application at work."""
    command = [sys.executable, str(APPLICATION), str(model), str(folder), target]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment())
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


def test_an_application_that_is_silently_on_the_cpu(tmp_path: Path, good: Path) -> None:
    """Its calls take another time than the replays of the accelerator's session, until it makes the session likewise.

    The simulator is the slower one of the two here, so what shows is an application that is too fast.
    """
    samples = tmp_path / "samples"
    with application(good, samples, "cpu"):
        wait_until(lambda: any(samples.glob("*.npz")), "a sample is kept")
    settings = {"path": good, "samples": samples, "gate": {"production": 4.0}}  # calls beside replays, on few cores
    config = write_config(tmp_path, {"m": settings}, "1s")
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m")
        with application(good, samples, "cpu"):
            event = daemon.wait("latency_shifted", "m")
            assert event["cause"] == "production_differs"
            seen = event["production"]
            assert seen["ratio"] < 0.5
            assert seen["calls"] >= 30
            assert sum(seen["histogram"].values()) == seen["calls"]
            assert sum(seen["replays_histogram"].values()) >= 5
            assert seen["covered_ratio"] == 1.0
            wait_until(lambda: daemon.metric("verdict", model="m", state="degraded") == 1, "the verdict")
            assert (daemon.metric("npu_flops_ratio", model="m") or 0) > 0.99
            assert (daemon.metric("production_latency_seconds_count", model="m") or 0) >= 90
            assert daemon.metric("samples_covered_ratio", model="m") in (None, 1.0)
            assert daemon.metric("samples_timestamp_seconds", model="m")
        with application(good, samples, "60"):
            over = daemon.wait("latency_recovered", "m")
        assert over["id"] == event["id"]
        assert not daemon.told("check_failed", "m")
