"""Boards by the hundred, played by one process: npumon's own expositions of made-up checks, one address for each board.

Every board has an address in 127.0.0.0/8 and the port that all share, so that Prometheus' examples need no change. A
board is checked anew every ``every`` seconds, one after the other; a scrape gets what npumon's own code renders. Only
the records that a check ends with are made up.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from monitor.outputs.metrics import Exposition
from monitor.records import (
    Board,
    BoardReading,
    CheckResult,
    Event,
    Latency,
    NodeCounts,
    Placement,
    Runtime,
    Samples,
    Standing,
    Zone,
)
from tests.grafana.prometheus_server import free_port, program
from tests.outputs.specimens import READING, WORST_STANDING, worst_case

INTERVAL = 60.0
"""Seconds between two checks of a board, as in the field."""

SOCS = {"QCS6490": 1.0, "QCS8550": 0.55, "SA8295P": 0.7, "QCS9100": 0.5}
"""How long a model takes on a SoC, by how long it takes on the first. Boards have them in turn."""


class Sdk(NamedTuple):
    """What a board runs models with."""

    onnxruntime: str
    provider_version: str
    backend_version: str


OLD, NEW = Sdk("1.30.0", "2.5.0", "v2.44.0"), Sdk("1.32.0", "2.7.0", "v2.48.0")


class Kind(NamedTuple):
    """A model as it is on a healthy board of the first SoC. ``old``: times the seconds under the older SDK."""

    seconds: float
    fallback_flops: dict[str, float]
    gate: float
    old: float = 1.0


MODELS = {
    "detector": Kind(0.0081, {"Resize": 0.0013}, 0.80),
    "segmenter": Kind(0.0124, {}, 0.95),
    "pose": Kind(0.0052, {"Resize": 0.03, "GridSample": 0.006, "NonMaxSuppression": 0.002}, 0.95, old=1.3),
    "speech": Kind(0.0031, {"Softmax": 0.0004}, 0.95, old=0.7),
    "embedder": Kind(0.0093, {"LayerNormalization": 0.011}, 0.95),
}


class Condition(NamedTuple):
    """How a model is on a board, where that is not as it should be."""

    sha256: str
    slower: float = 1.0
    fallback_flops: dict[str, float] | None = None
    fallen: bool = False


def file_of(model: str) -> str:
    """The hash of the model file that every board has at first."""
    return f"{list(MODELS).index(model):x}a" * 32


FALLEN_FLOPS = {"Conv": 0.909, "Relu": 0.021, "Add": 0.004}


class SimulatedBoard:
    """One board: what it is, how its models are, and its exposition."""

    def __init__(self, number: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.hostname = f"board-{number:04}"
        self.address = f"127.0.{1 + number // 200}.{1 + number % 200}"
        self.soc = list(SOCS)[number % len(SOCS)]
        self.sdk = OLD if number // len(SOCS) % 4 == 0 else NEW
        self.conditions = {name: Condition(file_of(name)) for name in MODELS}
        self._random = random.Random(number)
        self._pace = self._random.gauss(1, 0.015)
        board = Board(self.hostname, "aarch64", "6.6.52", self.soc)
        self.exposition = Exposition(MODELS, board, "0.1.0", clock())
        self.exposition.expect(INTERVAL, {})

    def check(self) -> None:
        """Check all its models."""
        for name, condition in self.conditions.items():
            self.exposition.record(*self._checked(name, condition))

    def become(self, model: str, condition: Condition) -> None:
        """Have the model in another condition from now on, and check it."""
        before, self.conditions[model] = self.conditions[model], condition
        result, standing = self._checked(model, condition)
        self.exposition.record(result, standing)
        if condition.fallen and not before.fallen:
            event = Event(time.time(), "error", "fallback_detected", "id", model, result.reason, cause=result.cause)
            self.exposition.count_event(event)

    def _reading(self) -> BoardReading:
        """The board, a little warmer or cooler each time."""
        zones = {kind: Zone(round(self._random.gauss(61, 2), 1), 85.0) for kind in ("cpu", "npu")}
        return replace(READING, uptime=self._clock(), zones=zones)

    def _checked(self, name: str, condition: Condition) -> tuple[CheckResult, Standing]:
        kind = MODELS[name]
        normal = kind.seconds * SOCS[self.soc] * self._pace * (kind.old if self.sdk is OLD else 1)
        replays = [normal * condition.slower * abs(self._random.gauss(1, 0.02)) for _ in range(30)]
        on_cpu = kind.fallback_flops if condition.fallback_flops is None else condition.fallback_flops
        share = 1 - sum(on_cpu.values())
        fallen = condition.fallen
        placement = Placement(
            npu_flops_ratio=share,
            npu_flops_ratio_range=None,
            npu_time_ratio=share * 0.98,
            unattributed_flops_ratio=0.0,
            total_flops=4_200_000_000,
            nodes=NodeCounts(120, 30 * len(on_cpu), 2),
            partitions=1 + len(on_cpu),
            ops=(),
            fallback_flops=on_cpu,
        )
        result = CheckResult(
            model=name,
            timestamp=self._clock(),
            duration_seconds=0.4 + sum(replays),
            verdict="fallback" if fallen else "healthy",
            reason="the gate is missed" if fallen else "all gates are met",
            cause="op_unsupported" if fallen else None,
            model_sha256=condition.sha256,
            placement=placement,
            latency=Latency(
                sorted(replays)[15], self._random.uniform(0.015, 0.025), tuple(replays), (), 0.02, 0.0, None, ()
            ),
            samples=Samples("files", 12),
            runtime=Runtime("QNNExecutionProvider", "hexagon", *self.sdk, machine="aarch64"),
            after=self._reading(),
        )
        kinds = ("fallback", "unstable", "shifted", "outputs", "failure")
        incidents = {one: fallen and one == "fallback" for one in kinds}
        return result, Standing(normal, kind.gate, 0.15, normal * 1.25, incidents)


def history(boards: Iterable[SimulatedBoard], directory: Path) -> None:
    """Blocks for a Prometheus that is about to start: what rules with an offset of an hour, 6 hours or a day look at.

    Without them those rules would find nothing, and cost nothing. ``directory`` is Prometheus' data.
    """
    now = time.time()
    moments = {hours: [now - hours * 3600 + 60 * minute for minute in range(-3, 10)] for hours in (24, 6, 1)}
    series = [(board.address, model, kind) for board in boards for model, kind in MODELS.items()]
    lines = ["# TYPE npumon_npu_flops_ratio gauge"]
    for address, model, kind in series:
        labels = f'{{job="npumon",instance="{address}",model="{model}"}}'
        share = 1 - sum(kind.fallback_flops.values())
        lines += [
            f"npumon_npu_flops_ratio{labels} {share} {moment:.3f}" for each in moments.values() for moment in each
        ]
    lines.append("# TYPE npumon_checks counter")
    for address, model, _ in series:
        labels = f'{{job="npumon",instance="{address}",model="{model}"}}'
        lines += [f"npumon_checks_total{labels} 100000 {moment:.3f}" for moment in moments[1]]
    create_blocks(lines, directory)


def create_blocks(lines: Iterable[str], directory: Path) -> None:
    """Blocks of these OpenMetrics samples, by promtool."""
    directory.mkdir(exist_ok=True)
    file = directory.with_suffix(".om")
    file.write_text("\n".join([*lines, "# EOF"]) + "\n", encoding="utf-8")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(file), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    file.unlink()


def worst_board(number: int) -> SimulatedBoard:
    """A board all of whose models need as many series as a model ever can; of a SoC that no other board has."""
    board = SimulatedBoard(number)
    about = Board(board.hostname, "aarch64", "6.6.52", "WORST")
    board.exposition = Exposition(MODELS, about, "0.1.0", time.time())
    board.exposition.expect(INTERVAL, {})
    for name in MODELS:
        results, events = worst_case(name)
        for result in results:
            board.exposition.record(result, WORST_STANDING)
        for event in events:
            board.exposition.count_event(event)
    board.conditions = {}
    return board


Result = TypeVar("Result")


class Fleet:
    """The boards' web servers on one thread, for a ``with`` block. All that touches a board runs on that thread."""

    def __init__(self, boards: Iterable[SimulatedBoard], every: float = INTERVAL) -> None:
        self.boards = {board.address: board for board in boards}
        self.port = free_port()
        self._every = every
        self._servers: dict[str, HTTPServer] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Fleet:
        self._thread.start()
        try:
            self.do(self._listen)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.do(lambda: self.silence(list(self._servers)))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def targets(self, without: Iterable[str] = ()) -> list[dict[str, Any]]:
        """The boards as service discovery lists them."""
        return [{"targets": [f"{address}:{self.port}" for address in self.boards if address not in set(without)]}]

    def silence(self, addresses: Iterable[str]) -> None:
        """Have these boards answer no more; on the fleet's thread."""
        for address in addresses:
            self._servers.pop(address).stop()

    def do(self, action: Callable[[], Result]) -> Result:
        """Run ``action`` on the fleet's thread, between two scrapes."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _listen(self) -> None:
        boards = self.boards

        class Handler(RequestHandler):
            def get(self) -> None:
                self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.write(boards[self.request.host.partition(":")[0]].exposition.text())

        application = Application([("/metrics", Handler)], log_function=lambda handler: None)
        for board in boards.values():
            board.check()
            server = HTTPServer(application, no_keep_alive=True)
            server.add_sockets(bind_sockets(self.port, board.address))
            self._servers[board.address] = server
        self._check_next(list(boards.values()), 0)

    def _check_next(self, boards: list[SimulatedBoard], index: int) -> None:
        boards[index].check()
        following = (index + 1) % len(boards)
        self._loop.call_later(self._every / len(boards), self._check_next, boards, following)
