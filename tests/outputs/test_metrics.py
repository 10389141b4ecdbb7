"""The exposition: golden text, what is absent, how many series, and what a scrape costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import get_args

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor.bins import LADDER
from monitor.outputs.metrics import Exposition
from monitor.records import LATENCY_CAUSES, Cause, CheckResult, Event, FailureReason, RejectedSample, Samples
from tests.outputs.specimens import (
    AWKWARD,
    BOARD,
    CPU_ONLY,
    FAILED,
    FALLBACK,
    HEALTHY,
    NOW,
    SLOW,
    SLOW_STANDING,
    WORST_STANDING,
    worst_case,
)

as_openmetrics, _ = choose_encoder("application/openmetrics-text")

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exposition(*results: CheckResult, models: Iterable[str] = ()) -> Exposition:
    """An exposition that has recorded ``results``, a slow model's with what it is measured against."""
    made = Exposition(models, BOARD, "0.1.0", NOW - 3600, duty=lambda: 0.0125)
    for result in results:
        made.record(result, SLOW_STANDING if result is SLOW else None)
    return made


def text(made: Exposition) -> str:
    """What a scrape gives."""
    return made.text().decode()


def series(made: Exposition) -> Series:
    """Every series of a scrape with its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text(made))
        for sample in family.samples
    }


def value(made: Exposition, name: str, **labels: str) -> float | None:
    """One series' value, or ``None`` if there is no such series."""
    return series(made).get((f"npumon_{name}", frozenset(labels.items())))


def names(made: Exposition, model: str) -> set[str]:
    """The metrics that a model has."""
    return {name for name, labels in series(made) if ("model", model) in labels}


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("no_check_yet", []),
        ("fallback", [FALLBACK]),
        ("healthy", [HEALTHY]),
        ("slow", [SLOW]),
        ("failed", [FAILED]),
        ("cpu_only", [CPU_ONLY]),
    ],
)
def test_golden(name: str, results: list[CheckResult], golden: Callable[[str, str], None]) -> None:
    """The exposition of each kind of check is the golden one, to the byte."""
    golden(f"{name}.prom", text(exposition(*results, models=[] if results else ["swift_f0"])))


def test_text_is_what_the_library_would_give() -> None:
    """The families rendered ahead and merged are, to the byte, those that prometheus_client makes at once."""
    made = exposition(FALLBACK, HEALTHY, SLOW, FAILED, CPU_ONLY, models=["never_checked"])
    registry = CollectorRegistry()
    registry.register(made)
    assert sorted(made.text().split(b"# HELP ")) == sorted(generate_latest(registry).split(b"# HELP "))


def test_openmetrics_is_valid() -> None:
    """The same families are valid OpenMetrics, whose parser refuses stray suffixes, duplicates and missing EOF."""
    registry = CollectorRegistry()
    registry.register(exposition(FALLBACK, HEALTHY, SLOW, FAILED, CPU_ONLY))
    encoded = as_openmetrics(registry).decode()
    families = {family.name: family.type for family in parse_openmetrics(encoded)}  # type: ignore[no-untyped-call]
    assert families["npumon_checks"] == "counter"
    assert families["npumon_model"] == "info"
    assert families["npumon_latency_seconds"] == "histogram"


def test_no_created_series() -> None:
    """No ``_created`` series is exported, in either format."""
    registry = CollectorRegistry()
    registry.register(exposition(FALLBACK, HEALTHY))
    assert b"_created" not in generate_latest(registry) + as_openmetrics(registry)


def test_at_most_100_series_a_model() -> None:
    """A model that fails in every way, with 200 op types on the CPU, needs no more than 100 series."""
    results, events = worst_case("worst")
    made = exposition(*results)
    made.record(results[-1], WORST_STANDING)
    made.expect(60.0, {})
    for event in events:
        made.count_event(event)
    mine = [key for key in series(made) if ("model", "worst") in key[1]]
    assert 70 < len(mine) <= 100


