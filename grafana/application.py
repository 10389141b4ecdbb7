"""The part of *Board and model* about the application: its own calls, and whether the samples stand for them."""

from __future__ import annotations

from grafana.panels import BLUE, GREY, ORANGE, PURPLE, Json, colour, over_time, row, series
from grafana.promql import MODEL


def board_application() -> list[Json]:
    """What only an application that counts its calls can tell (docs/capture.md)."""
    calls = f"sum by (le) (rate(npumon_production_latency_seconds_bucket{{{MODEL}}}[$__rate_interval]))"
    return [
        row(150, "The application"),
        series(
            151,
            "The application's calls and the replays",
            "Latency of the application's own calls, as it counted them, beside the median of the replays. Calls that"
            " are slow while the replays are fast: the application's session fell back, and npumon's did not.",
            [
                over_time(f"histogram_quantile(0.5, {calls})", "calls, median"),
                over_time(f"histogram_quantile(0.95, {calls})", "calls, 95th percentile"),
                over_time(f"npumon_latency_median_seconds{{{MODEL}}}", "replays, median"),
            ],
            "s",
            "No application counts its calls of this model (docs/capture.md).",
            overrides=[
                colour("calls, median", ORANGE),
                colour("calls, 95th percentile", PURPLE),
                colour("replays, median", BLUE),
            ],
        ),
        series(
            152,
            "Calls whose shapes are replayed",
            "Share of the application's calls whose input shapes are among the samples'. Low: production sees inputs"
            " that npumon does not.",
            [over_time(f"npumon_samples_covered_ratio{{{MODEL}}}", "covered")],
            "percentunit",
            "No application counts its calls of this model (docs/capture.md).",
            (6, 8),
            overrides=[colour("covered", BLUE)],
            min=0,
            max=1,
        ),
        series(
            153,
            "Age of the samples",
            "How long ago the sample files were made: their median. One that only grows belongs to a tap that stopped.",
            [over_time(f"time() - npumon_samples_timestamp_seconds{{{MODEL}}}", "age")],
            "s",
            "There are no sample files: inputs are synthesized.",
            (6, 8),
            overrides=[colour("age", GREY)],
        ),
    ]
