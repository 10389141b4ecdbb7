"""What came of a soak: reads its file, asks the questions, writes the reports beside it; and compares two."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from monitor.analysis import soak as analysis
from monitor.analysis.compare import compare as compare_models
from monitor.errors import UsageError
from monitor.outputs import soak_file
from monitor.outputs.database import line
from monitor.outputs.soak import cases, summary
from monitor.outputs.soak_file import SoakFile
from monitor.outputs.soak_page import render
from monitor.records import Target
from monitor.records.soak import Compared, ModelSoak, SoakResult

REPORTS = ("report.html", "summary.json", "junit.xml")


class Report:
    """A soak's answers, and the courses that its charts draw."""

    def __init__(self, result: SoakResult, courses: Mapping[str, analysis.Course]) -> None:
        self.result = result
        self.courses = courses


def read(folder: Path) -> Report:
    """What is in ``folder`` so far. Raises :class:`UsageError` if there is no soak, or nothing was measured yet."""
    try:
        return _read(folder)
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        mend = "`sqlite3 soak.db .recover` may save the rest"
        raise UsageError(f"{folder / soak_file.FILE}: damaged: {line(error)}; {mend}") from error


def _read(folder: Path) -> Report:
    with soak_file.existing(folder) as file:
        sessions = file.sessions()
        elapsed = file.elapsed
        if not sessions or not file.checks:
            raise UsageError(f"{folder}: no check was made yet; wait, or start npumon soak again with --out {folder}")
        courses, models = {}, []
        for name in file.subject.models:
            courses[name] = _course(file, name, elapsed)
            models.append(analysis.conclude(name, courses[name], file.events(name)))
        last = _last(courses.values())
        result = SoakResult(
            subject=file.subject,
            wanted_seconds=file.wanted,
            measured_seconds=elapsed,
            started=sessions[0].started,
            ended=max(last.values(), default=sessions[0].started),
            sessions=sessions,
            gaps=analysis.gaps(sessions, last),
            models=tuple(models),
            target=_target(models),
        )
    return Report(result, courses)


def write(folder: Path, report: Report) -> None:
    """Write :data:`REPORTS` into ``folder``, each whole or not at all; raises :class:`UsageError` if that fails."""
    result = report.result
    moments = {name: course.moments for name, course in report.courses.items()}
    texts = (render(result, moments), summary(result), cases(result))
    for name, text in zip(REPORTS, texts, strict=True):
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=folder, prefix=f".{name}", delete=False
            ) as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, folder / name)
        except OSError as error:
            mend = "free space there, or run this as a user that may write it"
            raise UsageError(f"{folder / name}: {error.strerror}; {mend}") from error


def compare(one: Path, other: Path, bound: float) -> tuple[Compared, ...]:
    """Two soaks, model by model. Raises :class:`UsageError` if one of them cannot be read or they share no model."""
    a, b = read(one), read(other)
    names = [name for name in a.result.subject.models if name in b.result.subject.models]
    if not names:
        raise UsageError(f"{one} and {other} have no model in common; compare two soaks of the same models")
    every = dict.fromkeys([*a.result.subject.models, *b.result.subject.models])
    return tuple(compare_models(name, _side(a, name), _side(b, name), bound) for name in every)


def _side(report: Report, name: str) -> tuple[ModelSoak, analysis.Course] | None:
    found = next((model for model in report.result.models if model.model == name), None)
    return (found, report.courses[name]) if found else None


def _course(file: SoakFile, name: str, elapsed: float) -> analysis.Course:
    checks = analysis.Checks(elapsed)
    for kept in file.kept(name):
        checks.add(kept.session, kept.elapsed, kept.probe, kept.rss_bytes, kept.content, kept.result)
    return checks.course()


def _last(courses: Iterable[analysis.Course]) -> dict[int, float]:
    """When the last check of each session was made."""
    last: dict[int, float] = {}
    for course in courses:
        for moment in course.moments:
            last[moment.session] = max(last.get(moment.session, 0.0), moment.timestamp)
    return last


def _target(models: Iterable[ModelSoak]) -> Target | None:
    """What was measured on; a simulator or a CPU anywhere is what has to be told."""
    seen = {span.place.runtime.target for model in models for span in model.spans if span.place.runtime}
    targets: tuple[Target, ...] = ("simulator", "cpu", "hexagon")
    return next((target for target in targets if target in seen), None)
