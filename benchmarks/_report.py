"""What the benchmarks share: rows with budgets, medians with spread, and the raw values for who wants to look closer.

A figure that is compared with a budget was measured together with its baseline, in one run, alternated with it: two
runs on a shared machine differ by more than most of the budgets here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

PACKAGES = ("onnxruntime", "onnxruntime-qnn", "numpy", "tornado", "prometheus-client", "structlog", "click", "msgspec")


class Summary(NamedTuple):
    """A median and its 95 % confidence interval, which assumes nothing about the distribution."""

    median: float
    low: float
    high: float

    def shown(self, form: str) -> str:
        """``median [low, high]``, each in ``form``."""
        return f"{self.median:{form}} [{self.low:{form}}, {self.high:{form}}]"


def summarize(values: Sequence[float]) -> Summary:
    """Median of at least one value; the interval comes from order statistics (binomial, normal approximation)."""
    ordered = sorted(values)
    low = max(0, math.floor(len(ordered) / 2 - 0.5 - 0.98 * math.sqrt(len(ordered))))
    return Summary(statistics.median(ordered), ordered[low], ordered[-1 - low])


class Row(NamedTuple):
    """One line of the table; ``met`` is ``None`` for what has no budget and only explains."""

    what: str
    value: str
    budget: str = ""
    met: bool | None = None


class Report:
    """Collects rows and raw values, prints the table, and knows the exit code."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[Row] = []
        self._raw: dict[str, object] = {}
        self._start = time.time()

    def row(self, what: str, value: str, budget: str = "", met: bool | None = None) -> None:
        """Add one line of the table."""
        self._rows.append(Row(what, value, budget, met))

    def raw(self, name: str, values: object) -> None:
        """Keep what a row was computed from; it goes into the JSON document."""
        self._raw[name] = values

    def finish(self, out: Path | None) -> int:
        """Print the table, write the document if asked to; 1 if a budget is missed, else 0."""
        print(self._title)
        widths = [max(len(row[column]) for row in self._rows) for column in (0, 1, 2)]  # type: ignore[arg-type]
        for row in self._rows:
            word = {None: "", True: "met", False: "MISSED"}[row.met]
            cells = (f"{row[column]:<{width}}" for column, width in enumerate(widths))
            print(f"  {'  '.join(cells)}  {word}".rstrip())
        if out is not None:
            document = {
                "title": self._title,
                "started": self._start,
                "environment": environment(),
                "rows": [row._asdict() for row in self._rows],
                "raw": self._raw,
            }
            out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return 1 if any(row.met is False for row in self._rows) else 0


def environment() -> dict[str, object]:
    """What the figures depend on: machine, load, interpreter, package versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "packages": versions,
    }


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """The command line that every benchmark has: its docstring as help, and ``--out``."""
    made = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="also write the rows, the raw values and the environment as JSON")
    return made


def status(pid: int, key: str) -> float:
    """A memory figure of ``/proc/PID/status`` (``VmRSS``, ``VmHWM``) in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/{pid}/status has no {key}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that one has started and that are still there."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that ended just now
            found.extend(int(child) for child in listing.read_text().split())
    return found


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this process as an exception does, so that it ends what it has started."""

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def end(process: subprocess.Popen[bytes]) -> None:
    """Have a daemon end: asked to first, killed with its children where that takes a minute."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        for pid in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
