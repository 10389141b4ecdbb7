"""Tables that fit a terminal and say what matters, and documents with the contract's keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outputs import text, wording
from monitor.records import CheckResult, OpShare
from tests.outputs import strategies
from tests.outputs.specimens import AWKWARD, CPU_ONLY, FAILED, FALLBACK, HEALTHY, SIMULATOR, SLOW, worst_case

ALL = (FALLBACK, HEALTHY, SLOW, FAILED, CPU_ONLY)


def visible(table: str) -> str:
    """``table`` without its colours."""
    return re.sub(r"\x1b\[\d+m", "", table)


@pytest.mark.parametrize("result", ALL, ids=lambda result: result.model)
def test_audit_golden(result: CheckResult, golden: Callable[[str, str], None]) -> None:
    """The audit's table of each kind of check is the golden one."""
    golden(f"audit_{result.model}.txt", text.audit_table(result, colour=False) + "\n")


def test_check_golden(golden: Callable[[str, str], None]) -> None:
    """The table of a check of several models is the golden one."""
    golden("check.txt", text.check_table(ALL) + "\n")


@given(strategies.results, st.booleans())
def test_audit_table_fits_100_columns(result: CheckResult, colour: bool) -> None:
    """Whatever a result holds, no line of its table is wider than 100 columns or has control characters."""
    lines = visible(text.audit_table(result, colour)).split("\n")
    assert max(len(line) for line in lines) <= 100
    assert all(line.isprintable() for line in lines)


@given(st.lists(strategies.results, max_size=4), st.booleans())
def test_check_table_fits_100_columns(results: Sequence[CheckResult], colour: bool) -> None:
    """Whatever the results hold, no line of the table is wider than 100 columns or has control characters."""
    lines = visible(text.check_table(results, colour)).split("\n")
    assert max(len(line) for line in lines) <= 100
    assert all(line.isprintable() for line in lines)


