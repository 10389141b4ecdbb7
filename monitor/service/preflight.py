"""Before a rollout: where each of several SoCs would place the model, a session and a process each.

Placement is fixed when a session is created, so nothing is run on the accelerator: the simulator is slow, and its
timings mean nothing. What the model computes does not depend on the SoC: it is studied once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from monitor.analysis import verdict as verdicts
from monitor.analysis.placement import placement as conclude
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.records import Forecast, Preflight, SessionFacts, Study
from monitor.service.check import Checker
from monitor.service.handle import ProbeHandle
from monitor.service.identity import spec_of
from monitor.service.life import CREATION_FACTOR
from monitor.service.studies import Memory
from monitor.wire import Open

SEED: Final = 0  # no sample is drawn


def preflight(
    model: Model, provider: str, socs: Sequence[str], progress: Callable[[str], None] = lambda step: None
) -> Preflight:
    """The forecast for each of ``socs``, in their order, as the execution provider of ``provider`` names them.

    A SoC without a session is a forecast with its error. Raises :class:`MeasureError` where the model itself cannot be
    used: it is missing, damaged, or has no such dimension.
    """
    timestamp = time.time()
    checker = Checker(model, provider, float("inf"), Memory(), progress)
    with contextlib.closing(checker):
        study, notes = checker.study()
    seen = []
    forecasts = []
    for soc in socs:
        progress(f"creating the session for {soc}")
        forecast, facts = _forecast(model, provider, soc, study)
        forecasts.append(forecast)
        seen += [facts] if facts else []
    return Preflight(
        model=model.name,
        timestamp=timestamp,
        forecasts=tuple(forecasts),
        model_sha256=seen[0].model_sha256 if seen else study.model_sha256 if study else None,
        samples=study.samples if study else None,
        notes=(*notes, *dict.fromkeys(note for facts in seen for note in _notes(facts))),
    )


def _forecast(model: Model, provider: str, soc: str, study: Study | None) -> tuple[Forecast, SessionFacts | None]:
    spec = spec_of(model, provider)
    spec = msgspec.structs.replace(spec, soc=soc, assumed=study.assumed if study else {})
    try:
        with contextlib.closing(ProbeHandle()) as handle:
            facts = handle.request(Open(spec, SEED), CREATION_FACTOR * model.timeout)
    except MeasureError as error:
        judged = verdicts.failed(error.failure)
        return Forecast(soc, judged.verdict, judged.reason, judged.cause, error=error.failure), None
    placed = conclude(facts, study, None)
    judged = verdicts.judge(model.gate, facts, placed, None)
    return Forecast(soc, judged.verdict, judged.reason, judged.cause, placed, facts.runtime), facts


def _notes(facts: SessionFacts) -> list[str]:
    return [f"{f.message}; {f.mend}" for f in facts.faults if f.kind in ("option_ignored", "context_foreign")]
