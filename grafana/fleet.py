"""*Fleet*: all boards on one screen, from how many are in trouble to which, and to what they have in common."""

from __future__ import annotations

from grafana.cohorts import fleet_hardware, fleet_odd, fleet_rollouts, fleet_silent
from grafana.document import annotation, dashboard, link
from grafana.panels import (
    BLUE,
    BOARD_UID,
    FLEET_UID,
    GREEN,
    ORANGE,
    PURPLE,
    RANKS,
    RED,
    RUNBOOK,
    VERDICTS,
    Json,
    bad_above,
    colour,
    coloured,
    now,
    over_time,
    override,
    row,
    rows,
    series,
    share,
    stat,
    table,
    to_board,
)
from grafana.promql import ALERTS, BOARDS, MODELS, WIDER, not_scraped, rank, short, stale, with_soc, worst_rank

NO_BOARDS = "no boards, or no recording rules"


def fleet() -> Json:
    """All boards on one screen: from how many are in trouble to which, and to what they have in common."""
    return dashboard(
        FLEET_UID,
        "npumon / Fleet",
        "Which boards and models fell back to the CPU, and what they have in common. A row leads to its board.",
        [*fleet_now(), *fleet_models(), *fleet_rollouts(), *fleet_odd(), *fleet_silent(), *fleet_hardware()],
        many=True,
        since="now-24h",
        links=[
            link(
                "Board and model", "One board and one model in detail", f"/d/{BOARD_UID}?var-datasource=${{datasource}}"
            )
        ],
        annotations=[
            annotation(
                "New SDK versions",
                f"group by (backend_version) (npumon_runtime_info{{{MODELS}}})"
                f" unless group by (backend_version) (npumon_runtime_info{{{MODELS}}} offset $__interval)",
                "SDK {{backend_version}}",
                "runs on some board from here on",
                BLUE,
            ),
            annotation(
                "New model versions",
                f"group by (model, sha256) (npumon_model_info{{{MODELS}}})"
                f" unless group by (model, sha256) (npumon_model_info{{{MODELS}}} offset $__interval)",
                "{{model}}: new file",
                "{{sha256}}",
                PURPLE,
            ),
        ],
    )


def fleet_now() -> list[Json]:
    """How bad it is, and where."""
    said = {
        "healthy": "Boards whose models are all healthy.",
        "degraded": "Boards with a model whose latency is off while its ops are still on the NPU. None has fallen"
        " back.",
        "fallback": "Boards with at least one model whose ops run on the CPU.",
        "unknown": "Boards with a model that could not be measured, and none that is worse.",
    }
    shares = [
        stat(
            2 + n,
            state.capitalize(),
            said[state],
            now(f"avg({worst_rank(BOARDS)} == bool {list(VERDICTS).index(state)})"),
            "percentunit",
            NO_BOARDS,
            decimals=1,
            color={"mode": "fixed", "fixedColor": VERDICTS[state]},
        )
        for n, state in enumerate(said)
    ]
    over = [
        over_time(f"avg({worst_rank(BOARDS)} == bool {n})", state) for n, state in reversed(list(enumerate(VERDICTS)))
    ]
    trouble = f'on (job, instance, model) (npumon_verdict{{{MODELS}, state="healthy"}} == 0)'
    keys = "job, instance, model"
    labels = f"{keys}, alertname, severity, alertstate, soc, cause, op_type, signal, sha256, backend_version"
    told = short(f"2 * max by ({labels}) ({WIDER}) or max by ({labels}) ({ALERTS})")
    return [
        stat(
            1,
            "Boards",
            "Boards that could be scraped.",
            now(f"count(count by (job, instance) (npumon_build_info{{{BOARDS}}}))"),
            "none",
            "none",
            color={"mode": "fixed", "fixedColor": "text"},
        ),
        *shares,
        stat(
            6,
            "Not scraped",
            "Boards whose last scrape failed. They are in none of the shares.",
            now(f"sum({not_scraped()})"),
            "none",
            "no targets",
            thresholds=bad_above((1, RED)),
        ),
        stat(
            7,
            "Stale checks",
            "Models that are no longer checked though their metrics arrive: for three intervals, or, where a file or an"
            " agent repeats old ones, for an hour. Their figures are old.",
            now(stale()),
            "none",
            "no models",
            thresholds=bad_above((1, RED)),
        ),
        stat(
            8,
            "Open incidents",
            "Incidents that are open on any board: fallbacks, unstable or shifted latency, wrong outputs, failing"
            " checks.",
            now(f"sum(max by (job, instance, model, kind) (npumon_incident{{{MODELS}}}))"),
            "none",
            "no models",
            thresholds=bad_above((1, ORANGE)),
        ),
        series(
            10,
            "Boards by verdict",
            "A board has the verdict of its worst model, whichever is chosen above. Boards that could not be scraped"
            " are not in it.",
            over,
            "percentunit",
            NO_BOARDS,
            overrides=[colour(state, shade) for state, shade in VERDICTS.items()],
            size=(24, 7),
            stacked=True,
            min=0,
            max=1,
        ),
        table(
            11,
            "Alerts",
            "What Prometheus' rules say, from grafana/rules: those about more than one board first. An alert's name"
            " leads to its section in docs/runbook.md, once grafana/README.md's line on that was followed.",
            {"state": rows(f"sort_desc({told})")},
            [
                *("alertname", "alertstate", "instance", "model", "soc", "cause", "op_type", "signal"),
                *("version", "backend_version", "severity", "job"),
            ],
            "No alert is pending or firing, or the rules are not loaded.",
            (24, 9),
            overrides=[
                to_board("instance"),
                override(
                    "alertname",
                    custom__width=225,
                    links=[{"title": "Runbook", "url": f"{RUNBOOK}#${{__value.text}}", "targetBlank": True}],
                ),
                override("cause", custom__width=130),
                override("backend_version", displayName="SDK"),
                coloured("alertstate", {"firing": ("firing", RED), "pending": ("pending", ORANGE)}),
                coloured("severity", {"critical": ("critical", RED), "warning": ("warning", ORANGE)}),
            ],
            hidden=("sha256",),
        ),
        table(
            12,
            "Models in trouble",
            "Every model on every board whose verdict is not healthy: the cause, and the op type that takes most FLOPs"
            " to the CPU. A row leads to its board.",
            {
                "verdict": rows(f"{rank(MODELS)} > 0"),
                "caused": rows(f"max by ({keys}, cause) (npumon_verdict_cause{{{MODELS}}} and {trouble})"),
                "of the FLOPs": rows(
                    f"topk by ({keys}) (1, max by ({keys}, op_type) (npumon_fallback_flops_ratio{{{MODELS}}}))"
                    f" and {trouble}"
                ),
                "NPU-FLOP share": rows(f"max by ({keys}) (npumon_npu_flops_ratio{{{MODELS}}} and {trouble})"),
                "latency / baseline": rows(
                    f"max by ({keys}) (npumon_latency_median_seconds{{{MODELS}}}"
                    f" / npumon_baseline_median_seconds{{{MODELS}}} and {trouble})"
                ),
            },
            [
                *("instance", "model", "verdict", "cause", "op_type", "of the FLOPs"),
                *("NPU-FLOP share", "latency / baseline", "job"),
            ],
            "Every model is healthy.",
            (24, 9),
            overrides=[
                to_board("instance"),
                to_board("model"),
                override("verdict", mappings=RANKS, custom__align="left", custom__cellOptions={"type": "color-text"}),
                share("of the FLOPs"),
                share("NPU-FLOP share", GREEN),
                override("latency / baseline", unit="suffix:x", decimals=2),
            ],
            worst="verdict",
        ),
    ]


