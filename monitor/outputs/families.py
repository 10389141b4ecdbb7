"""The families of the exposition: what each metric is called, what it means, and how a check's record becomes samples.

Counters are there from the start, at a true 0, so that ``increase()`` sees the first failure. What the last check did
not measure has no sample.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import get_args, get_type_hints

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from monitor.bins import LADDER
from monitor.outputs.tally import Tally
from monitor.outputs.wording import measured
from monitor.records import (
    LATENCY_CAUSES,
    VERDICTS,
    Cause,
    CheckResult,
    FailureReason,
    Placement,
    Postponed,
    RejectedSample,
    Standing,
)

OP_TYPES = 8
"""Op types that get a series of their own; the cheaper ones are summed up as ``other``."""

CAUSES = tuple(cause for cause in get_args(Cause) if cause not in LATENCY_CAUSES)
"""Of fallbacks."""
FAILURES: tuple[FailureReason, ...] = get_args(FailureReason)
POSTPONED: tuple[Postponed, ...] = get_args(Postponed)
REJECTIONS: tuple[str, ...] = get_args(get_type_hints(RejectedSample)["reason"])

_LES = (*(str(bound) for bound in LADDER), "+Inf")


def _placed(read: Callable[[Placement], float | None]) -> Callable[[CheckResult], float | None]:
    return lambda result: read(result.placement) if result.placement else None


def _disturbed(result: CheckResult) -> float | None:
    latency = result.latency
    if latency is None or latency.disturbed is None or not latency.replays_seconds:
        return None
    return len(latency.disturbed) / len(latency.replays_seconds)


_MEASURED: tuple[tuple[str, str, Callable[[CheckResult], float | None]], ...] = (
    (
        "latency_median_seconds",
        "Median latency of the last check's replays.",
        lambda result: result.latency.median_seconds if result.latency else None,
    ),
    (
        "latency_cv_ratio",
        "Coefficient of variation of the last check's replays: sample standard deviation by mean.",
        lambda result: result.latency.cv_ratio if result.latency else None,
    ),
    (
        "latency_robust_cv_ratio",
        "Spread of the last check's replays without their outliers: 1.4826 MAD by median.",
        lambda result: result.latency.robust_cv_ratio if result.latency else None,
    ),
    (
        "latency_slow_ratio",
        "Share of the last check's replays that belong to a slow mode; 0 if one mode describes them all.",
        lambda result: result.latency.slow_ratio if result.latency else None,
    ),
    (
        "latency_disturbed_ratio",
        "Share of the last check's replays during which the kernel took the CPU away from the probe.",
        _disturbed,
    ),
    (
        "replays",
        "Replays of the last check, closer looks included.",
        lambda result: len(result.latency.replays_seconds) if result.latency else None,
    ),
    (
        "npu_flops_ratio",
        "Share of an inference's FLOPs that ran on the accelerator.",
        _placed(lambda placement: placement.npu_flops_ratio),
    ),
    (
        "npu_time_ratio",
        "Share of the profiled node time that was spent on the accelerator.",
        _placed(lambda placement: placement.npu_time_ratio),
    ),
    (
        "unattributed_flops_ratio",
        "Share of an inference's FLOPs that could be attributed to no processor; never counted as accelerator.",
        _placed(lambda placement: placement.unattributed_flops_ratio),
    ),
    (
        "output_error_ratio",
        "Largest relative difference between an output and the CPU's, on the last audit's samples.",
        lambda result: result.agreement.error_ratio if result.agreement else None,
    ),
    (
        "fallback_nodes",
        "Nodes that run on the CPU, without the graph-edge Q/DQ that stay there by design.",
        _placed(lambda placement: placement.nodes.cpu),
    ),
    (
        "production_ratio",
        "Median of the application's own calls, by that of the replays.",
        lambda result: result.production.ratio if result.production else None,
    ),
    (
        "samples_covered_ratio",
        "Share of the application's calls whose input shapes are among the replayed samples'.",
        lambda result: result.production.covered_ratio if result.production else None,
    ),
    (
        "partitions",
        "Partitions of the model that run on the accelerator.",
        _placed(lambda placement: placement.partitions),
    ),
)

_ABOUT_THE_CHECK: tuple[tuple[str, str, Callable[[CheckResult], float | None]], ...] = (
    (
        "samples",
        "Usable sample files; 0 while inputs are synthesized.",
        lambda result: result.samples.accepted if result.samples else None,
    ),
    (
        "samples_timestamp_seconds",
        "When the sample files were made: the median of their times of change.",
        lambda result: result.samples.made if result.samples else None,
    ),
    (
        "last_check_timestamp_seconds",
        "When the last check ended, whether it measured or not.",
        lambda result: result.timestamp,
    ),
    (
        "last_check_duration_seconds",
        "Wall time of the last check, set-up and replays included.",
        lambda result: result.duration_seconds,
    ),
)


_STANDING: tuple[tuple[str, str, Callable[[Standing], float | None]], ...] = (
    ("baseline_median_seconds", "The accepted baseline's median latency.", lambda standing: standing.baseline_seconds),
    ("gate_npu_flops_ratio", "Least share of the FLOPs on the accelerator.", lambda standing: standing.gate_npu_flops),
    ("gate_cv_ratio", "Largest spread of the latency.", lambda standing: standing.gate_cv),
    (
        "gate_median_seconds",
        "Largest median latency: configured, or 1.25 times the accepted baseline.",
        lambda standing: standing.gate_median_seconds,
    ),
)


Models = list[tuple[str, Tally]]


def families(models: Models) -> Iterator[Metric]:
    """All families that are about models, from the tallies of those that are watched."""
    yield from _counters(models)
    yield from _results(models)


def _counters(models: Models) -> Iterator[Metric]:
    yield _histogram(models)
    yield _production_histogram(models)
    checks = CounterMetricFamily("npumon_checks", "Checks, failed ones included.", labels=["model"])
    for name, model in models:
        checks.add_metric([name], model.checks)
    yield checks
    failures = [(name, model.failures) for name, model in models]
    yield _labelled("check_failures", "Checks that could not measure.", "reason", FAILURES, failures)
    postponed = [(name, model.postponed) for name, model in models]
    yield _labelled("checks_postponed", "Checks that were put off.", "reason", POSTPONED, postponed)
    events = [(name, model.events) for name, model in models]
    yield _labelled("fallback_events", "Fallbacks that appeared or changed.", "cause", CAUSES, events)
    rejected = [(name, model.rejected) for name, model in models]
    yield _labelled("samples_rejected", "Sample files that do not fit the model.", "reason", REJECTIONS, rejected)


def _histogram(models: Models) -> Metric:
    family = HistogramMetricFamily("npumon_latency_seconds", "Latency of every replay.", labels=["model"])
    for name, model in models:
        family.add_metric([name], _cumulative(model.buckets), model.latency_sum)
    return family


def _production_histogram(models: Models) -> Metric:
    """The application's own calls; no series for a model of which nobody counts any."""
    documentation = "Latency of the application's own calls, as it counted them."
    family = HistogramMetricFamily("npumon_production_latency_seconds", documentation, labels=["model"])
    for name, model in models:
        if model.counted:
            family.add_metric([name], _cumulative(model.calls), model.calls_sum)
    return family


