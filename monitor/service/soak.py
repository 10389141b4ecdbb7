"""A soak: all models checked again and again for hours, each check on the disk before the next one begins.

A soak is a release's evidence, so it goes on after a power cut where it was, refuses to go on with anything else than
it began with, and is never throttled: the board under it is there for nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from monitor.analysis.assess import assess
from monitor.analysis.instability import undecided
from monitor.config import Config, Model
from monitor.errors import MeasureError
from monitor.outputs import soak_file
from monitor.outputs.soak_file import Kept, SoakFile
from monitor.records import ModelState
from monitor.records.soak import Subject
from monitor.service import board as boards
from monitor.service.check import Checker
from monitor.service.handle import ProbeClosed
from monitor.service.identity import missing, sha256_of, version_of
from monitor.service.signals import Signals
from monitor.service.studies import Memory

AUDITS: Final = 8
"""Audits of each model in a soak, at least, unless they would come more often than :data:`SHORTEST`."""
SHORTEST: Final = 60.0
"""Seconds between two audits, below which they are made only if the configuration says so."""
LOOK: Final = 0.2  # seconds after which a signal or the end of the checks is seen
GRACE: Final = 10.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Progress(Struct, frozen=True):
    """How far a soak is: seconds measured of those wanted, the number of checks, and what was last done."""

    elapsed: float
    wanted: float
    checks: int
    doing: str


def soak(
    config: Config,
    models: Sequence[Model],
    duration: float,
    pace: float,
    folder: Path,
    tell: Callable[[Progress], None],
) -> None:
    """Check ``models`` until ``duration`` seconds are measured, those of earlier sessions in ``folder`` included.

    A round of all models begins ``pace`` seconds after the one before at the earliest. SIGTERM and SIGINT end it early.
    Raises :class:`UsageError` if ``folder`` has a soak of something else, :class:`MeasureError` if a model's file
    cannot be read, and :class:`SoakWriteError` if a check cannot be kept.
    """
    signals = Signals()  # first: also a Ctrl-C while large models are hashed ends it in good order
    subject = subject_of(config, models, pace)
    with ExitStack() as held:
        with soak_file.undamaged(folder):
            file = held.enter_context(soak_file.begun(folder, subject, duration))
            if file.elapsed >= duration:
                return
            loop = _Loop(config, models, duration, pace, file)
        loop.start()
        try:
            while loop.is_alive():
                if signals.wait(LOOK) == "stop":
                    loop.stop()
                tell(loop.progress)
        finally:
            loop.stop()
            loop.join()
        if loop.error is not None:
            raise loop.error


def subject_of(config: Config, models: Sequence[Model], pace: float) -> Subject:
    """What the soak is of. Raises :class:`MeasureError` (``model_missing``) if a model's file cannot be read."""
    settings = {}
    for model in models:
        # As they are in the configuration: paths may move, as long as the bytes are the same.
        shown = {key: _text(value) for key, value in msgspec.to_builtins(model, enc_hook=str).items()}
        for name in ("path", "source"):
            file = getattr(model, name)
            shown.pop(name)
            try:
                shown |= {f"{name} sha256": digest} if (digest := sha256_of(str(file) if file else None)) else {}
            except OSError as error:
                raise MeasureError(missing(error.filename, error)) from error
        settings[model.name] = shown
    return Subject(
        config.provider,
        version_of("onnxruntime"),
        version_of(f"onnxruntime-{config.provider}"),
        pace,
        settings,
    )


class _Loop(threading.Thread):
    """Makes the checks, in a thread of its own, so that a signal finds somebody who listens."""

    def __init__(self, config: Config, models: Sequence[Model], duration: float, pace: float, file: SoakFile) -> None:
        super().__init__(name="soak")
        self.error: Exception | None = None
        self._duration, self._pace, self._file = duration, pace, file
        self._measured = file.elapsed
        self._stopped = threading.Event()
        self._board = boards.read()
        self._states = {model.name: ModelState(model.name) for model in models} | file.states()
        # Placement is looked at regularly, also where the daemon would do so once in six hours.
        audits = min(config.audit_interval, max(SHORTEST, duration / AUDITS))
        studies = Memory()
        self._doing = ""
        self._checkers = [
            Checker(model, config.provider, audits, studies, partial(self._note, model.name)) for model in models
        ]
        self._done = file.checks
        self._session = file.begin(time.time(), _boot(), self._board)
        self._began = time.monotonic()

    @property
    def progress(self) -> Progress:
        return Progress(min(self._elapsed(), self._duration), self._duration, self._done, self._doing)

    def stop(self) -> None:
        """End after the running inference; may be called again, and from any thread."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        for checker in self._checkers:
            checker.close(GRACE)

    def run(self) -> None:
        try:
            with suppress(ProbeClosed):
                while not self._over():
                    self._round()
        except Exception as error:
            self.error = error
        finally:
            for checker in self._checkers:
                checker.close(GRACE)

    def _round(self) -> None:
        start = time.monotonic()
        for checker in self._checkers:
            if self._over():
                return
            # What ends a soak is a check that is recorded: the last one is also made of what is left alone till later.
            if not checker.backoff.remaining or self._elapsed() >= self._duration:
                self._check(checker)
        # Where every model fails at once, failing again and again is no soak.
        rest = min(checker.backoff.remaining for checker in self._checkers)
        left = self._duration - self._elapsed()
        pause = max(0.0, min(left, max(start + self._pace - time.monotonic(), rest)))
        if pause > LOOK:
            self._doing = "waiting"
        self._stopped.wait(pause)

    def _check(self, checker: Checker) -> None:
        model = checker.model
        state = self._states[model.name]
        found = checker.check(more=partial(undecided, state, gate=model.gate))
        if found.error is not None and not checker.backoff.remaining:
            checker.backoff.failed()  # also for what costs next to nothing to find out again
        assessed = assess(state, found, model.gate, self._board)
        self._states[model.name] = assessed.state
        probe, rss = checker.process or (None, None)
        self._measured = self._elapsed()
        kept = Kept(self._session.number, self._measured, probe, rss, 0, assessed.result)
        self._file.append(kept, time.monotonic(), assessed.state, assessed.events)
        self._done += 1

    def _elapsed(self) -> float:
        return self._session.elapsed + time.monotonic() - self._began

    def _over(self) -> bool:
        # By what is recorded: a run whose last check ended just before its time is not measured to its end.
        return self._stopped.is_set() or self._measured >= self._duration

    def _note(self, model: str, doing: str) -> None:
        self._doing = f"{model}: {doing}"


def _boot() -> str:
    """The kernel's name for this boot (Documentation/admin-guide/sysctl/kernel.rst, random/boot_id)."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()
