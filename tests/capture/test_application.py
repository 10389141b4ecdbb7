"""The whole way: a real session in two processes of an application, tapped, and npumon that replays what was kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.probe import demo_model
from tests import models
from tests.capture.offering import assert_uniform, kept, ledgers
from tests.e2e.running import environment, npumon, running, write_config

CALLS = 10_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quantized network that the accelerator takes whole."""
    return models.saved(demo_model.build((3, 16, 16), 16), tmp_path_factory.mktemp("model"))


def run(model: Path, samples: Path, *arguments: str) -> list[dict[str, float]]:
    """Run the application to its end; what its processes told. Nothing may have gone wrong in it."""
    command = [sys.executable, "-W", "error", "-m", "tests.capture.application", str(model), str(samples), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["exit"] == [0, 0]
    told: list[dict[str, float]] = document["told"]
    return told


def calls(samples: Path, kind: str) -> list[tuple[int, int, bool]]:
    """Process, number and plantedness of what was kept."""
    marks = [sample["image"].flat[:3] for sample in kept(samples, kind)]
    return [(int(process), int(call), bool(slow)) for process, call, slow in marks]


@pytest.fixture(scope="module")
def tapped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """What two processes left behind that made 10,000 calls each beside a tap with its defaults."""
    samples = tmp_path_factory.mktemp("tapped") / "samples"
    return samples, run(model, samples)


def test_every_call_is_counted(tapped: tuple[Path, list[dict[str, float]]]) -> None:
    """One ledger a process, with all its calls, about one in a hundred shapes, and hardly a sample that was dropped."""
    written = ledgers(tapped[0])
    assert [sum(ledger["bins"]) for ledger in written] == [CALLS] * 2
    assert sum(ledger["dropped"] for ledger in written) <= 10  # the disk is shared
    for ledger in written:
        assert ledger["shapes"].keys() == {"image[1,3,16,16]"}
        assert 50 < ledger["shapes"]["image[1,3,16,16]"] < 150  # 100, give or take five standard deviations


def test_the_sample_is_fair(tapped: tuple[Path, list[dict[str, float]]]) -> None:
    """Three quarters of the files are of calls from anywhere in both processes."""
    fair = calls(tapped[0], "fair")
    assert len(fair) == 48
    assert_uniform([call / CALLS for _, call, _ in fair])
    assert 7 <= sum(process for process, _, _ in fair) <= 41  # of a fair coin's 48 tosses: p < 1e-6 beyond
    assert sum(slow for _, _, slow in fair) <= 14  # 5 % are: p < 1e-6 beyond


def test_the_slow_tail_is_kept(tapped: tuple[Path, list[dict[str, float]]]) -> None:
    """A quarter of the files is for slow calls, and those that were made slow are the bulk of it."""
    slow = calls(tapped[0], "slow")
    assert len(slow) == 16
    assert sum(planted for _, _, planted in slow) >= 12


def test_bounds_and_modes_are_met(tapped: tuple[Path, list[dict[str, float]]]) -> None:
    """64 samples, nothing half-written, and all of it for the application's user alone."""
    files = list(tapped[0].iterdir())
    assert len([file for file in files if file.suffix == ".npz"]) == 64
    assert len(files) == 66
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_call_costs_microseconds(tapped: tuple[Path, list[dict[str, float]]]) -> None:
    """On average with what is kept, scheduling and all; benchmarks/capture.py measures the cost itself."""
    assert all(told["offer"] < 100e-6 for told in tapped[1])


def test_npumon_replays_what_was_kept(tapped: tuple[Path, list[dict[str, float]]], model: Path, tmp_path: Path) -> None:
    """``models.samples`` is the tap's folder: every file fits the model, and the check is of real inputs."""
    config = write_config(tmp_path, {"detector": {"path": model, "samples": tapped[0], "replays": 10}})
    done = npumon("check", "-c", config, "--json")
    (document,) = json.loads(done.out)
    assert (done.code, document["verdict"]) == (0, "healthy")
    assert document["samples"] == "files"
    assert len(document["replays_seconds"]) == 10
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("detector")
        assert daemon.metric("samples", model="detector") == 64
        assert set(daemon.metrics("samples_rejected_total").values()) == {0}
        assert daemon.metric("verdict", model="detector", state="healthy") == 1


def test_a_tapped_session_does_it_alone(model: Path, tmp_path: Path) -> None:
    """One line changed in the application, forked processes, and the same comes of it, also the last counts."""
    run(model, tmp_path, "--wrapped", "--start", "fork", "--calls", "2500")
    written = ledgers(tmp_path)
    assert [sum(ledger["bins"]) for ledger in written] == [2500] * 2
    assert all(0 < ledger["seconds"] < 60 for ledger in written)
    fair = calls(tmp_path, "fair")
    assert len(fair) == 48
    assert_uniform([call / 2500 for _, call, _ in fair])
    assert {len(sample) for sample in kept(tmp_path)} == {1}
    assert all(np.count_nonzero(sample["image"]) <= 2 for sample in kept(tmp_path))
