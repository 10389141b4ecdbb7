"""How many replays a check makes of a real probe, on a budget that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor import wire
from monitor.config import Model
from monitor.probe import demo_model
from monitor.records import Latency
from monitor.service.duty import Account, Duty
from monitor.service.handle import ProbeHandle
from monitor.service.rounds import FEWEST, MOST_ROUNDS, WARMUPS, Rounds
from tests import models
from tests.probing import TIMEOUT, spec

REPLAYS = 30


class Clock:
    """A monotonic clock that stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbeHandle]:
    """A probe of a network whose inference takes some milliseconds."""
    path = models.saved(demo_model.build((3, 16, 32), 24), tmp_path_factory.mktemp("models"), "steady.onnx")
    handle = ProbeHandle()
    try:
        handle.request(wire.Open(spec(path), 1), TIMEOUT)
        yield handle
    finally:
        handle.close()


@pytest.fixture
def clock() -> Clock:
    """The budget's clock."""
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Account:
    """An account with a second of credit for each second, at most 300."""
    return Duty(1.0, clock).account("m")


def rounds(account: Account | None, replays: int = REPLAYS) -> Rounds:
    """The rounds of a model that is checked for the first time."""
    return Rounds(Model("m", Path("m.onnx"), replays=replays), account)


def never(latency: Latency) -> bool:
    """Nothing calls for a closer look."""
    return False


def leave(account: Account, seconds: float) -> None:
    """Spend all credit but this much."""
    account.spend(account.credit() - seconds)


def test_credit_for_all_replays_is_spent_on_them(handle: ProbeHandle, account: Account) -> None:
    """Warm-ups and replays are charged for with the time that they took, also where a first few told the median."""
    made = rounds(account)
    for _ in range(2):
        before = account.credit()
        timed = made.time(handle, never)
        latency = timed.latency
        assert (len(latency.replays_seconds), len(latency.warmups_seconds)) == (REPLAYS, WARMUPS)
        assert latency.rounds == (REPLAYS,)
        assert timed.notes == ()
        spent = sum((*latency.replays_seconds, *latency.warmups_seconds))
        assert before - account.credit() == pytest.approx(spent)


def test_replays_shrink_to_the_credit(handle: ProbeHandle, account: Account) -> None:
    """The number follows from the last median, the result notes it, and the account is not overdrawn by much."""
    made = rounds(account)
    median = made.time(handle, never).latency.median_seconds
    leave(account, (WARMUPS + 12.5) * median)
    assert made.wait() == 0
    timed = made.time(handle, never)
    assert FEWEST <= len(timed.latency.replays_seconds) <= 12
    assert timed.notes == ("max_duty paid for fewer than 30 replays",)


def test_a_first_check_begins_with_few(handle: ProbeHandle, account: Account) -> None:
    """Without credit only as many replays are made as tell a median; the next check waits for its credit."""
    leave(account, 0.0)
    made = rounds(account)
    assert made.wait() == 0, "a model that was never checked does not wait"
    timed = made.time(handle, never)
    assert len(timed.latency.replays_seconds) == FEWEST
    assert timed.notes == ("max_duty paid for fewer than 30 replays",)
    assert account.credit() < 0


def test_a_check_that_had_to_wait_says_so(handle: ProbeHandle, account: Account, clock: Clock) -> None:
    """Below five replays a check waits, makes five once they can be paid, and notes it."""
    made = rounds(account)
    median = made.time(handle, never).latency.median_seconds
    leave(account, 0.0)
    wait = made.wait()
    assert wait == pytest.approx((WARMUPS + FEWEST) * median)
    clock.now += wait
    assert made.wait() == pytest.approx(0)
    timed = made.time(handle, never)
    assert len(timed.latency.replays_seconds) == FEWEST
    assert timed.notes[0] == "the check waited until max_duty paid for 5 replays"


def test_a_model_that_has_become_slower_runs_out_of_budget(handle: ProbeHandle, account: Account) -> None:
    """Where replays take longer than the last median promised, the time decides, and five are made at least."""
    made = rounds(account)
    median = made.time(handle, never).latency.median_seconds
    made._median = median / 20  # as if this inference took 20 times as long as the ones before
    leave(account, (WARMUPS + REPLAYS) * median / 20)
    timed = made.time(handle, never)
    assert len(timed.latency.replays_seconds) == FEWEST
    assert len(timed.latency.warmups_seconds) == WARMUPS


def test_a_closer_look_takes_what_is_saved(handle: ProbeHandle, account: Account) -> None:
    """Rounds follow while there is doubt, up to five; without credit none does."""
    made = rounds(account, replays=10)
    assert made.time(handle, lambda latency: True).latency.rounds == (10,) * MOST_ROUNDS

    def without_credit(latency: Latency) -> bool:
        leave(account, 0.0)
        return True

    assert made.time(handle, without_credit).latency.rounds == (10,)


def test_fewer_than_five_may_be_configured(handle: ProbeHandle, account: Account) -> None:
    """A model with two replays a check has two, with little credit too."""
    made = rounds(account, replays=2)
    for _ in range(2):
        assert len(made.time(handle, never).latency.replays_seconds) == 2
        leave(account, 0.0)


def test_a_command_is_not_held_back(handle: ProbeHandle) -> None:
    """Without an account all replays are made in one request, and nothing is waited for."""
    made = rounds(None)
    assert len(made.time(handle, never).latency.replays_seconds) == REPLAYS
    assert made.wait() == 0
