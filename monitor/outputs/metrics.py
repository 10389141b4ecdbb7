"""Prometheus metrics, built from the last check of each model at the moment of the scrape.

The usual client objects keep every label set that was ever used, so a figure that is no longer measured would be
exported for ever. Here nothing but plain accumulators is kept, and each scrape builds its families anew: what the last
check did not measure is absent, a model that went away is gone, and there are no ``_created`` series. Counters are
there from the start, at a true 0, so that ``increase()`` sees the first failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from monitor.outputs import board as boards
from monitor.outputs.families import families, present
from monitor.outputs.tally import Tally
from monitor.records import Board, BoardReading, CheckResult, Event, Postponed, Standing

PATIENCE = 3
"""Intervals, besides the longest that a check may take, after which a model's figures are stale."""


class Exposition(Collector):
    """All of npumon's metrics. ``record``, ``count_*`` and scrapes may come from different threads.

    ``models`` are exported from the start with their counters at 0 and the verdict ``unknown``; ``started`` is UTC
    seconds since the epoch. ``clock`` is monotonic, in seconds: a board whose wall clock jumps is not stale. ``duty``
    gives the share of time in which the accelerator was kept busy lately.
    """

    def __init__(
        self,
        models: Iterable[str],
        board: Board,
        version: str,
        started: float,
        clock: Callable[[], float] = time.monotonic,
        duty: Callable[[], float] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._duty = duty
        self._models = {name: Tally() for name in models}
        self._checked = dict.fromkeys(self._models, clock())
        self._interval: float | None = None
        self._longest: dict[str, float] = {}
        self._excused: dict[str, float] = {}
        self._reading: BoardReading | None = None
        self._reading_text: dict[str, str] = {}
        self._board = board
        self._version = version
        self._started = started
        self._reloaded = started
        self._reload_successful = True
        self._state_write_failures = 0

    def record(self, result: CheckResult, standing: Standing | None = None) -> None:
        """Make ``result`` the last check of its model, and what it is measured against its ``standing``."""
        with self._lock:
            model = self._models.setdefault(result.model, Tally())
            model.record(result, standing)
            self._checked[result.model] = self._clock()
            self._excused.pop(result.model, None)
            if result.after is not None:
                self._reading, self._reading_text = result.after, _text(boards.families(result.after))
            model.text = _text(families([(result.model, model)]))

    def postpone(self, name: str, reason: Postponed, seconds: float, count: bool) -> None:
        """The check of a model comes ``seconds`` later: until then it is not stale. ``count`` it where it is news."""
        with self._lock:
            model = self._models.setdefault(name, Tally())
            model.postponed[reason] += count
            model.text = _text(families([(name, model)]))
            self._excused[name] = self._clock() + seconds

    def count_event(self, event: Event) -> None:
        """Count a fallback that appeared or changed, by cause. Other events are not fallbacks and count nothing."""
        if event.event in ("fallback_detected", "fallback_changed") and event.cause:
            with self._lock:
                model = self._models.setdefault(event.model, Tally())
                model.events[event.cause] += 1
                model.text = _text(families([(event.model, model)]))

    def count_state_write_failure(self) -> None:
        """Count a time that the state could not be written."""
        with self._lock:
            self._state_write_failures += 1

    def expect(self, interval: float, longest: Mapping[str, float]) -> None:
        """A check of each model every ``interval`` seconds, which may take ``longest``; what is later is stale."""
        with self._lock:
            self._interval, self._longest = interval, dict(longest)

    def reloaded(self, models: Iterable[str], timestamp: float) -> None:
        """Watch exactly ``models`` from now on, as of a reload at ``timestamp``; no scrape sees half of that.

        Models that stay keep their counters and their last check.
        """
        with self._lock:
            self._models = {name: self._models.get(name) or Tally() for name in models}
            self._checked = {name: self._checked.get(name, self._clock()) for name in self._models}
            self._reloaded, self._reload_successful = timestamp, True

    def reload_failed(self) -> None:
        """Tell that the configuration file is not the one in force."""
        with self._lock:
            self._reload_successful = False

    def stale(self) -> set[str]:
        """The models whose last check is too long ago."""
        with self._lock:
            return {name for name in self._models if self._is_stale(name, self._clock())}

    def collect(self) -> Iterator[Metric]:
        """All families of one scrape, consistent with each other."""
        with self._lock:
            models = sorted(self._models.items())
            found = [*families(models), *self._service()]
            if self._reading is not None:
                found += boards.families(self._reading)
        yield from (family for family in found if family.samples)

    def text(self) -> bytes:
        """All families of one scrape in Prometheus's text format 0.0.4.

        Each model's lines are rendered when they change and only merged here: encoding 20 models at each scrape takes
        20 ms of a small board's CPU (measured), merging 1.5 ms.
        """
        merged: dict[str, list[str]] = {}
        with self._lock:
            for name, model in sorted(self._models.items()):
                model.text = model.text or _text(families([(name, model)]))
                for head, lines in model.text.items():
                    merged.setdefault(head, []).append(lines)
            service = _text(self._service())
            readings = self._reading_text
        parts = [head + "".join(lines) for head, lines in merged.items()]
        return "".join([*parts, *map("".join, service.items()), *map("".join, readings.items())]).encode()

    def _service(self) -> Iterator[Metric]:
        yield from self._staleness()
        failures = "Times that the state could not be written."
        yield CounterMetricFamily("npumon_state_write_failures", failures, self._state_write_failures)
        yield GaugeMetricFamily("npumon_start_time_seconds", "When this daemon started.", self._started)
        yield GaugeMetricFamily("npumon_models", "Models that are being watched.", len(self._models))
        if self._duty is not None:
            busy = "Share of the last ten minutes in which npumon kept the accelerator busy."
            yield GaugeMetricFamily("npumon_duty_ratio", busy, self._duty())
        successful = "Whether the configuration file could be used when it was last read: 1 or 0."
        yield GaugeMetricFamily("npumon_config_last_reload_successful", successful, int(self._reload_successful))
        since = "When the configuration in force was read."
        yield GaugeMetricFamily("npumon_config_last_reload_success_timestamp_seconds", since, self._reloaded)
        board = present(
            hostname=self._board.hostname,
            machine=self._board.machine,
            kernel=self._board.kernel,
            soc=self._board.soc,
        )
        yield InfoMetricFamily("npumon_board", "The board, as far as it tells.", board)
        yield InfoMetricFamily("npumon_build", "The version of npumon.", {"version": self._version})

    def _staleness(self) -> Iterator[Metric]:
        if self._interval is None:
            return
        yield GaugeMetricFamily("npumon_interval_seconds", "Time between two checks of a model.", self._interval)
        stale = GaugeMetricFamily("npumon_check_stale", "1 if the last check is too long ago.", labels=["model"])
        now = self._clock()
        for name in sorted(self._models):
            stale.add_metric([name], int(self._is_stale(name, now)))
        yield stale

    def _is_stale(self, name: str, now: float) -> bool:
        if self._interval is None:
            return False
        due = max(self._checked[name] + PATIENCE * self._interval, self._excused.get(name, 0.0) + self._interval)
        return now > due + self._longest.get(name, 0.0)


class _Alone(Collector):
    """One family as the encoder wants it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _text(rendered: Iterable[Metric]) -> dict[str, str]:
    """Each family's HELP and TYPE lines, and its sample lines."""
    texts = (generate_latest(_Alone(family)).decode() for family in rendered if family.samples)
    split = (text.split("\n", 2) for text in texts)
    return {f"{help_}\n{type_}\n": lines for help_, type_, lines in split}
