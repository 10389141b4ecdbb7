"""Our counts against onnx-tool's: on every published model, and on models of every op family."""

from __future__ import annotations

import pytest

from tests.counters import document
from tests.counters.conventions import CONVENTIONS, explain, predict
from tests.counters.tally import MAC_OPS, Tally
from tests.counters.zoo import ZOO
from tests.published import NAMES


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> list[Tally]:
    """Both counts of every model, published ones first."""
    return [*document.published_models(), *document.zoo_models(tmp_path_factory.mktemp("zoo"))]


def test_totals_agree_once_each_convention_is_accounted_for(tallies: list[Tally]) -> None:
    """A total differs by more than 1 % only by conventions, which give onnx-tool's number to the last MAC."""
    assert len(NAMES) + 20 <= len(tallies) == len(NAMES) + len(ZOO)
    for one in tallies:
        assert one.ours() > 0, one.name
        translated = sum(predict(line) * line.executions for line in one.mac_lines)
        assert translated == one.theirs(), one.name
        if abs(one.ours() - one.theirs()) > 0.01 * one.theirs():
            assert document.explained(one), one.name


def test_no_node_differs_without_a_reason(tallies: list[Tally]) -> None:
    """Node by node, so that no two differences can cancel."""
    unexplained = [(one.name, line) for one in tallies for line in document.differing(one) if explain(line) is None]
    assert unexplained == []


def test_the_documented_conventions_are_those_that_occur(tallies: list[Tally]) -> None:
    """docs/counters.md has a row for each convention that is met, for no other, and the numbers found here."""
    met = {explain(line) for one in tallies for line in document.differing(one)}
    assert met == {convention.name for convention in CONVENTIONS}
    assert document.parts()[document.ONNX_TOOL] == document.onnx_tool_part(tallies)


def test_every_op_compared_is_met(tallies: list[Tally]) -> None:
    """No op is on the list of those compared without a model that has it."""
    assert {line.node.op_type for one in tallies for line in one.mac_lines} == MAC_OPS


def test_a_wrong_count_is_not_explained(tallies: list[Tally]) -> None:
    """A count of ours that is a hundredth off is found, whatever convention explains the true one."""
    for one in tallies:
        for line in one.mac_lines:
            if line.theirs:
                assert explain(line._replace(ours=line.ours + max(2, line.ours // 100))) is None, (one.name, line)
