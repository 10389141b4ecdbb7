"""The baselines of a model for people and programs: what counts as normal, since when, and what is asked of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from monitor.outputs import wording
from monitor.outputs.history import moment, paragraph
from monitor.outputs.text import without_absent
from monitor.records import Baseline, BaselineRequest, Identity, Incident, ModelState


class Holding(Struct, frozen=True):
    """A model's baselines, that of the present identity first.

    ``counting`` is the id of the one that latencies are held against, ``learning`` the checks that make one.
    """

    state: ModelState
    learning: int
    counting: str | None = None
    requests: tuple[BaselineRequest, ...] = ()


def document(holding: Holding) -> dict[str, Any]:
    """``baseline show --json`` for one model."""
    state = holding.state
    baselines = [
        {
            "id": one.id,
            "present": one is state.baselines[0],
            "counts": one.id == holding.counting,
            "state": _state(one),
            "since": wording.rfc3339(one.since),
            "accepted": None if one.accepted is None else wording.rfc3339(one.accepted),
            "median_seconds": one.median_seconds,
            "learned_medians_seconds": list(one.medians),
            "learning_checks": holding.learning,
            "npu_flops_ratio": one.npu_flops_ratio,
            "cpu_ops": list(one.cpu_ops),
            "identity": msgspec.to_builtins(one.identity),
            "comparison": one.comparison or None,
        }
        for one in state.baselines
    ]
    incidents = [
        {"id": incident.id, "since": wording.rfc3339(incident.since), "finding": finding}
        for incident, finding in _incidents(state)
    ]
    requests = [{"action": request.action, "baseline": request.baseline} for request in holding.requests]
    cleaned: dict[str, Any] = without_absent(
        {"model": state.model, "baselines": baselines, "incidents": incidents, "requests": requests}
    )
    return cleaned


def table(holdings: Sequence[Holding]) -> str:
    """All that is known of each model's baselines; at most 100 columns, no final newline."""
    return "\n\n".join("\n".join(_model(holding)) for holding in holdings)


def asked(request: BaselineRequest) -> str:
    """What a request asks for, as a sentence without a subject."""
    if request.action == "forget":
        return "forget all baselines" if request.baseline is None else f"forget baseline {request.baseline}"
    if request.baseline is None:
        return "accept the present level"
    return f"accept the level of baseline {request.baseline}"


def _model(holding: Holding) -> Iterator[str]:
    state = holding.state
    yield from paragraph(state.model)
    if not state.baselines:
        yield "  no baseline yet: healthy checks of npumon run make one"
    for one in state.baselines:
        yield from _baseline(one, holding)
    for incident, finding in _incidents(state):
        yield from paragraph(f"{incident.id}, since {moment(incident.since)}: {finding}", "  open      ")
    for request in holding.requests:
        yield from paragraph(f"{asked(request)}; takes effect at the daemon's next check", "  asked     ")


def _baseline(one: Baseline, holding: Holding) -> Iterator[str]:
    place = "present" if one is holding.state.baselines[0] else "older"
    yield from paragraph(f"{one.id}  {place}, {_standing(one, holding)}", "  baseline  ")
    yield from paragraph(_level(one), "    median    ")
    if wording.measured(one.npu_flops_ratio) is not None:
        ops = f", {wording.plural(len(one.cpu_ops), 'op')} on the CPU" if one.cpu_ops else ""
        yield f"    NPU       {wording.percent(one.npu_flops_ratio)} of the FLOPs{ops}"
    yield from paragraph(_identity(one.identity), "    identity  ")
    yield from paragraph(one.comparison, "    changed   ")


def _state(one: Baseline) -> str:
    if one.median_seconds is None:
        return "learning"
    return "waiting" if one.accepted is None else "accepted"


def _standing(one: Baseline, holding: Holding) -> str:
    if one.median_seconds is None:
        text = f"learning: {len(one.medians)} of {holding.learning} healthy checks"
    elif one.accepted is None:
        text = "waiting for npumon baseline accept"
    else:
        text = f"accepted {moment(one.accepted)}"
    return f"{text}, counts" if one.id == holding.counting else text


def _level(one: Baseline) -> str:
    if not one.medians:
        return wording.seconds(one.median_seconds)
    now = one.median_seconds if one.median_seconds is not None else statistics.median(one.medians)
    low, high = wording.seconds(min(one.medians)), wording.seconds(max(one.medians))
    return f"{wording.seconds(now)}, learned from {low} to {high} over {wording.plural(len(one.medians), 'check')}"


def _identity(identity: Identity) -> str:
    parts = [f"model {identity.model_sha256[:12]}", identity.runtime]
    parts += [f"SoC {identity.soc}"] if identity.soc else []
    parts += [f"{key}={value}" for key, value in sorted(identity.settings.items())]
    parts += [f"samples: {identity.samples}"] if identity.samples else []
    return ", ".join(parts)


def _incidents(state: ModelState) -> Iterator[tuple[Incident, str]]:
    """The open incidents that were found by comparing with a baseline."""
    if state.unstable:
        ratio, times = state.unstable.ratio, state.unstable.separation
        if state.unstable.band is None:
            yield state.unstable, "the spread is beyond its gate"
        else:
            yield state.unstable, f"{wording.percent(ratio)} of the replays are {times:.3g} times slower"
    if state.shifted:
        before, now = state.shifted.reference_seconds, state.shifted.level_seconds
        yield state.shifted, f"the median went from {wording.seconds(before)} to {wording.seconds(now)}"
