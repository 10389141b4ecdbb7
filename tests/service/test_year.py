"""A simulated year: reboots, power cuts, a clock that jumps and a damaged file, and what was accepted is still there.

The clock and the replays are simulated; the analysis and the files of the state are the real ones.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import jsonschema
import msgspec
import pytest

from monitor.analysis.assess import assess
from monitor.analysis.instability import undecided
from monitor.analysis.latency import summarize
from monitor.config import Gate
from monitor.outputs.database import FILE
from monitor.outputs.events import schema, to_json
from monitor.outputs.state import State
from monitor.outputs.stored import EVENTS, REPLAYS
from monitor.records import BaselineRequest, CheckResult, Event, Failure, ModelState, Replays
from tests.analysis.course import ROUNDS, Healthy, measured
from tests.analysis.evidence import BOARD, RUNTIME, op, placement, result

DAY = 144  # checks, one every ten minutes
INTERVAL = 600.0
NOW = 1_750_000_000.0
YEARS = 3.15e7
VALIDATOR = jsonschema.Draft202012Validator(schema())
GATE = Gate()
NOT_MEASURED = result(
    verdict="unknown", reason="it died", error=Failure("probe_crashed", "it died"), runtime=None, model_sha256=None
)
RAISES = {"fallback_detected": "fallback", "latency_unstable": "unstable", "latency_shifted": "shifted"}


class Machine:
    """A board with one model, from boot to boot. ``seed`` makes it the same life again."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.uptime, self.offset = 0.0, NOW
        self.checks = self.boots = self.losses = 0
        self.told: list[str] = []
        self.open: dict[str, str] = {}
        self.largest = 0
        self._draw = Healthy(seed)
        self._backend = 48
        self._trouble, self._until = "", 0
        self._state: State
        self._model = ModelState("m")
        self._boot()

    # -------------------------------------------------------------------------------------------- the service

    def check(self) -> None:
        """What the daemon does at each interval."""
        self.checks += 1
        self.uptime += INTERVAL
        requests = dict(self._state.requests("m"))
        one = msgspec.structs.replace(self._measured(), timestamp=self.offset + self.uptime)
        found = assess(self._model, one, GATE, BOARD, tuple(requests.values()))
        self._state.save_check(found.result, found.state, found.events, tuple(requests))
        self._model = found.state
        self.largest = max(self.largest, len(msgspec.msgpack.encode(found.state)))
        for event in found.events:
            VALIDATOR.validate(to_json(event))
            self._pair(event)
            self.told.append(event.event)

    def accept(self) -> None:
        """Somebody accepts the present level, from another process."""
        self._state.request(BaselineRequest("m", "accept"))

    def stop(self) -> None:
        """An orderly end."""
        self._state.close()

    def reboot(self) -> None:
        """An orderly restart."""
        self.stop()
        self._boot()

    def power_cut(self) -> None:
        """A restart from the files as they are on the disk at this moment."""
        after = self.directory.with_name(f"boot{self.boots}")
        shutil.copytree(self.directory, after)
        self._state.close()
        shutil.rmtree(self.directory)
        self.directory = after
        self._boot()

    def damage(self) -> None:
        """A restart after which a stretch of the file reads differently."""
        self.stop()
        path = self.directory / FILE
        data = bytearray(path.read_bytes())
        length = self.random.choice([16, 512, 4096])
        start = self.random.randrange(len(data))
        data[start : start + length] = self.random.randbytes(len(data[start : start + length]))
        path.write_bytes(data)
        self._boot()

    def _boot(self) -> None:
        self.boots += 1
        before = self._model
        self._state = State.open(self.directory, Path("npumon.toml"))
        self._model = self._state.model_states().get("m", ModelState("m"))
        self._state.events(), self._state.results(), self._state.replays("m")
        if self._model != before:
            self.losses += 1
            said = [note for note in self._state.notes if "models row" in note or "kept as" in note]
            assert said, "something was lost in silence"
            open_ = {self._model.fallback, self._model.unstable, self._model.shifted, self._model.failure}
            names = {incident.id for incident in open_ if incident}
            self.open = {kind: name for kind, name in self.open.items() if name in names}

    def _pair(self, event: Event) -> None:
        kind = RAISES.get(event.event)
        if event.event == "check_failed" or (event.event == "latency_shifted" and "shifted" in self.open):
            assert self.open.setdefault(kind or "check", event.id) == event.id
        elif kind:
            assert kind not in self.open
            self.open[kind] = event.id
        elif event.event == "fallback_changed":
            assert self.open["fallback"] == event.id
        elif event.event.endswith(("_cleared", "_recovered")):
            kind = next(kind for kind, name in self.open.items() if name == event.id)
            del self.open[kind]

    # -------------------------------------------------------------------------------------------- the accelerator

    def _measured(self) -> CheckResult:
        if self.checks >= self._until:
            self._trouble = self.random.choice(
                ["", "", "", "slow", "slower", "unsteady", "fallen", "failing", "update"]
            )
            self._until = self.checks + self.random.randrange(5, 2 * DAY)
            if self._trouble == "update":
                self._backend += 1
        self._draw.median = 0.01 * {"slow": 1.15, "slower": 1.5}.get(self._trouble, 1.0)
        self._draw.slow(0.2 if self._trouble == "unsteady" else 0.001, 3.0)
        if self._trouble == "failing" and self.random.random() < 0.5:
            return NOT_MEASURED
        rounds = [Replays(self._draw(), ())]
        while len(rounds) < ROUNDS and undecided(self._model, summarize(*rounds), GATE):
            rounds.append(Replays(self._draw(), ()))
        runtime = msgspec.structs.replace(RUNTIME, backend_version=f"v2.{self._backend}")
        if self._trouble == "fallen":
            found = placement(0.5, op("selu", 0.5))
            verdict = {"verdict": "fallback", "cause": "op_unsupported", "placement": found}
            return measured(summarize(*rounds), runtime=runtime, **verdict)
        return measured(summarize(*rounds), runtime=runtime)


