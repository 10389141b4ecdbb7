"""The daemon: composes state, checkers, schedule, metrics, events and web server, and owns their life.

Composition root: everything with a lifetime is made and ended here. The main thread waits for signals, reloads the
configuration, and feeds systemd's watchdog while the schedule moves; checks run one at a time in the schedule's worker;
scrapes are answered by the web server's thread from what the checks left behind.

What is watched is one dictionary, which a reload replaces and never edits. Replacing it and concluding a check exclude
each other, so that no result of a model that was removed or changed comes after the reload.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import monitor
from monitor.analysis.assess import Assessment, assess, standing, undecided
from monitor.config import Config, Gate, Model
from monitor.errors import UsageError
from monitor.outputs import events as event_log
from monitor.outputs import page
from monitor.outputs.access import Access
from monitor.outputs.log import logger
from monitor.outputs.metrics import Exposition
from monitor.outputs.state import State, StateWriteError
from monitor.outputs.textfile import Textfile
from monitor.outputs.web import WebServer
from monitor.records import BaselineRequest, CheckResult, Event, Failure, ModelState
from monitor.service import board as boards
from monitor.service import notify, reload
from monitor.service.check import Checker
from monitor.service.duty import Duty
from monitor.service.handle import ProbeClosed
from monitor.service.remarks import Remarks
from monitor.service.schedule import HEARTBEAT, Schedule
from monitor.service.signals import Signals

TICK: Final = 5.0
"""Seconds between two looks of the main thread at the rest of the service."""
GRACE: Final = 30.0
"""Seconds a running inference may take to end when its probe must go; less than systemd waits (TimeoutStopSec)."""


class Daemon:
    """One running service. ``config`` is valid; :meth:`run` returns when a signal asks it to end.

    ``announce`` is told the web address once the service answers. ``textfile`` gets what a scrape would.
    """

    def __init__(
        self,
        config: Config,
        announce: Callable[[str], None] = lambda address: None,
        textfile: Textfile | None = None,
    ) -> None:
        self._config = config
        self._announce = announce
        self._textfile = textfile
        self._board = boards.read()
        self._state = State.open(config.state, config.file)
        self._lock = threading.Lock()
        self._duty = Duty(config.max_duty)
        self._checkers = {model.name: self._checker(model, config) for model in config.models}
        self._retired = reload.Retired(GRACE)
        self._file = reload.Watch(config)
        # Of models that are not watched too: one that comes back goes on where it was.
        self._models = self._state.model_states()
        self._results = self._state.results()
        self._forget()
        self._exposition = Exposition(
            self._checkers, self._board, monitor.__version__, time.time(), duty=self._duty.ratio
        )
        self._expect(config.interval)
        self._schedule = Schedule(self._defect)
        self._resumed = time.monotonic()
        self._remarks = Remarks()
        self._noted = 0
        self._web = self._server(config, Access(config.file, config.web))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises :class:`UsageError` if the address is taken."""
        signals = Signals()
        try:
            self._web.start()
            self._say_start()
            self._write_textfile()
            for name in self._checkers:
                self._schedule.add(name, self._config.interval, partial(self._check, name))
            self._schedule.start()
            notify.ready()
            self._announce(self.address)
            self._watch(signals)
        finally:
            notify.stopping()
            self._end()
        logger.info("stopped")

    @property
    def address(self) -> str:
        """Where the status page is."""
        return self._web.address

    def health(self) -> tuple[bool, str]:
        """Whether the service itself works (not the models), and a line about it."""
        checkers = [*self._checkers.values(), *self._retired.checkers]
        allowed = HEARTBEAT + max(checker.longest for checker in checkers)
        idle = time.monotonic() - max(self._schedule.last_progress(), self._resumed)
        if idle > allowed:
            return False, f"the schedule has not moved for {idle:.0f} s"
        return True, "ok"

    # --------------------------------------------------------------------------------------------- one check

    def _check(self, name: str) -> None:
        """Check a model now, in the schedule's worker. If a reload changes it meanwhile, begin anew."""
        while (checker := self._checkers.get(name)) is not None:
            self._retired.wait(name)
            if checker.backoff.remaining > 0 or self._postponed(name, checker):
                return
            found: Assessment | None = None
            state = self._models.get(name, ModelState(name))
            requests = dict(self._state.requests(name))
            with contextlib.suppress(ProbeClosed):
                found = self._assessed(checker, state, tuple(requests.values()))
            with self._lock:
                current = self._checkers.get(name) is checker
                if current and found is not None:
                    self._conclude(found, checker.model.gate, tuple(requests))
            if current:
                if checker.backoff.remaining > 0:
                    self._schedule.hasten(name, checker.backoff.remaining)
                return
            self._resumed = time.monotonic()

    def _postponed(self, name: str, checker: Checker) -> bool:
        """Whether the check had better come later; if so, it is seen to that it does."""
        hold = checker.restraint.hold(self._config.interval)
        if hold is None:
            return False
        with self._lock:
            self._exposition.postpone(name, hold.reason, hold.seconds, count=not hold.again)
            self._write_textfile()
        if self._remarks.first("check_postponed", name, hold.reason):
            logger.info("check_postponed", model=name, reason=hold.reason, detail=hold.detail)
        self._schedule.hasten(name, hold.seconds)
        return True

    def _assessed(self, checker: Checker, state: ModelState, requests: tuple[BaselineRequest, ...]) -> Assessment:
        """Check, and look a second time if the latency has gone wrong: a fresh audit may say why."""
        gate = checker.model.gate
        result = checker.check(more=partial(undecided, state, gate=gate))
        found = assess(state, result, gate, self._board, requests)
        if found.alarms:
            found = assess(state, checker.look_again(result), gate, self._board, requests)
        return found

    def _conclude(self, found: Assessment, gate: Gate, served: tuple[int, ...] = ()) -> None:
        """Everything that follows from a check, in the order that loses least."""
        after, result, events = found
        try:
            self._state.save_check(result, after, events, served)
        except StateWriteError as error:
            self._exposition.count_state_write_failure()
            logger.error("state_not_written", error=str(error))
        self._models[result.model] = after
        self._results[result.model] = result
        self._exposition.record(result, standing(after, result, gate))
        for event in events:
            self._tell(event)
        self._state.mark_told()
        self._say_notes()
        self._write_textfile()
        for name, fields in self._remarks.of(result):
            logger.warning(name, model=result.model, **fields)
        notify.status(self._summary())

    def _write_textfile(self) -> None:
        """With the lock held, once the schedule runs: checks and reloads come from different threads."""
        if self._textfile is not None:
            self._textfile.write(self._exposition.text())

    def _tell(self, event: Event) -> None:
        self._exposition.count_event(event)
        event_log.emit(event, logger)

    def _defect(self, name: str, error: Exception) -> None:
        """A check raised what it should not have: a defect of npumon, shown as such, and the service goes on."""
        failure = Failure("internal", _defect(error), "please report it with the log")
        logger.error("internal_error", model=name, error=failure.detail)
        result = CheckResult(name, time.time(), 0.0, "unknown", failure.detail, error=failure)
        with contextlib.suppress(Exception), self._lock:
            if (checker := self._checkers.get(name)) is not None:
                state, gate = self._models.get(name, ModelState(name)), checker.model.gate
                self._conclude(assess(state, result, gate, self._board), gate)

    # ------------------------------------------------------------------------------------------------- life

    def _watch(self, signals: Signals) -> None:
        interval = notify.watchdog_interval()
        tick = min(TICK, interval) if interval else TICK
        while (wish := signals.wait(tick)) != "stop":
            if wish == "reload" or self._file.changed():
                self._reload()
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
        for name, checker in self._checkers.items():
            self._retired.add(name, checker)
        self._retired.wait()
        self._schedule.stop()
        if self._textfile is not None:
            self._textfile.remove()
        self._web.stop()
        self._state.close()

    def _say_start(self) -> None:
        untold = self._state.untold()
        self._say_notes()
        logger.info(
            "started",
            version=monitor.__version__,
            models=list(self._checkers),
            address=self.address,
            interval_seconds=self._config.interval,
        )
        for event in untold:  # an earlier life ended between writing these and telling them
            event_log.emit(event, logger)
        self._state.mark_told()

    def _say_notes(self) -> None:
        for note in self._state.notes[self._noted :]:
            logger.warning("state_damaged", detail=note)
        self._noted = len(self._state.notes)

    def _summary(self) -> str:
        verdicts = [f"{name} {self._results[name].verdict}" for name in self._checkers if name in self._results]
        return f"{self.address}: {', '.join(verdicts)}"

    def _page(self) -> str:
        gates = {name: checker.model.gate for name, checker in self._checkers.items()}
        results, states = dict(self._results), dict(self._models)
        standings = {
            name: standing(states[name], results[name], gate)
            for name, gate in gates.items()
            if name in states and name in results
        }
        return page.render(results, self._board, time.time(), list(gates), states, standings, self._exposition.stale())

    def _checker(self, model: Model, config: Config) -> Checker:
        account = self._duty.account(model.name)
        return Checker(model, config.provider, config.audit_interval, self._state, account=account)

    def _server(self, config: Config, access: Access) -> WebServer:
        return WebServer(
            config.listen,
            file=config.file,
            access=access,
            page=self._page,
            metrics=self._exposition.text,
            health=self.health,
        )

    # ----------------------------------------------------------------------------------------------- reload

    def _reload(self) -> None:
        """Take the configuration file as it is now: all of it, or nothing and one line that says why."""
        notify.reloading()
        self._file.tried()
        try:
            config = reload.read(self._config)
            # The same table keeps its connections and what is known of passwords; its certificates renew themselves.
            same = config.web == self._config.web
            access = self._web.access if same else Access(config.file, config.web)
            web = self._bound(config, access)
        except Exception as error:  # a defect that shows here must not end what has worked so far
            with self._lock:
                self._exposition.reload_failed()
                self._write_textfile()
            logger.error("config_not_reloaded", error=str(error) if isinstance(error, UsageError) else _defect(error))
        else:
            self._adopt(config, web, access)
        notify.ready()
        notify.status(self._summary())

    def _bound(self, config: Config, access: Access) -> WebServer:
        """The server at the address of ``config``, which answers already. Raises :class:`UsageError`."""
        if config.listen == self._config.listen:
            return self._web
        web = self._server(config, access)
        try:
            web.start()
        except UsageError:
            if config.listen[1] != self._config.listen[1]:
                raise
            # 0.0.0.0 cannot be had as long as 127.0.0.1 with the same port is: the old one goes first, or comes back.
            self._web.stop()
            try:
                web.start()
            except UsageError:
                self._web.start()
                raise
        return web

    def _adopt(self, config: Config, web: WebServer, access: Access) -> None:
        """Put ``config`` in the place of the old one. Nothing here can fail."""
        changes = reload.changes(self._config, config)
        made = {model.name: self._checker(model, config) for model in config.models}
        with self._lock:
            for name in (*changes.removed, *changes.changed):
                self._retired.add(name, self._checkers[name])
            for name in changes.unchanged:
                made[name] = self._checkers[name]
                made[name].audit_interval = config.audit_interval
            self._checkers = made
            self._duty.adopt(config.max_duty, made)
            self._exposition.reloaded(made, time.time())
            self._expect(config.interval)
            self._remarks.keep(changes.unchanged)
            self._forget()
            self._write_textfile()
        self._reschedule(changes, config.interval)
        old, self._config, self._web = self._web, config, web
        if old is not web:
            old.stop()
        elif access is not web.access:
            web.adopt(access)
        told = {**changes._asdict(), "address": self.address, "interval_seconds": config.interval}
        logger.info("config_reloaded", **told)

    def _reschedule(self, changes: reload.Changes, interval: float) -> None:
        for name in changes.removed:
            self._schedule.remove(name)
        for name in (*changes.unchanged, *changes.changed):
            self._schedule.replace(name, interval, partial(self._check, name))
        for name in changes.added:
            self._schedule.add(name, interval, partial(self._check, name))
        for name in changes.changed:  # what was measured before the change is not true any more
            self._schedule.hasten(name, 0.0)

    def _expect(self, interval: float) -> None:
        self._exposition.expect(interval, {name: checker.longest for name, checker in self._checkers.items()})

    def _forget(self) -> None:
        """Drop the models that were not watched for longest; those that left lately are kept, bounded in number."""
        names = self._models.keys() | self._results.keys()
        checked = [(self._results[name].timestamp if name in self._results else 0.0, name) for name in names]
        for name in reload.forgettable(checked, self._checkers):
            with contextlib.suppress(StateWriteError):  # then a later reload or start does it
                self._state.forget(name)
            self._models.pop(name, None)
            self._results.pop(name, None)


def _defect(error: Exception) -> str:
    return f"a defect of npumon: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
