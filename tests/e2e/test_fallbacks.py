"""Silent fallbacks of a whole session and of one op: each must be told as what it is, within one check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Running, npumon, running, write_config

MODELS = {
    "unknown_soc": {"soc_model": "9999"},
    "no_backend": {"backend_path": "/opt/nowhere/libQnnHtp.so"},
    "soc_80": {"soc_model": "80"},
    "soc_60": {"soc_model": "60"},
    "soc_58": {"soc_model": "58"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, selu: Path) -> Path:
    """The same model five times, with the settings of different boards."""
    gate = {"npu_flops": 0.99}
    models = {name: {"path": selu, "options": options, "gate": gate} for name, options in MODELS.items()}
    return write_config(tmp_path_factory.mktemp("fallbacks"), models, interval="1h")


@pytest.fixture(scope="module")
def daemon(config: Path) -> Iterator[Running]:
    """The daemon after exactly one check of each."""
    with running("run", "-c", config) as daemon:
        daemon.wait_checks(*MODELS)
        yield daemon


@pytest.mark.parametrize(
    ("model", "words", "remedy"),
    [
        ("unknown_soc", "QNN_DEVICE_ERROR_INVALID_CONFIG", "soc_model"),
        ("no_backend", "Unable to load backend", "backend_path"),
        ("soc_80", "QNN_DEVICE_ERROR_INVALID_CONFIG", "soc_model"),
    ],
)
def test_a_total_fallback_is_told_as_what_it_is(daemon: Running, model: str, words: str, remedy: str) -> None:
    """Nothing runs on the accelerator: share 0, the cause, every op with reason and remedy, after a single check."""
    cause = "accelerator_unavailable"
    assert daemon.checks(model) == 1
    assert daemon.metric("npu_flops_ratio", model=model) == 0
    assert daemon.metric("verdict", model=model, state="fallback") == 1
    assert daemon.metric("fallback_events_total", model=model, cause=cause) == 1
    (event,) = daemon.told("fallback_detected", model)
    assert event["cause"] == cause
    assert event["npu_flops_ratio"] == 0
    assert {"conv1", "selu", "conv2"} <= {op["node"] for op in event["ops"]}
    assert all(words in op["reason"] and remedy in op["remedy"] for op in event["ops"])
    assert event["runtime"]["target"] == "cpu"


def test_a_model_that_its_soc_takes_whole_is_healthy(daemon: Running) -> None:
    """The model with a Selu is on the accelerator of soc_model 60 but for its graph-edge Q/DQ, and raises nothing."""
    assert daemon.metric("npu_flops_ratio", model="soc_60") == 1
    assert daemon.metric("fallback_nodes", model="soc_60") == 0
    assert daemon.metric("verdict", model="soc_60", state="healthy") == 1
    assert not [line for line in daemon.lines if line.get("model") == "soc_60"]


def test_a_model_that_loses_one_op_names_exactly_that(daemon: Running) -> None:
    """On soc_model 58 the Selu, and nothing but the Selu, is on the CPU, and the provider says why."""
    (event,) = daemon.told("fallback_detected", "soc_58")
    assert event["cause"] == "op_unsupported"
    (op,) = event["ops"]
    assert (op["node"], op["op_type"], op["reason"]) == ("selu", "Selu", "Selu: failed to create ELU node.")
    assert daemon.metric("fallback_nodes", model="soc_58") == 1
    ratio = daemon.metric("npu_flops_ratio", model="soc_58")
    assert ratio is not None
    assert ratio + op["flops_ratio"] == pytest.approx(1)
    (labels,) = [dict(labels) for labels in daemon.metrics("fallback_flops_ratio") if ("model", "soc_58") in labels]
    assert labels["op_type"] == "Selu"


def test_check_finds_the_same_and_exits_with_1(config: Path) -> None:
    """One command, one exit code: any model that fell back is worse than healthy."""
    assert npumon("check", "-c", config, "--model", "unknown_soc").code == 1
    assert npumon("check", "-c", config, "--model", "soc_60").code == 0
