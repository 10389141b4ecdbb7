"""A night on a board as npumon would have kept it, made up: what the simulator has no time for, and no sensors.

``python -m tests.soak.night DIR`` writes one into DIR, for looking at its report. Checks of three models, one a minute
each, with the noise that medians have (AR(1)), a room that cools down, and what is asked for planted in it.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from msgspec.structs import replace

from monitor.analysis.assess import assess
from monitor.analysis.latency import summarize
from monitor.config import Gate
from monitor.outputs import soak_file
from monitor.outputs.soak_file import Kept
from monitor.records import (
    Board,
    BoardReading,
    CheckResult,
    Clock,
    Failure,
    Latency,
    ModelState,
    NodeCounts,
    OpShare,
    Placement,
    Replays,
    Runtime,
    Samples,
    Zone,
)
from monitor.records.soak import Subject

MINUTE, HOUR = 60.0, 3600.0
START = 1_795_000_000.0
PACE = 60.0
BOARD = Board("board-17", "aarch64", "6.8.0-qcom", "QCS8550")
RUNTIME = Runtime("qnn", "hexagon", "1.32.0", "2.7.0", "v2.51.0", "aarch64", {"htp_performance_mode": "burst"})
SELU = OpShare(
    "backbone/act_7",
    "LayerNormalization",
    0.178,
    0.41,
    "QnnBackendValidateOpConfig failed: the SoC has no kernel for it",
    "replace it by an op that the accelerator has, or pin the SDK that had it",
)


class Model:
    """One model of the night, and what happens to it; times are seconds into the soak."""

    def __init__(
        self,
        name: str,
        median: float,
        seed: int,
        drift: float = 0.0,
        heated: float = 0.0,
        leak: float = 0.0,
        moves: float = math.inf,
        fails: tuple[float, ...] = (),
    ) -> None:
        self.name, self.median, self.drift, self.heated = name, median, drift, heated
        self.leak, self.moves, self.fails = leak, moves, fails
        self.random = random.Random(seed)
        self.noise = 0.0
        self.state = ModelState(name)
        self.rss = 0.0

    def check(self, elapsed: float, whole: float, celsius: float, fresh: bool) -> tuple[CheckResult, int | None]:
        """The check that ends at ``elapsed``, and the probe's memory; ``fresh``: by a new probe."""
        timestamp = START + elapsed
        if any(abs(elapsed - time) < PACE / 2 for time in self.fails):
            failure = Failure("probe_crashed", "the probe died of SIGSEGV", "look at the kernel's log")
            return CheckResult(self.name, timestamp, 1.0, "unknown", failure.detail, error=failure), None
        self.noise = 0.5 * self.noise + self.random.gauss(0, 0.004)
        level = self.median * (1 + self.drift * elapsed / whole) * (1 + self.heated * max(0.0, celsius - 60) / 20)
        level *= math.exp(self.noise)
        moved = elapsed >= self.moves
        level *= 2.4 if moved else 1.0
        seconds = [level * math.exp(self.random.gauss(0, 0.025)) for _ in range(30)]
        if self.random.random() < 0.05:
            seconds[self.random.randrange(30)] *= self.random.uniform(1.5, 4)
        self.rss = 212e6 * (1 - 0.1 * self.random.random()) if fresh else self.rss + self.leak
        if not fresh and self.random.random() < 0.05:
            self.rss += self.random.choice((-8192, 0, 4096))
        latency = summarize(Replays(tuple(seconds), (3 * level, level, level), (), (0,) * 30))
        return self._result(timestamp, latency, moved, celsius, elapsed), round(self.rss / 4096) * 4096

    def _result(self, timestamp: float, latency: Latency, moved: bool, celsius: float, elapsed: float) -> CheckResult:
        ops = (SELU,) if moved else ()
        share = 0.822 if moved else 1.0
        placement = Placement(
            npu_flops_ratio=share,
            npu_flops_ratio_range=None,
            npu_time_ratio=share,
            unattributed_flops_ratio=0.0,
            total_flops=8_700_000_000,
            nodes=NodeCounts(231 - len(ops), len(ops), 2),
            partitions=1 + len(ops),
            ops=ops,
            fallback_flops={op.op_type: op.flops_ratio or 0.0 for op in ops},
        )
        clock = 1.0 if celsius < 78 else 0.78
        reading = BoardReading(
            uptime=elapsed,
            zones={"cpu": Zone(celsius - 6, 95.0), "npu": Zone(celsius, 95.0)},
            cpu_clocks={"policy0": Clock(2.8e9 * clock, 3.2e9, 3.2e9)},
            device_clocks={"ddr": Clock(2.1e9 * clock, 2.1e9, 2.1e9)},
        )
        share_text = f"{100 * share:.1f} % of the FLOPs run on the accelerator"
        return CheckResult(
            model=self.name,
            timestamp=timestamp,
            duration_seconds=1.0,
            verdict="fallback" if moved else "healthy",
            reason=f"{share_text}, the gate is 95 %",
            cause="op_unsupported" if moved else None,
            model_sha256="9c1f" * 16,
            placement=placement,
            latency=latency,
            samples=Samples("files", 64),
            runtime=RUNTIME,
            before=reading,
            after=replace(reading, uptime=elapsed + 1),
        )


def planted() -> list[Model]:
    """A night in which one model drifts with the heat, one leaks, one loses an op, and one is well."""
    return [
        Model("detector", 0.0082, 1, drift=0.12),
        Model("segmenter", 0.0213, 2, leak=90_000, fails=(5.2 * HOUR,)),
        Model("keypoints", 0.0044, 3, moves=6.1 * HOUR),
        Model("classifier", 0.0019, 4, heated=0.25),
    ]


def write(folder: Path, models: list[Model], hours: float = 8.0, cut: float = 3.4 * HOUR, probes: float = HOUR) -> None:
    """Keep the night in ``folder``; the power is cut at ``cut`` seconds for 25 minutes."""
    settings = {model.name: {"replays": "30", "path sha256": "9c1f" * 16} for model in models}
    subject = Subject("qnn", "1.32.0", "2.7.0", PACE, settings)
    whole = hours * HOUR
    room = random.Random(7)
    celsius, away = 58.0, 0.0
    with soak_file.begun(folder, subject, whole) as file:
        file._connection.execute("PRAGMA synchronous = OFF")  # a night in seconds: nobody cuts this one's power
        session = file.begin(START, "one", BOARD)
        probe, made = 1, -math.inf
        for number in range(1, round(whole / PACE) + 1):
            elapsed = number * PACE
            if not away and elapsed > cut:
                away, celsius = 25 * MINUTE, 52.0
                session = file.begin(START + elapsed + away, "two", BOARD)
                made = -math.inf
            warm = 71 + 8 * math.sin(2 * math.pi * elapsed / (5 * HOUR))
            celsius += 0.06 * (warm - celsius) + room.gauss(0, 0.35)
            fresh = elapsed - made >= probes
            if fresh:
                probe, made = probe + 1, elapsed
            for position, model in enumerate(models):
                result, rss = model.check(elapsed, whole, celsius, fresh)
                at = elapsed + position
                result = replace(result, timestamp=result.timestamp + away + position)
                assessed = assess(model.state, result, Gate(), BOARD)
                model.state = assessed.state
                kept = Kept(session.number, at, 10 * probe + position, rss, 0, assessed.result)
                file.append(kept, elapsed, assessed.state, assessed.events)


if __name__ == "__main__":
    write(Path(sys.argv[1]), planted())