def test_colour_only_where_wanted() -> None:
    """The verdict is coloured on request, and the words are the same without."""
    plain, coloured = text.audit_table(FALLBACK, colour=False), text.audit_table(FALLBACK, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[31mfallback\x1b[0m" in coloured
    assert visible(coloured) == plain


def test_a_simulator_is_called_one() -> None:
    """Both tables say that a simulator's figures are a prediction, and that synthetic inputs are no data."""
    for table in (text.audit_table(FALLBACK, colour=False), text.check_table([FALLBACK])):
        assert "simulator (a prediction, not hardware)" in table
        assert "synthetic" in table
    hexagon = msgspec.structs.replace(HEALTHY, runtime=msgspec.structs.replace(SIMULATOR, target="hexagon"))
    assert "prediction" not in text.audit_table(hexagon, colour=False) + text.check_table([hexagon])


def test_ops_that_share_reason_and_remedy_are_one_entry() -> None:
    """18 Convs with one reason are one entry with their summed share; another reason is another entry."""
    table = text.audit_table(FALLBACK, colour=False)
    assert table.count("Dynamic shape is not supported") == 1
    assert re.search(r"^Conv x 18 \(.*\) +90\.9 % +50\.4 %$", table, re.MULTILINE)
    assert table.index("Conv x 18") < table.index("Pad (")


def test_more_groups_than_fit_are_counted() -> None:
    """A table shows the worst groups and says how many ops it leaves out; the document has all."""
    result = worst_case("m")[0][-1]
    assert result.placement
    assert re.search(r"^and \d+ more ops in 192 groups: see --json$", text.audit_table(result, False), re.MULTILINE)
    assert len(text.audit_document(result)["ops"]) == len(result.placement.ops) == 500


def test_reasons_are_cut_after_eight_lines() -> None:
    """A page of a reason does not push the next op off the screen."""
    table = text.audit_table(worst_case("m")[0][-1], colour=False)
    why = table.split("    why  ")[1].split("    do   ")[0]
    assert why.count("\n") == 8
    assert why.endswith("…\n")


def test_audit_document_has_the_contracts_keys() -> None:
    """``audit --json`` has every key of the contract with the record's own values."""
    document = text.audit_document(FALLBACK)
    placement = FALLBACK.placement
    assert placement
    assert set(document) == {
        *("model", "model_sha256", "verdict", "cause", "npu_flops_ratio", "npu_time_ratio"),
        *("unattributed_flops_ratio", "total_flops", "nodes", "partitions", "ops", "samples", "runtime"),
        *("timestamp", "reason"),
    }
    assert document["npu_flops_ratio"] == placement.npu_flops_ratio
    assert document["nodes"] == {"accelerator": 32, "cpu": 177, "edge": 0}
    assert set(document["ops"][0]) == {"node", "op_type", "flops_ratio", "time_ratio", "reason", "remedy"}
    assert document["samples"] == "synthetic"
    assert document["runtime"]["target"] == "simulator"


def test_input_dependent_placement_has_a_range() -> None:
    """The range of the share is there only if the placement depends on the input."""
    assert "npu_flops_ratio_range" not in text.audit_document(FALLBACK)
    assert text.audit_document(worst_case("m")[0][-1])["npu_flops_ratio_range"] == [0.1, 0.7]


def test_check_document_adds_the_raw_latencies() -> None:
    """``check --json`` is the audit's document with the latency signals, and each replay and warm-up as measured."""
    document, audit = text.check_document(SLOW), text.audit_document(SLOW)
    latency = SLOW.latency
    assert latency
    assert {key: document.pop(key) for key in set(document) - set(audit)} == {
        "median_seconds": 0.0121,
        "cv_ratio": 0.41,
        "robust_cv_ratio": 0.012,
        "slow_ratio": 0.1,
        "separation_ratio": 3.04,
        "replays_seconds": list(latency.replays_seconds),
        "replays_disturbed": [3],
        "rounds": [10, 10],
        "warmups_seconds": [0.031],
    }
    assert document == audit
    assert "separation_ratio" not in text.check_document(FALLBACK)  # one mode describes its replays


def test_error_says_why_nothing_was_measured() -> None:
    """A failed check's document has ``error`` and none of the measured keys."""
    failed = msgspec.structs.replace(FALLBACK, verdict="unknown", error=FAILED.error)
    for document in (text.check_document(FAILED), text.check_document(failed)):
        assert document["verdict"] == "unknown"
        assert document["error"]["reason"] == "probe_timeout"
        assert document["error"]["mend"] == "raise models.timeout"
        assert not {"npu_flops_ratio", "nodes", "ops", "partitions", "median_seconds", "replays_seconds"} & set(
            document
        )


def test_rejected_samples_are_in_the_document() -> None:
    """Sample files that do not fit are listed with file, reason and detail."""
    assert text.audit_document(HEALTHY)["samples_rejected"] == [
        {"file": "bad.npz", "reason": "dtype", "detail": "input `x` is float64, the model takes float32"}
    ]


@given(strategies.results)
def test_documents_are_strict_json_without_null(result: CheckResult) -> None:
    """What was not measured is left out: no null and no NaN at any depth."""
    text_form = json.dumps(text.check_document(result), allow_nan=False, ensure_ascii=True)

    def assert_no_null(value: Any) -> None:
        assert value is not None
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            assert_no_null(item)

    assert_no_null(json.loads(text_form))


@given(st.floats(0, 1))
def test_rounding_never_reaches_an_end(ratio: float) -> None:
    """Only exactly 0 and 1 are shown as 0 % and 100 %."""
    shown = wording.percent(ratio)
    assert (shown == "0 %") == (ratio == 0)
    assert (shown == "100 %") == (ratio == 1)
    if not shown.startswith(("<", ">")):
        assert math.isclose(float(shown.removesuffix(" %")) / 100, ratio, abs_tol=0.00051)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),  # noqa: RUF001
        (math.nan, "–"),  # noqa: RUF001
        (0.0000421, "42 µs"),
        (0.00824, "8.24 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (30.1, "30.1 s"),
        (4000.0, "4000 s"),
    ],
)
def test_durations(value: float | None, shown: str) -> None:
    """A duration is shown in the unit that suits it, and a dash if it was not measured."""
    assert wording.seconds(value) == shown


@given(st.lists(strategies.ops, max_size=12))
def test_groups_keep_every_op(ops: list[OpShare]) -> None:
    """Grouping loses no node and no share, and invents no time that was not measured."""
    groups = wording.group_ops(ops)
    assert sorted(node for group in groups for node in group.nodes) == sorted(op.node for op in ops)
    assert math.isclose(
        sum(group.flops_ratio or 0 for group in groups), sum(op.flops_ratio or 0 for op in ops), abs_tol=1e-9
    )
    for group in groups:
        times = [
            op.time_ratio
            for op in ops
            if (op.op_type, op.reason, op.remedy) == (group.op_type, group.reason, group.remedy)
        ]
        assert (group.time_ratio is None) == (None in times)


def test_awkward_names_stay_on_their_line() -> None:
    """A model's name with line ends and escapes takes one line of the table."""
    table = text.check_table([msgspec.structs.replace(HEALTHY, model=AWKWARD)])
    assert "\x1b" not in table
    assert len(table.split("\n\n")[0].split("\n")) == 2
