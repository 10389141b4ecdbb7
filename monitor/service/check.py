"""One check of one model: study, session, audit, replays, verdict. The only place that puts the pieces together.

A :class:`Checker` has the model's probe from its keeper (``life.py``), and its replays made (``rounds.py``). Whatever
goes wrong becomes a :class:`CheckResult` that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from monitor.analysis import verdict as verdicts
from monitor.analysis.assess import assess
from monitor.analysis.deep import deep
from monitor.analysis.instability import undecided
from monitor.config import Model
from monitor.errors import MeasureError
from monitor.records import (
    CheckResult,
    DeepProfile,
    DeepReading,
    Failure,
    Latency,
    ModelState,
    RejectedSample,
    Samples,
    SessionFacts,
    Study,
)
from monitor.service import board as boards
from monitor.service.application import Application
from monitor.service.duty import Account
from monitor.service.identity import identity_of, settings_of, spec_of
from monitor.service.life import AUDIT_BUDGET, CREATION_FACTOR, RECOVERY, Keeper, Life, Observe
from monitor.service.restraint import Restraint
from monitor.service.rounds import ROUNDS_BUDGET, Rounds, Timed
from monitor.service.schedule import Backoff
from monitor.service.studies import Studies
from monitor.wire import Deepen

DEEP_RUNS: Final = 3
DEEP_BUDGET: Final = 10.0
SECOND_LOOK_EVERY: Final = 3600.0
"""Seconds between two audits of one model that latency alarms call for: one that flaps must not load the board."""
# The accelerator restarts then. A session that is made too early ends on the CPU, without a word.
_RESTARTS: Final = frozenset({"engine_failed", "device_reset"})
# Found out before a session is tried: cheap enough to look again at every interval, so that a mend is seen at once.
_UNTRIED: Final = frozenset({"model_missing", "model_invalid", "dims_unknown", "provider_missing"})


class Checker:
    """Checks one model, again and again. Not thread-safe but for :meth:`close`.

    ``audit_interval`` is in seconds; ``progress`` is told what is being done, for people who wait.
    ``observe`` is handed what each audit saw, for reports that show more than a result keeps. What ``account`` has is
    all that replays may take; without one they take what they need.
    """

    def __init__(
        self,
        model: Model,
        provider: str,
        audit_interval: float,
        studies: Studies,
        progress: Callable[[str], None] = lambda step: None,
        observe: Observe | None = None,
        account: Account | None = None,
    ) -> None:
        self.model = model
        self.backoff = Backoff()
        self._provider = provider
        self._account = account
        self._progress = progress
        self._keeper = Keeper(model, provider, audit_interval, studies, account, progress, observe)
        self._rounds = Rounds(model, account)
        self.restraint = Restraint(self._rounds.wait)
        self._application = Application(model.samples)
        self._looked = -SECOND_LOOK_EVERY

    @property
    def audit_interval(self) -> float:
        """Seconds after which a probe is renewed."""
        return self._keeper.audit_interval

    @audit_interval.setter
    def audit_interval(self, seconds: float) -> None:
        self._keeper.audit_interval = seconds

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
        self.restraint.checked()
        life: Life | None = None
        timed: Timed | None = None
        failure: Failure | None = None
        rejected: tuple[RejectedSample, ...] = ()
        try:
            life = self._keeper.alive(self._rounds.ask)
            if replays:
                self._progress("replaying")
                timed = self._rounds.time(life.handle, more)
        except MeasureError as error:
            failure, rejected = error.failure, error.rejected
            self._keeper.end()
        if not self.model.resident:
            self._keeper.end()
        if failure is None:
            self.backoff.succeeded()
        elif failure.reason not in _UNTRIED:
            self.backoff.failed(RECOVERY if failure.reason in _RESTARTS else 0.0)
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
        self._keeper.end()
        try:
            life = self._keeper.alive(self._rounds.ask)
        except MeasureError as error:
            self._keeper.end()
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
            self._keeper.end()
        return again

    def _result(
        self,
        life: Life | None,
        timed: Timed | None,
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
            notes=(*(_notes(facts) if facts else ()), *(timed.notes if timed else ())),
            settings=settings_of(self.model),
            before=timed.before if timed else None,
            after=timed.after if timed else None,
            calls=self._application.look(),
        )

    def study(self) -> tuple[Study | None, tuple[str, ...]]:
        """The model's study and notes on it; without one, FLOPs are not known. Raises :class:`MeasureError`."""
        identity_of(self.model.path, self._provider)
        return self._keeper.study(spec_of(self.model, self._provider))

    def deepen(self, result: CheckResult) -> CheckResult:
        """``result`` with the accelerator's own profile, or with the reason why there is none in it.

        The resident probe is ended first: two sessions would contend for the accelerator. Raises only ``ProbeClosed``.
        """
        if result.error is not None:
            return result
        self._keeper.end()
        try:
            spec = spec_of(self.model, self._provider)
            study, _ = self._keeper.study(spec)
            spec = replace(spec, assumed=study.assumed if study else {})
            self._progress("profiling on the accelerator")
            limit = DEEP_BUDGET + CREATION_FACTOR * self.model.timeout
            reading = self._keeper.start().request(Deepen(spec, DEEP_RUNS, DEEP_BUDGET), limit)
            self._charge(reading)
            profile = deep(reading, study)
        except MeasureError as error:
            profile = DeepProfile(runs=0, partial=error.failure.detail)
        finally:
            self._keeper.end()
        return replace(result, deep=profile)

    def died(self) -> bool:
        """Whether the resident probe is gone although nobody ended it. From any thread."""
        return self._keeper.died()

    @property
    def process(self) -> tuple[int, int] | None:
        """Id and resident bytes of the resident probe; ``None`` if there is none."""
        return self._keeper.process

    def close(self, grace: float = 5.0) -> None:
        """End the probes for good; a running inference may finish within ``grace`` seconds. From any thread."""
        self._keeper.close(grace)

    def _charge(self, reading: DeepReading) -> None:
        if self._account is not None and reading.times is not None:
            self._account.spend((reading.runs + 1) * reading.times.inference)  # the first one is left out of ``runs``


def check_once(checker: Checker, replays: bool) -> CheckResult:
    """One check without a history, for commands: the verdict is all that a single look allows."""
    state, gate = ModelState(checker.model.name), checker.model.gate
    result = checker.check(replays, partial(undecided, state, gate=gate))
    return assess(state, result, gate, boards.read()).result


def _notes(facts: SessionFacts) -> tuple[str, ...]:
    told = (fault for fault in facts.faults if fault.kind in ("option_ignored", "context_foreign"))
    return tuple(f"{fault.message}; {fault.mend}" for fault in told)