def test_twenty_buckets() -> None:
    """The histogram's ladder has at most 20 buckets with +Inf, ascends, and goes from 0.1 ms to 10 s."""
    assert len(LADDER) + 1 <= 20
    assert list(LADDER) == sorted(set(LADDER))
    assert (LADDER[0], LADDER[-1]) == (0.0001, 10.0)


def test_histogram_holds_every_replay_of_every_check() -> None:
    """The histogram accumulates over checks, with each replay once in the first bucket that holds it."""
    made = exposition(FALLBACK, FALLBACK)
    assert value(made, "latency_seconds_count", model="swift_f0") == 6
    assert value(made, "latency_seconds_sum", model="swift_f0") == pytest.approx(2 * (0.0081 + 0.00824 + 0.0084))
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="0.007") == 0
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="0.01") == 6


def test_a_latency_on_a_bound_belongs_to_that_bucket() -> None:
    """``le`` means less or equal: a replay of exactly 5 ms is in the 5 ms bucket."""
    assert FALLBACK.latency
    latency = msgspec.structs.replace(FALLBACK.latency, replays_seconds=(0.005, 11.0))
    made = exposition(msgspec.structs.replace(FALLBACK, latency=latency))
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="0.003") == 0
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="0.005") == 1
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="10.0") == 1
    assert value(made, "latency_seconds_bucket", model="swift_f0", le="+Inf") == 2


def test_a_failed_check_takes_the_measured_gauges_away() -> None:
    """After a failed check no stale figure is left: only counters, the verdict ``unknown`` and facts of the check."""
    failed = msgspec.structs.replace(FAILED, model="swift_f0")
    made = exposition(FALLBACK, failed)
    measured = {"latency_median_seconds", "latency_cv_ratio", "npu_flops_ratio", "npu_time_ratio", "partitions"}
    measured |= {"unattributed_flops_ratio", "fallback_nodes", "fallback_flops_ratio"}
    assert {f"npumon_{name}" for name in measured} <= names(exposition(FALLBACK), "swift_f0")
    assert not {f"npumon_{name}" for name in measured} & names(made, "swift_f0")
    assert value(made, "verdict", model="swift_f0", state="unknown") == 1
    assert value(made, "verdict", model="swift_f0", state="fallback") == 0
    assert value(made, "check_failures_total", model="swift_f0", reason="probe_timeout") == 1
    assert value(made, "checks_total", model="swift_f0") == 2
    assert value(made, "last_check_timestamp_seconds", model="swift_f0") == failed.timestamp


def test_a_failed_check_measured_nothing_whatever_its_record_carries() -> None:
    """Placement and latency in a record with an error are not exported as if they held."""
    made = exposition(msgspec.structs.replace(FALLBACK, error=FAILED.error))
    assert "npumon_npu_flops_ratio" not in names(made, "swift_f0")
    assert "npumon_latency_median_seconds" not in names(made, "swift_f0")
    assert value(made, "verdict", model="swift_f0", state="unknown") == 1


def test_what_was_not_measured_is_absent() -> None:
    """``None``, NaN and infinity give no sample, and never a 0."""
    found = names(exposition(CPU_ONLY), "minilm")
    assert "npumon_npu_flops_ratio" not in found
    assert "npumon_latency_median_seconds" not in found
    assert "npumon_latency_cv_ratio" not in found
    assert "NaN" not in text(exposition(CPU_ONLY))
    assert value(exposition(CPU_ONLY), "latency_seconds_count", model="minilm") == 1


def test_the_shape_of_the_latency() -> None:
    """Slow mode, spread without outliers and disturbed replays are shares; no slow mode is a true 0."""
    made = exposition(SLOW, HEALTHY)
    assert value(made, "latency_slow_ratio", model="detector") == 0.1
    assert value(made, "latency_slow_ratio", model="qdq_net") == 0
    assert value(made, "latency_robust_cv_ratio", model="detector") == 0.012
    assert value(made, "latency_disturbed_ratio", model="detector") == 1 / 20


