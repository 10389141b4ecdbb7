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
from monitor.analysis.assess import Assessment, assess
from monitor.analysis.instability import undecided
from monitor.config import Config, Model
from monitor.errors import UsageError
from monitor.outputs.access import Access
from monitor.outputs.log import logger
from monitor.outputs.metrics import Exposition
from monitor.outputs.state import State
from monitor.outputs.textfile import Textfile
from monitor.outputs.web import WebServer
from monitor.records import BaselineRequest, CheckResult, Failure, ModelState
from monitor.service import board as boards
from monitor.service import notify, reload
from monitor.service.check import Checker
from monitor.service.duty import Duty
from monitor.service.handle import ProbeClosed
from monitor.service.recorder import Recorder
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
        self._exposition = Exposition(
            self._checkers, self._board, monitor.__version__, time.time(), duty=self._duty.ratio
        )
        self._expect(config.interval)
        self._recorder = Recorder(self._state, self._exposition, textfile)
        self._recorder.forget(self._checkers)
        self._schedule = Schedule(self._defect)
        self._resumed = time.monotonic()
        self._web = self._server(config, Access(config.file, config.web))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises :class:`UsageError` if the address is taken."""
        signals = Signals()
        try:
            self._web.start()
            self._say_start()
            self._recorder.write()
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
            state = self._recorder.model_state(name)
            requests = dict(self._state.requests(name))
            with contextlib.suppress(ProbeClosed):
                found = self._assessed(checker, state, tuple(requests.values()))
            with self._lock:
                current = self._checkers.get(name) is checker
                if current and found is not None:
                    self._recorder.conclude(found, checker.model.gate, tuple(requests))
                    notify.status(self._summary())
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
            self._recorder.postpone(name, hold)
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

    def _defect(self, name: str, error: Exception) -> None:
        """A check raised what it should not have: a defect of npumon, shown as such, and the service goes on."""
        failure = Failure("internal", _defect(error), "please report it with the log")
        logger.error("internal_error", model=name, error=failure.detail)
        result = CheckResult(name, time.time(), 0.0, "unknown", failure.detail, error=failure)
        with contextlib.suppress(Exception), self._lock:
            if (checker := self._checkers.get(name)) is not None:
                gate = checker.model.gate
                self._recorder.conclude(assess(self._recorder.model_state(name), result, gate, self._board), gate)
                notify.status(self._summary())

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
        self._recorder.say_notes()
        logger.info(
            "started",
            version=monitor.__version__,
            models=list(self._checkers),
            address=self.address,
            interval_seconds=self._config.interval,
        )
        self._recorder.say_untold()

    def _summary(self) -> str:
        return f"{self.address}: {self._recorder.summary(self._checkers)}"

    def _page(self) -> str:
        return self._recorder.page({name: checker.model.gate for name, checker in self._checkers.items()}, self._board)

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
                self._recorder.refuse(str(error) if isinstance(error, UsageError) else _defect(error))
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
            self._recorder.adopt(made, changes.unchanged, time.time())
            self._expect(config.interval)
            self._recorder.write()
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


def _defect(error: Exception) -> str:
    return f"a defect of npumon: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