def lived(directory: Path, seed: int, days: int, boots_every: int, damage_every: int) -> Machine:
    """A machine after so many days. It reboots, or loses power, every so many checks, and is damaged at times."""
    machine = Machine(directory / "first", seed)
    chance = random.Random(seed)
    for number in range(1, days * DAY + 1):
        machine.check()
        if chance.random() < 1 / (3 * DAY):
            machine.offset += chance.choice([-5, -1, 1, 20]) * YEARS + chance.uniform(-3600, 3600)
        if chance.random() < 1 / (10 * DAY):
            machine.accept()
        if number % boots_every == 0:
            chance.choice([machine.reboot, machine.power_cut])()
            if chance.random() < 0.3:  # without a clock that survives the power, until the network sets it
                machine.uptime, machine.offset = 0.0, 0.0
        elif machine.offset < NOW and chance.random() < 0.1:
            machine.offset = NOW + number * INTERVAL - machine.uptime
        if number % damage_every == 0:
            machine.damage()
    return machine


def bounded(machine: Machine) -> None:
    """What a machine's life may cost on the disk and in memory."""
    size = sum(path.stat().st_size for path in machine.directory.iterdir() if not path.name.count("corrupt"))
    assert size < 10 * 2**20
    assert machine.largest < 48 * 2**10
    with_files = State.open(machine.directory, Path("npumon.toml"))
    try:
        assert len(with_files.events(10 * EVENTS)) <= EVENTS
        assert len(with_files.replays("m", 10 * REPLAYS)) <= REPLAYS
        assert len(with_files.model_states()) <= 1
    finally:
        with_files.close()


def test_weeks_of_reboots_lose_nothing(tmp_path: Path) -> None:
    """Orderly restarts, power cuts and a clock that jumps by years: the state after a boot is that before it."""
    machine = lived(tmp_path, 1, days=14, boots_every=25, damage_every=10**9)
    assert machine.boots > 70
    assert machine.losses == 0
    assert len(set(machine.told)) >= 8
    machine.stop()
    bounded(machine)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_said_and_checks_go_on(tmp_path: Path, seed: int) -> None:
    """Whatever a damaged file costs is in the notes, and the model is watched and learned again."""
    machine = lived(tmp_path, seed, days=4, boots_every=100, damage_every=12)
    assert machine.losses > 3
    assert machine.checks == 4 * DAY
    machine.stop()
    bounded(machine)


@pytest.mark.slow
def test_a_year(tmp_path: Path) -> None:
    """52,560 checks, a reboot each day and damage each month."""
    machine = lived(tmp_path, 7, days=365, boots_every=DAY, damage_every=30 * DAY)
    assert machine.checks == 52_560
    assert machine.boots >= 365
    assert set(machine.told) >= {"fallback_cleared", "latency_recovered", "check_recovered", "runtime_changed"}
    machine.stop()
    bounded(machine)
