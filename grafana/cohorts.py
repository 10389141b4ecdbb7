"""The lower part of *Fleet*: rollouts, boards unlike their cohort, silent boards, and the hardware."""

from __future__ import annotations

from grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    VERDICTS,
    Json,
    colour,
    over_time,
    override,
    row,
    rows,
    series,
    share,
    table,
    to_board,
)
from grafana.promql import BOARDS, COHORT, MODELS, not_scraped, ratio_of, short, stale

TROUBLE = ("fallback", "degraded", "unknown")
VERSIONS = (override("backend_version", displayName="SDK"), override("provider_version", displayName="provider"))
POINTS = 0.02
"""How far a board's share may be from its cohort's: as in the alert NpumonBoardUnlikeCohort."""
NO_COHORTS = "No boards, or the recording rules are not loaded."


def fleet_rollouts() -> list[Json]:
    """The same figures by what is rolled out."""

    def by(number: int, title: str, labels: str, legend: str) -> Json:
        return series(
            number,
            title,
            "Share of the models on all boards that are not healthy: degraded, in fallback, or unknown. A name without"
            " a version collects those that could not be measured and so do not tell.",
            [over_time(short(ratio_of('!="healthy"', labels)), legend)],
            "percentunit",
            NO_COHORTS,
            size=(8, 8),
            min=0,
            max=1,
        )

    def cohort(rule: str) -> Json:
        return rows(short(f'max by ({COHORT}) ({rule}{{model=~"$model"}})'))

    return [
        row(200, "Rollouts: SoC, SDK and model version, over all jobs and boards"),
        by(201, "Not healthy by SoC", "soc", "{{soc}}"),
        by(
            202,
            "Not healthy by SDK",
            "backend_version, provider_version",
            "SDK {{backend_version}} {{provider_version}}",
        ),
        by(203, "Not healthy by model version", "model, sha256", "{{model}} {{version}}"),
        table(
            204,
            "Cohorts",
            "Boards with the same SoC, SDK and model file. A bad rollout is a new version with a larger share in"
            " fallback than the old one on the same SoC. The model's version is the start of its file's SHA-256.",
            {
                "boards": cohort("cohort:npumon_boards:count"),
                **{state: rows(short(ratio_of(f'="{state}"', COHORT))) for state in TROUBLE},
                "median NPU-FLOP share": cohort("cohort:npumon_npu_flops_ratio:median"),
                "median latency": cohort("cohort:npumon_latency_median_seconds:median"),
            },
            [
                *("model", "version", "soc", "target", "backend_version", "provider_version", "onnxruntime", "samples"),
                *("boards", *TROUBLE, "median NPU-FLOP share", "median latency"),
            ],
            NO_COHORTS,
            (24, 10),
            overrides=[
                *(share(state, VERDICTS[state]) for state in TROUBLE),
                override("median NPU-FLOP share", unit="percentunit", decimals=1),
                override("median latency", unit="s"),
                *VERSIONS,
            ],
            worst="fallback",
            hidden=("sha256", "machine", "provider"),
        ),
    ]


def fleet_odd() -> list[Json]:
    """Boards that their peers disagree with."""
    median = "npumon_latency_median_seconds"
    share_ = "npumon_npu_flops_ratio"

    def mine(metric: str) -> str:
        return f"instance_model:{metric}:identity{{{MODELS}}}"

    def cohort(rule: str) -> str:
        return f"on ({COHORT}) group_left () cohort:{rule}"

    away = f"abs({mine(median)} - {cohort(f'{median}:median')})"
    slow = f"({mine(median)} / {cohort(f'{median}:median')}) and ({away} > {cohort(f'{median}:margin')})"
    large = f"and {cohort('npumon_boards:count')} >= 5".replace(" group_left ()", "")
    point = f"{mine(share_)} - {cohort(f'{share_}:median')}"
    other = f"({point} > {POINTS} or {point} < -{POINTS}) {large}"

    def odd(
        number: int, title: str, about: str, metric: str, unlike: str, heading: str, units: tuple[str, str]
    ) -> Json:
        keys = f"job, instance, {COHORT}"
        own = f"{mine(metric)} and ({unlike})"
        return table(
            number,
            title,
            about,
            {heading: rows(short(f"max by ({keys}) ({unlike})")), "own": rows(short(f"max by ({keys}) ({own})"))},
            ["instance", "model", heading, "own", "soc", "backend_version", "version", "job"],
            "No board differs from its cohort, or no cohort has 5 boards.",
            (12, 8),
            overrides=[
                to_board("instance"),
                to_board("model"),
                override(heading, unit=units[0], decimals=2),
                override("own", unit=units[1], decimals=2),
                *VERSIONS,
            ],
            worst=heading,
            hidden=("sha256", "machine", "provider", "provider_version", "onnxruntime", "samples", "target"),
        )

    return [
        row(300, "Boards that differ from their cohort"),
        odd(
            301,
            "Latency unlike the cohort's",
            "Boards whose median latency is further from the median of the boards with the same SoC, SDK and model file"
            " than boards scatter, and than 25 %. With the same placement: throttling, contention, or another clock"
            " setting.",
            median,
            slow,
            "times the cohort's",
            ("suffix:x", "s"),
        ),
        odd(
            302,
            "NPU-FLOP share unlike the cohort's",
            f"Boards whose NPU-FLOP share is more than {POINTS * 100:.0f} points away from the median of those with"
            " the same SoC, SDK and model file. Same software, other placement: something is wrong with the board, or"
            " with what it says of itself.",
            share_,
            other,
            "points away",
            ("percentunit", "percentunit"),
        ),
    ]


