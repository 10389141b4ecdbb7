"""Every kind of bad input: its exact line, its exit code, and a daemon that goes on with what can run."""

from __future__ import annotations

import functools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.config import Model
from monitor.service import check, life
from monitor.service.handle import ProbeHandle
from monitor.service.studies import Memory
from tests.e2e.running import COMMAND, INSIDE_PROBES, Done, Running, environment, npumon, running, write_config

DEPLOY = "deploy the model or correct models.path"
COPY = "copy the model to the board again and compare its checksum"
SAMPLES = "correct models.samples, or remove it to replay synthesized inputs"

# What cannot be measured: reason, sentence and mend, as in events, on stderr and in JSON. {} is the models' folder.
BAD = {
    "absent": ("model_missing", "{}/absent.onnx: No such file or directory", DEPLOY),
    "directory": ("model_missing", "{}/directory.onnx: not a regular file", DEPLOY),
    "pipe": ("model_missing", "{}/pipe.onnx: not a regular file", DEPLOY),
    "truncated": ("model_invalid", "{}/truncated.onnx: it does not parse as ONNX (truncated?)", COPY),
    "wordy": (
        "input_unusable",
        "input words: a tensor(string) cannot be synthesized",
        "give samples (models.samples)",
    ),
    "dims": (
        "dims_unknown",
        "{}/good.onnx: dims.batch: no such free dimension",
        "the model has: none with a name",
    ),
    "attribute": (
        "session_failed",
        "session.intra_op_threads: SessionOptions has no such attribute",
        "correct the name; a session config entry has a dot in its name",
    ),
    "no_folder": ("input_unusable", "{}/nowhere: No such file or directory", SAMPLES),
    "all_bad": (
        "input_unusable",
        "{}/all_bad: no .npz file of 1 fits the model; dtype.npz: image is float64, the model takes tensor(float)",
        SAMPLES,
    ),
    "soc_0": ("session_failed", "", "try another soc_model or fix the model; the message is the runtime's own"),
}
# What is wrong with some of a good model's samples: reason and detail.
REJECTED = {
    "dtype.npz": ("dtype", "image is float64, the model takes tensor(float)"),
    "name.npz": ("name", "lacks image; has no input called picture"),
    "shape.npz": ("shape", "image is [1, 3, 32, 33], the model takes [1, 3, 32, 32]"),
    "text.npz": ("unreadable", "File is not a zip file"),
    "objects.npz": ("unreadable", "holds pickled objects, which are never loaded"),
}
TYPO = (
    "options.soc_modle: the execution provider qnn does not know this option and ignores it; "
    "correct or remove options.soc_modle"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, good: Path, wordy: Path, selu: Path) -> Path:
    """A folder with a good model and everything that is bad."""
    folder = tmp_path_factory.mktemp("bad")
    model = good.read_bytes()
    (folder / "good.onnx").write_bytes(model)
    (folder / "wordy.onnx").write_bytes(wordy.read_bytes())
    (folder / "selu.onnx").write_bytes(selu.read_bytes())
    (folder / "truncated.onnx").write_bytes(model[: len(model) // 2])
    (folder / "directory.onnx").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    for name in ("all_bad", "samples"):
        (folder / name).mkdir()
    image = np.zeros((1, 3, 32, 32), np.float32)
    np.savez(folder / "all_bad" / "dtype.npz", image=image.astype(np.float64))
    samples = folder / "samples"
    np.savez(samples / "right.npz", image=image)
    np.savez(samples / "dtype.npz", image=image.astype(np.float64))
    np.savez(samples / "name.npz", picture=image)
    np.savez(samples / "shape.npz", image=np.zeros((1, 3, 32, 33), np.float32))
    np.savez(samples / "objects.npz", image=np.array([{}], object))
    (samples / "text.npz").write_text("no archive")
    return folder


@pytest.fixture(scope="module")
def config(place: Path) -> Path:
    """One good model and all the bad ones."""
    good = {"path": "good.onnx"}
    models: dict[str, dict[str, Any]] = {
        "good": {**good, "samples": "samples"},
        "typo": {**good, "options": {"soc_modle": "60"}},
        "dims": {**good, "dims": {"batch": 1}},
        "attribute": {**good, "session": {"intra_op_threads": 1}},
        "no_folder": {**good, "samples": "nowhere"},
        "all_bad": {**good, "samples": "all_bad"},
        "soc_0": {"path": "selu.onnx", "options": {"soc_model": "0"}},
    }
    return write_config(place, {name: {"path": f"{name}.onnx"} for name in BAD} | models)


@pytest.fixture(scope="module")
def daemon(config: Path) -> Iterator[Running]:
    """The daemon, once it has failed with every bad model and gone on with the good ones."""
    with running("run", "-c", config) as daemon:
        for name in BAD:
            daemon.wait("check_failed", name)
        daemon.wait_checks("good", "typo")
        yield daemon


@pytest.mark.parametrize("name", BAD)
def test_a_daemon_tells_what_is_wrong_with_a_model_once(daemon: Running, place: Path, name: str) -> None:
    """Reason, sentence and mend stand in one event; the metrics count, and show no figure that was not measured."""
    reason, detail, mend = BAD[name]
    (event,) = daemon.told("check_failed", name)
    assert event["error"]["reason"] == reason
    assert event["error"]["detail"] == event["reason"]
    assert "\n" not in event["reason"]
    if detail:
        assert event["reason"] == detail.format(place)
    assert event["error"]["mend"] == mend
    failures = daemon.metric("check_failures_total", model=name, reason=reason)
    assert failures
    assert failures == daemon.checks(name)
    assert daemon.metric("verdict", model=name, state="unknown") == 1
    for metric in ("npu_flops_ratio", "latency_median_seconds", "latency_cv_ratio", "fallback_nodes"):
        assert daemon.metric(metric, model=name) is None


def test_a_daemon_goes_on_with_what_can_run(daemon: Running) -> None:
    """Among a dozen models that fail and are tried again, the good ones are checked on and on, and healthy."""
    daemon.wait_checks("good", "typo")
    for name in ("good", "typo"):
        assert daemon.metric("verdict", model=name, state="healthy") == 1
        assert not sum(v for labels, v in daemon.metrics("check_failures_total").items() if ("model", name) in labels)
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/")[0] == 200


def test_samples_that_do_not_fit_are_counted_and_named_once(daemon: Running) -> None:
    """Each rejected file is in the log once, with reason and detail, and counted once; the others are replayed."""
    lines = daemon.told("sample_rejected", "good")
    assert {line["file"]: (line["reason"], line["detail"]) for line in lines} == REJECTED
    assert len(lines) == len(REJECTED)
    for reason, count in (("dtype", 1), ("name", 1), ("shape", 1), ("unreadable", 2), ("too_large", 0)):
        assert daemon.metric("samples_rejected_total", model="good", reason=reason) == count
    assert daemon.metric("samples", model="good") == 1


def test_a_typing_mistake_in_an_option_is_told(daemon: Running) -> None:
    """An option that the provider does not know does nothing, and the log says so once."""
    (line,) = [line for line in daemon.told("check_note", "typo") if line["detail"] == TYPO]
    assert line["level"] == "warning"


@pytest.mark.parametrize("name", ["absent", "truncated", "dims", "all_bad"])
def test_check_says_it_in_one_line_and_exits_with_3(config: Path, place: Path, name: str) -> None:
    """``check`` puts sentence and mend on stderr, and a table without figures on stdout."""
    _, detail, mend = BAD[name]
    done = npumon("check", "-c", config, "--model", name)
    assert done.code == 3
    assert done.err == f"{name}: {detail.format(place)}; {mend}\n"
    assert "%" not in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--provider", "nosuch"), 3, "execution provider nosuch: the package onnxruntime_nosuch cannot be used"),
        (("--dim", "batch=0"), 2, "--dim batch=0: expected a whole number of at least 1; write --dim batch=1"),
        (("--dim", f"batch={10**30}"), 2, f"--dim batch={10**30}: expected a whole number of at least 1"),
        (("--dim", "batch"), 2, "--dim batch: expected KEY=VALUE; write --dim batch=VALUE"),
        (("-o", "soc_model"), 2, "-o soc_model: expected KEY=VALUE; write -o soc_model=VALUE"),
        (("--timeout", "nan"), 2, "--timeout nan: expected seconds above 0 and up to 31536000; write --timeout 60"),
        (("--timeout", "-1"), 2, "--timeout -1: expected seconds above 0 and up to 31536000; write --timeout 60"),
        (("--nosuch",), 2, "npumon audit: No such option '--nosuch'"),
        (("-s", "graph_optimization_level=ALL"), 3, "session.graph_optimization_level: 'ALL' is refused"),
    ],
)
def test_bad_arguments_of_audit(good: Path, arguments: tuple[str, ...], code: int, line: str) -> None:
    """One line that names the argument and what to write instead, and the exit code of usage or of no measurement."""
    done = npumon("audit", good, *arguments)
    assert done.code == code
    assert line in done.err
    assert done.err.count("\n") == 1
    assert ("unknown" in done.out) == (code == 3)


