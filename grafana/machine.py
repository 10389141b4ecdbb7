"""The lower part of *Board and model*: the board, the probe, and the versions."""

from __future__ import annotations

from grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Json,
    colour,
    coloured,
    dashed,
    drawn,
    over_time,
    row,
    rows,
    series,
    shades,
    table,
    timeline,
    words,
)
from grafana.promql import BOARD, MODEL


def board_machine() -> list[Json]:
    """The board, so that a latency can be laid against heat, clocks and neighbours."""

    def of(metric: str, legend: str) -> Json:
        return over_time(f"{metric}{{{BOARD}}}", legend)

    return [
        row(300, "The board"),
        series(
            301,
            "Temperature",
            "The hottest zone of the CPU and of the NPU, and where the kernel begins to slow them down.",
            [
                of("npumon_board_temperature_celsius", "{{zone}}"),
                of("npumon_board_temperature_limit_celsius", "{{zone}} limit"),
            ],
            "celsius",
            "The board tells no temperature.",
            overrides=[
                colour("npu", ORANGE),
                colour("cpu", BLUE),
                dashed("npu limit", ORANGE),
                dashed("cpu limit", BLUE),
            ],
        ),
        series(
            302,
            "Clocks",
            "What each clock runs at, what it may run at now (dashed), and what it is made for (dotted). A bound that"
            " falls is throttling or a power setting.",
            [
                over_time(f'npumon_board_clock_hertz{{{BOARD}, bound="current"}}', "{{clock}}"),
                over_time(f'npumon_board_clock_hertz{{{BOARD}, bound="allowed"}}', "{{clock}} allowed"),
                over_time(f'npumon_board_clock_hertz{{{BOARD}, bound="highest"}}', "{{clock}} highest"),
            ],
            "hertz",
            "The board tells no clocks.",
            overrides=[drawn(" allowed$", "dash", [8, 6]), drawn(" highest$", "dot", [1, 6])],
        ),
        series(
            303,
            "Stalled tasks",
            "Share of time in which some task waited for the CPU, for I/O or for memory (pressure stall information).",
            [
                over_time(
                    f"rate(npumon_board_stalled_seconds_total{{{BOARD}}}[$__rate_interval])", "waiting for {{resource}}"
                )
            ],
            "percentunit",
            "The kernel has no pressure stall information.",
            min=0,
        ),
        timeline(
            304,
            "Remote processors and device nodes",
            "Whether the board's remote processors run, and whether npumon may open the accelerator's device nodes.",
            [
                of("npumon_board_remoteproc_running", "{{name}}"),
                of("npumon_board_device_node_accessible", "{{node}}"),
            ],
            "The board has no remote processors and no device nodes of an accelerator.",
            (12, 8),
            mappings=words({"0": ("down or refused", RED), "1": ("ok", GREEN)}),
        ),
    ]


