"""What came of a soak: reads its file, asks the questions, writes the reports beside it; and compares two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from monitor.analysis import soak as analysis
from monitor.analysis.compare import apart
from monitor.analysis.compare import compare as compare_models
from monitor.errors import EXIT_UNMEASURED, NpumonError, UsageError
from monitor.outputs import soak_file
from monitor.outputs.soak import cases, summary
from monitor.outputs.soak_file import SoakFile
from monitor.outputs.soak_page import render
from monitor.records import Target
from monitor.records.soak import Compared, ModelSoak, SoakResult
from monitor.service import whole

REPORTS = ("report.html", "summary.json", "junit.xml")


class NothingMeasured(NpumonError):
    """There is a soak, and no check was made in it yet."""

    exit_code = EXIT_UNMEASURED


class Report:
    """A soak's answers, and the courses that its charts draw."""

    def __init__(self, result: SoakResult, courses: Mapping[str, analysis.Course]) -> None:
        self.result = result
        self.courses = courses


def read(folder: Path) -> Report:
    """What is in ``folder`` so far. Raises :class:`UsageError` if there is no soak, else :class:`NothingMeasured`."""
    with soak_file.undamaged(folder):
        return _read(folder)


def _read(folder: Path) -> Report:
    with soak_file.existing(folder) as file:
        sessions = file.sessions()
        elapsed = file.elapsed
        if not sessions or not file.checks:
            mend = f"wait, or start npumon soak again with --out {folder}"
            raise NothingMeasured(f"{folder}: no check was made yet; {mend}")
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
            ended=last[max(last)],
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
            whole.write(folder / name, text.encode())
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
    return tuple(
        compare_models(name, _side(a, name), _side(b, name), bound, tuple(apart(a.result, b.result, name)))
        for name in every
    )


def _side(report: Report, name: str) -> tuple[ModelSoak, analysis.Course] | None:
    found = next((model for model in report.result.models if model.model == name), None)
    return (found, report.courses[name]) if found else None


def _course(file: SoakFile, name: str, elapsed: float) -> analysis.Course:
    checks = analysis.Checks(elapsed)
    for kept in file.kept(name):
        checks.add(kept.session, kept.elapsed, kept.probe, kept.rss_bytes, kept.content, kept.result)
    return checks.course()


def _last(courses: Iterable[analysis.Course]) -> dict[int, float]:
    """When the last check of each session was made, by the clock as it was then: it may have stepped back before."""
    last: dict[int, tuple[float, float]] = {}
    for course in courses:
        for moment in course.moments:
            last[moment.session] = max(last.get(moment.session, (0.0, 0.0)), (moment.elapsed, moment.timestamp))
    return {session: timestamp for session, (_, timestamp) in last.items()}


def _target(models: Iterable[ModelSoak]) -> Target | None:
    """What was measured on; a simulator or a CPU anywhere is what has to be told."""
    seen = {span.place.runtime.target for model in models for span in model.spans if span.place.runtime}
    targets: tuple[Target, ...] = ("simulator", "cpu", "hexagon")
    return next((target for target in targets if target in seen), None)
