"""The gate: asks a Prometheus what a fleet did over a window, and hands that to the decision.

All queries are for one moment. What a model is and runs on is joined in Prometheus, step by step of the window, so that
a board that was updated meanwhile is judged by its new version alone; only sums over the window come over the wire.
"""

from __future__ import annotations

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
LONGEST_CHECK: Final = 1800.0
"""Seconds, besides three intervals, after which a count of checks that stands still tells that none is made."""

OVERLAP: Final = 360.0
"""Seconds for which two host names may be one board's: a store that is written to has the old one for 5 minutes."""

_EACH: Final = "job, instance, model"
_MODEL: Final = f"on ({_EACH})"
_FACTS: Final = ("target", "onnxruntime", "provider", "provider_version", "backend_version", "machine")
_CARRIED: Final = ", ".join((*_FACTS, "sha256", "samples", "soc"))

_Key = tuple[str, str]  # board and model
_MEDIAN: Final = "npumon_latency_median_seconds"
_FALLBACK: Final = "npumon_fallback_flops_ratio"
_PLACED: Final = "npumon_fallback_nodes"  # there for whatever was placed, whether an op fell back or not


class Asked(Struct, frozen=True):
    """What to judge: selectors of boards without braces, and the models, none for all.

    ``boards`` is how many there should be; ``None`` for as many as were heard of in the window.
    """

    match: str
    baseline_match: str | None
    boards: int | None
    models: tuple[str, ...]
    bounds: Bounds


def gate(server: Prometheus, asked: Asked) -> GateResult:
    """The verdict at this moment. Raises :class:`QueryError` or :class:`UsageError`.

    The moment is by the server's clock: by one that is late, here, boards would be judged by what they were before.
    """
    now = server.now()
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
        intervals = self._ask(
            f"max(last_over_time({self._metric('npumon_interval_seconds')}[{self._seconds(window)}]))"
        )
        self._late = LONGEST_CHECK + 3 * max((seconds for _, seconds in intervals), default=0.0)

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
        heard = self._ask(f"count by (model, exported_model) (last_over_time({self._metric('npumon_verdict')}{span}))")
        self._refuse_unclear(heard)
        models = sorted(labels["model"] for labels, _ in heard if "model" in labels)
        present = self._ask(self._verdicts())
        seen, why = self._seen(present), self._why(present)
        watched = [
            Watched(board, model, seen.get((board, model)), why(board, model)) for board in boards for model in models
        ]
        return Fleet(tuple(boards), tuple(watched), expected or len(boards))

    def _refuse_unclear(self, heard: list[Series]) -> None:
        """Raise :class:`UsageError` if series of several boards or models cannot be told apart by their labels.

        Of two that are taken for one, one may be silent and nobody would know. Host names tell boards apart.
        """
        mend = "give targets' own label another name, or scrape with honor_labels"
        for labels, _ in heard:
            if "exported_model" in labels:
                told = f"targets have a label model ({labels.get('model', '')}), which hides the models' names"
                raise UsageError(f"{self._server.url}: {told}; {mend}")
        names = f"count by (job, instance, hostname) ({self._metric('npumon_board_info')})"
        several = self._over("count_over_time(", f"count by (job, instance) ({names}) > 1")
        least = max(1.0, min(OVERLAP, self._window / 2) / self._step)
        boards = sorted(_board(labels) for labels, steps in several if steps > least)
        if boards:
            told = f"several boards, by their host names, are all {boards[0]}{', and others too' if boards[1:] else ''}"
            mend = "choose one of them with more matchers, or give each an instance of its own"
            raise UsageError(f"{self._server.url}: {told}; {mend}")

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
        """1 for the verdict of each model that was checked lately on hardware, with its identity.

        What is there twice (a board in two files of discovery, replicas of Prometheus) is one, and healthy if all of it
        says so.
        """
        healthy = self._metric("npumon_verdict", 'state="healthy"')
        others = self._metric("npumon_verdict", 'state!="healthy"')
        verdict = f"min by ({_EACH}, state) ({healthy}) == 1 or max by ({_EACH}, state) ({others} == 1)"
        without = self._metric("npumon_verdict_cause", 'cause="not_on_hardware"')
        return self._joined(f"({verdict}) unless {_MODEL} ({self._stale()}) unless {_MODEL} {without}")

    def _stale(self) -> str:
        """The models whose last check is too long ago: by the board's own word, or since none was counted.

        The latter is for what arrives through a file or another agent, which may repeat an old exposition for ever.
        Waiting for its budget, a model may be unchecked for hours.
        """
        checks, postponed = self._metric("npumon_checks_total"), self._metric("npumon_checks_postponed_total")
        own = f"{self._metric('npumon_check_stale')} == 1"
        still = f"{checks} == {checks} offset {self._seconds(self._late)}"
        waiting = f"{postponed} > 0 unless {postponed} == {postponed} offset 6h"
        return f"({own}) or (({still}) unless {_MODEL} ({waiting}))"

    def _seen(self, present: list[Series]) -> dict[_Key, Seen]:
        """What was measured of each model on each board, in the version that it has last."""
        versions_now = {_key(labels): _version(labels) for labels, _ in present}
        stretches = self._stretches(self._verdicts())
        times = f"max by ({_EACH}) ({self._metric(_MEDIAN)})"
        shares = (
            f"max by ({_EACH}, op_type) ({self._metric(_FALLBACK)}) or max by ({_EACH}) ({self._metric(_PLACED)}) * 0"
        )
        medians = _by_version(self._over("quantile_over_time(0.5, ", self._joined(times), COARSER))
        ops = _by_version(self._over("max_over_time(", self._joined(shares), COARSER))
        found = {}
        for key, all_of_it in stretches.items():
            mine = _last(all_of_it, versions_now.get(key))
            if mine:
                versions = {one.version for one in mine}
                found[key] = self._sum(
                    mine,
                    [value for version in versions for _, value in medians.get((key, version), ())],
                    [one for version in versions for one in ops.get((key, version), ())],
                )
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
            if op_type := labels.get("op_type"):
                flops[op_type] = max(share, flops.get(op_type, 0.0))
        return Seen(
            newest.kind,
            newest.version,
            span * self._step,
            healthy * self._step,
            unhealthy * self._step,
            median(times) if times else None,
            flops if shares else None,
        )

    def _why(self, present: list[Series]) -> Callable[[str, str], Why | None]:
        """Why a model on a board does not count as measured at the window's end."""
        counted = {
            _key(labels)
            for labels, _ in present
            if labels.get("state") in ("degraded", "fallback")
            or (labels.get("state") == "healthy" and labels.get("target") == "hexagon")
        }
        states: dict[_Key, set[str]] = defaultdict(set)
        for labels, _ in self._ask(f"{self._metric('npumon_verdict')} == 1"):
            states[_key(labels)].add(labels.get("state", ""))
        stale = {_key(labels) for labels, _ in self._ask(self._stale())}
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
            return "unknown" if "unknown" in states[key] else "not_on_hardware"

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
