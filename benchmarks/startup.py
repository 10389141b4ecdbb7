"""How long a person waits for ``npumon --help``.

Measured: the wall time of whole processes, from their start to their end, files in the page cache.
Baseline: ``python -c "import click"`` with the same interpreter, alternated with it, order reversed every other
round.
Budget: at most 100 ms more, as the median of the paired differences.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks._report import Report, parser, summarize

ROUNDS = 40
BUDGET = 0.100  # seconds


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    options = arguments.parse_args()
    baseline = [sys.executable, "-c", "import click"]
    script = Path(sys.executable).with_name("npumon")
    subject = [str(script), "--help"] if script.exists() else [sys.executable, "-m", "monitor", "--help"]
    for command in (baseline, subject):  # compiles what is not compiled yet
        _seconds(command)
    clicks, helps = [], []
    for number in range(options.rounds):
        if number % 2:
            helps.append(_seconds(subject))
            clicks.append(_seconds(baseline))
        else:
            clicks.append(_seconds(baseline))
            helps.append(_seconds(subject))
    differences = [help_ - click for help_, click in zip(helps, clicks, strict=True)]
    more = summarize(differences)
    report = Report(f"npumon --help, {options.rounds} rounds; median [95 % interval], ms")
    report.raw("import_click_seconds", clicks)
    report.raw("npumon_help_seconds", helps)
    report.row('python -c "import click"', _ms(clicks))
    report.row(" ".join(Path(part).name for part in subject), _ms(helps))
    report.row("difference, paired", _ms(differences), f"<= {1e3 * BUDGET:g}", more.median <= BUDGET)
    return report.finish(options.out)


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _ms(seconds: list[float]) -> str:
    return summarize([1e3 * value for value in seconds]).shown(".1f")


if __name__ == "__main__":
    sys.exit(main())
