"""An application whose own session is another one than npumon's: seen from outside, told, and cleared."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.probe import demo_model
from tests import models
from tests.e2e.running import Line, Running, environment, running, wait_until, write_config

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


def told(daemon: Running, event: str) -> Line:
    """What is told of the application's calls, once it has been, and not of the replays themselves."""

    def lines() -> list[Line]:
        return [line for line in daemon.told(event, "m") if line["cause"] == "production_differs"]

    wait_until(lambda: bool(lines()), f"{event} of the application's calls", 180)
    (line,) = lines()
    return line


def test_an_application_that_is_silently_on_the_cpu(tmp_path: Path, good: Path) -> None:
    """Its calls take another time than the replays of the accelerator's session, until it makes the session likewise.

    The simulator is the slower one of the two here, so what shows is an application that is too fast.
    """
    samples = tmp_path / "samples"
    with application(good, samples, "cpu"):
        wait_until(lambda: any(samples.glob("*.npz")), "a sample is kept")
    # Calls beside replays on few cores; the replays' own latency then is not what this is about.
    settings = {"path": good, "samples": samples, "gate": {"production": 4.0, "median": "60s"}}
    config = write_config(tmp_path, {"m": settings}, "1s")
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m")
        with application(good, samples, "cpu"):
            event = told(daemon, "latency_shifted")
            seen = event["production"]
            assert seen["ratio"] < 0.5
            assert seen["calls"] >= 30
            assert sum(seen["histogram"].values()) == seen["calls"]
            assert sum(seen["replays_histogram"].values()) >= 5
            assert seen["covered_ratio"] == 1.0
            wait_until(lambda: daemon.metric("verdict", model="m", state="degraded") == 1, "the verdict")
            assert (daemon.metric("npu_flops_ratio", model="m") or 0) > 0.99
            assert (daemon.metric("production_latency_seconds_count", model="m") or 0) >= 90
            assert daemon.metric("samples_timestamp_seconds", model="m")
        with application(good, samples, "60"):
            over = told(daemon, "latency_recovered")
            wait_until(lambda: daemon.metric("samples_covered_ratio", model="m") == 1.0, "the coverage")
        assert over["id"] == event["id"]
        assert not daemon.told("check_failed", "m")


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model and the former, larger one that it took the place of; their inputs are the same."""
    folder = tmp_path_factory.mktemp("models")
    now = models.saved(demo_model.build((3, 16, 32, 32), 8), folder, "now.onnx")
    return now, models.saved(demo_model.build((3, 96, 96, 96), 8), folder, "former.onnx")


def test_an_application_that_is_slower_than_its_replays(two_models: tuple[Path, Path], tmp_path: Path) -> None:
    """One that still runs the former model, on the accelerator like npumon's session, takes several times as long.

    A fallback itself would be faster here, where the accelerator is a simulator; what is told is the same.
    """
    now, former = two_models
    samples = tmp_path / "samples"
    with application(former, samples, "60"):
        wait_until(lambda: any(samples.glob("*.npz")), "a sample is kept")
    config = write_config(tmp_path, {"m": {"path": now, "samples": samples, "gate": {"median": "60s"}}}, "1s")
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m")
        with application(former, samples, "60"):
            event = told(daemon, "latency_shifted")
            assert "times as long as the replays" in event["reason"]
            seen = event["production"]
            assert seen["ratio"] > 2.0
            assert median(seen["histogram"]) > median(seen["replays_histogram"])
            wait_until(lambda: daemon.metric("verdict", model="m", state="degraded") == 1, "the verdict")
            wait_until(lambda: (daemon.metric("production_ratio", model="m") or 0) > 2.0, "the ratio")
            assert (daemon.metric("npu_flops_ratio", model="m") or 0) > 0.99


def median(histogram: dict[str, int]) -> float:
    """The bound that half of what a histogram counts is below."""
    left = sum(histogram.values()) / 2
    for bound in sorted(histogram, key=float):
        left -= histogram[bound]
        if left <= 0:
            return float(bound)
    raise AssertionError(histogram)