def _cumulative(counts: Iterable[int]) -> list[tuple[str, int]]:
    return list(zip(_LES, accumulate(counts), strict=True))


def _labelled(
    name: str,
    documentation: str,
    label: str,
    values: Iterable[str],
    counts: Iterable[tuple[str, Counter[str]]],
) -> Metric:
    """A counter with every possible value of its label, since 0 is the true count of what never happened."""
    family = CounterMetricFamily(f"npumon_{name}", documentation, labels=["model", label])
    for model, counted in counts:
        for value in values:
            family.add_metric([model, value], counted[value])
    return family


def _results(models: Models) -> Iterator[Metric]:
    """What the last check of each model says. A failed check measured nothing, whatever else its record carries."""
    results = [(name, model.result) for name, model in models if model.result]
    succeeded = [(name, result) for name, result in results if not result.error]
    for rows, origin in ((_MEASURED, succeeded), (_ABOUT_THE_CHECK, results)):
        for metric, documentation, read in rows:
            family = GaugeMetricFamily(f"npumon_{metric}", documentation, labels=["model"])
            for name, result in origin:
                value = measured(read(result))
                if value is not None:
                    family.add_metric([name], value)
            yield family
    yield _fallback_flops(succeeded)
    yield _verdicts(models)
    yield _causes(results)
    yield from _standings([(name, model.standing) for name, model in models if model.standing])
    yield from _infos(results)


