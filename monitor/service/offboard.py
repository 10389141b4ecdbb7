"""Makes a study where there is memory and time for it, for boards that have neither."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from monitor.config import Model
from monitor.records import Study
from monitor.service import studies
from monitor.service.handle import ProbeHandle
from monitor.service.identity import spec_of
from monitor.service.life import CREATION_FACTOR, STUDY_RUNS
from monitor.wire import MakeStudy


def make_study(model: Model, file: Path, progress: Callable[[str], None] = lambda step: None) -> Study:
    """Study ``model`` anew, whatever lies beside it, and write ``file``.

    Raises :class:`MeasureError` where the CPU cannot run it, :class:`UsageError` where the file cannot be written.
    """
    progress("studying the model on the CPU")
    spec = spec_of(model, provider="")  # no execution provider takes part
    with contextlib.closing(ProbeHandle()) as handle:
        study = handle.request(MakeStudy(spec, STUDY_RUNS), CREATION_FACTOR * model.timeout)
    studies.write(study, spec, file)
    return study
