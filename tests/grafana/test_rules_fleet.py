"""The rules that compare boards with each other, on small fleets through promtool: cohorts, rollouts, shares.

Fleets are written by a program because a readable file of twenty boards is none. One minute is one step of a series.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.test_rules import GROUPS, RULES, promtools, run

LENGTH = 100  # minutes
VERSION = "model, soc, machine, sha256, provider, onnxruntime, provider_version, backend_version"


@dataclass(frozen=True)
class State:
    """What a board exports of its only model while a check measures. Empty texts are labels that are not there."""

    verdict: str = "healthy"
    share: float = 1.0
    median: float = 0.008
    sha256: str = "a" * 64
    soc: str = "QCS6490"
    target: str = "hexagon"
    provider_version: str = "2.7.0"
    backend_version: str = "v2.48"


GOOD = State()
NEW = replace(GOOD, backend_version="v2.51")
FALLEN = replace(NEW, verdict="fallback", share=0.1)


def board(name: str, *states: tuple[int, State]) -> list[dict[str, str]]:
    """The series of a board that goes through ``states``, each from its minute on."""
    found: dict[str, list[float | None]] = {}
    ends = [start for start, _ in states[1:]] + [LENGTH]
    for (start, state), end in zip(states, ends, strict=True):
        for series, value in _exposition(name, state).items():
            found.setdefault(series, [None] * LENGTH)[start:end] = [value] * (end - start)
    return [{"series": series, "values": _values(values)} for series, values in found.items()]


def _exposition(name: str, state: State) -> dict[str, float]:
    def series(metric: str, **labels: str) -> str:
        labels = {"job": "npumon", "instance": name} | {label: value for label, value in labels.items() if value}
        return f"npumon_{metric}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"

    verdicts = ("healthy", "degraded", "fallback", "unknown")
    return {
        **{series("verdict", model="m", state=one): float(one == state.verdict) for one in verdicts},
        series("incident", model="m", kind="fallback"): float(state.verdict == "fallback"),
        series("npu_flops_ratio", model="m"): state.share,
        series("latency_median_seconds", model="m"): state.median,
        series("model_info", model="m", sha256=state.sha256, samples="files"): 1.0,
        series("board_info", hostname=f"host-{name}", machine="aarch64", kernel="6.6", soc=state.soc): 1.0,
        series(
            "runtime_info",
            model="m",
            provider="QNN",
            target=state.target,
            onnxruntime="1.32.0",
            provider_version=state.provider_version,
            backend_version=state.backend_version,
        ): 1.0,
    }


def _values(values: list[float | None]) -> str:
    """In promtool's notation; what ends, ends with a staleness marker, as in a scrape."""
    told = []
    for before, value in zip([None, *values], values, strict=False):
        told.append("stale" if value is None and before is not None else "_" if value is None else repr(value))
    return " ".join(told)


def fleet(count: int, *states: tuple[int, State], prefix: str = "b") -> list[dict[str, str]]:
    """``count`` boards that go through the same states, with medians that scatter by up to 3 %."""
    found = []
    for number in range(count):
        scatter = 1 + 0.03 * (2 * number / max(1, count - 1) - 1)
        own = [(start, replace(state, median=state.median * scatter)) for start, state in states]
        found += board(f"{prefix}{number}", *own)
    return found


def firing(alert: str, minute: int, by: str, *expected: dict[str, str]) -> dict[str, Any]:
    """The alerts of one name that fire at a minute, told apart by labels."""
    samples = [
        {"labels": "{" + ", ".join(f"{label}={json.dumps(value)}" for label, value in one.items()) + "}", "value": 1}
        for one in expected
    ]
    expr = f'group by ({by}) (ALERTS{{alertname="{alert}", alertstate="firing"}})'
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": samples}


def at(minute: int, expr: str, *samples: tuple[str, float]) -> dict[str, Any]:
    """What an expression gives at a minute."""
    expected = [{"labels": labels, "value": value} for labels, value in samples]
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": expected}


def check(tmp_path: Path, series: list[dict[str, str]], *queries: dict[str, Any], **more: Any) -> None:
    """Let each promtool hold the rules against what is expected."""
    test = {"interval": "1m", "input_series": series, "promql_expr_test": list(queries)} | more
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "group_eval_order": GROUPS,
        "tests": [test],
    }
    file = tmp_path / "fleet.json"  # JSON is YAML
    file.write_text(json.dumps(document), encoding="utf-8")
    for tool in promtools():
        run(tool, "test", "rules", file)


UNLIKE = "NpumonBoardUnlikeCohort"
ROLLOUT = "NpumonRolloutRegression"