def board_probe() -> list[Json]:
    """Whether the figures above can be trusted."""
    size = (6, 8)
    return [
        row(400, "The probe"),
        series(
            401,
            "Duration of a check",
            "Wall time of each check with set-up and replays, and the interval between checks. A check that takes as"
            " long as the interval leaves nothing to the application.",
            [
                over_time(f"npumon_last_check_duration_seconds{{{MODEL}}}", "check"),
                over_time(f"npumon_interval_seconds{{{BOARD}}}", "interval"),
            ],
            "s",
            "No check in this range.",
            size,
            overrides=[colour("check", BLUE), dashed("interval", GREY)],
        ),
        series(
            402,
            "Checks that could not measure",
            "Failed checks by reason. docs/troubleshooting.md explains each.",
            [over_time(f"increase(npumon_check_failures_total{{{MODEL}}}[$__rate_interval]) > 0", "{{reason}}")],
            "none",
            "No check failed in this range.",
            size,
            bars=True,
            decimals=0,
        ),
        series(
            403,
            "Samples",
            "Sample files that fit the model, 0 while inputs are made up, and those rejected since the daemon started.",
            [
                over_time(f"npumon_samples{{{MODEL}}}", "usable"),
                over_time(f"sum by (reason) (npumon_samples_rejected_total{{{MODEL}}}) > 0", "rejected: {{reason}}"),
            ],
            "none",
            "No check in this range.",
            size,
            overrides=[colour("usable", GREEN)],
            decimals=0,
        ),
        timeline(
            404,
            "The service",
            "Whether the board can be scraped, the check is on time, the last reload of the configuration succeeded,"
            " and the state can be written.",
            [
                over_time(f"up{{{BOARD}}}", "scraped"),
                over_time(f"1 - npumon_check_stale{{{MODEL}}}", "check on time"),
                over_time(f"npumon_config_last_reload_successful{{{BOARD}}}", "configuration"),
                over_time(
                    f"increase(npumon_state_write_failures_total{{{BOARD}}}[$__rate_interval]) == bool 0",
                    "state written",
                ),
            ],
            "Nothing was scraped in this range.",
            size,
            mappings=words({"0": ("no", RED), "1": ("yes", GREEN)}),
        ),
        series(
            405,
            "Time taken from the NPU",
            "Share of the last ten minutes in which npumon kept the accelerator busy, with all of its models. It is"
            " held to max_duty in the long run.",
            [over_time(f"npumon_duty_ratio{{{BOARD}}}", "busy with npumon")],
            "percentunit",
            "Nothing was scraped in this range.",
            (12, 8),
            overrides=[colour("busy with npumon", BLUE)],
            min=0,
        ),
        series(
            406,
            "Replays and postponed checks",
            "Replays of each check: fewer than configured while max_duty does not pay for more. Checks that were put"
            " off, by reason: the budget, memory, heat. docs/good-neighbour.md explains both.",
            [
                over_time(f"npumon_replays{{{MODEL}}}", "replays"),
                over_time(
                    f"increase(npumon_checks_postponed_total{{{MODEL}}}[$__rate_interval]) > 0", "put off: {{reason}}"
                ),
            ],
            "none",
            "No check in this range.",
            (12, 8),
            overrides=[colour("replays", BLUE), shades("^put off", ORANGE)],
            decimals=0,
        ),
    ]


def board_versions() -> list[Json]:
    """What ran, and since when."""
    return [
        row(500, "Versions"),
        timeline(
            501,
            "Model file and runtime over time",
            "Which model file and which SDK were measured when. Two lines that take turns are a change.",
            [
                over_time(
                    f'label_replace(npumon_model_info{{{MODEL}}}, "version", "$1", "sha256", "(.{{12}}).*")',
                    "model {{version}} ({{samples}})",
                ),
                over_time(
                    f"npumon_runtime_info{{{MODEL}}}",
                    "SDK {{backend_version}}, provider {{provider_version}}, {{target}}",
                ),
                over_time(f"npumon_build_info{{{BOARD}}}", "npumon {{version}}"),
            ],
            "Nothing was scraped in this range.",
            (24, 7),
            mappings=words({"1": ("in use", BLUE)}),
        ),
        table(
            502,
            "Runtime",
            "What really ran the model, as seen in the session.",
            {"value": rows(f"npumon_runtime_info{{{MODEL}}}")},
            ["target", "provider", "backend_version", "provider_version", "onnxruntime", "machine"],
            "No session has been created.",
            (14, 5),
            overrides=[
                coloured(
                    "target", {"hexagon": ("hexagon", GREEN), "simulator": ("simulator", ORANGE), "cpu": ("cpu", RED)}
                )
            ],
        ),
        table(
            503,
            "Board",
            "The board, as far as it tells.",
            {"value": rows(f"npumon_board_info{{{BOARD}}}")},
            ["hostname", "soc", "machine", "kernel"],
            "Nothing was scraped.",
            (10, 5),
        ),
    ]
