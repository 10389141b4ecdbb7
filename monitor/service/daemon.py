"""The daemon: composes state, checkers, schedule, metrics, events and web server, and owns their life.

Composition root: everything with a lifetime is made and ended here. The main thread only waits for signals and feeds
systemd's watchdog while the schedule moves; checks run one at a time in the schedule's worker; scrapes are answered by
the web server's thread from what the checks left behind.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import msgspec

import monitor
from monitor.analysis.incidents import advance
from monitor.config import Config
from monitor.outputs import events as event_log
from monitor.outputs import page
from monitor.outputs.log import logger
from monitor.outputs.metrics import Exposition
from monitor.outputs.state import State, StateWriteError
from monitor.outputs.web import WebServer
from monitor.records import CheckResult, Event, Failure, ModelState
from monitor.service import board as boards
from monitor.service import notify
from monitor.service.check import Checker
from monitor.service.handle import ProbeClosed
from monitor.service.schedule import HEARTBEAT, Schedule

TICK: Final = 5.0
"""Seconds between two looks of the main thread at the rest of the service."""
GRACE: Final = 30.0
"""Seconds a running inference may take to end when the daemon stops; less than systemd waits (TimeoutStopSec)."""


class Daemon:
    """One running service. ``config`` is valid; :meth:`run` returns when a signal asks it to end.

    ``announce`` is told the web address once the service answers.
    """

    def __init__(self, config: Config, announce: Callable[[str], None] = lambda address: None) -> None:
        self._config = config
        self._announce = announce
        self._board = boards.read()
        self._state = State.open(config.state, config.file)
        self._checkers = {
            model.name: Checker(model, config.provider, config.audit_interval, self._state) for model in config.models
        }
        self._models = {name: s for name, s in self._state.model_states().items() if name in self._checkers}
        self._results = {name: r for name, r in self._state.results().items() if name in self._checkers}
        self._exposition = Exposition(self._checkers, self._board, monitor.__version__, time.time())
        self._schedule = Schedule(self._defect)
        self._stop = threading.Event()
        self._remarked: set[tuple[str, ...]] = set()
        self._web = WebServer(
            config.listen, file=config.file, page=self._page, metrics=self._exposition.text, health=self.health
        )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises :class:`UsageError` if the address is taken."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            self._web.start()
            self._say_start()
            for name, checker in self._checkers.items():
                self._schedule.add(name, self._config.interval, self._job(name, checker))
            self._schedule.start()
            notify.ready()
            self._announce(self.address)
            self._watch()
        finally:
            notify.stopping()
            self._end()
        logger.info("stopped")

    @property
    def address(self) -> str:
        """Where the status page is."""
        host = f"[{self._web.host}]" if ":" in self._web.host else self._web.host
        return f"http://{host}:{self._web.port}"

    def health(self) -> tuple[bool, str]:
        """Whether the service itself works (not the models), and a line about it."""
        allowed = HEARTBEAT + max(checker.longest for checker in self._checkers.values())
        idle = time.monotonic() - self._schedule.last_progress()
        if idle > allowed:
            return False, f"the schedule has not moved for {idle:.0f} s"
        return True, "ok"

    # --------------------------------------------------------------------------------------------- one check

    def _job(self, name: str, checker: Checker) -> Callable[[], None]:
        def job() -> None:
            if checker.backoff.remaining > 0:
                return
            with contextlib.suppress(ProbeClosed):
                self._conclude(checker.check())
                if checker.backoff.remaining > 0:
                    self._schedule.hasten(name, checker.backoff.remaining)

        return job

    def _conclude(self, result: CheckResult) -> None:
        """Everything that follows from a check, in the order that loses least."""
        before = self._models.get(result.model, ModelState(result.model))
        after, events = advance(before, result, self._board)
        try:
            self._state.save_check(result, after, events)
        except StateWriteError as error:
            self._exposition.count_state_write_failure()
            logger.error("state_not_written", error=str(error))
        self._models[result.model] = after
        self._results[result.model] = result
        self._exposition.record(result)
        for event in events:
            self._tell(event)
        self._remark(result)
        notify.status(self._summary())

    def _tell(self, event: Event) -> None:
        self._exposition.count_event(event)
        event_log.emit(event, logger)

    def _remark(self, result: CheckResult) -> None:
        """Name each setting that does nothing and each sample that does not fit, once."""
        rejected = result.samples.rejected if result.samples else ()
        remarks = [("check_note", {"detail": note}) for note in result.notes]
        remarks += [("sample_rejected", msgspec.to_builtins(sample)) for sample in rejected]
        for name, fields in remarks:
            remark = (name, result.model, *fields.values())
            if remark not in self._remarked:
                self._remarked.add(remark)
                logger.warning(name, model=result.model, **fields)

    def _defect(self, name: str, error: Exception) -> None:
        """A check raised what it should not have: a defect of npumon, shown as such, and the service goes on."""
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        failure = Failure("internal", f"a defect of npumon: {detail}", "please report it with the log")
        logger.error("internal_error", model=name, error=detail)
        result = CheckResult(name, time.time(), 0.0, "unknown", failure.detail, error=failure)
        with contextlib.suppress(Exception):
            self._conclude(result)

    # ------------------------------------------------------------------------------------------------- life

    def _watch(self) -> None:
        interval = notify.watchdog_interval()
        tick = min(TICK, interval) if interval else TICK
        while not self._stop.wait(tick):
            well, text = self.health()
            if well and interval:
                notify.watchdog()
            elif not well:
                logger.error("service_stuck", detail=text)
                notify.status(text)
            for name, checker in self._checkers.items():
                if checker.died():
                    self._schedule.hasten(name, 0.0)

    def _end(self) -> None:
        # All probes are told first, so that their grace runs at the same time.
        closers = [threading.Thread(target=checker.close, args=(GRACE,)) for checker in self._checkers.values()]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        self._schedule.stop()
        self._web.stop()
        self._state.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _say_start(self) -> None:
        for note in self._state.notes:
            logger.warning("state_damaged", detail=note)
        logger.info(
            "started",
            version=monitor.__version__,
            models=list(self._checkers),
            address=self.address,
            interval_seconds=self._config.interval,
        )

    def _summary(self) -> str:
        verdicts = [f"{name} {result.verdict}" for name, result in self._results.items()]
        return f"{self.address}: {', '.join(verdicts)}"

    def _page(self) -> str:
        return page.render(dict(self._results), self._board, time.time(), list(self._checkers), dict(self._models))