def test_what_a_model_is_measured_against() -> None:
    """Baseline, gates and open incidents stand beside the figures; without a baseline there is no series of it."""
    made = exposition()
    made.record(SLOW, SLOW_STANDING)
    assert value(made, "baseline_median_seconds", model="detector") == 0.01205
    assert value(made, "gate_median_seconds", model="detector") == 0.0150625
    assert value(made, "gate_cv_ratio", model="detector") == 0.15
    assert value(made, "gate_npu_flops_ratio", model="detector") == 0.95
    assert value(made, "incident", model="detector", kind="unstable") == 1
    assert value(made, "incident", model="detector", kind="fallback") == 0
    assert value(made, "verdict_cause", model="detector", cause="slow_accelerator") == 1
    young = msgspec.structs.replace(SLOW_STANDING, baseline_seconds=None, gate_median_seconds=None)
    made.record(msgspec.structs.replace(SLOW, cause=None), young)
    assert not {"npumon_baseline_median_seconds", "npumon_gate_median_seconds", "npumon_verdict_cause"} & names(
        made, "detector"
    )


class Clock:
    """A monotonic clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds since it was made, and some."""
        return self.now


def test_a_model_that_is_not_checked_any_more_is_stale() -> None:
    """After three intervals and the longest check, at the scrape and by the monotonic clock; a check ends it."""
    clock = Clock()
    made = Exposition(["m", "detector"], BOARD, "0.1.0", NOW, clock)
    assert "npumon_check_stale" not in text(made)
    made.expect(60.0, {"m": 45.0, "detector": 45.0})
    assert value(made, "interval_seconds") == 60
    clock.now += 3 * 60 + 45
    assert value(made, "check_stale", model="detector") == 0
    clock.now += 1
    assert value(made, "check_stale", model="m") == 1
    assert value(made, "check_stale", model="detector") == 1
    made.record(msgspec.structs.replace(SLOW, timestamp=0.0))  # the wall clock says 1970 and is not asked
    assert value(made, "check_stale", model="detector") == 0
    assert value(made, "check_stale", model="m") == 1


def test_a_reload_that_fails_shows() -> None:
    """The gauge falls to 0 and the time stays; the next reload that succeeds moves both."""
    made = exposition(FALLBACK, HEALTHY)
    since = "config_last_reload_success_timestamp_seconds"
    assert (value(made, "config_last_reload_successful"), value(made, since)) == (1, NOW - 3600)
    made.reload_failed()
    assert (value(made, "config_last_reload_successful"), value(made, since)) == (0, NOW - 3600)
    made.reloaded(["swift_f0"], NOW)
    assert (value(made, "config_last_reload_successful"), value(made, since)) == (1, NOW)
    assert value(made, "checks_total", model="swift_f0") == 1
    assert not names(made, "qdq_net")


def test_the_boards_gauges_are_those_of_the_last_reading() -> None:
    """A check that could not read the board takes nothing away: what was read last is what is known."""
    made = exposition(SLOW, FAILED)
    assert value(made, "board_temperature_celsius", zone="npu") == 90.14
    assert value(made, "board_temperature_limit_celsius", zone="npu") is None
    assert value(made, "board_clock_hertz", clock="policy0", bound="allowed") == 2.0e9
    assert "npumon_board_temperature_celsius" not in text(exposition(FALLBACK))


def test_counters_exist_from_the_start() -> None:
    """Before the first check each counter is there at 0, with every value of its label."""
    made = exposition(models=["m"])
    assert value(made, "checks_total", model="m") == 0
    for reason in get_args(FailureReason):
        assert value(made, "check_failures_total", model="m", reason=reason) == 0
    for cause in set(get_args(Cause)) - LATENCY_CAUSES:
        assert value(made, "fallback_events_total", model="m", cause=cause) == 0
    assert value(made, "verdict", model="m", state="unknown") == 1
    assert value(made, "last_check_timestamp_seconds", model="m") is None


def test_only_fallbacks_count_as_fallback_events() -> None:
    """A detected and a changed fallback count under their cause; a cleared one and a latency event do not."""
    made = exposition(models=["m"])
    for name in ("fallback_detected", "fallback_changed", "fallback_cleared", "latency_unstable"):
        made.count_event(
            msgspec.convert(
                {
                    "timestamp": NOW,
                    "level": "warning",
                    "event": name,
                    "id": "i",
                    "model": "m",
                    "reason": "r",
                    "cause": "op_unsupported",
                },
                Event,
            )
        )
    assert value(made, "fallback_events_total", model="m", cause="op_unsupported") == 2


