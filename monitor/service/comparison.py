"""Has the audit's outputs repeated on the CPU, in a process of its own, and lets nothing that goes wrong there matter.

A comparison that fails costs its own figure, never the check: it is a note that says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from monitor.analysis.agreement import conclude
from monitor.errors import MeasureError
from monitor.records import Agreement
from monitor.service.handle import ProbeHandle
from monitor.wire import Compare, Spec

MOST_MEMORY: Final = 2 * 2**30
MEMINFO: Final = Path("/proc/meminfo")


def compare(handle: ProbeHandle, spec: Spec, folder: str, tolerance: float, timeout: float) -> Agreement:
    """What ``handle``, a probe that has no other task, finds; ``folder`` holds what an audit left there."""
    try:
        return conclude(handle.request(Compare(spec, folder, memory_bound(), tolerance), timeout))
    except MeasureError as error:
        return Agreement(None, notes=(f"could not compare outputs: {error}",))


def memory_bound(meminfo: Path = MEMINFO) -> int:
    """Bytes that the comparison may allocate: half of what the board has to spare, at most 2 GiB."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return min(int(lines["MemAvailable"].split()[0]) * 1024 // 2, MOST_MEMORY)
    except (OSError, ValueError, LookupError):
        return MOST_MEMORY // 4
