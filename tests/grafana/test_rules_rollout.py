"""The alert on rollouts, on small fleets through promtool: which version is held against which, and what is worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.grafana.test_rules_fleet import DEAD, FALLEN, GOOD, NEW, ROLLOUT, at, check, firing, fleet

VERSION = "model, soc, machine, sha256, provider, onnxruntime, provider_version, backend_version"


def test_a_rollout_that_breaks_one_soc_is_told_for_that_soc_only(tmp_path: Path) -> None:
    """Eight boards of each SoC get a new backend; where models then fall back, an alert says so until it is undone."""
    other = replace(GOOD, soc="QCS8550")
    series = fleet(4, (0, GOOD), prefix="old") + fleet(8, (0, GOOD), (20, FALLEN), (60, GOOD), prefix="bad")
    series += fleet(4, (0, other), prefix="other") + fleet(
        8, (0, other), (20, replace(NEW, soc="QCS8550")), prefix="fine"
    )
    new = {"soc": "QCS6490", "backend_version": "v2.51", "reference_backend_version": "v2.48"}
    labels = "soc, backend_version, reference_backend_version, signal"
    check(
        tmp_path,
        series,
        firing(ROLLOUT, 29, labels),
        firing(ROLLOUT, 32, labels, new | {"signal": "unhealthy"}, new | {"signal": "share"}),
        # What Alertmanager inhibits by is on both: the rollout's alert stands for those of its eight boards.
        at(
            32,
            'count(ALERTS{alertname="NpumonFallback", alertstate="firing"} and '
            f'on ({VERSION}) ALERTS{{alertname="{ROLLOUT}"}})',
            ("{}", 8),
        ),
        firing(ROLLOUT, 80, labels),
    )


def test_the_alert_on_a_rollout_names_both_versions(tmp_path: Path) -> None:
    """Model, SoC, what is worse, and from which to which version: all is in the alert's text."""
    slower = replace(GOOD, sha256="b" * 64, median=0.0104)
    series = fleet(6, (0, GOOD), prefix="old") + fleet(7, (0, GOOD), (20, slower), prefix="new")
    versions = {"onnxruntime": "1.32.0", "provider_version": "2.7.0", "backend_version": "v2.48"}
    told = {
        "exp_labels": {"severity": "critical", "model": "m", "soc": "QCS6490", "machine": "aarch64", "signal": "median"}
        | {"sha256": "b" * 64, "reference_sha256": "a" * 64, "provider": "QNN"}
        | versions
        | {f"reference_{label}": value for label, value in versions.items()},
        "exp_annotations": {
            "summary": "m is worse on QCS6490 since the rollout of model bbbbbbbbbbbb",
            "description": "The median latency is 10.4ms (median of the boards), at least 20 % more than with the "
            "version before. Model aaaaaaaaaaaa -> bbbbbbbbbbbb, backend v2.48 -> v2.48, provider 2.7.0 -> 2.7.0, "
            "onnxruntime 1.32.0 -> 1.32.0.",
            "runbook_url": "docs/runbook.md#npumonrolloutregression",
        },
    }
    check(tmp_path, series, alert_rule_test=[{"eval_time": "33m", "alertname": ROLLOUT, "exp_alerts": [told]}])


