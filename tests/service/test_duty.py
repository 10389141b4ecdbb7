"""The budget of accelerator time: never exceeded in the long run, shared fairly, no reason to stop for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.service.duty import SAVED, WINDOW, Duty

SHARE = 0.02


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def test_a_lone_model_begins_with_what_can_be_saved_up() -> None:
    """A first check is not held back, nor may a long rest pay for more than five minutes' credit."""
    clock = Clock()
    account = Duty(SHARE, clock).account("m")
    assert account.credit() == pytest.approx(SHARE * SAVED)
    clock.now += 1e6
    assert account.credit() == pytest.approx(SHARE * SAVED)


def test_credit_accrues_with_time() -> None:
    """What was spent comes back at the share of wall time, and ``wait`` says when it has."""
    clock = Clock()
    account = Duty(SHARE, clock).account("m")
    account.spend(SHARE * SAVED)
    assert account.credit() == pytest.approx(0)
    assert account.wait(0.5) == pytest.approx(25)
    clock.now += 25
    assert account.wait(0.5) == pytest.approx(0)
    assert account.credit() == pytest.approx(0.5)


def test_a_debt_is_waited_off() -> None:
    """What an audit took beyond the credit delays the next check by as much time as it is worth."""
    clock = Clock()
    account = Duty(SHARE, clock).account("m")
    account.spend(SHARE * SAVED + 3)
    assert account.credit() == pytest.approx(-3)
    assert account.wait(0.1) == pytest.approx(155)


def test_models_have_equal_parts_and_the_rest_of_the_others() -> None:
    """Two that are in need get half each; what a third that is full does not need goes to them."""
    clock = Clock()
    duty = Duty(SHARE, clock)
    one, two, full = (duty.account(name) for name in ("one", "two", "full"))
    for account in (one, two):
        account.spend(account.credit())
    clock.now += 10
    assert [one.credit(), two.credit()] == pytest.approx([0.1, 0.1])
    assert full.credit() == pytest.approx(SHARE * SAVED / 3)


def test_a_model_that_costs_more_than_can_be_saved_is_checked_all_the_same() -> None:
    """The bucket of a slow model grows to its smallest check."""
    clock = Clock()
    account = Duty(SHARE, clock).account("m")
    wait = account.wait(60.0)
    assert 0 < wait < 60 / SHARE
    clock.now += wait
    assert account.wait(60.0) == pytest.approx(0, abs=1e-6)


def test_a_reload_changes_the_share_and_the_models() -> None:
    """The new share holds from the reload on; a model that stays keeps its debt, one that left shares no more."""
    clock = Clock()
    duty = Duty(SHARE, clock)
    stays, leaves = duty.account("stays"), duty.account("leaves")
    for account in (stays, leaves):
        account.spend(account.credit() + 1)
    clock.now += 50
    duty.adopt(0.1, ["stays"])
    assert duty.account("stays") is stays
    assert stays.credit() == pytest.approx(-0.5)
    clock.now += 5
    assert stays.credit() == pytest.approx(0)


def test_a_smaller_share_holds_at_once() -> None:
    """What a larger one let a model save up is not spent at the new one's expense."""
    clock = Clock()
    duty = Duty(0.5, clock)
    account = duty.account("m")
    duty.adopt(SHARE, ["m"])
    assert account.credit() == pytest.approx(SHARE * SAVED)


def test_the_measured_share_is_that_of_the_last_ten_minutes() -> None:
    """All that was spent counts for ten minutes, whoever spent it, and then no more."""
    clock = Clock()
    duty = Duty(SHARE, clock)
    assert duty.ratio() == 0
    duty.account("a").spend(3)
    clock.now += WINDOW / 2
    duty.account("b").spend(9)
    assert duty.ratio() == pytest.approx(12 / WINDOW)
    clock.now += WINDOW / 2
    assert duty.ratio() == pytest.approx(9 / WINDOW)
    clock.now += WINDOW
    assert duty.ratio() == 0


@given(
    st.floats(0.001, 1),
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1000), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_order_of_checks_exceeds_the_share(share: float, steps: list[tuple[int, float, float]]) -> None:
    """If nobody spends more than the account has, all together spend the share of the time and what was saved."""
    clock = Clock()
    duty = Duty(share, clock)
    accounts = [duty.account(str(number)) for number in range(5)]
    spent = 0.0
    for number, seconds, part in steps:
        clock.now += seconds
        amount = part * accounts[number].credit()
        accounts[number].spend(amount)
        spent += amount
        left = sum(account.credit() for account in accounts)
        assert spent + left <= share * (clock.now - 1000 + SAVED) * (1 + 1e-6) + 1e-6
