"""One check of one model: study, session, audit, replays, verdict. The only place that puts the pieces together.

A :class:`Checker` keeps one model's probe between checks and renews it when it has died, when the model's file or the
runtime's packages changed, and when the audit is due. Whatever goes wrong becomes a :class:`CheckResult` that says so.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from monitor.analysis import latency as latencies
from monitor.analysis import verdict as verdicts
from monitor.analysis.assess import assess, undecided
from monitor.analysis.deep import deep
from monitor.analysis.placement import placement as conclude
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.outputs.state import StateWriteError
from monitor.records import (
    Agreement,
    BoardReading,
    CheckResult,
    DeepProfile,
    Failure,
    Latency,
    ModelState,
    Placement,
    Profile,
    RejectedSample,
    Replays,
    Samples,
    SessionFacts,
    Study,
)
from monitor.service import board as boards
from monitor.service import studies
from monitor.service.comparison import compare
from monitor.service.handle import ProbeClosed, ProbeHandle
from monitor.service.identity import identity_of, key_of, settings_of, spec_of
from monitor.service.readings import read_state
from monitor.service.schedule import Backoff
from monitor.service.studies import Studies
from monitor.wire import Audit, Deepen, MakeStudy, Open, Replay, Spec

STUDY_RUNS: Final = 8  # samples that show which way the control flow goes
AUDIT_RUNS: Final = 3
AUDIT_BUDGET: Final = 5.0  # seconds after which no further profiled run is begun
DEEP_RUNS: Final = 3
DEEP_BUDGET: Final = 10.0
WARMUPS: Final = 3
MOST_ROUNDS: Final = 5
ROUNDS_BUDGET: Final = 2.0
"""Seconds of replays in one check after which no further round is begun; one round is always made."""
SECOND_LOOK_EVERY: Final = 3600.0
"""Seconds between two audits of one model that latency alarms call for: one that flaps must not load the board."""
CREATION_FACTOR: Final = 10  # an accelerator compiles the model while its session is created
# Found out before a session is tried: cheap enough to look again at every interval, so that a mend is seen at once.
_UNTRIED: Final = frozenset({"model_missing", "model_invalid", "dims_unknown", "provider_missing"})
# A study that fails in one of these ways costs the FLOP figures, not the check; the others would stop a session too.
_STUDY_ONLY: Final = frozenset({"study_failed", "run_failed", "probe_crashed", "probe_timeout", "probe_protocol"})


class _Life(NamedTuple):
    """One probe with what was learned when it was made, until it is renewed."""

    handle: ProbeHandle
    facts: SessionFacts
    placement: Placement
    made: float
    identity: tuple[object, ...]
    agreement: Agreement | None = None


class _Timed(NamedTuple):
    """The replays of one check, and the board around them."""

    latency: Latency
    before: BoardReading
    after: BoardReading


class Checker:
    """Checks one model, again and again. Not thread-safe but for :meth:`close`.

    ``audit_interval`` is in seconds; ``progress`` is told what is being done, for people who wait.
    ``observe`` is handed what each audit saw, for reports that show more than a result keeps.
    """

    def __init__(
        self,
        model: Model,
        provider: str,
        audit_interval: float,
        studies: Studies,
        progress: Callable[[str], None] = lambda step: None,
        observe: Callable[[SessionFacts, Study | None, Profile | None], None] | None = None,
    ) -> None:
        self.model = model
        self.backoff = Backoff()
        self._provider = provider
        self.audit_interval = audit_interval
        self._studies = studies
        self._progress = progress
        self._observe = observe
        self._life: _Life | None = None
        self._looked = -SECOND_LOOK_EVERY
        self._compared: tuple[float, tuple[object, ...], Agreement] | None = None
        self._handles: list[ProbeHandle] = []
        self._closed = False

    @property
    def longest(self) -> float:
        """The longest that a check may take, in seconds: study, session, audit, comparison, replays, second look."""
        timeout = self.model.timeout
        audit = 3 * CREATION_FACTOR * timeout + AUDIT_BUDGET
        deep = DEEP_BUDGET + CREATION_FACTOR * timeout if self.model.second_look == "deep" else 0.0
        return 2 * audit + deep + 3 * timeout + ROUNDS_BUDGET + 10

    def check(self, replays: bool = True, more: Callable[[Latency], bool] = lambda latency: False) -> CheckResult:
        """Check now; the verdict is that on placement and outputs. Without ``replays`` it is an audit only.

        ``more`` says of the replays so far whether another round of them would tell something. Raises only
        ``ProbeClosed``, if closed meanwhile.
        """
        start = time.monotonic()
        life: _Life | None = None
        timed: _Timed | None = None
        failure: Failure | None = None
        rejected: tuple[RejectedSample, ...] = ()
        try:
            life = self._alive()
            if replays:
                timed = self._replay(life, more)
        except MeasureError as error:
            failure, rejected = error.failure, error.rejected
            self._end()
        if not self.model.resident:
            self._end()
        if failure is None:
            self.backoff.succeeded()
        elif failure.reason not in _UNTRIED:
            self.backoff.failed()
        return self._result(life, timed, failure, rejected, start)

    def look_again(self, result: CheckResult) -> CheckResult:
        """``result`` with the placement of a fresh audit, or with the reason why there is none, in ``second_look``.

        At most one in an hour. Raises only ``ProbeClosed``.
        """
        assert result.placement is not None  # without one no latency is judged
        since = time.monotonic() - self._looked
        if since < SECOND_LOOK_EVERY:
            return replace(result, second_look=f"no fresh audit, the last one was made {since / 60:.0f} min ago")
        self._looked = time.monotonic()
        self._progress("auditing again")
        self._end()
        try:
            life = self._alive()
        except MeasureError as error:
            self._end()
            return replace(result, second_look=f"a fresh audit could not be made: {error.failure.detail}")
        judged = verdicts.judge(self.model.gate, life.facts, life.placement, life.agreement)
        again = replace(
            result,
            verdict=judged.verdict,
            reason=judged.reason,
            cause=judged.cause,
            model_sha256=life.facts.model_sha256,
            placement=life.placement,
            agreement=life.agreement,
            samples=life.facts.samples,
            runtime=life.facts.runtime,
            second_look=verdicts.moved(result.placement, life.placement),
        )
        if self.model.second_look == "deep":
            again = self.deepen(again)
            again = replace(again, second_look=f"{again.second_look}; {verdicts.deep_words(again.deep)}")
        elif not self.model.resident:
            self._end()
        return again

    def _result(
        self,
        life: _Life | None,
        timed: _Timed | None,
        failure: Failure | None,
        rejected: tuple[RejectedSample, ...],
        start: float,
    ) -> CheckResult:
        measured = life if failure is None else None
        facts = life.facts if life else None
        if measured:
            judged = verdicts.judge(self.model.gate, measured.facts, measured.placement, measured.agreement)
        else:
            assert failure is not None
            judged = verdicts.failed(failure)
        return CheckResult(
            model=self.model.name,
            timestamp=time.time(),
            duration_seconds=time.monotonic() - start,
            verdict=judged.verdict,
            reason=judged.reason,
            cause=judged.cause,
            model_sha256=facts.model_sha256 if facts else None,
            placement=measured.placement if measured else None,
            latency=timed.latency if timed else None,
            samples=facts.samples if facts else Samples("files", 0, rejected) if rejected else None,
            runtime=facts.runtime if facts else None,
            error=failure,
            agreement=measured.agreement if measured else None,
            notes=_notes(facts) if facts else (),
            settings=settings_of(self.model),
            before=timed.before if timed else None,
            after=timed.after if timed else None,
        )

    def study(self) -> tuple[Study | None, tuple[str, ...]]:
        """The model's study and notes on it; without one, FLOPs are not known. Raises :class:`MeasureError`."""
        identity_of(self.model.path, self._provider)
        return self._study(spec_of(self.model, self._provider))

    def deepen(self, result: CheckResult) -> CheckResult:
        """``result`` with the accelerator's own profile, or with the reason why there is none in it.

        The resident probe is ended first: two sessions would contend for the accelerator. Raises only ``ProbeClosed``.
        """
        if result.error is not None:
            return result
        self._end()
        try:
            spec = spec_of(self.model, self._provider)
            study, _ = self._study(spec)
            spec = replace(spec, assumed=study.assumed if study else {})
            self._progress("profiling on the accelerator")
            limit = DEEP_BUDGET + CREATION_FACTOR * self.model.timeout
            profile = deep(self._start().request(Deepen(spec, DEEP_RUNS, DEEP_BUDGET), limit), study)
        except MeasureError as error:
            profile = DeepProfile(runs=0, partial=error.failure.detail)
        finally:
            self._end()
        return replace(result, deep=profile)

    def died(self) -> bool:
        """Whether the resident probe is gone although nobody ended it. From any thread."""
        life = self._life
        return life is not None and not life.handle.alive

    def close(self, grace: float = 5.0) -> None:
        """End the probes for good; a running inference may finish within ``grace`` seconds. From any thread."""
        self._closed = True
        for handle in list(self._handles):
            handle.close(grace)

    # ------------------------------------------------------------------------------------------ the probe's life

    def _alive(self) -> _Life:
        """The current probe, or a new one where that is due."""
        life, identity = self._life, identity_of(self.model.path, self._provider)
        if life is not None:
            due = time.monotonic() - life.made >= self.audit_interval
            if life.handle.alive and not due and life.identity == identity:
                return life
            if not life.handle.alive:  # died between checks: a request that fails says how
                self._round(life, 0)
            self._end()
        self._life = self._make(identity)
        return self._life

    def _make(self, identity: tuple[object, ...]) -> _Life:
        model = self.model
        spec = spec_of(model, self._provider)
        study, notes = self._study(spec)
        if study is not None:
            spec = replace(spec, assumed=study.assumed)
        handle = self._start()
        self._progress("creating the session")
        facts = handle.request(Open(spec, random.getrandbits(32)), CREATION_FACTOR * model.timeout)
        self._progress("profiling")
        with tempfile.TemporaryDirectory(prefix="npumon-outputs-", ignore_cleanup_errors=True) as outputs:
            request = Audit(AUDIT_RUNS, AUDIT_BUDGET, outputs if model.compare_outputs else None)
            profile = handle.request(request, AUDIT_BUDGET + CREATION_FACTOR * model.timeout)
            concluded = conclude(facts, study, profile, notes)
            if self._observe is not None:
                self._observe(facts, study, profile)
            compared = model.compare_outputs and concluded.nodes.accelerator > 0
            agreement = self._compare(spec, outputs, identity) if compared else None
        return _Life(handle, facts, concluded, time.monotonic(), identity, agreement)

    def _compare(self, spec: Spec, outputs: str, identity: tuple[object, ...]) -> Agreement:
        """The audit's outputs against the CPU's. A probe that lives for one check does not bring it on at each."""
        if not self.model.resident and self._compared is not None:
            made, of, agreement = self._compared
            if of == identity and time.monotonic() - made < self.audit_interval:
                return agreement
        self._progress("comparing outputs with the CPU's")
        handle = self._start()
        try:
            timeout = CREATION_FACTOR * self.model.timeout
            agreement = compare(handle, spec, outputs, self.model.gate.output_error, timeout)
        finally:
            self._close(handle)
        self._compared = (time.monotonic(), identity, agreement)
        return agreement

    def _study(self, spec: Spec) -> tuple[Study | None, tuple[str, ...]]:
        """The model's study: from a file beside it, from the cache, or from a process of its own."""
        key = key_of(spec)
        study, note = studies.read(spec)
        notes = (note,) if note else ()
        study = study or self._studies.study(key)
        if study is not None:
            return study, notes
        self._progress("studying the model on the CPU")
        handle = self._start()
        try:
            study = handle.request(MakeStudy(spec, STUDY_RUNS), CREATION_FACTOR * self.model.timeout)
        except MeasureError as error:
            if error.failure.reason not in _STUDY_ONLY:
                raise
            return None, (*notes, f"FLOPs are not known: {error.failure.detail}")
        finally:
            self._close(handle)
        with contextlib.suppress(StateWriteError):  # then it is made again; the check's own write tells of the disk
            self._studies.put_study(key, study)
        return study, notes

    def _replay(self, life: _Life, more: Callable[[Latency], bool]) -> _Timed:
        self._progress("replaying")
        before, start = read_state(), time.monotonic()
        rounds = [self._round(life, WARMUPS)]
        latency = _summarize(rounds)
        while len(rounds) < MOST_ROUNDS and time.monotonic() - start < ROUNDS_BUDGET and more(latency):
            rounds.append(self._round(life, 0))
            latency = _summarize(rounds)
        return _Timed(latency, before, read_state())

    def _round(self, life: _Life, warmups: int) -> Replays:
        timeout = self.model.timeout
        return life.handle.request(Replay(self.model.replays, warmups, timeout / 2), timeout)

    def _start(self) -> ProbeHandle:
        handle = ProbeHandle()
        self._handles.append(handle)
        if self._closed:  # looked at last: :meth:`close` may have come before the handle was in its list
            self._close(handle)
            raise ProbeClosed
        return handle

    def _close(self, handle: ProbeHandle) -> None:
        handle.close()
        with contextlib.suppress(ValueError):
            self._handles.remove(handle)

    def _end(self) -> None:
        self._life = None
        for handle in list(self._handles):
            self._close(handle)


def check_once(checker: Checker, replays: bool) -> CheckResult:
    """One check without a history, for commands: the verdict is all that a single look allows."""
    state, gate = ModelState(checker.model.name), checker.model.gate
    result = checker.check(replays, partial(undecided, state, gate=gate))
    return assess(state, result, gate, boards.read()).result


def _summarize(rounds: list[Replays]) -> Latency:
    try:
        return latencies.summarize(*rounds)
    except ValueError as error:
        raise MeasureError(Failure("probe_protocol", f"the probe's latencies are unusable: {error}")) from error


def _notes(facts: SessionFacts) -> tuple[str, ...]:
    told = (fault for fault in facts.faults if fault.kind in ("option_ignored", "context_foreign"))
    return tuple(f"{fault.message}; {fault.mend}" for fault in told)
