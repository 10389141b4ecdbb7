"""One model's life as the analysis sees it: checks a minute apart, each taken in as the daemon takes it in.

Every event is held against the schema of the event log, and every state is written and read back, as by a restart
between any two checks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import msgspec

from monitor.analysis.assess import Assessment, assess
from monitor.analysis.instability import undecided
from monitor.analysis.latency import summarize
from monitor.config import Gate
from monitor.outputs.events import schema, to_json
from monitor.records import BaselineRequest, Board, CheckResult, Event, Latency, ModelState, Replays
from tests.analysis.evidence import BOARD, placement, result

START = 1_700_000_000.0
REPLAYS = 30
ROUNDS = 5
"""Rounds that a check makes at most."""
VALIDATOR = jsonschema.Draft202012Validator(schema())

Draw = Callable[[], Sequence[float]]


class Healthy:
    """Draws rounds of log-normal replays, in seconds; ``share`` of them take ``factor`` times as long.

    ``seed`` makes it the same series again.
    """

    def __init__(self, seed: int, median: float = 0.010, sigma: float = 0.04) -> None:
        self.median = median
        self.share, self.factor = 0.0, 3.0
        self._sigma = sigma
        self._random = random.Random(seed)

    def __call__(self) -> tuple[float, ...]:
        """One round."""
        return tuple(self._one() for _ in range(REPLAYS))

    def slow(self, share: float, factor: float = 3.0) -> Healthy:
        """From now on this much is slow."""
        self.share, self.factor = share, factor
        return self

    def _one(self) -> float:
        # Always two draws: what is not slow is the same replay, whatever the share.
        noise, chance = self._random.gauss(0.0, self._sigma), self._random.random()
        return self.median * math.exp(noise) * (self.factor if chance < self.share else 1.0)


class Course:
    """A model over time. ``assessed`` are its checks so far; fields of a check are those of ``evidence.result``."""

    def __init__(self, gate: Gate | None = None, board: Board = BOARD, start: float = START) -> None:
        self.gate = gate or Gate()
        self.board = board
        self.now = start
        self.state = ModelState("m")
        self.assessed: list[Assessment] = []

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [event for one in self.assessed for event in one.events]

    @property
    def names(self) -> list[str]:
        """What happened."""
        return [event.event for event in self.events]

    @property
    def verdicts(self) -> list[str]:
        """The verdict of each check."""
        return [one.result.verdict for one in self.assessed]

    def check(self, draw: Draw, *requests: BaselineRequest, **fields: Any) -> Assessment:
        """One check, with further rounds as long as they would tell something."""
        rounds = [Replays(tuple(draw()), ())]
        while len(rounds) < ROUNDS and undecided(self.state, summarize(*rounds), self.gate):
            rounds.append(Replays(tuple(draw()), ()))
        return self.take(measured(summarize(*rounds), **fields), *requests)

    def checks(self, count: int, draw: Draw, **fields: Any) -> list[Assessment]:
        """So many checks."""
        return [self.check(draw, **fields) for _ in range(count)]

    def take(self, one: CheckResult, *requests: BaselineRequest) -> Assessment:
        """A check as it is, but for its time."""
        one = msgspec.structs.replace(one, timestamp=self.now)
        found = assess(self.state, one, self.gate, self.board, requests)
        for event in found.events:
            VALIDATOR.validate(to_json(event))
            assert event.reason
            assert (event.timestamp, event.model, event.board) == (self.now, "m", self.board)
        self.state = msgspec.msgpack.decode(msgspec.msgpack.encode(found.state), type=ModelState)
        assert self.state == found.state
        self.assessed.append(found)
        self.now += 60
        return found


def measured(latency: Latency, **fields: Any) -> CheckResult:
    """A check with its placement intact, unless the fields say otherwise."""
    return result(**{"placement": placement(1.0), "latency": latency, **fields})


def steady(*medians: float) -> Draw:
    """Rounds of equal replays with these medians in seconds, one after the other; the last one for ever."""
    left = list(medians)
    return lambda: (left.pop(0) if len(left) > 1 else left[0],) * REPLAYS
