"""The Alertmanager example: where alerts go, what becomes one notification, and what is kept back, by a real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.prometheus_server import free_port
from tests.grafana.test_rules import ALERTS, ALWAYS, alerts, run

EXAMPLE = Path(__file__).resolve().parents[2] / "grafana" / "alertmanager" / "alertmanager.yml"
VERSIONS = {"provider": "QNN", "onnxruntime": "1.32.0", "provider_version": "2.7.0", "backend_version": "v2.51"}
COHORT = {"model": "m", "soc": "QCS6490", "machine": "aarch64", "sha256": "a" * 64} | VERSIONS


def tool(name: str) -> str:
    """The path of a program that comes with Alertmanager; without it, CI fails and a developer's test is skipped."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: apt-get install --no-install-recommends prometheus-alertmanager")
        pytest.skip(f"no {name} on this machine")
    return found


def severity(alert: str) -> str:
    """The severity that the rules give an alert."""
    (found,) = re.findall(r"severity: (\w+)", alerts()[alert])
    return str(found)


class Webhook:
    """Takes Alertmanager's notifications on a loopback port and keeps them, with the path they came to."""

    def __init__(self) -> None:
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.notifications.append((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1})

    def names(self) -> list[str]:
        """The alerts' name of each notification, in order of the alphabet."""
        return sorted(str(body["groupLabels"]["alertname"]) for _, body in self.notifications)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A receiver for as long as the test lasts."""
    receiver = Webhook()
    receiver.thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.thread.join()
    receiver.server.server_close()


@pytest.fixture
def url(tmp_path: Path, webhook: Webhook) -> Iterator[str]:
    """A real Alertmanager with the example, but the receiver's port, and 4 s to gather a group.

    It sends a group at once if one of its alerts is older than that, as on a machine so busy that 400 take so long.
    """
    text = EXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "alertmanager.yml").write_text(
        text.replace("127.0.0.1:9095", f"127.0.0.1:{webhook.port}").replace("group_wait: 30s", "group_wait: 4s"),
        encoding="utf-8",
    )
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path / "alertmanager.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                tool("prometheus-alertmanager"),
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'data'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 20
        while not _answers(f"http://{address}/-/ready"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def fire(url: str, *labels: dict[str, str]) -> None:
    """Hand alerts to Alertmanager, as Prometheus does."""
    now = datetime.now(UTC).isoformat()
    body = [
        {"labels": one | {"severity": severity(one["alertname"])}, "annotations": {"summary": "s"}, "startsAt": now}
        for one in labels
    ]
    request = urllib.request.Request(
        f"{url}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def settled(webhook: Webhook, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The notifications, once ``count`` are there and two more seconds brought no other."""
    deadline = time.monotonic() + 20
    while len(webhook.notifications) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    return webhook.notifications


def boards(count: int, alert: str, **labels: str) -> list[dict[str, str]]:
    """The same alert from many boards."""
    return [
        {"alertname": alert, "job": "npumon", "instance": f"b{n}", "hostname": f"host-{n}"} | labels
        for n in range(count)
    ]


def test_the_example_is_valid() -> None:
    """Alertmanager's own tool accepts the configuration."""
    assert "SUCCESS" in run(tool("amtool"), "check-config", EXAMPLE)


def test_critical_alerts_go_to_the_pager_and_others_to_the_inbox() -> None:
    """Each alert of the rules has a receiver, by its severity: pager, inbox, or the heartbeat outside."""
    for alert in alerts():
        receiver = {"critical": "pager", "warning": "inbox", "none": "heartbeat"}[severity(alert)]
        labels = (f"alertname={alert}", f"severity={severity(alert)}")
        run(
            tool("amtool"),
            "config",
            "routes",
            "test",
            f"--config.file={EXAMPLE}",
            f"--verify.receivers={receiver}",
            *labels,
        )


def test_a_desk_calls_nobody() -> None:
    """What is said to be no hardware goes to the inbox, however critical."""
    labels = ("alertname=NpumonFallback", "severity=critical", "hardware=none")
    run(tool("amtool"), "config", "routes", "test", f"--config.file={EXAMPLE}", "--verify.receivers=inbox", *labels)


def test_the_heartbeat_goes_its_own_way(url: str, webhook: Webhook) -> None:
    """The alert that always fires reaches its own receiver, and no other."""
    fire(url, {"alertname": ALWAYS})
    settled(webhook, 1)
    assert [path for path, _ in webhook.notifications] == ["/heartbeat"]


def test_a_misspelt_receiver_is_noticed(tmp_path: Path) -> None:
    """The checks above can fail: a route to a receiver that is not there is refused."""
    broken = tmp_path / "alertmanager.yml"
    broken.write_text(
        EXAMPLE.read_text(encoding="utf-8").replace("receiver: pager", "receiver: pagers"), encoding="utf-8"
    )
    assert subprocess.run([tool("amtool"), "check-config", broken], capture_output=True, check=False).returncode != 0


