"""What is normal for a model: learned from its first healthy checks under one identity, held against what was before.

An identity is the model's bytes, the runtime's versions, the SoC and the settings. Another identity starts another
baseline beside the old one, which goes on to count until the new one is accepted: by itself if it is no worse, else by
somebody's ``npumon baseline accept``. Otherwise every slow update would quietly become the new normal.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator

import msgspec

from monitor.analysis import slow
from monitor.config import Gate
from monitor.records import Baseline, Board, CheckResult, Digest, Identity, ModelState, Runtime

LEARNING = 10
"""Healthy checks that make a baseline."""
SLACK = 1.25
"""The median's gate over the accepted baseline, unless the configuration has one (contract: ``gate.median``)."""
MOST = 8
"""Baselines kept of a model: accepted ones before others, those that were present last before older ones."""
MOST_OPS = 32


def identify(state: ModelState, result: CheckResult, board: Board) -> Identity | None:
    """What ``result`` was measured under; ``None`` if it did not get that far.

    An accelerator that did not come up has not told its backend's version: that is no other version.
    """
    if result.runtime is None or result.model_sha256 is None:
        return None
    runtime, now = words(result.runtime), present(state)
    if now is not None and result.runtime.backend_version is None and now.identity.runtime.startswith(runtime):
        runtime = now.identity.runtime
    settings = {**result.settings, **result.runtime.options}
    source = result.samples.source if result.samples else None
    return Identity(result.model_sha256, runtime, board.soc, settings, source)


def words(runtime: Runtime) -> str:
    """The versions that were seen at work, on one line."""
    versions = f"onnxruntime {runtime.onnxruntime}, {runtime.provider} {runtime.provider_version}"
    return f"{versions}, backend {runtime.backend_version}" if runtime.backend_version else versions


def present(state: ModelState) -> Baseline | None:
    """The baseline of the present identity."""
    return state.baselines[0] if state.baselines else None


def counting(state: ModelState) -> Baseline | None:
    """The accepted baseline to measure against: the present one, else the last one of the same model and samples."""
    now = present(state)
    for one in state.baselines:
        same = now is not None and _comparable(one.identity, now.identity)
        if one.accepted is not None and same:
            return one
    return None


def limit(gate: Gate, state: ModelState) -> float | None:
    """The median's gate in seconds: the configured one, else 1.25 times the baseline; ``None`` as long as both lack."""
    if gate.median is not None:
        return gate.median
    baseline = counting(state)
    return SLACK * baseline.median_seconds if baseline and baseline.median_seconds else None


def enter(state: ModelState, identity: Identity, result: CheckResult) -> ModelState:
    """The state with ``identity`` as the present one; another one than before begins without recent checks."""
    now = present(state)
    if now is not None and now.identity == identity:
        return state
    known = next((one for one in state.baselines if one.identity == identity), None)
    completed = now if now is not None and completes(now, identity) else None
    if known is None:
        known = Baseline(_id(identity), identity, result.timestamp)
        comparison = completed.comparison if completed else compare(state, known, result)
        known = msgspec.structs.replace(known, comparison=comparison)
    others = tuple(one for one in state.baselines if one is not known and one is not completed)
    return msgspec.structs.replace(state, baselines=(known, *_kept(others)), digests=())


def completes(before: Baseline, identity: Identity) -> bool:
    """Whether ``identity`` is that of ``before`` and the backend's version, which an accelerator that was down hid."""
    full = msgspec.structs.replace(before.identity, runtime=identity.runtime)
    begun = identity.runtime.startswith(f"{before.identity.runtime}, ")
    return full == identity and begun and before.median_seconds is None


def learn(state: ModelState, result: CheckResult, aged: tuple[Digest, ...]) -> ModelState:
    """The state after a healthy check: its median is learned while that is due, and what has ``aged`` is the normal."""
    now = present(state)
    if now is None or result.latency is None:
        return state
    if now.median_seconds is None:
        placement = result.placement
        now = msgspec.structs.replace(
            now,
            medians=(*now.medians, result.latency.median_seconds),
            npu_flops_ratio=placement.npu_flops_ratio if placement else None,
            cpu_ops=tuple(op.node for op in placement.ops[:MOST_OPS]) if placement else (),
        )
        if len(now.medians) >= LEARNING:
            now = _learned(state, now, result.timestamp)
    for one in aged:
        now = msgspec.structs.replace(now, rates=slow.learn(now.rates, one))
    return msgspec.structs.replace(state, baselines=(now, *state.baselines[1:]))


