"""From an op that falls back to a message to a person, through the real parts and the project's own examples.

The daemon runs the Selu model on the simulator of a SoC that takes it whole, then of one that does not. Prometheus,
rules and Alertmanager are those of ``grafana/``, in a hurry (see ``tests/grafana/wired.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import models
from tests.e2e.running import Running, running, write_config
from tests.grafana.test_alertmanager import Webhook
from tests.grafana.wired import (
    GRAFANA,
    Alertmanager,
    WiredPrometheus,
    agent,
    edited,
    eventually,
    receiving,
)

HURRY = {"group_wait: 30s": "group_wait: 1s", "group_interval: 5m": "group_interval: 1s"}
GATE = {"npu_flops": 0.99, "cv": 50.0, "median": "100s"}


class Daemon(NamedTuple):
    """A daemon and its configuration file."""

    running: Running
    config: Path

    def move(self, old: str, new: str) -> None:
        """Run the model on another SoC from now on."""
        text = self.config.read_text(encoding="utf-8")
        self.config.write_text(edited(text, {f'"{old}"': f'"{new}"'}), encoding="utf-8")
        assert self.running.reload()["changed"] == ["detector"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """The daemon with a model that its SoC takes whole."""
    (tmp_path / "board").mkdir()
    file = models.saved(models.selu_qdq(), tmp_path / "board", "selu.onnx")
    model = {"path": file, "options": {"soc_model": "60"}, "gate": GATE}
    config = write_config(tmp_path / "board", {"detector": model}, "1s", options={})
    with running("run", "-c", config) as found:
        found.wait_checks("detector")
        yield Daemon(found, config)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A receiver for as long as the test lasts."""
    with receiving() as receiver:
        yield receiver


def told(webhook: Webhook, status: str) -> list[dict[str, Any]]:
    """The notifications with this status."""
    return [body for path, body in webhook.notifications if body["status"] == status and path != "/heartbeat"]


def wait_told(webhook: Webhook, status: str) -> dict[str, Any]:
    """The first notification with this status, once it has come; the one alert in it."""
    eventually(lambda: bool(told(webhook, status)), lambda: f"{status}: {webhook.notifications}", 90)
    body = told(webhook, status)[0]
    assert body["groupLabels"] == {"alertname": "NpumonFallback", "model": "detector", "cause": "op_unsupported"}
    (alert,) = body["alerts"]
    return dict(alert)


def test_an_op_that_falls_back_is_told_by_its_name_and_that_it_is_over(
    tmp_path: Path, daemon: Daemon, webhook: Webhook
) -> None:
    """Daemon, scrape, rule, Alertmanager, webhook: the pager hears of Selu on this model, then that it is resolved."""
    with (
        Alertmanager(tmp_path, webhook.port, HURRY) as alertmanager,
        WiredPrometheus(tmp_path, alertmanager.address) as server,
    ):
        # The example's own list of boards, with the daemon's port: a desk, where a simulator is no alert.
        boards = (GRAFANA / "prometheus" / "boards" / "example.json").read_text(encoding="utf-8")
        port = daemon.running.address.rpartition(":")[2]
        (server.boards / "desk.json").write_text(edited(boards, {"10877": port}), encoding="utf-8")
        server.wait(lambda: bool(server.now("instance_model:npumon_npu_flops_ratio:identity == 1")), "healthy")

        daemon.move("60", "58")
        raised = wait_told(webhook, "firing")
        labels = raised["labels"]
        known = {
            "job": "npumon",
            "instance": "127.0.0.1",
            "model": "detector",
            "op_type": "Selu",
            "severity": "critical",
        }
        assert labels.items() >= {**known, "site": "desk", "target": "simulator"}.items()
        summary = raised["annotations"]["summary"]
        assert summary == f"detector fell back to the CPU on {labels['hostname']}, Selu above all"
        assert raised["annotations"]["runbook_url"] == "docs/runbook.md#npumonfallback"

        daemon.move("58", "60")
        resolved = wait_told(webhook, "resolved")
        assert (resolved["fingerprint"], resolved["labels"]) == (raised["fingerprint"], labels)
        assert server.firing() == []
        # A desk calls nobody: boards/example.json says that it is no hardware. The heartbeat goes on all the time.
        paths = {path for path, _ in webhook.notifications}
        eventually(lambda: "/heartbeat" in {path for path, _ in webhook.notifications}, lambda: f"a heartbeat: {paths}")
    assert {path for path, _ in webhook.notifications} == {"/inbox", "/heartbeat"}


def test_a_board_that_pushes_raises_the_same_alert(tmp_path: Path, daemon: Daemon, webhook: Webhook) -> None:
    """A board that cannot be scraped: its agent's remote write alone is enough for the alert and for its end."""
    with (
        Alertmanager(tmp_path, webhook.port, HURRY) as alertmanager,
        WiredPrometheus(tmp_path, alertmanager.address) as receiver,
        agent(tmp_path / "agent", "board-17", daemon.running.address.removeprefix("http://"), receiver.url),
    ):
        receiver.wait(lambda: bool(receiver.now("instance_model:npumon_npu_flops_ratio:identity == 1")), "healthy")
        assert [one["labels"]["job"] for one in receiver.get("targets")["activeTargets"]] == ["prometheus"]
        daemon.move("60", "58")
        raised = wait_told(webhook, "firing")
        assert raised["labels"].items() >= {"job": "npumon", "instance": "board-17", "op_type": "Selu"}.items()
        assert "/pager" in {path for path, _ in webhook.notifications}
        daemon.move("58", "60")
        assert wait_told(webhook, "resolved")["fingerprint"] == raised["fingerprint"]