def test_every_alert_that_is_named_exists() -> None:
    """The example names no alert that the rules do not have."""
    assert set(re.findall(r"Npumon\w+", EXAMPLE.read_text(encoding="utf-8"))) <= alerts().keys()


def test_labels_that_inhibition_compares_are_those_of_the_rollout() -> None:
    """The rollout's alert tells versions apart by the labels that the example compares."""
    compared = re.findall(r"equal: \[(model, soc.*)\]", EXAMPLE.read_text(encoding="utf-8"))
    assert len(compared) == 3
    (labels,) = set(compared)
    assert f"* on ({labels})" in ALERTS


def test_a_fleet_that_falls_back_is_one_notification(url: str, webhook: Webhook) -> None:
    """400 boards with one model and cause are one message, small and with the count; another model is another."""
    fire(url, *boards(400, "NpumonFallback", model="m", cause="dynamic_shape", op_type="Conv"))
    fire(url, *boards(3, "NpumonFallback", model="other", cause="dynamic_shape", op_type="Selu"))
    told = {body["groupLabels"]["model"]: (path, body) for path, body in settled(webhook, 2)}
    assert len(webhook.notifications) == len(told) == 2
    path, body = told["m"]
    assert path == "/pager"
    assert len(body["alerts"]) + body["truncatedAlerts"] == 400
    assert len(body["alerts"]) == 50
    assert body["commonLabels"]["op_type"] == "Conv"


def test_a_rollout_stands_for_the_alerts_of_its_boards(url: str, webhook: Webhook) -> None:
    """While the rollout's alert fires, its boards' fallbacks are kept back, and nothing else is."""
    fire(url, {"alertname": "NpumonRolloutRegression", "signal": "unhealthy"} | COHORT)
    fire(url, *boards(400, "NpumonFallback", cause="op_unsupported", **COHORT))
    fire(url, *boards(400, "NpumonOutputsDisagree", **COHORT))
    fire(url, *boards(5, "NpumonFallback", cause="dynamic_shape", **COHORT | {"backend_version": "v2.48"}))
    settled(webhook, 3)
    assert webhook.names() == ["NpumonFallback", "NpumonOutputsDisagree", "NpumonRolloutRegression"]
    (fallback,) = (body for _, body in webhook.notifications if body["groupLabels"]["alertname"] == "NpumonFallback")
    assert {alert["labels"]["backend_version"] for alert in fallback["alerts"]} == {"v2.48"}


def test_a_slower_rollout_keeps_back_only_what_is_about_slowness(url: str, webhook: Webhook) -> None:
    """A rollout that raised the median does not hide fallbacks; where no SoC is known, both lack it and it works."""
    cohort = {label: value for label, value in COHORT.items() if label != "soc"}
    fire(url, {"alertname": "NpumonRolloutRegression", "signal": "median"} | cohort)
    fire(url, *boards(20, "NpumonLatencyShifted", **cohort))
    fire(url, *boards(1, "NpumonFallback", cause="op_unsupported", **cohort))
    settled(webhook, 2)
    assert webhook.names() == ["NpumonFallback", "NpumonRolloutRegression"]


def test_a_fallback_explains_the_latency_of_its_model_on_its_board(url: str, webhook: Webhook) -> None:
    """Latency alerts of a model that fell back are kept back, on that board only; wrong outputs never are."""
    here = {"job": "npumon", "instance": "a", "model": "m"}
    fire(url, {"alertname": "NpumonFallback", "cause": "op_unsupported"} | here)
    for alert in ("NpumonLatencyShifted", "NpumonLatencyUnstable", "NpumonBoardUnlikeCohort", "NpumonOutputsDisagree"):
        fire(url, {"alertname": alert} | here)
    fire(url, {"alertname": "NpumonLatencyShifted"} | here | {"instance": "b"})
    settled(webhook, 3)
    assert webhook.names() == ["NpumonFallback", "NpumonLatencyShifted", "NpumonOutputsDisagree"]
    (shifted,) = (body for path, body in webhook.notifications if path == "/inbox")
    assert [alert["labels"]["instance"] for alert in shifted["alerts"]] == ["b"]


def test_if_nothing_arrives_silent_boards_are_not_told_one_by_one(url: str, webhook: Webhook) -> None:
    """NpumonAbsent stands for all boards that are silent."""
    fire(url, {"alertname": "NpumonAbsent"})
    fire(url, *boards(400, "NpumonBoardSilent"))
    settled(webhook, 1)
    assert webhook.names() == ["NpumonAbsent"]
