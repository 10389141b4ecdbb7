"""Real probes for the tests: every session of an execution provider lives in a child process of its own.

A provider's options leak between the sessions of one process (DESIGN, section 2), so that a test that made one in its
own process would decide what the next one measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitor import wire
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.records import CheckResult, Failure, SessionFacts, Study
from monitor.service.check import Checker
from monitor.service.handle import ProbeHandle
from monitor.service.studies import Memory

TIMEOUT = 60.0


def spec(path: Path, **fields: Any) -> wire.Spec:
    """What a probe is told, on the simulator of soc_model 60 unless ``options`` say otherwise."""
    return wire.Spec(**{"name": "m", "path": str(path), "provider": "qnn", "options": {"soc_model": "60"}, **fields})


def opened(path: Path, **fields: Any) -> SessionFacts:
    """The facts of a session on the execution provider."""
    handle = ProbeHandle()
    try:
        return handle.request(wire.Open(spec(path, **fields), 1), TIMEOUT)
    finally:
        handle.close()


def refused(path: Path, **fields: Any) -> Failure:
    """Why no session could be made."""
    with pytest.raises(MeasureError) as caught:
        opened(path, **fields)
    assert "\n" not in str(caught.value)
    return caught.value.failure


def audited(path: Path, memory: Memory | None = None, **fields: Any) -> CheckResult:
    """One whole audit, as ``npumon audit`` makes it."""
    fields = {"options": {"soc_model": "60"}, "timeout": TIMEOUT, **fields}
    checker = Checker(Model(name="m", path=path, **fields), "qnn", float("inf"), memory or Memory())
    try:
        return checker.check(replays=False)
    finally:
        checker.close()


class Recorder(Memory):
    """A memory that shows the study that a check was made with."""

    def the_study(self) -> Study:
        """The only study."""
        (study,) = self._studies.values()
        return study
