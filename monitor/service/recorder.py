"""What is known of the models, and everything that follows from a check: state, metrics, events, text file, remarks.

Written in the order that loses least: the state first, so that an event that was told is one that is kept. What cannot
be written is told and counted, and the service goes on with what it has in memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from monitor.analysis.assess import Assessment, standing
from monitor.config import Gate
from monitor.outputs import events as event_log
from monitor.outputs import page
from monitor.outputs.log import logger
from monitor.outputs.metrics import Exposition
from monitor.outputs.state import State, StateWriteError
from monitor.outputs.textfile import Textfile
from monitor.records import Board, Event, ModelState
from monitor.service.remarks import Remarks
from monitor.service.restraint import Hold

REMEMBERED: Final = 16
"""Models that were removed and are remembered, for when that was a mistake; those checked last."""


class Recorder:
    """Takes in what checks found, and shows it. Not thread-safe but for :meth:`page` and :meth:`summary`.

    ``textfile`` gets what a scrape of ``exposition`` would.
    """

    def __init__(self, state: State, exposition: Exposition, textfile: Textfile | None) -> None:
        self._state = state
        self._exposition = exposition
        self._textfile = textfile
        # Of models that are not watched too: one that comes back goes on where it was.
        self._models = state.model_states()
        self._results = state.results()
        self._remarks = Remarks()
        self._noted = 0

    def model_state(self, name: str) -> ModelState:
        """What is known of a model; of a new one, nothing."""
        return self._models.get(name, ModelState(name))

    def conclude(self, found: Assessment, gate: Gate, served: tuple[int, ...] = ()) -> None:
        """Take a check in, and the requests on baselines that it ``served``."""
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
        self.say_notes()
        self.write()
        for name, fields in self._remarks.of(result):
            logger.warning(name, model=result.model, **fields)

    def postpone(self, name: str, hold: Hold) -> None:
        """A check of the model comes later."""
        self._exposition.postpone(name, hold.reason, hold.seconds, count=not hold.again)
        self.write()
        if self._remarks.first("check_postponed", name, hold.reason):
            logger.info("check_postponed", model=name, reason=hold.reason, detail=hold.detail)

    def adopt(self, watched: Collection[str], unchanged: Collection[str], timestamp: float) -> None:
        """A reload at ``timestamp``: ``watched`` are the models now; what was remarked of the others is forgotten."""
        self._exposition.reloaded(watched, timestamp)
        self._remarks.keep(unchanged)
        self.forget(watched)

    def forget(self, watched: Collection[str]) -> None:
        """Drop the models that were not watched for longest; those that left lately are kept, bounded in number."""
        names = self._models.keys() | self._results.keys()
        checked = [(self._results[name].timestamp if name in self._results else 0.0, name) for name in names]
        for name in forgettable(checked, watched):
            with contextlib.suppress(StateWriteError):  # then a later reload or start does it
                self._state.forget(name)
            self._models.pop(name, None)
            self._results.pop(name, None)

    def refuse(self, error: str) -> None:
        """A reload failed, for the reason in ``error``."""
        self._exposition.reload_failed()
        self.write()
        logger.error("config_not_reloaded", error=error)

    def say_notes(self) -> None:
        """What the state has to say of its own, once."""
        for note in self._state.notes[self._noted :]:
            logger.warning("state_damaged", detail=note)
        self._noted = len(self._state.notes)

    def say_untold(self) -> None:
        """The events that an earlier life wrote, and ended before it told them."""
        for event in self._state.untold():
            event_log.emit(event, logger)
        self._state.mark_told()
        self.say_notes()

    def summary(self, names: Collection[str]) -> str:
        """The verdict on each of the models, in one line."""
        return ", ".join(f"{name} {self._results[name].verdict}" for name in names if name in self._results)

    def page(self, gates: Mapping[str, Gate], board: Board) -> str:
        """The status page, for the models and their gates."""
        results, states = dict(self._results), dict(self._models)
        standings = {
            name: standing(states[name], results[name], gate)
            for name, gate in gates.items()
            if name in states and name in results
        }
        return page.render(results, board, time.time(), list(gates), states, standings, self._exposition.stale())

    def write(self) -> None:
        """The text file, as of now."""
        if self._textfile is not None:
            self._textfile.write(self._exposition.text())

    def _tell(self, event: Event) -> None:
        self._exposition.count_event(event)
        event_log.emit(event, logger)


def forgettable(checked: Iterable[tuple[float, str]], watched: Collection[str]) -> list[str]:
    """Which of the models that were ``checked`` (UTC seconds and name) are neither watched nor to be remembered."""
    unwatched = sorted((pair for pair in checked if pair[1] not in watched), reverse=True)
    return [name for _, name in unwatched[REMEMBERED:]]