def test_a_session_option_of_audit_has_the_type_that_the_runtime_wants(good: Path) -> None:
    """Numbers and switches arrive as such, config entries as text."""
    settings = ("-s", "intra_op_num_threads=1", "-s", "enable_mem_pattern=false", "-s", "session.dynamic_block_base=4")
    done = npumon("audit", good, "-o", "soc_model=60", *settings)
    assert (done.code, done.err) == (0, "")


MODEL = '[[models]]\nname = "m"\npath = "m.onnx"\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MODEL + "replay = 5\n", "{}:4: models[0].replay: unknown key; write replays"),
        (
            MODEL + 'replays = "5"\n',
            '{}:4: models[0].replays: expected an integer from 2 to 10000, got "5"; write replays = 5',
        ),
        (
            MODEL + "[models.gate]\nmedian = nan\n",
            "{}:5: models[0].gate.median: expected a duration in d, h, m, s, ms or us, above 0 and up to 365d, "
            'got nan; write median = "12ms"',
        ),
        (
            MODEL + "[models.gate]\ncv = nan\n",
            "{}:5: models[0].gate.cv: expected a finite number above 0, got nan; write cv = 0.15",
        ),
        (MODEL + MODEL, '{}:5: models[1].name: "m" is the name of models[0] on line 2; choose another'),
    ],
    ids=["unknown key", "mistyped value", "NaN median", "NaN CV", "two of one name"],
)
def test_a_bad_configuration_is_one_line_in_every_command(tmp_path: Path, text: str, line: str) -> None:
    """``run``, ``check`` and ``check-config`` say the same, measure nothing and exit with 2."""
    file = tmp_path / "npumon.toml"
    file.write_text(text)
    expected = Done(2, "", line.format(file) + "\n")
    assert npumon("check-config", file) == expected
    assert npumon("run", "-c", file) == expected
    assert npumon("check", "-c", file) == expected


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    """The file is named, with what to give instead."""
    file = tmp_path / "npumon.toml"
    line = f"{file}: No such file or directory; name a TOML file that this user may read\n"
    assert npumon("run", "-c", file) == Done(2, "", line)


