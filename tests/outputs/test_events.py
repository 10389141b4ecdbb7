"""The event log: every event meets the schema, fits a line, and says nothing that was not measured."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given

from monitor.outputs import log
from monitor.outputs.events import emit, schema, to_json
from monitor.records import (
    Board,
    Cause,
    Event,
    EventName,
    Failure,
    FailureReason,
    Level,
    OpShare,
    Runtime,
    Target,
)
from tests.outputs import strategies
from tests.outputs.specimens import BOARD, FAILED, FALLBACK, NOW, SIMULATOR, conv

VALIDATOR = jsonschema.Draft202012Validator(schema())

DETECTED = Event(
    timestamp=NOW + 0.0625,
    level="error",
    event="fallback_detected",
    id="swift_f0-1",
    model="swift_f0",
    reason=FALLBACK.reason,
    model_sha256=FALLBACK.model_sha256,
    cause="dynamic_shape",
    npu_flops_ratio=0.039,
    median_seconds=0.00824,
    cv_ratio=0.031,
    ops=(conv(0), conv(1)),
    samples="synthetic",
    runtime=SIMULATOR,
    board=BOARD,
)


def line(event: Event) -> str:
    """The log line of ``event``, through the real logger."""
    stream = io.StringIO()
    log.configure(stream, json=True)
    emit(event, log.logger)
    return stream.getvalue()


def test_the_schema_is_a_schema() -> None:
    """The file in the package is valid JSON Schema of draft 2020-12."""
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_contract() -> None:
    """A full event has the contract's keys in the contract's order and nothing else."""
    assert list(to_json(DETECTED)) == [
        *("timestamp", "level", "event", "id", "model", "model_sha256", "cause", "reason", "npu_flops_ratio"),
        *("median_seconds", "cv_ratio", "ops", "samples", "runtime", "board"),
    ]
    assert list(to_json(DETECTED)["ops"][0]) == [
        *("node", "op_type", "flops_ratio", "time_ratio", "reason", "remedy"),
    ]


def test_time_is_rfc3339_in_utc_with_milliseconds() -> None:
    """The timestamp is the event's own, not that of its writing."""
    assert to_json(DETECTED)["timestamp"] == "2025-11-22T16:30:00.062Z"
    assert json.loads(line(DETECTED))["timestamp"] == "2025-11-22T16:30:00.062Z"


@given(strategies.events)
def test_every_event_meets_the_schema(event: Event) -> None:
    """Whatever a record may hold (NaN, lone surrogates, pages of text), its JSON is valid and has no null."""
    document = to_json(event)
    VALIDATOR.validate(document)
    json.dumps(document, allow_nan=False)
    assert None not in list(values(document))


def values(document: Any) -> Iterator[Any]:
    """All values of a JSON document, at any depth."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for value in inner:
        yield value
        yield from values(value)


@given(strategies.events)
def test_every_line_is_one_bounded_json_object(event: Event) -> None:
    """The logged line is exactly the event's JSON: one line, below journald's limit, not truncated, valid UTF-8."""
    written = line(event)
    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert len(written.encode()) <= log.LINE_LIMIT
    VALIDATOR.validate(json.loads(written))
    assert json.loads(written) == to_json(event)


def test_the_level_is_the_events_own() -> None:
    """An event is logged at its own level."""
    for level in get_args(Level):
        assert json.loads(line(msgspec.structs.replace(DETECTED, level=level)))["level"] == level


def test_omitted_ops_are_counted() -> None:
    """A line says how many ops there are besides those it names, and nothing if it names all."""
    ops = tuple(conv(number) for number in range(20))
    document = to_json(msgspec.structs.replace(DETECTED, ops=ops, ops_omitted=157))
    assert [op["node"] for op in document["ops"]] == [op.node for op in ops]
    assert document["ops_omitted"] == 157
    assert "ops_omitted" not in to_json(msgspec.structs.replace(DETECTED, ops=ops))


def test_long_ops_are_cut_and_counted() -> None:
    """Ops with pages of reasons in a wide script are fewer rather than cut in the middle."""
    op = OpShare("節" * 900, "Conv", 0.1, None, "理" * 9000, "策" * 9000)
    document = to_json(msgspec.structs.replace(DETECTED, ops=(op,) * 40, ops_omitted=2))
    VALIDATOR.validate(document)
    assert 1 <= len(document["ops"]) < 40
    assert len(document["ops"]) + document["ops_omitted"] == 42


def test_what_was_not_measured_is_absent() -> None:
    """A failed check's event has no ratio, no latency and no ops; it has the error."""
    event = Event(NOW, "error", "check_failed", "i", "ppocr_det", "failed", error=FAILED.error, cv_ratio=float("nan"))
    assert set(to_json(event)) == {"timestamp", "level", "event", "id", "model", "reason", "error"}


@pytest.mark.parametrize(
    "damage",
    [
        {"surprise": 1},
        {"npu_flops_ratio": None},
        {"npu_flops_ratio": 1.5},
        {"event": "fallback"},
        {"cause": "magic"},
        {"timestamp": "2025-11-22 16:30:00"},
        {"ops": []},
        {"runtime": {"provider": "x"}},
        {"error": {"reason": "bored", "detail": "", "mend": ""}},
    ],
)
def test_the_schema_refuses(damage: dict[str, object]) -> None:
    """The schema is strict: unknown keys, nulls, unknown values and other time formats are refused."""
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(to_json(DETECTED) | damage)


def test_the_schema_names_what_the_records_name() -> None:
    """Keys and values in the schema are those of the records, so that neither can change alone."""
    document = schema()
    properties, definitions = document["properties"], document["$defs"]
    assert set(properties) == set(Event.__struct_fields__)
    assert properties["event"]["enum"] == list(get_args(EventName))
    assert properties["level"]["enum"] == list(get_args(Level))
    assert definitions["cause"]["enum"] == list(get_args(Cause))
    assert definitions["runtime"]["properties"]["target"]["enum"] == list(get_args(Target))
    assert definitions["failure"]["properties"]["reason"]["enum"] == list(get_args(FailureReason))
    structs: dict[str, type[msgspec.Struct]] = {"op": OpShare, "runtime": Runtime, "board": Board, "failure": Failure}
    for name, struct in structs.items():
        assert list(definitions[name]["properties"]) == list(struct.__struct_fields__)
