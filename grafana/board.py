"""*Board and model*: everything that explains one verdict, under one time axis."""

from __future__ import annotations

from grafana.application import board_application
from grafana.document import annotation, dashboard, link
from grafana.machine import board_machine, board_probe, board_versions
from grafana.panels import (
    BLUE,
    BOARD_UID,
    FLEET_UID,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RANKS,
    RED,
    Json,
    buckets,
    colour,
    dashed,
    heatmap,
    now,
    over_time,
    override,
    row,
    rows,
    series,
    shades,
    share,
    stat,
    table,
    timeline,
    words,
)
from grafana.promql import MODEL, rank


def board() -> Json:
    """One model on one board: everything that explains its verdict, under one time axis."""
    kinds = {
        "fallback": ("Fallback", RED),
        "unstable": ("Latency unstable", ORANGE),
        "shifted": ("Latency shifted", ORANGE),
        "outputs": ("Outputs disagree", PURPLE),
        "production": ("Application differs", ORANGE),
        "failure": ("Checks fail", GREY),
    }
    incidents = [
        annotation(title, f'npumon_incident{{{MODEL}, kind="{kind}"}} == 1', title, "while the incident is open", shade)
        for kind, (title, shade) in kinds.items()
    ]
    since = "[1d] offset $__interval"
    changes = [
        annotation(
            "Fallback events",
            f"increase(npumon_fallback_events_total{{{MODEL}}}[$__rate_interval]) > 0",
            "Fallback: {{cause}}",
            "appeared or changed",
            "dark-red",
        ),
        annotation(
            "New model file",
            f"npumon_model_info{{{MODEL}}} unless max_over_time(npumon_model_info{{{MODEL}}}{since})",
            "New model file",
            "{{sha256}}",
            PURPLE,
        ),
        annotation(
            "New runtime",
            f"npumon_runtime_info{{{MODEL}}} unless max_over_time(npumon_runtime_info{{{MODEL}}}{since})",
            "New runtime",
            "SDK {{backend_version}}, provider {{provider_version}}, target {{target}}",
            BLUE,
        ),
    ]
    return dashboard(
        BOARD_UID,
        "npumon / Board and model",
        "One model on one board: its three signals, the ops that fell back, and the board under the same time axis.",
        [
            *board_now(),
            *board_signals(),
            *board_application(),
            *board_culprits(),
            *board_machine(),
            *board_probe(),
            *board_versions(),
        ],
        many=False,
        since="now-6h",
        links=[link("Fleet", "All boards", f"/d/{FLEET_UID}?var-datasource=${{datasource}}&var-job=${{job}}")],
        annotations=[*incidents, *changes],
    )