def _fallback_flops(results: list[tuple[str, CheckResult]]) -> Metric:
    family = GaugeMetricFamily(
        "npumon_fallback_flops_ratio",
        "Share of an inference's FLOPs that ran on the CPU, by op type.",
        labels=["model", "op_type"],
    )
    for name, result in results:
        if result.placement:
            for op_type, ratio in _bounded(result.placement.fallback_flops).items():
                family.add_metric([name, op_type], ratio)
    return family


def _bounded(ratios: dict[str, float]) -> dict[str, float]:
    """The ``OP_TYPES`` largest ratios, and the sum of the others as ``other``."""
    known = {op_type: ratio for op_type, ratio in ratios.items() if math.isfinite(ratio)}
    ranked = sorted(known, key=lambda op_type: (-known[op_type], op_type))
    kept = {op_type: known[op_type] for op_type in ranked[:OP_TYPES]}
    if ranked[OP_TYPES:]:
        rest = math.fsum(known[op_type] for op_type in ranked[OP_TYPES:])
        kept["other"] = kept.get("other", 0.0) + rest
    return kept


def _verdicts(models: Models) -> Metric:
    family = GaugeMetricFamily(
        "npumon_verdict", "The verdict on the model: 1 for the one that holds.", labels=["model", "state"]
    )
    for name, model in models:
        verdict = model.result.verdict if model.result and not model.result.error else "unknown"
        for state in VERDICTS:
            family.add_metric([name, state], int(state == verdict))
    return family


def _causes(results: list[tuple[str, CheckResult]]) -> Metric:
    family = GaugeMetricFamily(
        "npumon_verdict_cause", "1 for the cause of a verdict that is not healthy.", labels=["model", "cause"]
    )
    for name, result in results:
        if result.cause:
            family.add_metric([name, result.cause], 1)
    return family


def _standings(standings: list[tuple[str, Standing]]) -> Iterator[Metric]:
    for metric, documentation, read in _STANDING:
        family = GaugeMetricFamily(f"npumon_{metric}", documentation, labels=["model"])
        for name, standing in standings:
            value = measured(read(standing))
            if value is not None:
                family.add_metric([name], value)
        yield family
    incidents = GaugeMetricFamily(
        "npumon_incident", "1 while an incident of this kind is open.", labels=["model", "kind"]
    )
    for name, standing in standings:
        for kind, is_open in standing.incidents.items():
            incidents.add_metric([name, kind], int(is_open))
    yield incidents


def _infos(results: list[tuple[str, CheckResult]]) -> Iterator[Metric]:
    model_info = InfoMetricFamily("npumon_model", "The model file and its inputs.", labels=["model"])
    runtime_info = InfoMetricFamily("npumon_runtime", "What really runs the model.", labels=["model"])
    for name, result in results:
        source = result.samples.source if result.samples else None
        facts = present(sha256=result.model_sha256, samples=source)
        if facts:
            model_info.add_metric([name], facts)
        if result.runtime:
            runtime = result.runtime
            facts = present(
                provider=runtime.provider,
                target=runtime.target,
                onnxruntime=runtime.onnxruntime,
                provider_version=runtime.provider_version,
                backend_version=runtime.backend_version,
                machine=runtime.machine,
            )
            runtime_info.add_metric([name], facts)
    yield model_info
    yield runtime_info


def present(**labels: str | None) -> dict[str, str]:
    """Only the labels that say something."""
    return {label: value for label, value in labels.items() if value}