def test_a_port_in_use(tmp_path: Path, good: Path) -> None:
    """The daemon does not start beside another one; it names file, key and address, and systemd may try again (3)."""
    config = write_config(tmp_path, {"m": {"path": good}})
    host, port = config.read_text().split('"')[1].split(":")
    with socket.create_server((host, int(port))):
        line = f"{config}: monitor.listen: {host}:{port} is in use; stop what listens there or choose another port\n"
        assert npumon("run", "-c", config) == Done(3, "", line)


def test_a_state_directory_that_cannot_be_made(tmp_path: Path, good: Path) -> None:
    """A file stands in the way: exit code 2, with file, key, directory and mend."""
    (tmp_path / "state").touch()
    config = write_config(tmp_path, {"m": {"path": good}})
    mend = "free it for this user or name another directory"
    line = f"{config}: monitor.state: cannot write {tmp_path}/state: Not a directory; {mend}\n"
    assert npumon("run", "-c", config) == Done(2, "", line)


def test_a_state_directory_that_fills_up_costs_no_check(tmp_path: Path, good: Path) -> None:
    """While the state cannot be written, the loss is logged and counted, and checks go on; then it is made good."""
    config = write_config(tmp_path, {"m": {"path": good}}, "1s")
    with running("run", "-c", config, PYTHONPATH=INSIDE_PROBES) as daemon:
        # A limit on the size of the daemon's files stands in for a full disk.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        line = daemon.wait("state_not_written", count=2)
        assert line["level"] == "error"
        assert daemon.metric("verdict", model="m", state="healthy") == 1
        assert daemon.metric("npu_flops_ratio", model="m") == 1
        assert daemon.get("/healthz")[0] == 200
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        daemon.wait_checks("m", more=2)
        lost = daemon.metric("state_write_failures_total")
        daemon.wait_checks("m")
        assert daemon.metric("state_write_failures_total") == lost
        assert {line["event"] for line in daemon.lines} == {"started", "state_not_written"}


def test_a_state_directory_that_is_full_from_the_start(tmp_path: Path, good: Path) -> None:
    """The daemon says so instead of starting without a memory, and may be started again."""
    config = write_config(tmp_path, {"m": {"path": good}})
    command = ("prlimit", "--fsize=1", *COMMAND, "run", "-c", str(config))
    done = subprocess.run(command, env=environment(PYTHONDONTWRITEBYTECODE="1"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"{config}: monitor.state: cannot write {tmp_path}/state: ")
    assert done.stderr.endswith("; free it for this user or name another directory\n")
    assert done.stderr.count("\n") == 1


def test_a_probe_that_reports_nan_is_not_believed(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN latencies make the check fail as nonsense from the probe; no median is made of them."""
    argv = (sys.executable, str(Path(__file__).with_name("nan_probe.py")))
    monkeypatch.setattr(life, "ProbeHandle", functools.partial(ProbeHandle, argv))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    checker = check.Checker(Model("m", good, options={"soc_model": "60"}), "qnn", 3600.0, Memory())
    try:
        result = checker.check()
    finally:
        checker.close()
    assert result.error is not None
    assert result.error.reason == "probe_protocol"
    assert result.error.detail == "the probe's latencies are unusable: a replay's time is not a positive, finite number"
    assert result.verdict == "unknown"
    assert result.latency is None
