"""The report of a soak as one HTML file: it opens offline, runs no script, and prints as it looks.

First the data, then the template. Whatever is drawn is also said in words or in a table, and what could not be told
stands where its answer would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from monitor.outputs import soak as words
from monitor.outputs import wording
from monitor.outputs.axes import LEFT, RIGHT
from monitor.outputs.soak_charts import WIDTH, Bars, Timeline, bars, timeline
from monitor.outputs.template import template
from monitor.outputs.wording import clip, printable
from monitor.records import Verdict
from monitor.records.soak import ModelSoak, Moment, SoakResult

if TYPE_CHECKING:
    from jinja2 import Template

GROUPS: Final = 8
EVENTS: Final = 40
"""Most events of a model in the report; the file has them all."""
TEXT_LIMIT: Final = 600
_UNIT: Final = re.compile(r"(?<=\d) (?=(%|[KM]iB|[mµ]?s)(?!\w))")  # a value and its unit stay on one line

QUESTIONS: Final = {
    "verdict": "Was it healthy all the time?",
    "failures": "Did every check succeed?",
    "placement": "Did the placement stay?",
    "drift": "Did the median stay?",
    "memory": "Did memory stay?",
}


class Answer(Struct, frozen=True):
    """One question of the soak and its answer."""

    question: str
    outcome: str
    text: str


class Section(Struct, frozen=True):
    """One model as the template shows it."""

    model: ModelSoak
    answers: tuple[Answer, ...]
    timeline: Timeline
    bars: Bars | None
    groups: tuple[wording.OpGroup, ...]
    groups_omitted: int
    events_omitted: int


def render(result: SoakResult, moments: Mapping[str, Sequence[Moment]]) -> str:
    """The whole document; ``moments`` are each model's checks in their order."""
    sections = [_section(model, moments[model.model], result) for model in result.models]
    order = {verdict: number for number, verdict in enumerate(wording.VERDICT_ORDER)}
    worst: Verdict = min((model.verdict for model in result.models), key=lambda verdict: order[verdict])
    return _template().render(
        result=result,
        sections=sections,
        worst=worst,
        count=sum(model.checks for model in result.models),
        board=result.sessions[-1].board,
        runtimes=dict.fromkeys(
            wording.versions(span.place.runtime)
            for model in result.models
            for span in model.spans
            if span.place.runtime
        ),
        width=WIDTH,
        left=LEFT,
        right=RIGHT,
    )


def _section(model: ModelSoak, moments: Sequence[Moment], result: SoakResult) -> Section:
    groups = wording.group_ops(model.spans[-1].place.ops if model.spans else ())
    shown = model.events[:EVENTS]
    return Section(
        model,
        tuple(_answers(model)),
        timeline(moments, model.spans, result.gaps, shown, model.drift, result.measured_seconds),
        bars(model.histogram) if model.histogram else None,
        groups[:GROUPS],
        len(groups[GROUPS:]),
        len(model.events[EVENTS:]),
    )


def _answers(model: ModelSoak) -> list[Answer]:
    found = {kind: "; ".join(one.text for one in model.findings if one.kind == kind) for kind in QUESTIONS}
    measured = model.checks > model.failed
    quiet = {
        "verdict": f"healthy in {model.verdicts.get('healthy', 0):,} of {model.checks:,} checks",
        "failures": f"all {model.checks:,} did",
        "placement": f"the same in {wording.plural(max(len(model.spans), 1), 'stretch')}"
        if len(model.spans) != 1
        else f"the same all the time, {wording.percent(model.spans[0].place.npu_flops_ratio)} of the FLOPs on the NPU",
        "drift": ("while the placement stayed, " if len(model.spans) > 1 else "") + words.drift(model),
        "memory": words.growth(model),
    }
    untold = {"drift": model.drift.why, "memory": model.memory.why}
    answers = []
    for kind, question in QUESTIONS.items():
        if found[kind]:
            answers.append(Answer(question, "no", found[kind]))
        elif kind == "drift" and model.drift.found:  # a fall, which stops no release and yet is no "yes"
            answers.append(Answer(question, "told", f"it fell: {quiet[kind]}"))
        elif not measured or untold.get(kind) or (kind == "verdict" and model.verdict == "unknown"):
            why = untold.get(kind, "") if "cannot be told (" in quiet[kind] else quiet[kind]
            answers.append(Answer(question, "unknown", why if measured and untold.get(kind) else model.reason))
        else:
            answers.append(Answer(question, "yes", quiet[kind]))
    for heat in model.heat:
        answers.append(_heat(heat.zone.upper(), heat.rho, heat.low, heat.high, heat.found))
    return [*answers, Answer("How many stalls?", "told", words.stalls(model))]


def _heat(zone: str, rho: float | None, low: float | None, high: float | None, found: bool) -> Answer:
    question = f"Does latency follow the {zone}'s temperature?"
    if rho is None or low is None or high is None:
        return Answer(question, "unknown", "too few readings, too much alike, or none that moved")
    text = f"rank correlation {rho:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")  # noqa: RUF001
    return Answer(question, "told", f"{'yes' if found else 'no'}, {text}")


def _nodes(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(clip(printable(name), 80) or "(unnamed)" for name in names[:6]) + more


@cache
def _template() -> Template:
    filters: dict[str, Any] = {
        "percent": wording.percent,
        "seconds": wording.seconds,
        "flops": wording.flops,
        "plural": wording.plural,
        "inputs": wording.samples,
        "nodes": _nodes,
        "duration": words.length,
        "signed": words.signed,
        "moment": lambda timestamp: wording.rfc3339(timestamp)[:19].replace("T", " "),
        "pos": lambda value: f"{value:.1f}",
        "mib": lambda size: wording.ABSENT if size is None else f"{size / 2**20:.0f} MiB",
        "clip": lambda text: _UNIT.sub("\u00a0", clip(printable(text), TEXT_LIMIT)),
    }
    return template("soak.html.j2", filters)
