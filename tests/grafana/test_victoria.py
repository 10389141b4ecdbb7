"""VictoriaMetrics instead of Prometheus: the rules by vmalert, and every query of the dashboards, on the small fleet.

There rules are written back by remote write, so that a rule may see what another of its group gave a round ago, and
PromQL is VictoriaMetrics' own. The programs come from ``tools.prometheus``.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.grafana import small_fleet
from tests.grafana.prometheus_server import Expositions, Prometheus, free_port
from tests.grafana.queries import ROOT, Query, interpolated
from tests.grafana.test_dashboards import CHOSEN, QUERIES, twice
from tests.grafana.wired import start
from tools import prometheus as fetched

pytestmark = pytest.mark.slow

RULES = ROOT / "grafana" / "rules"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The directory of the programs; where they cannot be had, CI fails and a developer's test is skipped."""
    try:
        return fetched.directory()
    except fetched.FetchError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


class Victoria(Prometheus):
    """A single-node VictoriaMetrics that scrapes the targets every second, asked as a Prometheus is."""

    def __init__(self, directory: Path, targets: list[dict[str, Any]], programs: Path) -> None:
        super().__init__(directory, targets, interval="1s")
        self._program = str(programs / "victoria-metrics")

    def __enter__(self) -> Victoria:
        self._process = start(
            self._log,
            self._program,
            f"-promscrape.config={self._directory / 'prometheus.yml'}",
            f"-storageDataPath={self._directory / 'data'}",
            f"-httpListenAddr={self.url.removeprefix('http://')}",
            "-promscrape.config.strictParse=false",
            "-search.latencyOffset=1s",
            "-search.disableCache",
        )
        try:
            self.wait(self._ready, "ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self


@contextmanager
def vmalert(directory: Path, url: str, programs: Path) -> Iterator[str]:
    """What evaluates the rules every second; its address."""
    address = f"127.0.0.1:{free_port()}"
    process = start(
        directory / "vmalert.log",
        str(programs / "vmalert"),
        f"-rule={RULES}/*.yml",
        f"-datasource.url={url}",
        f"-remoteWrite.url={url}",
        f"-remoteRead.url={url}",
        "-remoteWrite.flushInterval=200ms",
        "-notifier.blackhole",
        "-evaluationInterval=1s",
        "-rule.evalDelay=1s",
        f"-httpListenAddr={address}",
    )
    try:
        yield f"http://{address}"
        assert process.poll() is None, (directory / "vmalert.log").read_text()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Iterator[tuple[Victoria, str, float]]:
    """The store, vmalert's address, and when it all began, once the small fleet has been there for a while."""
    directory, began = tmp_path_factory.mktemp("victoria"), time.time()
    with ExitStack() as stack:
        served = stack.enter_context(Expositions(small_fleet.PAGES))
        server = stack.enter_context(Victoria(directory, [*served.targets(), *twice(served)], programs))
        alerts = stack.enter_context(vmalert(directory, server.url, programs))
        server.wait(lambda: min(served.asked.values()) > small_fleet.CHANGE + 3, "scraped")
        # The rules read each other's results of rounds before: the last of them takes some rounds more than elsewhere.
        last = 'ALERTS{alertname="NpumonFallback"} and on () cohort:npumon_latency_median_seconds:margin'
        server.wait(lambda: bool(server.now(last)), "aware of the fallback", 90)
        yield server, alerts, began


def test_no_rule_fails(servers: tuple[Victoria, str, float]) -> None:
    """Vmalert accepts all rules as they are, and can evaluate each."""
    with urllib.request.urlopen(f"{servers[1]}/api/v1/rules", timeout=20) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    texts = "".join(file.read_text(encoding="utf-8") for file in RULES.glob("*.yml"))
    assert len(rules) == texts.count("- alert: ") + texts.count("- record: ")
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_every_query_returns_data(servers: tuple[Victoria, str, float], name: str, query: Query) -> None:
    """Each query of the dashboards is understood and has a number."""
    server, _, began = servers
    expr = interpolated(query.expr, CHOSEN[name])
    end = time.time()
    found = (
        [[value] for _, value in server.now(expr)]
        if query.instant
        else [values for _, values in server.over_time(expr, began, end, 2)]
    )
    assert any(value == value for values in found for value in values), expr
