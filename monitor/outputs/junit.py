"""Verdicts as JUnit XML, which pipelines of every make show as tests.

A criterion is a test case: it passed, it failed, or it is an error where nothing could be measured; that one must never
look like a pass. The dialect is the one that Jenkins, GitLab and GitHub's reporters read
(https://github.com/testmoapp/junitxml).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from xml.etree import ElementTree

from msgspec import Struct

# What XML 1.0 cannot hold at all, not even escaped; names and reasons come from files and native code.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Case(Struct, frozen=True):
    """One criterion. ``group`` is what it was asked of (a model), ``message`` one line, ``text`` all that is to say."""

    group: str
    name: str
    outcome: Literal["passed", "failed", "error", "skipped"]
    message: str = ""
    text: str = ""
    seconds: float | None = None


def junit(suite: str, timestamp: str, cases: Sequence[Case]) -> str:
    """The whole document, of one suite. ``timestamp`` is RFC 3339."""
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("failed", "error", "skipped")}
    totals = {
        "tests": str(len(cases)),
        "failures": str(counts["failed"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
    }
    root = ElementTree.Element("testsuites", {"name": _text(suite), **totals})
    element = ElementTree.SubElement(root, "testsuite", {"name": _text(suite), "timestamp": timestamp, **totals})
    for case in cases:
        _append(element, case)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _append(suite: ElementTree.Element, case: Case) -> None:
    attributes = {"classname": _text(case.group), "name": _text(case.name)}
    if case.seconds is not None:
        attributes["time"] = f"{case.seconds:.3f}"
    element = ElementTree.SubElement(suite, "testcase", attributes)
    if case.outcome == "passed":
        if case.text or case.message:
            ElementTree.SubElement(element, "system-out").text = _text(case.text or case.message)
        return
    tag = {"failed": "failure", "error": "error", "skipped": "skipped"}[case.outcome]
    told = ElementTree.SubElement(element, tag, {"message": _text(case.message)})
    if case.text:
        told.text = _text(case.text)


def _text(text: str) -> str:
    return _IMPOSSIBLE.sub("\ufffd", text)
