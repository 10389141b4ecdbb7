"""The project's own examples as they are used: Prometheus, its rules, Alertmanager, and a webhook that is told.

Field times are too long for a test, so that they are shortened, here and nowhere else, and in files only:

- rules: minutes of ``for`` and ``keep_firing_for`` are seconds. Expressions, labels and texts stay, except what
  :func:`hastened_rules` is handed; each of these is a literal that has to occur exactly once.
- Prometheus' example: the two intervals, and where rules, Alertmanager and itself are. NpumonRulesSlow goes by half of
  an interval, which stays that of the field, in seconds.
- Alertmanager's example: waits, and the webhook's port.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.prometheus_server import Prometheus, free_port, program
from tests.grafana.test_alertmanager import Webhook, tool
from tests.grafana.test_rules import ALWAYS

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
FIELD_SECONDS = 30
"""Between two evaluations in ``grafana/prometheus/prometheus.yml``; what is not there cannot be replaced in it."""

Edits = Mapping[str, str]


def start(log: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process whose words go to ``log``."""
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment)


def edited(text: str, edits: Edits) -> str:
    """``text`` with each literal replaced, which has to occur exactly once."""
    for old, new in edits.items():
        assert text.count(old) == 1, f"{text.count(old)} times in the example: {old}"
        text = text.replace(old, new)
    return text


def hastened_rules(directory: Path, edits: Edits | None = None) -> None:
    """The project's rules into ``directory``, with minutes of ``for`` and ``keep_firing_for`` as seconds."""
    directory.mkdir()
    texts = {file.name: file.read_text(encoding="utf-8") for file in sorted((GRAFANA / "rules").glob("*.yml"))}
    for old, new in (edits or {}).items():
        names = [name for name, text in texts.items() if old in text]
        assert len(names) == 1, f"in {names} and not in one file: {old}"
        texts[names[0]] = edited(texts[names[0]], {old: new})
    for name, text in texts.items():
        shorter = re.sub(r"^( +(?:for|keep_firing_for): \d+)m$", r"\1s", text, flags=re.MULTILINE)
        assert not re.search(r"^ +(for|keep_firing_for): .*[^s]$", shorter, re.MULTILINE)
        (directory / name).write_text(shorter, encoding="utf-8")


class WiredPrometheus(Prometheus):
    """A Prometheus with the project's example for it in ``directory``; boards are listed in ``directory/boards``."""

    def __init__(
        self, directory: Path, alertmanager: str, interval: str = "1s", rule_edits: Edits | None = None
    ) -> None:
        super().__init__(directory, [])
        self.boards = directory / "boards"
        self.boards.mkdir()
        slow = "> 0.5 * prometheus_rule_group_interval_seconds"
        times = 0.5 * FIELD_SECONDS / float(interval.removesuffix("s"))
        hastened_rules(directory / "rules", {**(rule_edits or {}), slow: slow.replace("0.5", f"{times:g}")})
        example = (GRAFANA / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        edits = {
            f"scrape_interval: {FIELD_SECONDS}s": f"scrape_interval: {interval}",
            f"evaluation_interval: {FIELD_SECONDS}s": f"evaluation_interval: {interval}",
            "../rules/npumon.recording.yml": "rules/npumon.recording.yml",
            "../rules/npumon.alerts.yml": "rules/npumon.alerts.yml",
            '"127.0.0.1:9093"': f'"{alertmanager}"',
            "127.0.0.1:9090": self.url.removeprefix("http://"),
        }
        (directory / "prometheus.yml").write_text(edited(example, edits), encoding="utf-8")

    def __enter__(self) -> WiredPrometheus:
        # As the example says: with this option it takes what agents push, too.
        self._process = start(
            self._log,
            self._program,
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--web.enable-remote-write-receiver",
            # What fires at the very start is sent before any Alertmanager is known, and again a minute later.
            "--rules.alert.resend-delay=5s",
            "--log.level=warn",
        )
        try:
            self.wait(self._ready, "ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def metrics(self, name: str) -> dict[str, float]:
        """Its own metrics of this name, by their labels as they are written."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def scheduled(self) -> tuple[float, float]:
        """Seconds that its threads ran, and that they were ready to run and had no CPU; as the kernel counts them."""
        threads = [file.read_text().split() for file in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")]
        ran, waited = (sum(int(thread[column]) for thread in threads) / 1e9 for column in (0, 1))
        return ran, waited

    def firing(self, alert: str = "") -> list[dict[str, Any]]:
        """The alerts that fire, of one name or of all but the one that always does, with labels and annotations."""
        found = [one for one in self.get("alerts")["alerts"] if one["state"] == "firing"]
        names = {alert} if alert else {one["labels"]["alertname"] for one in found} - {ALWAYS}
        return [one for one in found if one["labels"]["alertname"] in names]


@contextmanager
def agent(directory: Path, board: str, target: str, receiver: str) -> Iterator[None]:
    """The example for a board that pushes, on a board of this name whose npumon is at ``target``, each second."""
    directory.mkdir()
    example = (GRAFANA / "prometheus" / "agent.yml").read_text(encoding="utf-8")
    edits = {
        "127.0.0.1:10877": target,
        "https://metrics.example": receiver,
        "scrape_interval: 60s": "scrape_interval: 1s",
        "batch_send_deadline: 10s": "batch_send_deadline: 1s",
    }
    (directory / "agent.yml").write_text(edited(example, edits), encoding="utf-8")
    version = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True, timeout=20)
    old = re.search(r"version 2\.", version.stdout + version.stderr)
    log = directory / "agent.log"
    process = start(
        log,
        program(),
        "--enable-feature=agent,expand-external-labels" if old else "--agent",
        f"--config.file={directory / 'agent.yml'}",
        f"--storage.agent.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{free_port()}",
        "--storage.remote.flush-deadline=1s",
        HOSTNAME=board,
    )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(20)


class Alertmanager:
    """A real Alertmanager with the project's example, whose receivers are on a loopback ``port``."""

    def __init__(self, directory: Path, port: int, waits: Edits) -> None:
        self._log = directory / "alertmanager.log"
        self._directory = directory
        self._program = tool("prometheus-alertmanager")
        self.address = f"127.0.0.1:{free_port()}"
        example = (GRAFANA / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
        text = edited(example, waits).replace("127.0.0.1:9095", f"127.0.0.1:{port}")
        (directory / "alertmanager.yml").write_text(text, encoding="utf-8")

    def __enter__(self) -> Alertmanager:
        self._process = start(
            self._log,
            self._program,
            f"--config.file={self._directory / 'alertmanager.yml'}",
            f"--storage.path={self._directory / 'alertmanager'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        )
        try:
            eventually(self._ready, lambda: f"an Alertmanager that is ready\n{self._log.read_text()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def receiving() -> Iterator[Webhook]:
    """A webhook on a loopback port."""
    receiver = Webhook()
    receiver.thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.thread.join()
        receiver.server.server_close()


def eventually(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 60) -> None:
    """Return once ``condition`` holds; fail with ``what`` there should have been if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what()}")
        time.sleep(0.2)
