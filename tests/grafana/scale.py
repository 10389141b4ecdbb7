"""What a fleet costs Prometheus: the figures behind docs/scale.md.

``python -m tests.grafana.scale --boards 400 --interval 30 --minutes 6`` plays a fleet in which nothing happens to a
Prometheus with the project's rules, and says what it takes per board. ``--disk`` writes a board's day into blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.grafana.fleet import INTERVAL, Fleet, SimulatedBoard, create_blocks, history
from tests.grafana.wired import WiredPrometheus

SCRAPES = 2
"""Between two checks, as in the example: every 30 s, a check every 60 s."""


def total(server: WiredPrometheus, name: str) -> float:
    """The sum of a metric of Prometheus' own."""
    return sum(server.metrics(name).values())


def measure(directory: Path, boards: int, interval: int, minutes: float, bare: bool) -> None:
    """Print what a fleet of this size takes, scraped and evaluated every ``interval`` seconds; ``bare``: no rules."""
    fleet = [SimulatedBoard(number) for number in range(boards)]
    history(fleet, directory / "data")
    wired = WiredPrometheus(directory, "127.0.0.1:9", f"{interval}s")
    for file in (directory / "rules").iterdir() if bare else ():
        file.write_text("groups: []", encoding="utf-8")
    with Fleet(fleet) as served, wired as server:
        empty = total(server, "process_resident_memory_bytes")
        (server.boards / "fleet.json").write_text(json.dumps(served.targets()), encoding="utf-8")
        time.sleep(max(2 * interval, 20))
        start, cpu, samples = time.time(), total(server, "process_cpu_seconds_total"), _appended(server)
        rounds: list[dict[str, float]] = []
        while time.time() < start + 60 * minutes:
            time.sleep(interval)
            durations = server.metrics("prometheus_rule_group_last_duration_seconds")
            rounds.append({labels.rpartition(";")[2].strip('"'): value for labels, value in durations.items()})
        seconds = time.time() - start
        ran, waited = server.scheduled()
        series = total(server, "prometheus_tsdb_head_series")
        ((_, scraped),) = server.now('sum(scrape_samples_scraped{job="npumon"})')
        resident = total(server, "process_resident_memory_bytes")
        figures = {
            "scraped series per board": scraped / boards,
            "all series per board": series / boards,
            "samples per second": (_appended(server) - samples) / seconds,
            "resident memory, MB": resident / 1e6,
            "resident memory without boards, MB": empty / 1e6,
            "resident bytes per series": (resident - empty) / series,
            "heap bytes per series": total(server, "go_memstats_heap_inuse_bytes") / series,
            "series that a round of the rules writes": total(server, "prometheus_rule_group_last_evaluation_samples"),
            "share of its time ready to run without a CPU": waited / (ran + waited),
            "CPU seconds per interval": (total(server, "process_cpu_seconds_total") - cpu) / seconds * interval,
            "seconds for a round of the rules, by the clock, median": statistics.median(
                sum(one.values()) for one in rounds
            ),
            "seconds for a round of the rules, by the clock, least": min(sum(one.values()) for one in rounds),
        }
    print(f"{boards} boards, every {interval} s, {minutes:g} minutes")
    for what, value in figures.items():
        print(f"  {what}: {value:,.3f}")
    for group in sorted(rounds[0]):
        print(f"  {group}, median: {statistics.median(one[group] for one in rounds):.3f} s")


def _appended(server: WiredPrometheus) -> float:
    return total(server, "prometheus_tsdb_head_samples_appended_total")


def disk(directory: Path, hours: int = 24) -> None:
    """Print what the samples of one board take in blocks of two hours, which is before Prometheus merges them."""
    begin = time.time() // 7200 * 7200 - hours * 3600
    now = begin
    board = SimulatedBoard(1, lambda: now)
    lines: list[str] = []
    count = 0
    for number in range(int(hours * 3600 / INTERVAL)):
        now = begin + number * INTERVAL
        board.check()
        samples = [line for line in board.exposition.text().decode().splitlines() if not line.startswith("#")]
        for scrape in range(SCRAPES):
            at = now + 5 + scrape * INTERVAL / SCRAPES
            lines += [f"{line} {at:.3f}" for line in samples]
            count += len(samples)
    create_blocks(lines, directory / "data")
    blocks = [path for path in (directory / "data").iterdir() if (path / "meta.json").exists()]
    chunks = sum(file.stat().st_size for block in blocks for file in (block / "chunks").iterdir())
    index = sum((block / "index").stat().st_size for block in blocks)
    print(f"{hours} hours of a board: {count} samples of {len(samples)} series in {len(blocks)} blocks")
    print(f"  chunks: {chunks / count:.2f} bytes per sample")
    print(f"  index: {index / len(blocks) / len(samples):.0f} bytes per series and block")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=400)
    parser.add_argument("--interval", type=int, default=30, help="seconds")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--bare", action="store_true", help="without rules")
    parser.add_argument("--disk", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="npumon-scale-") as temporary:
        if chosen.disk:
            disk(Path(temporary))
        else:
            measure(Path(temporary), chosen.boards, chosen.interval, chosen.minutes, chosen.bare)
