"""What a new user sees first: ``npumon demo``, its metrics, its events and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from tests.e2e.running import Done, Running, free_port, npumon, running


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    """The demo, once both models have been checked."""
    with running("demo", "--listen", f"127.0.0.1:{free_port()}", "--interval", "3s") as daemon:
        daemon.wait("fallback_detected", "swift_f0")
        daemon.wait_checks("swift_f0", "qdq_cnn")
        yield daemon


def test_the_published_model_is_seen_to_fall_back(demo: Running) -> None:
    """The session of swift-f0 has the accelerator, 32 of its nodes run there, and still next to none of its FLOPs."""
    ratio = demo.metric("npu_flops_ratio", model="swift_f0")
    assert ratio is not None
    assert ratio < 0.05
    assert demo.metric("verdict", model="swift_f0", state="fallback") == 1
    assert demo.metric("fallback_events_total", model="swift_f0", cause="dynamic_shape") == 1
    assert demo.metric("partitions", model="swift_f0")
    target = dict(next(labels for labels in demo.metrics("runtime_info") if ("model", "swift_f0") in labels))
    assert target["provider"] == "qnn"
    assert target["target"] == "simulator"


def test_the_event_names_its_convs_with_the_providers_reasons(demo: Running, published: Callable[[str], Path]) -> None:
    """The event's ops are the worst of those that ``audit`` lists, with all 18 Convs and the provider's own words."""
    path = published("swift_f0")
    event = demo.wait("fallback_detected", "swift_f0")
    audit = json.loads(npumon("audit", path, "-o", "soc_model=60", "--json").out)
    convs = {op["node"]: op for op in audit["ops"] if op["op_type"] == "Conv"}
    assert len(convs) == sum(node.op_type == "Conv" for node in onnx.load(str(path)).graph.node) == 18
    assert all(op["reason"] == "Cannot get shape" and op["remedy"] for op in convs.values())
    assert len(event["ops"]) + event["ops_omitted"] == len(audit["ops"]) == audit["nodes"]["cpu"] == 177
    told = {op["node"]: op for op in event["ops"] if op["op_type"] == "Conv"}
    assert told.keys() == convs.keys()
    assert all(op["reason"] == "Cannot get shape" and op["remedy"] for op in told.values())
    shares = [op["flops_ratio"] for op in event["ops"]]
    assert shares == sorted(shares, reverse=True)
    assert event["level"] == "error"
    assert event["samples"] == "synthetic"
    assert event["npu_flops_ratio"] == demo.metric("npu_flops_ratio", model="swift_f0")


def test_the_healthy_model_raises_nothing(demo: Running) -> None:
    """The quantized network is on the accelerator; its graph-edge Q/DQ on the CPU are no fallback."""
    ratio = demo.metric("npu_flops_ratio", model="qdq_cnn")
    assert ratio is not None
    assert ratio > 0.99
    assert demo.metric("fallback_nodes", model="qdq_cnn") == 0
    assert demo.metric("verdict", model="qdq_cnn", state="healthy") == 1
    assert not [line for line in demo.lines if line.get("model") == "qdq_cnn"]


def test_the_page_shows_both(demo: Running) -> None:
    """Verdicts, the worst op with its reason, and that this is a simulator, without a script."""
    status, page = demo.get("/")
    assert status == 200
    event = demo.wait("fallback_detected", "swift_f0")
    for words in ("swift_f0", "qdq_cnn", "fallback", "healthy", "simulator", event["ops"][0]["node"]):
        assert words in page
    assert "<script" not in page
    assert demo.get("/healthz") == (200, "ok\n")


def test_an_unchanged_fallback_is_told_once(demo: Running) -> None:
    """Further checks of the same fallback raise no further event."""
    demo.wait_checks("swift_f0", more=2)
    assert len(demo.told("fallback_detected")) == 1
    assert not demo.told("fallback_changed")


def test_the_demo_says_what_it_is_and_where_to_look(demo: Running) -> None:
    """The banner stands on stderr: a simulator, the page, the metrics; stdout is the event log alone."""
    assert demo.stop() == 0
    assert "SIMULATOR" in demo.err
    assert f"{demo.address}/metrics" in demo.err


def refused(done: Done, words: str) -> None:
    """The command must have ended with one line on stderr, this one, and exit code 2."""
    assert done == Done(2, "", words + "\n")


def test_wrong_arguments_of_the_demo_are_named() -> None:
    """The demo's own temporary file is not blamed for what the user wrote."""
    refused(
        npumon("demo", "--interval", "5"),
        "npumon demo: monitor.interval: expected a duration in d, h, m, s, ms or us, above 0 and up to 365d, "
        'got "5"; write interval = "5s"',
    )


def test_a_demo_without_its_packages_says_so(tmp_path: Path) -> None:
    """Where onnx cannot be imported, the demo says so in one line."""
    (tmp_path / "onnx.py").write_text('raise ImportError("no onnx here")\n')
    refused(
        npumon("demo", PYTHONPATH=str(tmp_path)),
        "npumon demo: its model cannot be made: ImportError: no onnx here; reinstall npumon's packages",
    )
