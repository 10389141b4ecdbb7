"""Measures every rule on every series and prints the tables; ``--write`` puts them into ``docs/detection.md``.

Everything is seeded: the same command gives the same numbers, however many processes share the work. A case that is
found counts from the onset on, so that an event which would have come anyway counts as well: where a rule's false
events are many, its share of found faults flatters it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

from benchmarks._report import environment, parser
from benchmarks.detection import jobs, report
from benchmarks.detection.jobs import Job
from benchmarks.detection.measure import Delays, Healthy
from benchmarks.detection.report import Findings
from benchmarks.detection.rules import RULES
from benchmarks.detection.series import HEALTHY

PAGE: Final = Path(__file__).parents[2] / "docs" / "detection.md"


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="minutes instead of hours, with wide intervals")
    arguments.add_argument("--jobs", type=int, default=2, help="processes")
    arguments.add_argument("--rule", action="append", help="only the rule of this name; may be repeated")
    arguments.add_argument("--merge", type=Path, help="take the other rules from what --out wrote in an earlier run")
    arguments.add_argument("--write", action="store_true", help="put the tables into docs/detection.md")
    options = arguments.parse_args()
    known = [*RULES, *jobs.ORACLES]
    rules = [name for name in known if not options.rule or name in options.rule]
    if not rules:
        arguments.error(f"no such rule; there are {', '.join(known)}")
    findings = Findings()
    parts = list(jobs.parts(rules, jobs.QUICK if options.quick else jobs.WHOLE))
    _run(parts, options.jobs, findings)
    if options.merge is not None:
        earlier = _earlier(json.loads(options.merge.read_text(encoding="utf-8")), set(known) - set(rules))
        findings, rules = findings | earlier, known
    text = report.tables(findings, rules)
    print(text)
    if options.write:
        report.write(PAGE, text)
    if options.out is not None:
        options.out.write_text(json.dumps(_document(findings), indent=1) + "\n", encoding="utf-8")
    return 0


def _run(parts: list[Job], processes: int, findings: Findings) -> None:
    start = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(jobs.work, job): job for job in parts}
        for done, future in enumerate(as_completed(futures), 1):
            _collect(findings, futures[future], future.result())
            if sys.stderr.isatty() or done % 50 == 0 or done == len(parts):
                print(f"{done} of {len(parts)}, {time.monotonic() - start:.0f} s", file=sys.stderr)


def _collect(findings: Findings, job: Job, counted: dict[str, Healthy | Delays]) -> None:
    for fault, one in counted.items():
        if isinstance(one, Healthy):
            kept = findings.recorded if job.kind == "recorded" else findings.healthy
            kept[job.rule, job.what] = kept.get((job.rule, job.what), Healthy()) + one
        elif job.kind == "recorded":
            findings.planted[job.rule, job.what, fault] = one
        else:
            key = (job.rule, "mature" if job.kind == "oracle" else job.kind, job.what, fault)
            findings.delays[key] = findings.delays.get(key, Delays()) + one


def _earlier(document: dict[str, Any], rules: set[str]) -> Findings:
    """What :func:`_document` kept of an earlier run, for ``rules`` alone."""
    findings, series = Findings(), {scenario.name for scenario in HEALTHY}
    for name, counted in document["healthy"].items():
        rule, what = name.split("/")
        if rule in rules:
            (findings.healthy if what in series else findings.recorded)[rule, what] = Healthy(**counted)
    for name, counted in document["delays"].items():
        delays = Delays(Counter({None if at == "none" else int(at): count for at, count in counted.items()}))
        match name.split("/"):
            case [rule, age, background, fault] if rule in rules:
                findings.delays[rule, age, background, fault] = delays
            case [rule, recording, fault] if rule in rules:
                findings.planted[rule, recording, fault] = delays
    return findings


def _document(findings: Findings) -> dict[str, object]:
    """What was counted, raw: keys joined by ``/``, delays by check, ``none`` for never."""
    return {
        "environment": environment(),
        "healthy": {"/".join(key): vars(one) for key, one in (findings.healthy | findings.recorded).items()},
        "delays": {
            "/".join(key): {str(delay).lower(): count for delay, count in one.found.items()}
            for key, one in (findings.delays | findings.planted).items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