def test_op_types_are_bounded_by_share() -> None:
    """The 8 most expensive op types have series; the others are summed up, so that nothing is lost."""
    results, _ = worst_case("m")
    found = {
        dict(labels)["op_type"]: share
        for (name, labels), share in series(exposition(*results)).items()
        if name == "npumon_fallback_flops_ratio"
    }
    assert results[-1].placement
    given = results[-1].placement.fallback_flops
    assert set(found) == {*(f"Op{number}" for number in range(8)), "other"}
    assert sum(found.values()) == pytest.approx(sum(given.values()))


def test_a_rejected_file_counts_once() -> None:
    """Each check repeats the rejected files; one counts when it becomes unusable, and again after it was usable."""
    bad = Samples("files", 1, (RejectedSample("a.npz", "shape", "s"),))
    good = Samples("files", 2)
    made = exposition(*(msgspec.structs.replace(HEALTHY, samples=samples) for samples in (bad, bad, good, bad)))
    assert value(made, "samples_rejected_total", model="qdq_net", reason="shape") == 2


def test_a_check_that_did_not_look_at_samples_forgets_no_rejected_file() -> None:
    """A failed check in between does not make the same rejected file count twice."""
    failed = msgspec.structs.replace(FAILED, model="qdq_net")
    made = exposition(HEALTHY, failed, HEALTHY)
    assert value(made, "samples_rejected_total", model="qdq_net", reason="dtype") == 1


def test_no_stale_label_sets() -> None:
    """An op type that is no longer on the CPU, and an old model file, leave no series behind."""
    changed = msgspec.structs.replace(HEALTHY, model="swift_f0")
    now = text(exposition(FALLBACK, changed))
    assert "fallback_flops_ratio" not in now
    assert FALLBACK.model_sha256
    assert FALLBACK.model_sha256 not in now


def test_a_forgotten_model_is_gone() -> None:
    """A model that went away leaves no series, and may come back from 0."""
    made = exposition(FALLBACK, HEALTHY)
    made.reloaded([HEALTHY.model], NOW)
    assert not names(made, "swift_f0")
    assert value(made, "models") == 1
    made.record(FALLBACK)
    assert value(made, "checks_total", model="swift_f0") == 1


def test_label_values_are_escaped() -> None:
    """Quotes, backslashes and line ends in names come back unchanged from both parsers."""
    made = exposition(msgspec.structs.replace(FALLBACK, model=AWKWARD))
    registry = CollectorRegistry()
    registry.register(made)
    assert value(made, "checks_total", model=AWKWARD) == 1
    families = parse_openmetrics(as_openmetrics(registry).decode())  # type: ignore[no-untyped-call]
    assert AWKWARD in {sample.labels.get("model") for family in families for sample in family.samples}


def test_state_write_failures_are_counted() -> None:
    """A state that cannot be written shows in the service's own metrics."""
    made = exposition()
    assert value(made, "state_write_failures_total") == 0
    made.count_state_write_failure()
    assert value(made, "state_write_failures_total") == 1


def test_scrapes_and_checks_from_different_threads() -> None:
    """While one thread records, each scrape sees whole checks: as many replays as the checks had."""
    made = exposition(models=["swift_f0"])
    done = threading.Event()

    def record() -> None:
        for _ in range(300):
            made.record(FALLBACK)
        done.set()

    writer = threading.Thread(target=record)
    writer.start()
    scrapes = 0
    while not done.is_set() or scrapes == 0:
        found = series(made)
        model = ("model", "swift_f0")
        checks = found["npumon_checks_total", frozenset({model})]
        assert found["npumon_latency_seconds_count", frozenset({model})] == 3 * checks
        scrapes += 1
    writer.join()
    assert value(made, "checks_total", model="swift_f0") == 300
