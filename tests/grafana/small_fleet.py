"""Eleven boards as expositions: npumon's golden ones, with what stands between a board and its neighbour changed.

They change once, a few scrapes in, so that there is a "before": one model falls back, one board goes silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "outputs" / "golden"
CHANGE = 3
"""The scrape from which on things are different."""

FALLEN, ODD, SILENT, FAILING = "board-7", "board-6", "board-10", "board-9"
NORMAL = ("board-1", "board-2", "board-3", "board-4", "board-5")

# What the golden expositions do not all have; a line whose metric the one at hand has is left out.
_BOARD = """
npumon_board_temperature_celsius{zone="cpu"} 61
npumon_board_temperature_celsius{zone="npu"} 58
npumon_board_temperature_limit_celsius{zone="cpu"} 95
npumon_board_temperature_limit_celsius{zone="npu"} 90
npumon_board_clock_hertz{clock="policy0",bound="current"} 1.2e9
npumon_board_clock_hertz{clock="policy0",bound="allowed"} 1.9e9
npumon_board_clock_hertz{clock="policy0",bound="highest"} 1.9e9
npumon_board_stalled_seconds_total{resource="cpu"} 12
npumon_board_stalled_seconds_total{resource="io"} 3
npumon_board_stalled_seconds_total{resource="memory"} 0
npumon_board_remoteproc_running{name="cdsp"} 1
npumon_board_device_node_accessible{node="/dev/fastrpc-cdsp"} 1
npumon_interval_seconds 60
npumon_config_last_reload_successful 1
npumon_config_last_reload_success_timestamp_seconds 1.7638254e+09
npumon_check_stale{model="MODEL"} 0
npumon_incident{model="MODEL",kind="fallback"} 0
npumon_incident{model="MODEL",kind="unstable"} 0
npumon_incident{model="MODEL",kind="shifted"} 0
npumon_incident{model="MODEL",kind="outputs"} 0
npumon_incident{model="MODEL",kind="failure"} 0
npumon_gate_npu_flops_ratio{model="MODEL"} 0.95
npumon_gate_cv_ratio{model="MODEL"} 0.15
"""
_MEASURED = """
npumon_latency_slow_ratio{model="MODEL"} 0.1
npumon_latency_robust_cv_ratio{model="MODEL"} 0.02
npumon_latency_disturbed_ratio{model="MODEL"} 0
npumon_baseline_median_seconds{model="MODEL"} 0.00052
npumon_gate_median_seconds{model="MODEL"} 0.00065
npumon_output_error_ratio{model="MODEL"} 0.001
"""


def exposition(golden: str, hostname: str, **values: float) -> str:
    """A golden exposition as ``hostname`` would give it. ``values``: what a series of the model is instead."""
    text = (GOLDEN / f"{golden}.prom").read_text(encoding="utf-8").replace("board-17", hostname)
    (model,) = set(re.findall(r'model="(\w+)"', text))
    promised = _BOARD + ("" if golden == "failed" else _MEASURED)
    names = set(re.findall(r"^npumon_\w+", text, re.MULTILINE))
    lines = [line for line in promised.replace("MODEL", model).splitlines() if line.partition("{")[0] not in names]
    text += "\n".join(lines) + "\n"
    for name, value in values.items():
        text, count = re.subn(rf"^(npumon_{name}(?:{{[^}}]*}})?) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert count, name
    return text


def _set(text: str, series: str, value: float) -> str:
    changed, count = re.subn(rf"^{re.escape(series)} .*$", f"{series} {value}", text, flags=re.MULTILINE)
    assert count == 1, series
    return changed


def _fallen(asked: int) -> str:
    """A board whose swift_f0 runs on the NPU under one SDK, and falls back with the next."""
    text = exposition("fallback", FALLEN)
    if asked < CHANGE:
        text = re.sub(r"^npumon_(fallback_flops_ratio|verdict_cause){.*\n", "", text, flags=re.MULTILINE)
        text = _set(_set(text, 'npumon_verdict{model="swift_f0",state="fallback"}', 0), _healthy("swift_f0"), 1)
        return text.replace('backend_version="v2.51.0"', 'backend_version="v2.50.0"')
    for kind in ("fallback", "unstable", "shifted", "outputs", "failure"):  # each has a mark to be drawn
        text = _set(text, f'npumon_incident{{model="swift_f0",kind="{kind}"}}', 1)
    text = _set(text, 'npumon_fallback_events_total{cause="op_unsupported",model="swift_f0"}', 1)
    text = _set(text, 'npumon_samples_rejected_total{model="swift_f0",reason="shape"}', 2)
    return _set(text, 'npumon_check_failures_total{model="swift_f0",reason="probe_timeout"}', asked)


def _healthy(model: str) -> str:
    return f'npumon_verdict{{model="{model}",state="healthy"}}'


def _steady(hostname: str, golden: str = "healthy", **values: float) -> Callable[[int], str]:
    text = exposition(golden, hostname, **values)
    return lambda asked: text


PAGES: dict[str, Callable[[int], str | None]] = {
    **{name: _steady(name) for name in NORMAL},
    ODD: _steady(ODD, latency_median_seconds=0.00104, npu_flops_ratio=0.80),
    FALLEN: _fallen,
    "board-8": _steady("board-8", "cpu_only"),
    FAILING: _steady(FAILING, "failed"),
    SILENT: lambda asked: exposition("healthy", SILENT) if asked < CHANGE else None,
    "board-11": _steady("board-11", check_stale=1),
}
