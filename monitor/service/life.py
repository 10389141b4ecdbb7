"""The probe of one model: made, kept between checks, renewed when it must be, and put to rest.

A probe is renewed when it has died, when the model's file or the runtime's packages changed, when the audit is due, and
now and then as long as the accelerator does not come up.
With a new session come a study of the model, if there is none yet, an audit, and a comparison of outputs.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec.structs import replace

from monitor.analysis.placement import placement as conclude
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.outputs.state import StateWriteError
from monitor.records import RUN_FAILURES, Agreement, Failure, Placement, Profile, SessionFacts, Study
from monitor.service import process, studies
from monitor.service.comparison import compare
from monitor.service.duty import Account
from monitor.service.handle import ProbeClosed, ProbeHandle
from monitor.service.identity import identity_of, key_of, spec_of
from monitor.service.schedule import Backoff
from monitor.service.studies import Studies
from monitor.wire import Audit, MakeStudy, Open, Spec

STUDY_RUNS: Final = 8  # samples that show which way the control flow goes
AUDIT_RUNS: Final = 3
AUDIT_BUDGET: Final = 5.0  # seconds after which no further profiled run is begun
RECOVERY: Final = 10.0
"""Seconds after which an accelerator that was down is first tried again: a DSP restarts in seconds to tens of them."""
STUDY_REST: Final = 6 * 3600.0
"""Longest wait, in seconds, until a study that fails again and again is tried once more."""
STUDY_SHARE: Final = 0.1
"""Share of the time that failing studies of a model may take: each may go on for ten times `timeout`."""
CREATION_FACTOR: Final = 10  # an accelerator compiles the model while its session is created
# A study that fails in one of these ways costs the FLOP figures, not the check; the others would stop a session too.
_STUDY_ONLY: Final = RUN_FAILURES | {"study_failed", "probe_crashed", "probe_timeout", "probe_protocol"}

Observe = Callable[[SessionFacts, Study | None, Profile | None], None]


class Life(NamedTuple):
    """One probe with what was learned when it was made, until it is renewed."""

    handle: ProbeHandle
    facts: SessionFacts
    placement: Placement
    made: float
    identity: tuple[object, ...]
    agreement: Agreement | None = None
    lasts: float = math.inf
    """Seconds after which it is renewed, if that is before the audit is due."""


class Keeper:
    """Keeps one model's probe, and starts the others that it takes. Not thread-safe but for :meth:`close`.

    ``audit_interval`` is in seconds; ``account`` is charged for audits; ``progress`` is told what is being done;
    ``observe`` is handed what each audit saw.
    """

    def __init__(
        self,
        model: Model,
        provider: str,
        audit_interval: float,
        studies: Studies,
        account: Account | None,
        progress: Callable[[str], None],
        observe: Observe | None,
    ) -> None:
        self.audit_interval = audit_interval
        self._model = model
        self._provider = provider
        self._studies = studies
        self._account = account
        self._progress = progress
        self._observe = observe
        self._life: Life | None = None
        self._down = Backoff(first=RECOVERY)
        self._compared: tuple[float, tuple[object, ...], Agreement] | None = None
        self._handles: list[ProbeHandle] = []
        self._unstudied: tuple[tuple[object, ...], str] | None = None
        self._studying = Backoff(first=RECOVERY, most=STUDY_REST)
        self._closed = False

    def alive(self, ask: Callable[[ProbeHandle], None]) -> Life:
        """The current probe, or a new one where that is due. ``ask`` makes a request, which tells how one died.

        Raises :class:`MeasureError`, and ``ProbeClosed`` if closed meanwhile.
        """
        life, identity = self._life, identity_of(self._model.path, self._provider)
        if life is not None:
            due = time.monotonic() - life.made >= min(self.audit_interval, life.lasts)
            if life.handle.alive and not due and life.identity == identity:
                return life
            if not life.handle.alive:  # died between checks: a request that fails says how
                ask(life.handle)
            self.end()
        self._life = self._made_of_one_file(identity)
        return self._life

    def _made_of_one_file(self, identity: tuple[object, ...]) -> Life:
        """A new probe. Study, session and comparison read the model one after the other, each in its own process.

        If another one was deployed meanwhile, what they found may not be joined, and what failed may not be told: all
        is made once more.
        """
        for _ in range(2):
            life, failure = None, None
            try:
                life = self._make(identity)
            except MeasureError as error:
                failure = error
            before, identity = identity, identity_of(self._model.path, self._provider)
            if before == identity:
                break
            self.end()
        else:
            detail = f"{self._model.path}: the model was replaced twice while it was being measured"
            failure = MeasureError(Failure("model_invalid", detail, "let it rest for one check"))
        if failure is not None:
            raise failure
        assert life is not None  # made, since nothing failed
        return life

    def _make(self, identity: tuple[object, ...]) -> Life:
        model = self._model
        spec = spec_of(model, self._provider)
        study, notes = self.study(spec)
        if study is not None:
            spec = replace(spec, assumed=study.assumed)
        handle = self.start()
        self._progress("creating the session")
        facts = handle.request(Open(spec, random.getrandbits(32)), CREATION_FACTOR * model.timeout)
        self._progress("profiling")
        with tempfile.TemporaryDirectory(dir=handle.scratch, ignore_cleanup_errors=True) as outputs:
            request = Audit(AUDIT_RUNS, AUDIT_BUDGET, outputs if model.compare_outputs else None)
            profile = handle.request(request, AUDIT_BUDGET + CREATION_FACTOR * model.timeout)
            if self._account is not None:
                self._account.spend(_seconds(profile))
            concluded = conclude(facts, study, profile, notes)
            if self._observe is not None:
                self._observe(facts, study, profile)
            compared = model.compare_outputs and concluded.nodes.accelerator > 0
            agreement = self._compare(spec, outputs, identity) if compared else None
        return Life(handle, facts, concluded, time.monotonic(), identity, agreement, self._lasts(facts))

    def _lasts(self, facts: SessionFacts) -> float:
        """How long to keep the session: one whose accelerator did not come up never notices that it has come back."""
        if any(fault.kind == "accelerator_unavailable" for fault in facts.faults):
            return self._down.failed()
        self._down.succeeded()
        return math.inf

    def _compare(self, spec: Spec, outputs: str, identity: tuple[object, ...]) -> Agreement:
        """The audit's outputs against the CPU's. A probe that lives for one check does not bring it on at each."""
        if not self._model.resident and self._compared is not None:
            made, of, agreement = self._compared
            if of == identity and time.monotonic() - made < self.audit_interval:
                return agreement
        self._progress("comparing outputs with the CPU's")
        handle = self.start()
        try:
            timeout = CREATION_FACTOR * self._model.timeout
            agreement = compare(handle, spec, outputs, self._model.gate.output_error, timeout)
        finally:
            self._close(handle)
        self._compared = (time.monotonic(), identity, agreement)
        return agreement

    def study(self, spec: Spec) -> tuple[Study | None, tuple[str, ...]]:
        """The model's study, and notes on it: from a file beside it, from the cache, or from a process of its own.

        Without one FLOPs are not known. Raises :class:`MeasureError` for what would stop a session as well.
        """
        key, sha256 = key_of(spec)
        study, note = studies.read(spec)
        notes = (note,) if note else ()
        study = study or self._studies.study(key)
        if study is not None and study.model_sha256 == sha256:
            return study, notes
        identity = identity_of(self._model.path, self._provider)
        if self._unstudied is not None and self._unstudied[0] == identity and self._studying.remaining > 0:
            return None, (*notes, self._unstudied[1])
        self._progress("studying the model on the CPU")
        start = time.monotonic()
        handle = self.start()
        try:
            study = handle.request(MakeStudy(spec, STUDY_RUNS), CREATION_FACTOR * self._model.timeout)
        except MeasureError as error:
            if error.failure.reason not in _STUDY_ONLY:
                raise
            self._studying.failed((time.monotonic() - start) / STUDY_SHARE)
            self._unstudied = identity, f"FLOPs are not known: {error.failure.detail}"
            return None, (*notes, self._unstudied[1])
        finally:
            self._close(handle)
        self._studying.succeeded()
        # Then it is made again; the check's own write tells of the disk.
        with contextlib.suppress(StateWriteError, MeasureError):
            # Else another model was deployed since the key was made, be it that the first one is back by now.
            if study.model_sha256 == sha256 and key_of(spec) == (key, sha256):
                self._studies.put_study(key, study)
        return study, notes

    def start(self) -> ProbeHandle:
        """A process of its own, which :meth:`end` closes at the latest.

        Raises :class:`MeasureError` while an earlier one cannot be ended: it holds the accelerator and its memory, and
        the next one would be stuck beside it.
        """
        for earlier in self._handles:
            if earlier.stuck:
                raise MeasureError(_stuck(earlier.pid))
        handle = ProbeHandle(memory=self._model.memory)
        self._handles.append(handle)
        if self._closed:  # looked at last: :meth:`close` may have come before the handle was in its list
            self._close(handle)
            raise ProbeClosed
        return handle

    def _close(self, handle: ProbeHandle) -> None:
        handle.close()
        if not handle.stuck:
            with contextlib.suppress(ValueError):
                self._handles.remove(handle)

    def end(self) -> None:
        """End the probe, until it is needed again."""
        self._life = None
        for handle in list(self._handles):
            self._close(handle)

    def died(self) -> bool:
        """Whether the probe is gone although nobody ended it. From any thread."""
        life = self._life
        return life is not None and not life.handle.alive

    @property
    def process(self) -> tuple[int, int] | None:
        """Id and resident bytes of the probe's process; ``None`` if there is none."""
        life = self._life
        rss = life.handle.rss if life is not None else None
        return (life.handle.pid, rss) if life is not None and rss is not None else None

    def close(self, grace: float) -> None:
        """End the probes for good; a running inference may finish within ``grace`` seconds. From any thread."""
        self._closed = True
        handles = list(self._handles)
        for handle in handles:  # all are told first, so that their grace runs at the same time
            handle.hang_up(grace)
        for handle in handles:
            handle.close(grace)


def _stuck(pid: int) -> Failure:
    detail = f"an earlier probe (process {pid}) was killed and is still there{process.doing(pid)}"
    return Failure("probe_timeout", detail, "look for its driver in the kernel's log; mostly only a reboot ends it")


def _seconds(profile: Profile) -> float:
    """How long the profiled inferences took, by their nodes."""
    return sum(span.seconds for run in profile.runs for span in run if not span.nested)
