"""A rollout that breaks one SoC, played to a real Prometheus, and what the dashboards make of it.

``python -m tests.grafana.episode`` draws docs/images/dashboard-*.png: 16 boards, half of them with a QCS6490. After a
minute a new SDK is rolled out, board by board. On the QCS6490 it sends the Convs of one model to the CPU. The boards
are made up, from npumon's golden expositions; scrapes, rules, alerts and curves are real. Checks come faster than in
the field, and rules wait for seconds where they do for minutes, so that a picture takes minutes and not hours.
"""

from __future__ import annotations

import math
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.grafana import small_fleet
from tests.grafana.prometheus_server import Expositions, Prometheus
from tests.grafana.queries import ROOT
from tests.grafana.wired import hastened_rules
from tools.dashboards import pictures

BEFORE, EVERY, AFTER = 75, 6, 75
"""Seconds before the rollout, between two boards of it, and after its last board."""
CHECK = 4
"""Seconds from one check of a board to the next; a restart takes as long."""

SOCS = ("QCS6490", "SA8295P")
BOARDS = tuple(f"board-{number:02}" for number in range(1, 17))
MODELS = {"healthy": "detector", "fallback": "segmenter"}
HURRY = {
    "_first_seen:timestamp_seconds < time() - 900": "_first_seen:timestamp_seconds < time() - 30",
    "> time() - 300": "> time() - 15",
}
"""What rules compare times with, a thirtieth and a twentieth of it."""
ALL_ROWS = {11: 13, 12: 10}
"""Panels that are higher in the picture than on the screen, where they scroll."""
LENGTH = BEFORE + EVERY * len(BOARDS) + AFTER


class Board:
    """One board's exposition at any time: two models, one of which the new SDK does not take whole."""

    def __init__(self, number: int, began: float) -> None:
        self._name = BOARDS[number]
        self._soc = SOCS[number % 2]
        self._random = random.Random(number)
        self._rolled_out = began + BEFORE + EVERY * number
        self._pace = self._random.gauss(1, 0.02)
        self._shown = (0, "")
        self._texts = {golden: small_fleet.exposition(golden, self._name) for golden in MODELS}

    def __call__(self, asked: int) -> str | None:
        """The exposition now, however often it was asked for; none while npumon restarts with the new SDK."""
        check = math.floor((time.time() - self._rolled_out) / CHECK)
        if check == 0:
            return None
        if check != self._shown[0]:
            self._shown = (check, self._checked(new=check > 0))
        return self._shown[1]

    def _checked(self, new: bool) -> str:
        fallen = new and self._soc == "QCS6490"
        texts = [self._model(golden, fallen and golden == "fallback") for golden in MODELS]
        # The second text's lines about the board are those of the first.
        models = "".join(line + "\n" for line in texts[1].splitlines() if re.match(r"npumon_\w+{.*model=", line))
        text = (texts[0] + models).replace("QCS6490", self._soc).replace('target="simulator"', 'target="hexagon"')
        return text.replace("v2.51.0", "v2.51.0" if new else "v2.50.1")

    def _model(self, golden: str, fallen: bool) -> str:
        model = MODELS[golden]
        text = re.sub(r'model="\w+"', f'model="{model}"', self._texts[golden])
        median = 0.00271 * self._pace * self._random.gauss(1, 0.008)
        share = 0.039 if fallen else 0.9987
        changes = {
            "latency_median_seconds": median * (3.1 if fallen else 1),
            "latency_cv_ratio": abs(self._random.gauss(0.031, 0.004)),
            "latency_robust_cv_ratio": abs(self._random.gauss(0.022, 0.003)),
            "baseline_median_seconds": 0.00271 * self._pace,
            "gate_median_seconds": 0.00271 * self._pace * 1.25,
            "npu_flops_ratio": share,
            "npu_time_ratio": 0.84 if fallen else 0.98,
            "last_check_timestamp_seconds": time.time() - 1,
        }
        for name, value in changes.items():
            text = re.sub(rf"^(npumon_{name}){{.*$", rf'\1{{model="{model}"}} {value}', text, flags=re.MULTILINE)
        return _judged(text, model, fallen, share)


def _judged(text: str, model: str, fallen: bool, share: float) -> str:
    """The verdict and what goes with it."""
    verdict = "fallback" if fallen else "healthy"
    text = re.sub(
        r'^(npumon_verdict{.*state="(\w+)"}) .*$', lambda m: f"{m[1]} {int(m[2] == verdict)}", text, flags=re.M
    )
    text = re.sub(r'^(npumon_incident{.*kind="fallback".*}) .*$', rf"\1 {int(fallen)}", text, flags=re.MULTILINE)
    text = re.sub(r"^npumon_(verdict_cause|fallback_flops_ratio){.*\n", "", text, flags=re.MULTILINE)
    if not fallen:
        return text
    ops = {"Conv": 0.909, "Relu": math.fsum((1, -share, -0.909))}
    lines = [f'npumon_fallback_flops_ratio{{model="{model}",op_type="{op}"}} {value}' for op, value in ops.items()]
    return text + "\n".join([*lines, f'npumon_verdict_cause{{model="{model}",cause="op_unsupported"}} 1']) + "\n"


def play(directory: Path, then: Callable[[str, float, float], None]) -> None:
    """Let the rollout happen, and call ``then`` with Prometheus' address and the time from when to when it was."""
    began = time.time()
    pages = {name: Board(number, began) for number, name in enumerate(BOARDS)}
    hastened_rules(directory / "rules", HURRY)
    rules = sorted((directory / "rules").glob("*.yml"))
    with Expositions(pages) as served, Prometheus(directory, served.targets(), rules, interval="2s") as server:
        time.sleep(LENGTH)
        then(server.url, began + 10, began + LENGTH)


def _draw(url: str, start: float, end: float) -> None:
    program = pictures.bundle()
    images = ROOT / "docs" / "images"
    chosen = {"job": "npumon", "instance": ".*", "model": ".*"}
    fleet = pictures.Moment(url, start, end, chosen, "10s")
    panels = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 201, 202, 203, 102, 101]
    about = "a new SDK is rolled out to 16 simulated boards"
    pictures.draw(
        pictures.picture("fleet", panels, fleet, about, [], ALL_ROWS), program, images / "dashboard-fleet.png"
    )
    board = BOARDS[2]
    chosen = {"job": "npumon", "instance": board, "model": MODELS["fallback"]}
    one = pictures.Moment(url, start, end, chosen, "10s")
    panels = [1, 2, 3, 4, 5, 6, 7, 101, 102, 103, 104]
    about = f"{MODELS['fallback']} on {board}, simulated; shaded: the open incident"
    what = pictures.picture("board", panels, one, about, ["Fallback", "New runtime"])
    pictures.draw(what, program, images / "dashboard-board.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        play(Path(directory), _draw)