def accept(state: ModelState, timestamp: float, baseline: str | None = None) -> ModelState:
    """What ``npumon baseline accept`` does: the present level (or an older baseline's) is normal from now on."""
    now = present(state)
    chosen = now if baseline is None else next((one for one in state.baselines if one.id == baseline), None)
    if now is None or chosen is None:  # forgotten since it was asked for
        return state
    medians = _recent(state) or chosen.medians
    own = statistics.median(medians) if medians else None
    median = own if chosen is now else chosen.median_seconds
    if median is None:
        return state
    accepted = msgspec.structs.replace(now, median_seconds=median, accepted=timestamp)
    return msgspec.structs.replace(state, baselines=(accepted, *state.baselines[1:]), digests=())


def forget(state: ModelState, baseline: str | None = None) -> ModelState:
    """What ``npumon baseline forget`` does: drop one baseline, or all; the present one is then learned anew."""
    kept = tuple(one for one in state.baselines if baseline is not None and one.id != baseline)
    gone = not kept or kept[0] is not state.baselines[0]
    return msgspec.structs.replace(state, baselines=kept, digests=() if gone else state.digests)


def compare(state: ModelState, new: Baseline, result: CheckResult) -> str:
    """What changed from the baseline before, and what that did to the first check under the new one; in words."""
    before = present(state)
    if before is None:
        return ""
    effects = list(_effects(before, result))
    return ", ".join(_changes(before.identity, new.identity)) + (": " + ", ".join(effects) if effects else "")


def _recent(state: ModelState) -> tuple[float, ...]:
    """The medians of the last checks; of a level that has just shifted, only those."""
    medians = tuple(one.median_seconds for one in state.digests[-LEARNING:])
    if state.shifted is None:
        return medians
    middle = (state.shifted.reference_seconds * state.shifted.level_seconds) ** 0.5
    return tuple(median for median in medians if median > middle) or medians


def _kept(others: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    ranked = sorted(others, key=lambda one: one.accepted is None)[: MOST - 1]
    return tuple(one for one in others if one in ranked)


def _learned(state: ModelState, now: Baseline, timestamp: float) -> Baseline:
    median = statistics.median(now.medians)
    before = counting(state)
    worse = before is not None and before.median_seconds is not None and median > SLACK * before.median_seconds
    return msgspec.structs.replace(now, median_seconds=median, accepted=None if worse else timestamp)


def _comparable(one: Identity, other: Identity) -> bool:
    return (one.model_sha256, one.soc, one.samples) == (other.model_sha256, other.soc, other.samples)


def _changes(old: Identity, new: Identity) -> Iterator[str]:
    if old.model_sha256 != new.model_sha256:
        yield f"model {old.model_sha256[:12]} -> {new.model_sha256[:12]}"
    if old.runtime != new.runtime:
        pairs = zip(old.runtime.split(", "), new.runtime.split(", "), strict=False)
        yield from (f"{one} -> {other.split()[-1]}" for one, other in pairs if one != other)
    if old.soc != new.soc:
        yield f"SoC {old.soc or 'unknown'} -> {new.soc or 'unknown'}"
    for key in sorted(old.settings.keys() | new.settings.keys()):
        one, other = old.settings.get(key, "unset"), new.settings.get(key, "unset")
        if one != other:
            yield f"{key} {one} -> {other}"
    if old.samples != new.samples:
        yield f"samples {old.samples} -> {new.samples}"


def _effects(before: Baseline, result: CheckResult) -> Iterator[str]:
    """How the first check compares with a baseline of another identity."""
    if before.median_seconds and result.latency:
        yield f"median {result.latency.median_seconds / before.median_seconds - 1:+.0%}".replace("%", " %")
    placement = result.placement
    if placement is None or not before.medians:  # nothing healthy was seen then, and so no ops either
        return
    more = len(placement.ops[:MOST_OPS]) - len(before.cpu_ops)
    if more:
        yield f"{abs(more)} {'more' if more > 0 else 'fewer'} op{'s' * (abs(more) != 1)} on the CPU"


def _id(identity: Identity) -> str:
    """A short name for commands: the same for the same identity, on every board."""
    return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()[:8]