def board_now() -> list[Json]:
    """The verdict and what goes with it."""
    return [
        stat(
            1,
            "Verdict",
            "npumon's verdict on this model after its last check.",
            now(rank(MODEL), "verdict"),
            "none",
            "not scraped",
            4,
            mappings=RANKS,
            colours="background",
        ),
        stat(
            2,
            "Cause",
            "What the verdict is put down to. docs/troubleshooting.md says what to do about each cause.",
            now(f"npumon_verdict_cause{{{MODEL}}}", "{{cause}}"),
            "none",
            "none",
            4,
            text="name",
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        stat(
            3,
            "Worst op on the CPU",
            "The op type that takes the largest share of FLOPs to the CPU.",
            now(f"topk(1, npumon_fallback_flops_ratio{{{MODEL}}})", "{{op_type}}"),
            "percentunit",
            "no op",
            4,
            text="value_and_name",
            decimals=1,
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        stat(
            4,
            "NPU-FLOP share",
            "Share of an inference's FLOPs that ran on the NPU.",
            now(f"npumon_npu_flops_ratio{{{MODEL}}}"),
            "percentunit",
            "not measured",
            decimals=1,
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        stat(
            5,
            "Median latency",
            "Median of the last check's replays.",
            now(f"npumon_latency_median_seconds{{{MODEL}}}"),
            "s",
            "not measured",
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        stat(
            6,
            "vs. baseline",
            "Median latency by the accepted baseline. The gate is at 1.25 unless one is configured.",
            now(f"npumon_latency_median_seconds{{{MODEL}}} / npumon_baseline_median_seconds{{{MODEL}}}"),
            "suffix:x",
            "no baseline yet",
            decimals=2,
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        stat(
            7,
            "Last check",
            "How long ago the last check ended, by the clocks of the board and of Prometheus.",
            now(f"time() - npumon_last_check_timestamp_seconds{{{MODEL}}}"),
            "s",
            "no check yet",
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        timeline(
            8,
            "Verdict and incidents",
            "The verdict over time, and what is open: one line for each kind of incident.",
            [
                over_time(rank(MODEL), "verdict"),
                over_time(f"max by (kind) (npumon_incident{{{MODEL}}})", "{{kind}}"),
            ],
            "Nothing was scraped in this range.",
            (24, 6),
            mappings=words({"0": ("closed", "#8e8e8e22"), "1": ("open", RED)}),
            overrides=[override("verdict", mappings=RANKS)],
        ),
    ]


def board_signals() -> list[Json]:
    """The three signals with their gates, and what is behind each."""

    def of(metric: str, legend: str) -> Json:
        return over_time(f"{metric}{{{MODEL}}}", legend)

    return [
        row(100, "The three signals"),
        series(
            101,
            "Median latency",
            "Median of each check's replays, the accepted baseline, and the gate in force: the configured one, or 1.25"
            " times the baseline. Above the gate with ops still on the NPU: the NPU is throttled, shared, or clocked"
            " down.",
            [
                of("npumon_latency_median_seconds", "median"),
                of("npumon_gate_median_seconds", "gate"),
                of("npumon_baseline_median_seconds", "baseline"),
            ],
            "s",
            "No check measured a latency in this range.",
            overrides=[colour("median", BLUE), dashed("gate", RED), dashed("baseline", GREEN)],
        ),
        series(
            102,
            "NPU-FLOP share",
            "Share of an inference's FLOPs that ran on the NPU, and its gate. Below it is a fallback. The share of"
            " profiled time is there to compare: it can be large while the NPU does next to nothing.",
            [
                of("npumon_npu_flops_ratio", "NPU-FLOP share"),
                of("npumon_gate_npu_flops_ratio", "gate"),
                of("npumon_npu_time_ratio", "share of time"),
            ],
            "percentunit",
            "No check saw a placement in this range.",
            overrides=[colour("NPU-FLOP share", GREEN), dashed("gate", RED), colour("share of time", GREY)],
            min=0,
            max=1,
        ),
        series(
            103,
            "Coefficient of variation",
            "How much the replays of a check differ: the CV, the robust CV that single stalls do not move, and the"
            " gate.",
            [
                of("npumon_latency_cv_ratio", "CV"),
                of("npumon_latency_robust_cv_ratio", "robust CV"),
                of("npumon_gate_cv_ratio", "gate"),
            ],
            "percentunit",
            "No check measured a latency in this range.",
            overrides=[colour("CV", BLUE), colour("robust CV", PURPLE), dashed("gate", RED)],
        ),
        series(
            104,
            "FLOPs by processor and op type",
            "Where an inference's FLOPs ran: on the NPU, on the CPU by op type, or unattributed. It adds up to 100 %.",
            [
                of("npumon_npu_flops_ratio", "NPU"),
                of("npumon_unattributed_flops_ratio", "unattributed"),
                of("npumon_fallback_flops_ratio", "CPU: {{op_type}}"),
            ],
            "percentunit",
            "No check saw a placement in this range.",
            overrides=[colour("NPU", GREEN), colour("unattributed", GREY), shades("^CPU", RED)],
            stacked=True,
            min=0,
            max=1,
        ),
        heatmap(
            105,
            "Latency of the replays",
            "How many replays took how long. Two bands are two modes: some inferences run slow while others do not.",
            buckets(f"sum by (le) (increase(npumon_latency_seconds_bucket{{{MODEL}}}[$__rate_interval]))"),
            "No replay in this range.",
            (12, 8),
        ),
        series(
            106,
            "Slow mode and disturbed replays",
            "Slow: share of the replays in the slow one of two modes. Disturbed: share of the replays during which the"
            " board was busy with something else.",
            [of("npumon_latency_slow_ratio", "slow"), of("npumon_latency_disturbed_ratio", "disturbed")],
            "percentunit",
            "No check measured a latency in this range.",
            overrides=[colour("slow", ORANGE), colour("disturbed", GREY)],
            min=0,
        ),
    ]


def board_culprits() -> list[Json]:
    """Which ops, how the graph is cut, and whether the numbers are still right."""
    before = f"npumon_fallback_flops_ratio{{{MODEL}}} offset $__range"
    return [
        row(200, "What fell back"),
        table(
            201,
            "Culprits",
            "Op types on the CPU now, by their share of the FLOPs, and their share at the start of the shown range. The"
            " event in the log, `npumon check` and the status page name the nodes, the reasons and the remedies.",
            {
                "now": rows(f"max by (op_type) (npumon_fallback_flops_ratio{{{MODEL}}})"),
                "at the start": rows(f"max by (op_type) ({before})"),
            },
            ["op_type", "now", "at the start"],
            "No op runs on the CPU.",
            (12, 8),
            overrides=[share("now"), share("at the start", GREY)],
            worst="now",
        ),
        series(
            202,
            "Placement",
            "Nodes on the CPU, without the Q/DQ at the graph's edge, and partitions on the NPU. Many small partitions"
            " cost more in hand-offs than they save.",
            [
                over_time(f"npumon_fallback_nodes{{{MODEL}}}", "nodes on the CPU"),
                over_time(f"npumon_partitions{{{MODEL}}}", "partitions on the NPU"),
            ],
            "none",
            "No check saw a placement in this range.",
            (6, 8),
            overrides=[colour("nodes on the CPU", RED), colour("partitions on the NPU", GREEN)],
            decimals=0,
        ),
        series(
            203,
            "Difference from the CPU's outputs",
            "Largest difference of an output from the CPU's, on the samples of the last audit.",
            [over_time(f"npumon_output_error_ratio{{{MODEL}}}", "largest difference")],
            "percentunit",
            "Nothing was compared: compare_outputs is off, or no audit has run.",
            (6, 8),
            overrides=[colour("largest difference", PURPLE)],
        ),
    ]
