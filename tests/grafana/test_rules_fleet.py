"""The rules that compare boards with each other, on small fleets through promtool: cohorts and shares.

Fleets are written by a program because a readable file of twenty boards is none. One minute is one step of a series.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from grafana.promql import not_scraped, stale
from tests.grafana.prometheus_server import program
from tests.grafana.queries import interpolated
from tests.grafana.test_rules import GROUPS, RULES, run

LENGTH = 120  # minutes


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
DEAD = replace(GOOD, verdict="fallback", share=0.0, target="cpu", backend_version="")


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
    """Let promtool hold the rules against what is expected."""
    test = {"interval": "1m", "input_series": series, "promql_expr_test": list(queries)} | more
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "group_eval_order": GROUPS,
        "tests": [test],
    }
    file = tmp_path / "fleet.json"  # JSON is YAML
    file.write_text(json.dumps(document), encoding="utf-8")
    run(program("promtool"), "test", "rules", file)


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


ALL = {"job": "npumon|node", "instance": ".*", "model": ".*"}


def test_only_boards_count_as_not_scraped(tmp_path: Path) -> None:
    """Of the node_exporters in a job with boards that write files, those without npumon are no boards; others are."""
    series = [
        {"series": f'up{{job="{job}", instance="{name}"}}', "values": values}
        for job, name, values in (
            ("node", "file", "1x5 0x20"),
            ("node", "other", "0x30"),
            ("npumon", "new", "0x30"),
            ("npumon", "well", "1x30"),
        )
    ]
    series.append({"series": 'npumon_board_info{job="node", instance="file", hostname="h"}', "values": "1x5 stale"})
    counted = interpolated(not_scraped(), ALL)
    one = '{{job="{}", instance="{}"}}'.format
    check(
        tmp_path,
        series,
        at(3, counted, (one("node", "file"), 0), (one("npumon", "new"), 1), (one("npumon", "well"), 0)),
        at(10, counted, (one("node", "file"), 1), (one("npumon", "new"), 1), (one("npumon", "well"), 0)),
    )


def test_a_file_that_is_repeated_counts_as_stale(tmp_path: Path) -> None:
    """A textfile says of itself for ever that it is not stale; the dashboard counts it after an hour."""
    labels = 'job="node", instance="file"'
    series = [
        {"series": f'npumon_check_stale{{{labels}, model="m"}}', "values": "0x100"},
        {"series": f'npumon_checks_total{{{labels}, model="m"}}', "values": "1+1x9 10x90"},
        {"series": f"npumon_interval_seconds{{{labels}}}", "values": "60x100"},
    ]
    counted = interpolated(stale(), ALL)
    check(tmp_path, series, at(65, counted, ("{}", 0)), at(75, counted, ("{}", 1)))


def _shares(label: str, state: str, values: dict[str, float]) -> list[tuple[str, float]]:
    named = ((f'{label}="{value}", ' if value else "", share) for value, share in values.items())
    return [(f'{label}:npumon_verdict:ratio{{{prefix}state="{state}"}}', share) for prefix, share in named]


def _cohort() -> str:
    versions = 'provider="QNN", onnxruntime="1.32.0", provider_version="2.7.0", backend_version="v2.48"'
    model = f'model="m", sha256="{"a" * 64}", samples="files", target="hexagon"'
    return f'{{{model}, soc="QCS6490", machine="aarch64", {versions}}}'