@pytest.mark.parametrize(
    ("series", "signals"),
    [
        pytest.param(fleet(9, (0, GOOD), (20, FALLEN)), {"share", "unhealthy"}, id="all at once, the old is gone"),
        pytest.param(
            fleet(9, (0, replace(GOOD, soc="")), (20, replace(FALLEN, soc=""))),
            {"share", "unhealthy"},
            id="SoC not known",
        ),
        pytest.param(
            fleet(5, (0, GOOD), prefix="old") + fleet(6, (0, GOOD), (20, replace(DEAD, provider_version="2.8.0"))),
            {"share", "unhealthy"},
            id="the new backend does not come up",
        ),
        pytest.param(
            fleet(5, (0, GOOD), prefix="old")
            + fleet(4, (0, GOOD), (20, NEW), prefix="new")
            + fleet(3, (0, GOOD), (20, replace(NEW, verdict="degraded")), prefix="worse"),
            {"unhealthy"},
            id="3 of 7 boards",
        ),
        pytest.param(
            fleet(5, (0, GOOD), prefix="old") + fleet(7, (0, GOOD), (20, replace(NEW, share=0.94))),
            {"share"},
            id="share",
        ),
    ],
)
def test_rollouts_that_are_worse(tmp_path: Path, series: list[dict[str, str]], signals: set[str]) -> None:
    """A new version that is worse is told, whether or not the old one is still there and all labels are known."""
    check(tmp_path, series, firing(ROLLOUT, 33, "signal", *({"signal": one} for one in signals)))


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(fleet(8, (0, GOOD), prefix="old") + fleet(4, (0, GOOD), (20, FALLEN)), id="4 boards"),
        pytest.param(
            fleet(8, (0, GOOD), prefix="old")
            + fleet(5, (0, GOOD), (20, NEW), prefix="new")
            + fleet(2, (0, GOOD), (20, replace(NEW, verdict="degraded")), prefix="worse"),
            id="2 of 7 boards",
        ),
        pytest.param(
            fleet(6, (0, GOOD), prefix="old") + fleet(7, (0, GOOD), (20, replace(NEW, median=0.0092, share=0.96))),
            id="15 % slower and 4 points less",
        ),
        pytest.param(fleet(6, (0, GOOD), prefix="old") + fleet(6, (0, FALLEN), prefix="new"), id="both from the start"),
        pytest.param(fleet(9, (0, FALLEN), (20, GOOD)), id="better"),
        pytest.param(
            fleet(6, (0, GOOD), prefix="old") + fleet(6, (0, GOOD), (20, DEAD)), id="accelerators break, no rollout"
        ),
        pytest.param(
            fleet(6, (0, GOOD), prefix="old") + fleet(6, (0, GOOD), (20, replace(FALLEN, soc="QCS8550"))),
            id="no reference on that SoC",
        ),
    ],
)
def test_what_is_no_regression_of_a_rollout(tmp_path: Path, series: list[dict[str, str]]) -> None:
    """Too few boards, small differences, no new version, and breakdowns without a rollout raise no rollout alert."""
    check(tmp_path, series, *(firing(ROLLOUT, minute, "signal") for minute in (33, 60)))


def test_a_rollout_is_held_against_the_version_before(tmp_path: Path) -> None:
    """Five boards stay on the first of three versions: the third is as the second was, and no worse for it."""
    second = replace(GOOD, sha256="b" * 64, median=0.0104)
    third = replace(second, sha256="c" * 64)
    series = fleet(5, (0, GOOD), prefix="old") + fleet(8, (0, GOOD), (20, second), (60, third), prefix="new")
    labels = "sha256, reference_sha256, signal"
    told = {"sha256": "b" * 64, "reference_sha256": "a" * 64, "signal": "median"}
    check(tmp_path, series, firing(ROLLOUT, 50, labels, told), firing(ROLLOUT, 95, labels))


def test_a_rollout_that_is_as_bad_as_what_was_mended_is_told(tmp_path: Path) -> None:
    """The second version mended the first; the third is as slow as the first, and is told as slower than the second."""
    first = replace(GOOD, median=0.0104)
    second, third = replace(GOOD, sha256="b" * 64), replace(first, sha256="c" * 64)
    series = fleet(5, (0, first), prefix="old") + fleet(8, (0, first), (20, second), (60, third), prefix="new")
    labels = "sha256, reference_sha256, signal"
    told = {"sha256": "c" * 64, "reference_sha256": "b" * 64, "signal": "median"}
    check(
        tmp_path,
        series,
        firing(ROLLOUT, 59, labels),
        firing(ROLLOUT, 75, labels, told),
        firing(ROLLOUT, 115, labels, told),
    )


def test_a_trial_that_was_taken_back_is_no_measure(tmp_path: Path) -> None:
    """What is rolled out is held against what boards run, not against a bad version that 5 of them had for a while."""
    trial = replace(GOOD, sha256="b" * 64, median=0.012)
    rolled_out = replace(GOOD, sha256="c" * 64, median=0.0104)
    series = fleet(5, (0, GOOD), (3, trial), (20, GOOD), prefix="trial")
    series += fleet(8, (0, GOOD), (90, rolled_out), prefix="new")
    labels = "sha256, reference_sha256, signal"
    told = {"sha256": "c" * 64, "reference_sha256": "a" * 64, "signal": "median"}
    check(tmp_path, series, firing(ROLLOUT, 105, labels, told))
