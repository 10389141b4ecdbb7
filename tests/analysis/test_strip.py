"""The strip against sessions of the simulator: every op once, in the session's order, adding up to the shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis import strip as strips
from monitor.analysis.times import handoffs
from monitor.config import Model
from monitor.records import CheckResult, Profile, SessionFacts, Span, Strip, Study
from monitor.service.check import Checker
from monitor.service.studies import Memory
from tests import models
from tests.published import published

Evidence = tuple[SessionFacts, Study | None, Profile | None]


def audited(path: Path, soc: str) -> tuple[CheckResult, Evidence]:
    """One audit, and what it saw."""
    seen: list[Evidence] = []
    model = Model(name="m", path=path, options={"soc_model": soc}, timeout=60.0, compare_outputs=False)
    checker = Checker(model, "qnn", float("inf"), Memory(), observe=lambda *evidence: seen.append(evidence))
    try:
        return checker.check(replays=False), seen[0]
    finally:
        checker.close()


@pytest.fixture(scope="module")
def selu(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckResult, Evidence]:
    """Two partitions with a Selu between them."""
    return audited(models.saved(models.selu_qdq(), tmp_path_factory.mktemp("strip")), "58")


def shares(strip: Strip) -> dict[str, float]:
    """Lane -> its share of the FLOPs drawn."""
    total = sum(cell.flops or 0 for cell in strip.cells)
    lanes = {cell.lane for cell in strip.cells}
    return {lane: sum(cell.flops or 0 for cell in strip.cells if cell.lane == lane) / total for lane in lanes}


def test_ops_stand_in_the_order_the_session_ran_them(selu: tuple[CheckResult, Evidence]) -> None:
    """Partition 1, the Selu that cuts the model, partition 2: each op once, the culprit with its reason."""
    result, evidence = selu
    strip = strips.strip(*evidence)
    assert strip.ordered_by == "session"
    arithmetic = [(cell.name, cell.lane, cell.unit) for cell in strip.cells if cell.flops]
    assert arithmetic == [
        ("conv1", "accelerator", 1),
        ("selu", "cpu", 0),
        ("conv2", "accelerator", 2),
        ("relu", "accelerator", 2),
    ]
    (culprit,) = [cell for cell in strip.cells if cell.lane == "cpu"]
    assert result.placement is not None
    assert culprit.reason == result.placement.ops[0].reason
    assert len({cell.name for cell in strip.cells}) == len(strip.cells)
    units = [cell.unit for cell in strip.cells if cell.unit]
    assert units == sorted(units)


def test_widths_add_up_to_the_shares(selu: tuple[CheckResult, Evidence]) -> None:
    """The FLOPs of the cells are those that the shares are made of."""
    result, evidence = selu
    placement = result.placement
    assert placement is not None
    strip = strips.strip(*evidence)
    assert sum(cell.flops or 0 for cell in strip.cells) == placement.total_flops
    assert shares(strip)["accelerator"] == pytest.approx(placement.npu_flops_ratio)
    assert shares(strip)["cpu"] == pytest.approx(placement.ops[0].flops_ratio)


def test_handoffs_are_those_of_the_run(selu: tuple[CheckResult, Evidence]) -> None:
    """Edge Q, partition, Selu, partition, edge DQ: four hand-offs."""
    result, _ = selu
    assert result.placement is not None
    assert (result.placement.partitions, result.placement.handoffs) == (2, 4)


def test_without_a_profile_the_model_gives_the_order(selu: tuple[CheckResult, Evidence]) -> None:
    """The same cells in the study's order; no time and no hand-off is made up."""
    _, (facts, study, profile) = selu
    strip = strips.strip(facts, study, None)
    assert strip.ordered_by == "study"
    assert {cell.name for cell in strip.cells} == {cell.name for cell in strips.strip(facts, study, profile).cells}
    assert all(cell.time_ratio is None for cell in strip.cells)
    assert handoffs(None) is None


def test_without_a_study_the_steps_are_drawn(selu: tuple[CheckResult, Evidence]) -> None:
    """The session's own steps, partitions among them, with FLOPs unknown rather than 0."""
    _, (facts, _, profile) = selu
    strip = strips.strip(facts, None, profile)
    assert [(cell.op_type, cell.lane) for cell in strip.cells] == [
        ("QuantizeLinear", "edge"),
        ("partition", "accelerator"),
        ("Selu", "cpu"),
        ("partition", "accelerator"),
        ("DequantizeLinear", "edge"),
    ]
    assert all(cell.flops is None for cell in strip.cells)


def test_a_published_model_that_falls_back() -> None:
    """swift-f0, all unnamed: nearly all FLOPs on the CPU, each CPU op with a reason, the partition in one piece."""
    result, evidence = audited(published("swift_f0"), "60")
    assert result.placement is not None
    strip = strips.strip(*evidence)
    assert strip.ordered_by == "session"
    assert sum(cell.flops or 0 for cell in strip.cells) == result.placement.total_flops
    assert shares(strip)["cpu"] > 0.999
    assert all(cell.reason for cell in strip.cells if cell.lane == "cpu")
    positions = [index for index, cell in enumerate(strip.cells) if cell.unit == 1]
    assert positions == list(range(positions[0], positions[-1] + 1))


@given(st.lists(st.lists(st.booleans(), max_size=30), min_size=1, max_size=4))
def test_handoffs_count_changes_of_side(runs: list[list[bool]]) -> None:
    """The most changes of any run, whatever is nested; a partial profile counts nothing."""
    profile = Profile(
        tuple(
            tuple(
                span
                for on in run
                for span in (
                    Span("x", "Op", "accelerator" if on else "cpu", 1.0),
                    Span("inner", "Op", "cpu" if on else "accelerator", 1.0, nested=True),
                )
            )
            for run in runs
        )
    )
    texts = ["".join("a" if on else "c" for on in run) for run in runs]
    assert handoffs(profile) == max(text.count("ac") + text.count("ca") for text in texts)
    assert handoffs(Profile(profile.runs, "cut")) is None
