"""A night of checks, made up: what is planted in one model is found there, and the others are left alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from monitor.analysis.compare import compare
from monitor.analysis.soak import gaps
from monitor.records.soak import Session
from monitor.service.soak_report import Report, read
from monitor.service.soak_report import compare as compare_folders
from tests.soak import night
from tests.soak.night import HOUR, Model


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Four models over eight hours: a drift, a leak, an op that moves, and a latency that follows heat."""
    folder = tmp_path_factory.mktemp("planted")
    night.write(folder, night.planted())
    return read(folder)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a night in which nothing happens."""
    folder = tmp_path_factory.mktemp("quiet")
    night.write(folder, [Model(f"m{number}", 0.004 * number, number) for number in range(1, 5)], hours=4)
    return folder


def test_each_finding_is_where_it_was_planted(planted: Report) -> None:
    """Drift, leak and crash, and a placement that changes: in their model, and nothing in the fourth."""
    found = {model.model: {one.kind for one in model.findings} for model in planted.result.models}
    assert found == {
        "detector": {"drift"},
        "segmenter": {"memory", "failures"},
        "keypoints": {"placement", "verdict"},
        "classifier": set(),
    }
    verdicts = {model.model: model.verdict for model in planted.result.models}
    assert verdicts == {
        "detector": "degraded",
        "segmenter": "degraded",
        "keypoints": "fallback",
        "classifier": "healthy",
    }


def test_sizes_are_those_that_were_planted(planted: Report) -> None:
    """12 % of drift, 90,000 bytes a check, and six hours to the op that moves, each within its interval."""
    detector, segmenter, keypoints, classifier = planted.result.models
    assert detector.drift.low is not None
    assert detector.drift.high is not None
    assert detector.drift.low < 0.12 < detector.drift.high
    assert segmenter.memory.low is not None
    assert segmenter.memory.high is not None
    assert segmenter.memory.low < 90_000 < segmenter.memory.high
    assert [span.start for span in keypoints.spans] == [0.0, pytest.approx(6.1 * HOUR, abs=120)]
    assert keypoints.spans[1].change == (
        "the NPU's share of the FLOPs went from 100.0 % to 82.2 %; new on the CPU: LayerNormalization backbone/act_7"
    )
    assert [heat.found for heat in classifier.heat] == [True, True]
    assert not any(heat.found for heat in segmenter.heat)


def test_a_night_in_which_nothing_happens_has_no_finding(quiet: Path) -> None:
    """Four models, four hours, noise and new probes: healthy, and no drift or growth of any size left open."""
    for model in read(quiet).result.models:
        assert (model.verdict, model.findings) == ("healthy", ())
        assert not model.drift.why
        assert not model.memory.why


def test_the_gap_is_where_the_power_was_cut(planted: Report) -> None:
    """One interruption, by another boot, as long as it was."""
    (gap,) = planted.result.gaps
    assert gap.rebooted
    assert gap.until - gap.since == pytest.approx(25 * 60, abs=90)
    assert gap.elapsed == pytest.approx(3.4 * HOUR, abs=90)


def test_a_session_without_checks_is_no_end_of_a_gap() -> None:
    """A start that measured nothing lies within the gap, which lasts until something is measured."""
    sessions = [Session(1, 0.0, 0.0, "a", night.BOARD), Session(2, 500.0, 90.0, "a", night.BOARD)]
    sessions.append(Session(3, 900.0, 90.0, "b", night.BOARD))
    (gap,) = gaps(sessions, {1: 100.0, 3: 990.0})
    assert (gap.since, gap.until, gap.rebooted) == (100.0, 900.0, True)


def test_compared_with_itself_nothing_is_worse(quiet: Path) -> None:
    """A run against itself: ratios of 1, no effect, nothing worse."""
    for one in compare_folders(quiet, quiet, 0.05):
        assert one.worse == ()
        assert one.ratio == pytest.approx(1)
        assert one.cliffs_delta == pytest.approx(0)
        assert one.p == pytest.approx(1, abs=0.05)


def test_a_worse_run_is_told_in_what(quiet: Path, tmp_path: Path) -> None:
    """8 % slower, an op on the CPU, and a leak: each is named; what is within the bound or better is not."""
    models = [
        Model("m1", 0.00432, 11),
        Model("m2", 0.008, 12, moves=0.0),
        Model("m3", 0.01225, 13, leak=150_000),
        Model("m4", 0.0144, 14),
        Model("m5", 0.0144, 15),
    ]
    night.write(tmp_path, models, hours=4)
    found = {one.model: one for one in compare_folders(quiet, tmp_path, 0.05)}
    assert found["m1"].worse == ("latency",)
    assert found["m1"].ratio == pytest.approx(1.08, abs=0.01)
    assert found["m1"].cliffs_delta is not None
    assert found["m1"].cliffs_delta > 0.9
    assert {"latency", "placement", "verdict"} == set(found["m2"].worse)
    assert found["m2"].new_ops == {"LayerNormalization": 0.178}
    assert found["m3"].worse == ("memory",)
    assert found["m4"].worse == ()
    assert found["m4"].ratio == pytest.approx(0.9, abs=0.01)
    assert found["m4"].cliffs_delta is not None
    assert found["m4"].cliffs_delta < -0.9
    assert found["m5"].notes == ("only in B",)


def test_too_short_runs_are_not_compared(tmp_path: Path) -> None:
    """A few checks say nothing about a difference, however large."""
    for name, median in (("a", 0.004), ("b", 0.008)):
        night.write(tmp_path / name, [Model("m", median, 1)], hours=0.1, cut=math.inf)
    runs = [read(tmp_path / name) for name in ("a", "b")]
    sides = [(report.result.models[0], report.courses["m"]) for report in runs]
    found = compare("m", sides[0], sides[1], 0.05)
    assert (found.ratio, found.worse) == (None, ())
    assert "cannot be compared" in found.why
