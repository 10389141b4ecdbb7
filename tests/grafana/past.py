"""Hours of a fleet as a Prometheus remembers them, written into its blocks instead of waited for.

What boards tell is made up, minute by minute; the names and labels are those of npumon's exposition.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.grafana.fleet import create_blocks

MODEL, EVERY = "detector", 2
"""EVERY: minutes between two samples, and between two checks."""
AHEAD = 6
"""Minutes that are written beyond now, for as long as tests may take."""
STATES = ("healthy", "degraded", "fallback", "unknown")


class Told(NamedTuple):
    """What a board exports at a moment. ``checks`` is the count of checks, one a minute unless given."""

    state: str = "healthy"
    sha256: str = "d2" * 32
    median: float = 0.01
    ops: dict[str, float] | None = {}  # noqa: RUF012 - of a tuple, and never changed; None: it is not exported
    checks: float | None = None
    postponed: float = 0.0
    hostname: str = ""


Course = Callable[[float], Told | None]
"""What a board tells so many minutes ago; ``None`` while it is silent."""


def always(told: Told = Told()) -> Course:  # noqa: B008 - it is a tuple
    """The same at any time."""
    return lambda ago: told


class Past:
    """The last ``minutes`` of a Prometheus, board by board."""

    def __init__(self, minutes: int) -> None:
        self._now = time.time()
        self._minutes = minutes
        self._families: dict[str, list[str]] = {}

    def board(self, instance: str, course: Course, **labels: str) -> None:
        """A board with these target labels."""
        target = {"job": "npumon", "instance": instance, **labels}
        for ago in range(self._minutes, -AHEAD, -EVERY):
            moment = f"{self._now - 60 * ago:.3f}"
            told = course(ago)
            self._add("up", target, float(told is not None), moment)
            if told is not None:
                for name, own, value in _exposition(told, instance, self._minutes - ago):
                    self._add(name, _scraped(target, own), value, moment)

    def boards(self, ring: str, count: int, course: Course, **labels: str) -> None:
        """Boards of one ring, alike but for their names."""
        for number in range(count):
            self.board(f"{ring}-{number}", course, ring=ring, **labels)

    def write(self, directory: Path) -> None:
        """All of it as blocks of the Prometheus whose data are in ``directory``."""
        create_blocks(self._lines(), directory)

    def hand(self, url: str) -> None:
        """All of it to the VictoriaMetrics at ``url``, which has times in milliseconds."""
        samples = (line.rpartition(" ") for line in self._lines() if not line.startswith("#"))
        body = "".join(f"{sample} {float(moment) * 1000:.0f}\n" for sample, _, moment in samples)
        for path, content in (("api/v1/import/prometheus", body), ("internal/force_flush", "")):
            with urllib.request.urlopen(f"{url}/{path}", content.encode(), timeout=60):
                pass

    def _add(self, name: str, labels: dict[str, str], value: float, moment: str) -> None:
        shown = ",".join(f"{label}={json.dumps(text)}" for label, text in labels.items() if text)
        self._families.setdefault(name, []).append(f"{name}{{{shown}}} {value:g} {moment}")

    def _lines(self) -> Iterable[str]:
        for name, lines in self._families.items():
            yield f"# TYPE {name.removesuffix('_total')} {'counter' if name.endswith('_total') else 'gauge'}"
            yield from lines


def _exposition(told: Told, instance: str, minute: int) -> Iterable[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each series of a board, ``minute`` of the past's."""
    model = {"model": MODEL}
    hostname = told.hostname or f"host-{instance}"
    yield "npumon_build_info", {"version": "0.1.0"}, 1
    yield "npumon_board_info", {"hostname": hostname, "machine": "aarch64", "soc": "QCS6490"}, 1
    yield "npumon_interval_seconds", {}, 60.0 * EVERY
    yield "npumon_model_info", {**model, "sha256": told.sha256, "samples": "files"}, 1
    yield "npumon_check_stale", model, 0
    yield "npumon_checks_total", model, minute if told.checks is None else told.checks
    yield "npumon_checks_postponed_total", {**model, "reason": "duty"}, told.postponed
    yield "npumon_latency_median_seconds", model, told.median
    for state in STATES:
        yield "npumon_verdict", {**model, "state": state}, state == told.state
    versions = {
        "onnxruntime": "1.32.0",
        "provider_version": "2.7.0",
        "backend_version": "v2.48.0",
        "machine": "aarch64",
    }
    yield "npumon_runtime_info", {**model, "provider": "QNN", "target": "hexagon", "machine": "aarch64", **versions}, 1
    if told.ops is not None:
        yield "npumon_fallback_nodes", model, len(told.ops)
        for op, share in told.ops.items():
            yield "npumon_fallback_flops_ratio", {**model, "op_type": op}, share


def _scraped(target: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """The labels of a series: the target's, before which a board's own of the same name give way."""
    return target | {f"exported_{label}" if label in target else label: text for label, text in own.items()}