def fleet_models() -> list[Json]:
    """Which models, and which of their ops."""
    each = "job, instance, model"

    def of(state: str) -> Json:
        return rows(f'avg by (model) (max by ({each}) (npumon_verdict{{{MODELS}, state="{state}"}}))')

    fallback = f"(max by ({each}, op_type) (npumon_fallback_flops_ratio{{{MODELS}}}) > 0)"
    return [
        row(100, "Models and ops"),
        table(
            101,
            "Worst models",
            "Each model over all its boards, with the lowest NPU-FLOP share and the worst latency by its baseline of"
            " any board.",
            {
                "boards": rows(f'count by (model) (max by ({each}) (npumon_verdict{{{MODELS}, state="healthy"}}))'),
                "fallback": of("fallback"),
                "degraded": of("degraded"),
                "unknown": of("unknown"),
                "least NPU": rows(f"min by (model) (npumon_npu_flops_ratio{{{MODELS}}})"),
                "slowest": rows(
                    f"max by (model) (npumon_latency_median_seconds{{{MODELS}}}"
                    f" / npumon_baseline_median_seconds{{{MODELS}}})"
                ),
            },
            [
                *("model", "boards", "fallback", "degraded", "unknown"),
                *("least NPU", "slowest"),
            ],
            "No model has been checked in this range.",
            (12, 7),
            overrides=[
                *(share(state, VERDICTS[state]) for state in ("fallback", "degraded", "unknown")),
                override("least NPU", unit="percentunit", decimals=1),
                override("slowest", unit="suffix:x", decimals=2),
            ],
            worst="fallback",
        ),
        table(
            102,
            "Which ops fall back where",
            "Op types with FLOPs on the CPU, by model and SoC. Many boards with the same op on the same SoC: the op is"
            " not supported there. A few boards: look at them.",
            {
                "boards": rows(f"count by (model, op_type, soc) ({with_soc(fallback)})"),
                "mean share": rows(f"avg by (model, op_type, soc) ({with_soc(fallback)})"),
                "largest": rows(f"max by (model, op_type, soc) ({with_soc(fallback)})"),
            },
            ["model", "op_type", "soc", "boards", "mean share", "largest"],
            "No op runs on the CPU.",
            (12, 7),
            overrides=[share("mean share"), override("largest", unit="percentunit", decimals=1)],
            worst="mean share",
        ),
    ]