@pytest.mark.parametrize("soc", ["QCS6490", ""])
def test_a_board_unlike_its_cohort_is_told(tmp_path: Path, soc: str) -> None:
    """Slower, faster or less on the accelerator than peers: told after half an hour, also where no SoC is known."""
    good = replace(GOOD, soc=soc)
    series = fleet(7, (0, good))
    series += board("slow", (0, good), (5, replace(good, median=0.012)), (40, good))
    series += board("liar", (0, replace(good, median=0.002)), (40, good))
    series += board("less", (0, replace(good, share=0.97)), (40, good))
    series += board("nearly", (0, replace(good, median=0.0095, share=0.99)))
    known = {"soc": soc} if soc else {}
    identity = {
        "hostname": "host-slow",
        "machine": "aarch64",
        "sha256": "a" * 64,
        "samples": "files",
        "provider": "QNN",
    }
    versions = {"target": "hexagon", "onnxruntime": "1.32.0", "provider_version": "2.7.0", "backend_version": "v2.48"}
    told = {
        "exp_labels": {"job": "npumon", "instance": "slow", "model": "m", "severity": "warning", "signal": "slower"}
        | identity
        | versions
        | known,
        "exp_annotations": {
            "summary": "m on host-slow is unlike on its peers: slower",
            "description": "host-slow (slow) runs m with the same model file, SoC and versions as its peers, yet with "
            "a median of 12ms, outside what they scatter by.",
            "runbook_url": "docs/runbook.md#npumonboardunlikecohort",
        },
    }
    early = {"instance": "liar", "signal": "faster"}, {"instance": "less", "signal": "less on the accelerator"}
    check(
        tmp_path,
        series,
        firing(UNLIKE, 29, "instance, signal"),
        firing(UNLIKE, 34, "instance, signal", *early),
        firing(UNLIKE, 36, "instance, signal", {"instance": "slow", "signal": "slower"}, *early),
        firing(UNLIKE, 75, "instance, signal"),
    )
    # The alert's whole text, where no other fires.
    alone = fleet(7, (0, good)) + board("slow", (0, good), (5, replace(good, median=0.012)))
    check(tmp_path, alone, alert_rule_test=[{"eval_time": "36m", "alertname": UNLIKE, "exp_alerts": [told]}])


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(fleet(3, (0, GOOD)) + board("slow", (0, replace(GOOD, median=0.02))), id="4 boards"),
        pytest.param(
            [
                line
                for n, ms in enumerate((5, 6, 7, 8, 9, 10, 11, 14))
                for line in board(f"b{n}", (0, replace(GOOD, median=ms / 1e3)))
            ],
            id="all scatter",
        ),
        pytest.param(fleet(7, (0, GOOD)) + board("soc", (0, replace(GOOD, soc="X", median=0.02))), id="another SoC"),
        pytest.param(fleet(7, (0, GOOD)) + board("sha", (0, replace(GOOD, sha256="b", share=0.9))), id="another model"),
        pytest.param(
            fleet(7, (0, GOOD)) + board("blip", (0, GOOD), (20, replace(GOOD, median=0.02)), (45, GOOD)),
            id="25 minutes",
        ),
    ],
)
def test_what_is_no_cohort_or_within_its_scatter_is_not_told(tmp_path: Path, series: list[dict[str, str]]) -> None:
    """Too few boards, boards that all scatter, boards of another cohort, and a short deviation raise nothing."""
    check(tmp_path, series, *(firing(UNLIKE, minute, "instance") for minute in (35, 55)))


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


DEAD = replace(GOOD, verdict="fallback", share=0.0, target="cpu", backend_version="")


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


def test_shares_and_counts(tmp_path: Path) -> None:
    """Shares by SoC, target, backend and model file add up boards; a board without SoC counts as of SoC ""."""
    series = fleet(3, (0, GOOD)) + board("f", (0, replace(FALLEN, backend_version="v2.48")))
    series += board("x", (0, replace(DEAD, soc="")))
    sha = "a" * 64
    check(
        tmp_path,
        series,
        at(5, "soc:npumon_verdict:ratio{state='fallback'}", *_shares("soc", "fallback", {"QCS6490": 0.25, "": 1})),
        at(5, "soc:npumon_verdict:ratio{state='healthy'}", *_shares("soc", "healthy", {"QCS6490": 0.75})),
        at(
            5,
            "target:npumon_verdict:ratio{state='fallback'}",
            *_shares("target", "fallback", {"hexagon": 0.25, "cpu": 1}),
        ),
        at(
            5,
            "backend_version:npumon_verdict:ratio{state='fallback'}",
            *_shares("backend_version", "fallback", {"v2.48": 0.25, "": 1}),
        ),
        at(
            5,
            "model_sha256:npumon_verdict:ratio",
            (f'model_sha256:npumon_verdict:ratio{{model="m", sha256="{sha}", state="fallback"}}', 0.4),
            (f'model_sha256:npumon_verdict:ratio{{model="m", sha256="{sha}", state="healthy"}}', 0.6),
        ),
        at(
            5,
            "soc_state:npumon_boards:count",
            ('soc_state:npumon_boards:count{soc="QCS6490", state="healthy"}', 3),
            ('soc_state:npumon_boards:count{soc="QCS6490", state="fallback"}', 1),
            ('soc_state:npumon_boards:count{state="fallback"}', 1),
        ),
        at(5, "sum(cohort:npumon_boards:count)", ("{}", 5)),
        at(5, "cohort:npumon_npu_flops_ratio:median{soc='QCS6490'} * 1 > 0", (_cohort(), 1)),
    )


def _shares(label: str, state: str, values: dict[str, float]) -> list[tuple[str, float]]:
    named = ((f'{label}="{value}", ' if value else "", share) for value, share in values.items())
    return [(f'{label}:npumon_verdict:ratio{{{prefix}state="{state}"}}', share) for prefix, share in named]


def _cohort() -> str:
    versions = 'provider="QNN", onnxruntime="1.32.0", provider_version="2.7.0", backend_version="v2.48"'
    model = f'model="m", sha256="{"a" * 64}", samples="files", target="hexagon"'
    return f'{{{model}, soc="QCS6490", machine="aarch64", {versions}}}'
