"""Boards that cannot be scraped: the agent's example on two of them, pushing to a real Prometheus with the rules."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.grafana.prometheus_server import Expositions, free_port, program
from tests.grafana.test_rules import GRAFANA, run

PAGE = """# TYPE npumon_board_info gauge
npumon_board_info{hostname="%s",machine="aarch64",kernel="6.6"} 1
# TYPE npumon_verdict gauge
npumon_verdict{model="m",state="healthy"} 1
npumon_verdict{model="m",state="degraded"} 0
npumon_verdict{model="m",state="fallback"} 0
npumon_verdict{model="m",state="unknown"} 0
# TYPE python_info gauge
python_info 1
"""


@contextmanager
def prometheus(*options: str, home: Path, **environment: str) -> Iterator[None]:
    """A Prometheus as a process, with ``options``."""
    home.mkdir(exist_ok=True)
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [program(), *options], env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
        assert process.poll() is None, (home / "log").read_text()
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def agent(home: Path, board: str, target: str, receiver: str) -> Iterator[None]:
    """A board's agent with the example, but its target, its receiver and a scrape each second."""
    text = (GRAFANA / "prometheus" / "agent.yml").read_text(encoding="utf-8")
    for old, new in (
        ("127.0.0.1:10877", target),
        ("https://metrics.example", receiver),
        ("scrape_interval: 60s", "scrape_interval: 1s"),
        ("batch_send_deadline: 10s", "batch_send_deadline: 1s"),
        ("max_backoff: 1m", "max_backoff: 1s"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    # What only the test needs: one server plays two boards, so that each has a path of its own.
    text = text.replace("  - job_name: npumon\n", f"  - job_name: npumon\n    metrics_path: /{board}\n")
    home.mkdir()
    (home / "agent.yml").write_text(text, encoding="utf-8")
    major = int(re.findall(r"version (\d+)\.", run(program(), "--version"))[0])
    mode = ["--agent"] if major >= 3 else ["--enable-feature=agent,expand-external-labels"]
    with prometheus(
        *mode,
        f"--config.file={home / 'agent.yml'}",
        f"--storage.agent.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{free_port()}",
        "--storage.remote.flush-deadline=1s",
        home=home,
        HOSTNAME=board,
    ):
        yield


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """An instant query; nothing while the server does not answer."""
    try:
        with urllib.request.urlopen(
            f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=5
        ) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


def wait(url: str, query: str, count: int) -> list[dict[str, Any]]:
    """The answer once it has ``count`` series."""
    deadline = time.monotonic() + 30
    while len(found := ask(url, query)) != count:
        assert time.monotonic() < deadline, f"{query}: {found}"
        time.sleep(0.3)
    return found


def test_boards_push_under_their_own_names_and_catch_up(tmp_path: Path) -> None:
    """Two agents give two boards with all they need for the rules, and what they kept while there was no receiver."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    example = (GRAFANA / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    example = example.replace("../rules", str(GRAFANA / "rules")).replace('["boards/*.json"]', '["none/*.json"]')
    (tmp_path / "prometheus.yml").write_text(
        example.replace("evaluation_interval: 30s", "evaluation_interval: 1s"), encoding="utf-8"
    )
    boards = ("board-1", "board-2")
    pages = {board: (lambda _asked, board=board: PAGE % board) for board in boards}
    with Expositions(pages) as expositions, ExitStack() as stack:
        for board in boards:
            stack.enter_context(agent(tmp_path / board, board, expositions.address, url))
        deadline = time.monotonic() + 30
        while min(expositions.asked.values()) < 3:
            assert time.monotonic() < deadline, expositions.asked
            time.sleep(0.2)
        begun = time.time()
        stack.enter_context(
            prometheus(
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-remote-write-receiver",
                home=tmp_path / "receiver",
            )
        )
        told = wait(url, "instance_model:npumon_identity:group", 2)
        named = {one["metric"]["instance"]: one["metric"] for one in told}
        assert {instance: metric["hostname"] for instance, metric in named.items()} == dict(
            zip(boards, boards, strict=True)
        )
        assert all("board" not in metric for metric in named.values())
        wait(url, 'up{job="npumon"} == 1', 2)
        wait(url, "instance:npumon_seen:timestamp_seconds", 2)
        assert ask(url, "python_info") == []
        first = ask(url, 'min_over_time(timestamp(npumon_board_info{instance="board-1"})[1m:1s])')
        assert float(first[0]["value"][1]) < begun
