"""The gate's outputs: what they hold whatever the names are, and that they can be read by what reads them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.outputs import gate
from monitor.records.gate import Bounds, Cohort, Criterion, GateResult, Kind, NewOp, Outcome, Unmeasured, Version
from tests.outputs.specimens import AWKWARD, NOW

BOUNDS = Bounds(86400.0, 28800.0, 0.9, 0.99, 1.1, 0.01)


def result(outcome: Outcome = "fail", model: str = "segmenter", soc: str = "SA8295P", op: str = "Conv") -> GateResult:
    """A gate with something to say about each criterion."""
    kind, version = Kind(soc, "aarch64", "files"), Version("d2" * 32, "1.32.0", "qnn", "2.7.0", "v2.48.0")
    worse = Cohort(model, kind, version, "fail", 12, 12, 0.038, 12, 0, 0.0124, ("unhealthy", "slower"))
    new = NewOp(model, kind, op, 0.909, 0.0, 12, 12, True)
    return GateResult(
        timestamp=NOW,
        outcome=outcome,
        bounds=BOUNDS,
        criteria=(
            Criterion("boards", model, "pass", "48 of 50 boards measured; 2 silent", 0.9, 0.96, 48, 50),
            Criterion("soak", model, "unmeasured", "40 of 50 boards reached it", 28800.0, 30000.0, 40, 50),
            Criterion("healthy", model, "fail", "75 % of the measured time", 0.99, 0.75, 36, 50),
            Criterion("cohorts", model, "fail", "4 cohorts compared, 1 worse", 1.1, 3.06, 48, 50, cohorts=(worse,)),
            Criterion("ops", model, outcome, f"new on the CPU: {op}", 0.01, 0.909, 48, 50, ops=(new,)),
        ),
        unmeasured=(Unmeasured("npumon/board-1:10877", model, "silent"), Unmeasured("npumon/b-2", model, "stale")),
        expected=50,
        baseline=True,
    )


def test_the_table_as_it_is() -> None:
    """A line for each criterion, then cohort, op and boards."""
    assert gate.table(result(), False) == (
        "fail  50 boards, 1 model, 1d until 2025-11-22 16:30:00 UTC\n"
        "\n"
        "criterion  outcome            asked                        measured\n"
        "boards     pass               at least 90 % measured       48 of 50 boards measured; 2 silent\n"
        "soak       could not measure  8h on at least 90 %          40 of 50 boards reached it\n"
        "healthy    fail               at least 99 % of the time    75 % of the measured time\n"
        "cohorts    fail               none worse, or 1.1 x slower  4 cohorts compared, 1 worse\n"
        "ops        fail               none new above 1 % of FLOPs  new on the CPU: Conv\n"
        "\n"
        "segmenter, soak: could not measure, 40 of 50 boards reached it\n"
        "segmenter, healthy: fail, 75 % of the measured time\n"
        "segmenter, cohorts: fail, 4 cohorts compared, 1 worse\n"
        "segmenter, ops: fail, new on the CPU: Conv\n"
        "\n"
        "worse than the baseline\n"
        "  segmenter on SA8295P, model d2d2d2d2d2d2, SDK v2.48.0, qnn 2.7.0, onnxruntime 1.32.0: 12 of 12\n"
        "    boards not healthy (baseline 0 of 12), median 38 ms (baseline 12.4 ms)\n"
        "\n"
        "new on the CPU\n"
        "  segmenter on SA8295P: Conv, 90.9 % of the FLOPs (baseline 0 %), on 12 of 12 boards\n"
        "\n"
        "not measured\n"
        "  silent: 1 board (npumon/board-1:10877)\n"
        "  checks are stale: 1 board (npumon/b-2)"
    )


NAMES = st.text(max_size=120) | st.just(AWKWARD)


@settings(max_examples=40, deadline=None)
@given(NAMES, NAMES, NAMES)
def test_no_name_breaks_a_line_or_the_document(model: str, soc: str, op: str) -> None:
    """Names come from elsewhere: lines stay within 100 columns and without control characters, XML and JSON parse."""
    told = result(model=model, soc=soc, op=op)
    lines = gate.table(told, False).split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)
    ElementTree.fromstring(gate.junit(told).encode("utf-8"))
    assert json.loads(json.dumps(gate.document(told)))["criteria"][0]["model"] == model


@pytest.mark.parametrize(("outcome", "tag"), [("fail", "failure"), ("unmeasured", "error"), ("not_asked", "skipped")])
def test_junit_never_shows_as_passed_what_did_not_pass(outcome: Outcome, tag: str) -> None:
    """Each outcome has its own element, with the reason as its message."""
    root = ElementTree.fromstring(gate.junit(result(outcome)))
    (case,) = root.findall(".//testcase[@name='ops']")
    (told,) = case
    assert (told.tag, case.get("classname")) == (tag, "segmenter")
    assert told.get("message", "").endswith(": new on the CPU: Conv")
    (well,) = root.findall(".//testcase[@name='boards']")
    assert [child.tag for child in well] in ([], ["system-out"])


def test_what_was_not_measured_is_left_out() -> None:
    """A document has no null."""
    document = gate.document(result())
    assert document["outcome"] == "fail"
    assert "null" not in json.dumps(document)