def fleet_silent() -> list[Json]:
    """Boards of which nothing is known now."""
    age = f"(time() - max by (job, instance) (instance:npumon_seen:timestamp_seconds{{{BOARDS}}}))"
    here = f"on (job, instance) npumon_build_info{{{BOARDS}}}"
    down = f"on (job, instance) (up{{{BOARDS}}} == 0)"
    late = f"(time() - min by (job, instance) (npumon_last_check_timestamp_seconds{{{MODELS}}}))"
    late_for = f"on (job, instance) instance_model:npumon_check_stale:raised{{{MODELS}}}"
    why = (
        f'label_replace({age} and {down}, "why", "not scraped", "", "")'
        f' or label_replace({age} unless {here} unless {down}, "why", "gone", "", "")'
        f' or label_replace({late} and {late_for}, "why", "checks are stale", "", "")'
    )
    return [
        row(400, "Silent boards"),
        table(
            401,
            "Silent boards",
            "Not scraped: the target is known and does not answer. Gone: it is no target any more, or stopped writing,"
            " less than a week ago. Checks are stale: metrics arrive, but npumon has not checked a model for three"
            " intervals, or a file or an agent repeats old ones for an hour.",
            {"silent for": rows(why)},
            ["instance", "why", "silent for", "job"],
            "No board is silent, or the recording rules are not loaded.",
            (12, 8),
            overrides=[to_board("instance", model=False), override("silent for", unit="s", decimals=0)],
            worst="silent for",
        ),
        series(
            402,
            "Silent boards over time",
            "Boards whose scrape failed, models whose checks are stale, and boards that answer.",
            [
                over_time(f"sum({not_scraped()})", "not scraped"),
                over_time(stale(), "checks are stale"),
                over_time(f"count(count by (job, instance) (npumon_build_info{{{BOARDS}}}))", "answer"),
            ],
            "none",
            "no boards in this range",
            overrides=[
                colour("not scraped", RED),
                colour("checks are stale", ORANGE),
                colour("answer", GREEN, custom__axisPlacement="right"),
            ],
            decimals=0,
        ),
    ]


def fleet_hardware() -> list[Json]:
    """What the boards run on, and what the boards themselves suffer from."""
    size = (8, 8)
    each = "job, instance, model"
    hot = (
        f"max by (job, instance, zone) (npumon_board_temperature_celsius{{{BOARDS}}}) >= bool on (job, instance, zone)"
        f" max by (job, instance, zone) (npumon_board_temperature_limit_celsius{{{BOARDS}}})"
    )
    return [
        row(500, "Hardware and npumon"),
        series(
            501,
            "Sessions by target",
            "What really ran the models: the DSP, the simulator, or the CPU because the accelerator did not come up.",
            [
                over_time(
                    f"count by (target) (group by ({each}, target) (npumon_runtime_info{{{MODELS}}}))", "{{target}}"
                )
            ],
            "none",
            "no boards in this range",
            size,
            overrides=[colour("hexagon", GREEN), colour("simulator", ORANGE), colour("cpu", RED)],
            stacked=True,
        ),
        series(
            502,
            "Boards with a problem of their own",
            "Too hot: a thermal zone is at or above the limit where the kernel slows it down. Remote processor down:"
            " one of the board's does not run. Device node refused: npumon may not open one of the accelerator's.",
            [
                over_time(f"sum(max by (job, instance) ({hot}))", "too hot"),
                over_time(
                    f"sum(max by (job, instance) (npumon_board_remoteproc_running{{{BOARDS}}} == bool 0))",
                    "remote processor down",
                ),
                over_time(
                    f"sum(max by (job, instance) (npumon_board_device_node_accessible{{{BOARDS}}} == bool 0))",
                    "device node refused",
                ),
            ],
            "none",
            "no board tells its temperature, processors or nodes",
            size,
            decimals=0,
        ),
        series(
            503,
            "npumon's version",
            "How many boards run which version of npumon.",
            [
                over_time(
                    f"count by (version) (group by (job, instance, version) (npumon_build_info{{{BOARDS}}}))",
                    "{{version}}",
                )
            ],
            "none",
            "no boards in this range",
            size,
            stacked=True,
        ),
    ]
