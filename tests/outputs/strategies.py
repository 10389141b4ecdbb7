"""Hypothesis strategies for the records that outputs are handed: anything the types allow, NaN and odd text too."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st

from monitor.records import (
    VERDICTS,
    Agreement,
    Board,
    BoardReading,
    Cause,
    CheckResult,
    Clock,
    Event,
    EventName,
    Failure,
    FailureReason,
    Latency,
    Level,
    NodeCounts,
    OpShare,
    OutputAgreement,
    Placement,
    RejectedSample,
    Runtime,
    Samples,
    Target,
    Zone,
)

# Native code and file names give anything: control characters, lone surrogates, endless sentences.
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=40),
    st.text(st.sampled_from('\udc80\x1b\n\t"\\<&é漢'), max_size=20),
    st.sampled_from(["x" * 3000, "漢" * 700, "word " * 300]),
)
names = st.one_of(st.text(min_size=1, max_size=30), st.just("/opt/" + "deep/" * 200))
ratios = st.floats(0, 1)
numbers = st.one_of(st.floats(0, 1e6), st.just(float("nan")), st.just(float("inf")))
times = st.floats(0, 4e9)
causes = st.sampled_from(get_args(Cause))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """``None`` or one of ``strategy``: measured or not."""
    return st.none() | strategy


ops = st.builds(OpShare, names, names, ratios, maybe(ratios), texts, texts)
op_lists = st.one_of(
    st.lists(ops, max_size=4).map(tuple),
    st.lists(ops, min_size=1, max_size=2).map(lambda few: tuple(few) * 30),
)
runtimes = st.builds(
    Runtime,
    texts,
    st.sampled_from(get_args(Target)),
    texts,
    texts,
    maybe(texts),
    texts,
    st.dictionaries(names, texts, max_size=3),
)
boards = st.builds(Board, texts, texts, texts, maybe(texts))
failures = st.builds(Failure, st.sampled_from(get_args(FailureReason)), texts, texts, maybe(causes))
words = st.text(min_size=1, max_size=64)  # names from the kernel, which readings clip
clocks = st.dictionaries(words, st.builds(Clock, maybe(times), maybe(times), maybe(times)), max_size=4)
celsius = st.floats(-40, 200)
readings = st.builds(
    BoardReading,
    uptime=times,
    zones=st.dictionaries(st.sampled_from(["cpu", "npu"]), st.builds(Zone, celsius, maybe(celsius))),
    cpu_clocks=clocks,
    device_clocks=clocks,
    stalled=st.dictionaries(st.sampled_from(["cpu", "io", "memory"]), times),
    remoteprocs=st.dictionaries(words, texts, max_size=2),
    nodes=st.dictionaries(words, st.booleans(), max_size=4),
)
events = st.builds(
    Event,
    timestamp=times,
    level=st.sampled_from(get_args(Level)),
    event=st.sampled_from(get_args(EventName)),
    id=names,
    model=names,
    reason=texts,
    model_sha256=maybe(names),
    cause=maybe(causes),
    npu_flops_ratio=maybe(ratios | st.just(float("nan"))),
    median_seconds=maybe(numbers),
    cv_ratio=maybe(numbers),
    slow_ratio=maybe(ratios),
    separation_ratio=maybe(st.floats(1, 1e3)),
    baseline_seconds=maybe(st.floats(1e-6, 1e3)),
    ops=op_lists,
    samples=maybe(st.sampled_from(["files", "synthetic"])),
    runtime=maybe(runtimes),
    board=maybe(boards),
    readings=maybe(readings),
    error=maybe(failures),
)
placements = st.builds(
    Placement,
    npu_flops_ratio=maybe(ratios),
    npu_flops_ratio_range=maybe(st.tuples(ratios, ratios)),
    npu_time_ratio=maybe(ratios),
    unattributed_flops_ratio=maybe(ratios),
    total_flops=maybe(st.integers(0, 10**18)),
    nodes=st.builds(NodeCounts, st.integers(0, 99999), st.integers(0, 99999), st.integers(0, 99)),
    partitions=st.integers(0, 999),
    ops=op_lists,
    fallback_flops=st.dictionaries(names, ratios, max_size=30),
    notes=st.lists(texts, max_size=2).map(tuple),
)
samples = st.builds(
    Samples,
    st.sampled_from(["files", "synthetic"]),
    st.integers(0, 10**6),
    st.lists(
        st.builds(RejectedSample, names, st.sampled_from(get_args(get_type_hints(RejectedSample)["reason"])), texts),
        max_size=4,
    ).map(tuple),
)
latencies = st.builds(
    Latency,
    median_seconds=numbers,
    cv_ratio=numbers,
    replays_seconds=st.lists(numbers, max_size=5).map(tuple),
    warmups_seconds=st.lists(numbers, max_size=2).map(tuple),
    robust_cv_ratio=maybe(numbers),
    slow_ratio=maybe(numbers),
    separation_ratio=maybe(numbers),
    disturbed=st.lists(st.integers(0, 4), max_size=5, unique=True).map(tuple),
    rounds=st.lists(st.integers(0, 5), max_size=3).map(tuple),
)
output_agreements = st.builds(
    OutputAgreement,
    name=names,
    kind=st.sampled_from(["float", "quantized", "discrete", "other"]),
    relative_error=maybe(numbers),
    cosine=maybe(numbers),
    skipped=texts,
)
agreements = st.builds(
    Agreement,
    error_ratio=maybe(numbers),
    outputs=st.lists(output_agreements, max_size=3).map(tuple),
    samples=st.integers(0, 9),
    notes=st.lists(texts, max_size=2).map(tuple),
)
results = st.builds(
    CheckResult,
    model=names,
    timestamp=times,
    duration_seconds=st.floats(0, 1e5),
    verdict=st.sampled_from(VERDICTS),
    reason=texts,
    cause=maybe(causes),
    model_sha256=maybe(names),
    placement=maybe(placements),
    latency=maybe(latencies),
    samples=maybe(samples),
    runtime=maybe(runtimes),
    error=maybe(failures),
    notes=st.lists(texts, max_size=2).map(tuple),
    agreement=maybe(agreements),
)
