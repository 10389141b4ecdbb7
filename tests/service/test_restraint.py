"""Checks that come later: for a while on a board in distress, for as long as it takes without credit."""

from __future__ import annotations

from monitor.records import Postponed
from monitor.service.restraint import Restraint

DISTRESS: tuple[Postponed, str] = ("memory", "for 20 % of the last 10 s all tasks waited for memory")


def test_a_calm_board_holds_nothing_back() -> None:
    """Without distress and with credit a check is made when it is due."""
    restraint = Restraint(lambda: 0.0, lambda: None)
    restraint.checked()
    assert restraint.hold(60.0) is None


def test_distress_postpones_three_times_by_a_quarter() -> None:
    """The fourth time the check is made, contention is a thing to see; the one after it may be postponed again."""
    restraint = Restraint(lambda: 0.0, lambda: DISTRESS)
    restraint.checked()
    holds = [restraint.hold(60.0) for _ in range(4)]
    assert [(hold.reason, hold.seconds, hold.again) for hold in holds if hold] == [("memory", 15.0, False)] * 3
    assert holds[3] is None
    restraint.checked()
    assert restraint.hold(60.0) is not None


def test_the_first_check_is_made_whatever_the_board_goes_through() -> None:
    """A model of which nothing is known is not left unknown for longer."""
    assert Restraint(lambda: 0.0, lambda: DISTRESS).hold(60.0) is None


def test_the_budget_holds_back_for_as_long_as_it_takes() -> None:
    """A check without credit waits however often it is asked for, and is news once."""
    restraint = Restraint(lambda: 90.0, lambda: None)
    holds = [restraint.hold(60.0) for _ in range(5)]
    assert [(hold.reason, hold.seconds) for hold in holds if hold] == [("duty", 90.0)] * 5
    assert [hold.again for hold in holds if hold] == [False, True, True, True, True]
    restraint.checked()
    hold = restraint.hold(60.0)
    assert hold is not None
    assert not hold.again
