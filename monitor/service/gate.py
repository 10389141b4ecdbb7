"""The gate: asks a Prometheus what a fleet did over a window, and hands that to the decision.

All queries are for one moment. What a model is and runs on is joined in Prometheus, step by step of the window, so that
a board that was updated meanwhile is judged by its new version alone; only sums over the window come over the wire.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from monitor.analysis.gate import decide
from monitor.duration import format_duration
from monitor.errors import UsageError
from monitor.records.gate import Bounds, Fleet, GateResult, Kind, Seen, Version, Watched, Why
from monitor.service.prometheus import Prometheus, QueryError, Series

STEPS: Final = 144
"""Moments of a window that verdicts are looked at: every 10 minutes of a day."""
COARSER: Final = 4
"""Of so many, one is looked at for medians and ops, which a board keeps: joins are what a query costs."""

_MODEL: Final = "on (job, instance, model)"
_FACTS: Final = ("target", "onnxruntime", "provider", "provider_version", "backend_version", "machine")
_CARRIED: Final = ", ".join((*_FACTS, "sha256", "samples", "soc"))
_MATCHER: Final = re.compile(r"""\s*[a-zA-Z_]\w*\s*(?:=~|!~|!=|=)\s*(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')\s*""")

_Key = tuple[str, str]  # board and model
_MEDIAN: Final = "npumon_latency_median_seconds"
_FALLBACK: Final = "npumon_fallback_flops_ratio"


class Asked(Struct, frozen=True):
    """What to judge: selectors of boards without braces, and the models, none for all.

    ``boards`` is how many there should be; ``None`` for as many as were heard of in the window.
    """

    match: str
    baseline_match: str | None
    boards: int | None
    models: tuple[str, ...]
    bounds: Bounds


def gate(server: Prometheus, asked: Asked, now: float) -> GateResult:
    """The verdict at ``now``, UTC seconds. Raises :class:`QueryError` or :class:`UsageError`."""
    window = asked.bounds.window_seconds
    candidate = _Reader(server, asked.match, window, now).fleet(asked.boards)
    if not candidate.watched:
        heard = f"{len(candidate.boards)} targets match {{{asked.match}}}"
        mend = "choose the targets of npumon only, or see why they are silent"
        raise QueryError(
            f"{server.url}: {heard}, and none gave a metric of npumon within {format_duration(window)}; {mend}"
        )
    baseline = None
    if asked.baseline_match is not None:
        baseline = _Reader(server, asked.baseline_match, window, now).fleet(None)
        both = sorted(set(candidate.boards) & set(baseline.boards))
        if both:
            count = f"{len(both)} board{'s' * (len(both) != 1)} ({both[0]}{', …' if both[1:] else ''})"
            raise UsageError(f"--baseline-match: {count} are chosen by --match too; choose others to compare with")
    return decide(now, candidate, baseline, asked.bounds, asked.models)


def selector(option: str, text: str) -> str:
    """The matchers of ``text``, with or without braces around them. Raises :class:`UsageError` if it has none."""
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        inner = inner[1:-1]
    inner = inner.strip().removesuffix(",")
    at = 0
    while found := _MATCHER.match(inner, at):
        at = found.end()
        if at == len(inner):
            return inner
        if inner[at] != ",":
            break
        at += 1
    shown = " ".join(text.split())[:100]
    raise UsageError(
        f"""{option}: {shown}: not a selector; write label matchers, as in 'job="npumon", ring="canary"'"""
    )


class _Stretch(NamedTuple):
    """A model on a board in one version and verdict: from when on, and at how many steps of the window."""

    kind: Kind
    version: Version
    target: str
    state: str
    since: float
    steps: int


class _Reader:
    """The queries about the boards of one selector."""

    def __init__(self, server: Prometheus, match: str, window: float, now: float) -> None:
        self._server, self._match, self._now = server, match, now
        self._window = window
        self._step = max(1, round(window / STEPS))

    def fleet(self, expected: int | None) -> Fleet:
        """All that is known of these boards. Raises :class:`QueryError` if there are none."""
        span = f"[{self._seconds(self._window)}]"
        targets = (
            f"last_over_time(up{{{self._match}}}{span}) or last_over_time(npumon_build_info{{{self._match}}}{span})"
        )
        boards = sorted({_board(labels) for labels, _ in self._ask(f"count by (job, instance) ({targets})")})
        if not boards:
            within = f"within {format_duration(self._window)}"
            mend = "match by labels of the targets (job, instance, those of service discovery), not by what boards tell"
            raise QueryError(f"{self._server.url}: no board matches {{{self._match}}} {within}; {mend}")
        heard = self._ask(f"count by (model) (last_over_time({self._metric('npumon_verdict')}{span}))")
        models = sorted(labels["model"] for labels, _ in heard if "model" in labels)
        present = self._ask(self._verdicts())
        seen, why = self._seen(present), self._why(present)
        watched = [
            Watched(board, model, seen.get((board, model)), why(board, model)) for board in boards for model in models
        ]
        return Fleet(tuple(boards), tuple(watched), expected or len(boards))

    def _ask(self, expression: str) -> list[Series]:
        return self._server.query(expression, self._now)

    def _over(self, function: str, expression: str, coarser: int = 1) -> list[Series]:
        """``function`` (up to its opening bracket) of ``expression`` at each step, or some of them, of the window."""
        steps = f"[{self._seconds(self._window)}:{self._seconds(coarser * self._step)}]"
        return self._ask(f"{function}({expression}){steps})")

    def _metric(self, name: str, more: str = "") -> str:
        return f"{name}{{{self._match}{more and ', '}{more}}}"

    @staticmethod
    def _seconds(seconds: float) -> str:
        return f"{round(seconds * 1000)}ms"

    def _identity(self) -> str:
        """What each model on each board is and really runs on, as labels. Value 1. Simulators are left out.

        ``topk`` takes the newest of several, which a store that got them by remote write may have for some minutes.
        """

        def newest(by: str, info: str) -> str:
            return f"clamp(topk by ({by}) (1, timestamp({info})), 1, 1)"

        runtime = newest("job, instance, model", self._metric("npumon_runtime_info", 'target!="simulator"'))
        model = newest("job, instance, model", self._metric("npumon_model_info"))
        board = newest("job, instance", self._metric("npumon_board_info"))
        return (
            f"{runtime} * {_MODEL} group_left (sha256, samples) {model} * on (job, instance) group_left (soc) {board}"
        )

    def _joined(self, metric: str) -> str:
        return f"({metric}) * {_MODEL} group_left ({_CARRIED}) ({self._identity()})"

    def _verdicts(self) -> str:
        """1 for the verdict of each model that was checked lately on hardware, with its identity."""
        stale = self._metric("npumon_check_stale") + " == 1"
        without = self._metric("npumon_verdict_cause", 'cause="not_on_hardware"')
        verdict = self._metric("npumon_verdict") + " == 1"
        return self._joined(f"({verdict}) unless {_MODEL} ({stale}) unless {_MODEL} {without}")

    def _seen(self, present: list[Series]) -> dict[_Key, Seen]:
        """What was measured of each model on each board, in the version that it has last."""
        versions_now = {_key(labels): _version(labels) for labels, _ in present}
        stretches = self._stretches(self._verdicts())
        medians = _by_version(self._over("quantile_over_time(0.5, ", self._joined(self._metric(_MEDIAN)), COARSER))
        ops = _by_version(self._over("max_over_time(", self._joined(self._metric(_FALLBACK)), COARSER))
        found = {}
        for key, all_of_it in stretches.items():
            mine = _last(all_of_it, versions_now.get(key))
            if mine:
                versions = {one.version for one in mine}
                times = [value for version in versions for _, value in medians.get((key, version), ())]
                shares = [one for version in versions for one in ops.get((key, version), ())]
                found[key] = self._sum(mine, times, shares)
        return found

    def _stretches(self, verdicts: str) -> dict[_Key, list[_Stretch]]:
        since = {_frozen(labels): value for labels, value in self._over("min_over_time(", f"{verdicts} * 0 + time()")}
        found: dict[_Key, list[_Stretch]] = defaultdict(list)
        for labels, steps in self._over("count_over_time(", verdicts):
            if (first := since.get(_frozen(labels))) is not None:
                target, state = labels.get("target", ""), labels.get("state", "")
                one = _Stretch(_kind(labels), _version(labels), target, state, first, round(steps))
                found[_key(labels)].append(one)
        return found

    def _sum(self, mine: list[_Stretch], times: list[float], shares: list[Series]) -> Seen:
        newest = max(mine, key=_newest)
        healthy = sum(one.steps for one in mine if one.state == "healthy" and one.target == "hexagon")
        unhealthy = sum(one.steps for one in mine if one.state in ("degraded", "fallback"))
        first = min(one.since for one in mine)
        span = max(self._now // self._step - first // self._step + 1, healthy + unhealthy)
        flops: dict[str, float] = {}
        for labels, share in shares:
            flops[labels["op_type"]] = max(share, flops.get(labels["op_type"], 0.0))
        return Seen(
            newest.kind,
            newest.version,
            span * self._step,
            healthy * self._step,
            unhealthy * self._step,
            median(times) if times else None,
            flops,
        )

    def _why(self, present: list[Series]) -> Callable[[str, str], Why | None]:
        """Why a model on a board does not count as measured at the window's end."""
        counted = {
            _key(labels)
            for labels, _ in present
            if labels.get("state") in ("degraded", "fallback")
            or (labels.get("state") == "healthy" and labels.get("target") == "hexagon")
        }
        states = {
            _key(labels): labels.get("state") for labels, _ in self._ask(f"{self._metric('npumon_verdict')} == 1")
        }
        stale = {_key(labels) for labels, _ in self._ask(f"{self._metric('npumon_check_stale')} == 1")}
        answering = {board for board, _ in states}

        def why(board: str, model: str) -> Why | None:
            key = board, model
            if key in counted:
                return None
            if board not in answering:
                return "silent"
            if key not in states:
                return "model_missing"
            if key in stale:
                return "stale"
            return "unknown" if states[key] == "unknown" else "not_on_hardware"

        return why


# -------------------------------------------------------------------------------------------------- their labels


def _board(labels: dict[str, str]) -> str:
    return "/".join(filter(None, (labels.get("job"), labels.get("instance"))))


def _key(labels: dict[str, str]) -> _Key:
    return _board(labels), labels.get("model", "")


def _frozen(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _kind(labels: dict[str, str]) -> Kind:
    return Kind(labels.get("soc", ""), labels.get("machine", ""), labels.get("samples", ""))


def _version(labels: dict[str, str]) -> Version:
    return Version(*(labels.get(name, "") for name in Version.__struct_fields__))


def _by_version(series: Iterable[Series]) -> dict[tuple[_Key, Version], list[Series]]:
    found: dict[tuple[_Key, Version], list[Series]] = defaultdict(list)
    for labels, value in series:
        found[_key(labels), _version(labels)].append((labels, value))
    return found


def _newest(stretch: _Stretch) -> tuple[bool, float]:
    return stretch.version.backend_version != "", stretch.since


def _last(stretches: list[_Stretch], present: Version | None) -> list[_Stretch]:
    """The stretches of the version that a board has now or, if it tells none now, of the one that came last.

    Where the accelerator does not come up the backend's version is not told: that is no other version.
    """
    version = present or max(stretches, key=lambda one: one.since).version
    alike = [
        one for one in stretches if replace(one.version, backend_version="") == replace(version, backend_version="")
    ]
    backend = version.backend_version or (max(alike, key=_newest).version.backend_version if alike else "")
    return [one for one in alike if one.version.backend_version in ("", backend)]
