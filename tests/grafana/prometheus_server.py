"""A real Prometheus on a free loopback port, for as long as a test needs it, and a server of expositions to scrape."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


def program(name: str = "prometheus") -> str:
    """The path of a program that comes with Prometheus; without it, CI fails and a developer's test is skipped."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: apt-get install --no-install-recommends prometheus")
        pytest.skip(f"no {name} on this machine")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Expositions:
    """Serves one exposition for each path. A page is called with how often it was asked for; ``None`` answers 503."""

    def __init__(self, pages: Mapping[str, Callable[[int], str | None]]) -> None:
        self.pages = pages
        self.asked: dict[str, int] = dict.fromkeys(pages, 0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.strip("/")
        text = self.pages[name](self.asked[name])
        self.asked[name] += 1
        with contextlib.suppress(ConnectionError):  # on a busy machine the scrape may have timed out meanwhile
            request.send_response(503 if text is None else 200)
            request.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            request.end_headers()
            request.wfile.write((text or "").encode())

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def targets(self) -> list[dict[str, Any]]:
        """Prometheus' ``static_configs``: each page is a target whose instance is its name."""
        return [
            {"targets": [self.address], "labels": {"__metrics_path__": f"/{name}", "instance": name}}
            for name in self.pages
        ]

    def __enter__(self) -> Expositions:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """A Prometheus with its data in ``directory``; scrapes and evaluates every ``interval``."""

    def __init__(
        self, directory: Path, targets: Iterable[dict[str, Any]], rules: Iterable[Path] = (), interval: str = "2s"
    ) -> None:
        self._program = program()
        self._directory = directory
        self._log = directory / "prometheus.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        # JSON is YAML, so that no YAML library is needed to write it.
        configuration = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "npumon", "static_configs": list(targets)}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(configuration), encoding="utf-8")

    def __enter__(self) -> Prometheus:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait(lambda: self._ready(), "ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait(self, condition: Callable[[], bool], for_what: str, seconds: float = 30) -> None:
        """Return once ``condition`` holds; fail the test with Prometheus' log if it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"Prometheus: not {for_what} after {seconds:.0f} s\n{self._log.read_text()}")
            time.sleep(0.2)

    def get(self, path: str, **parameters: str | float) -> Any:
        """The ``data`` of an answer of the HTTP API. A refused query fails with Prometheus' own words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            pytest.fail(f"{json.load(refused)['error']}\n{parameters.get('query', url)}")

    def now(self, query: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: labels and value of each series."""
        result = self.get("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def over_time(self, query: str, start: float, end: float, step: float) -> list[tuple[dict[str, str], list[float]]]:
        """A range query: labels and values of each series."""
        result = self.get("query_range", query=query, start=start, end=end, step=step)["result"]
        return [(one["metric"], [float(value) for _, value in one["values"]]) for one in result]

    def label_values(self, label: str, match: str) -> list[str]:
        """The values of a label among the series that match."""
        values: list[str] = self.get(f"label/{label}/values", **{"match[]": match})
        return values
