"""Writes the tables of docs/metrics.md and docs/events.md from the code, so that a reference cannot lag behind.

A page marks where a table goes, and everything else in it is written by hand::

    <!-- table: metrics latency_* partitions -->
    <!-- end -->

``metrics`` takes patterns of the names that belong into that table, in their order; a metric stands in the first table
that it fits. What there is comes from where it is made: the exposition, the event's JSON Schema, the records. What a
reader needs to know beyond HELP texts and the schema's descriptions is in ``reference.toml``, so that it costs a scrape
no byte.

To add a metric is to add it to the exposition: its HELP text is its row. :func:`scrape` has to make it appear.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from msgspec import Struct, inspect
from msgspec.structs import replace

from monitor.analysis.assess import standing
from monitor.analysis.incidents import Teller
from monitor.config import Gate
from monitor.outputs import events
from monitor.outputs.metrics import Exposition
from monitor.records import Board, Cause, CheckResult, Event, EventName, FailureReason, ModelState

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PAGES = ("metrics.md", "events.md")
TEXTS = HERE / "reference.toml"

ANY = "any text"
"""A record's free text, as it is made up here. A label with this value takes its values from outside of npumon."""
_VARIANTS = max(len(get_args(words)) for words in (Cause, EventName, FailureReason))
_NAMED = 3  # metrics or values that are named in a cell; where there are more, there is a table of them

_TABLE = re.compile(r"(<!-- table: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PREFIX = "npumon_"

Record = TypeVar("Record", bound=Struct)
Rows = Sequence[tuple[str, ...]]


class Mismatch(Exception):
    """The code, the pages and ``reference.toml`` do not fit together; one sentence says where and what mends it."""


class Metric(NamedTuple):
    """A metric as a scrape has it. ``labels``: each with the values that were seen, in their order."""

    name: str
    type: str
    labels: dict[str, tuple[str, ...]]
    help: str


# ------------------------------------------------------------------------------------------------- what the code has


def filled(record: type[Record], number: int = 0) -> Record:
    """A record in which nothing is missing. ``number`` turns the values of its Literals, so that each has its turn."""
    made = _value(inspect.type_info(record), number)
    assert isinstance(made, record)
    return made


def _value(kind: inspect.Type, number: int) -> Any:
    if isinstance(kind, inspect.StructType):
        return kind.cls(**{field.name: _value(field.type, number) for field in kind.fields})
    if isinstance(kind, inspect.UnionType):
        return next(_value(one, number) for one in kind.types if not isinstance(one, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return kind.values[number % len(kind.values)]
    if isinstance(kind, inspect.TupleType):
        return tuple(_value(one, number) for one in kind.item_types)
    if isinstance(kind, inspect.VarTupleType):
        return (_value(kind.item_type, number),)
    if isinstance(kind, inspect.DictType):
        return {_value(kind.key_type, number): _value(kind.value_type, number)}
    plain = {inspect.StrType: ANY, inspect.IntType: 1, inspect.FloatType: 1.0, inspect.BoolType: True}
    return plain[type(kind)]


def scrape(number: int = 0) -> Exposition:
    """An exposition that has every metric there is, after one check; ``number`` as in :func:`filled`."""
    exposition = Exposition([ANY], filled(Board), ANY, 1.0, duty=lambda: 1.0)
    result = replace(filled(CheckResult, number), model=ANY, error=None)
    exposition.record(result, standing(filled(ModelState), result, Gate()))
    exposition.count_event(filled(Event, number))
    exposition.expect(1.0, {})
    return exposition


@cache
def metrics() -> tuple[Metric, ...]:
    """All metrics, in the order of the exposition."""
    found: dict[str, Metric] = {}
    for number in range(_VARIANTS):
        for family in scrape(number).collect():
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            kind = "gauge" if family.type == "info" else family.type
            labels = found.setdefault(name, Metric(name, kind, {}, family.documentation)).labels
            for sample in family.samples:
                for label, value in sample.labels.items():
                    if label != "le":
                        labels[label] = tuple(dict.fromkeys((*labels.get(label, ()), value)))
    return tuple(found.values())


def level(event: EventName) -> str:
    """The level at which npumon tells this event."""
    teller = Teller(filled(CheckResult), filled(Board), {})
    teller.tell(event, ANY, ANY)
    return teller.events[0].level


class Key(NamedTuple):
    """A key of the events, or one inside another: ``ops[].node``; ``*`` stands for any name."""

    path: str
    type: str
    always: bool
    description: str


def keys() -> Iterator[Key]:
    """All keys that the schema has, each before those that are in it."""
    return _keys("", events.schema())


def _keys(path: str, schema: Mapping[str, Any]) -> Iterator[Key]:
    required = schema.get("required", ())
    for name, given in schema["properties"].items():
        key = _resolved(given)
        yield Key(path + name, _type(key), name in required, key.get("description", ""))
        yield from _inside(path + name, key)


def _inside(path: str, key: Mapping[str, Any]) -> Iterator[Key]:
    if "properties" in key:
        yield from _keys(f"{path}.", key)
    for word, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(below := key.get(word), dict):
            yield from _inside(path + suffix, _resolved(below))


def _resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return dict(schema)
    name = schema["$ref"].removeprefix("#/$defs/")
    return {**events.schema()["$defs"][name], **schema}


def _type(key: Mapping[str, Any]) -> str:
    if values := key.get("enum"):
        return ", ".join(f"`{value}`" for value in values) if len(values) <= _NAMED else "string"
    if key["type"] == "array":
        return f"array of {_type(_resolved(key['items']))}s"
    if isinstance(below := key.get("additionalProperties"), dict):
        return f"object of {_type(_resolved(below))}s"
    if {"minimum", "maximum"} <= key.keys():
        return f"{key['type']}, {key['minimum']} to {key['maximum']}"
    return str(key["type"])


# --------------------------------------------------------------------------------------------------------- the tables


class Texts:
    """The sentences of ``reference.toml`` by table and name; one that nothing asks for is a mistake."""

    def __init__(self, file: Path = TEXTS) -> None:
        self._file = file
        self._texts = tomllib.loads(file.read_text(encoding="utf-8"))
        self._unused = {(table, name) for table, texts in self._texts.items() for name in texts}

    def more(self, table: str, name: str) -> str:
        """The sentences about ``name`` on one line; empty if there are none."""
        self._unused.discard((table, name))
        return " ".join(self._texts.get(table, {}).get(name, "").split())

    def need(self, table: str, name: str) -> str:
        """The sentences about ``name``, which nothing else tells."""
        return self.more(table, name) or self._lacking(table, name)

    def _lacking(self, table: str, name: str) -> str:
        raise Mismatch(f"{self._file.name}: [{table}] lacks {name!r}: nothing says what it is; write a sentence")

    def used_up(self) -> None:
        """Refuse sentences about what is not there any more."""
        for table, name in sorted(self._unused):
            raise Mismatch(f"{self._file.name}: [{table}] {name!r} is nothing that npumon has; remove it")


def metric_rows(texts: Texts, chosen: Sequence[Metric]) -> Rows:
    """Name, type, labels, meaning."""
    return [
        (
            f"`{metric.name}`",
            metric.type,
            _code(metric.labels),
            _joined(metric.help, texts.more("metrics", metric.name.removeprefix(_PREFIX))),
        )
        for metric in chosen
    ]


def label_rows(texts: Texts) -> Rows:
    """Label, the metrics that have it, its values. Where two metrics mean two things by a label, it has two rows."""
    users: dict[tuple[str, frozenset[str]], list[Metric]] = {}
    for metric in metrics():
        for label, values in metric.labels.items():
            users.setdefault((label, frozenset(values)), []).append(metric)
    rows = []
    for (label, _), having in sorted(users.items(), key=lambda item: item[0][0]):
        names = _code(metric.name for metric in having) if len(having) <= _NAMED else f"{len(having)} metrics"
        values = having[0].labels[label]
        listed = "" if ANY in values else f"{_code(values)}."
        text = texts.more("labels", label) if listed else texts.need("labels", label)
        rows.append((f"`{label}`", names, _joined(listed, text)))
    return rows


def event_rows(texts: Texts) -> Rows:
    """Name, level, when it is told."""
    return [(f"`{name}`", level(name), texts.need("events", name)) for name in get_args(EventName)]


def cause_rows(texts: Texts) -> Rows:
    """Cause, meaning."""
    return [(f"`{cause}`", texts.need("causes", cause)) for cause in get_args(Cause)]


def key_rows(texts: Texts, inner: bool) -> Rows:
    """Key, type, whether it is always there, meaning: of an event, or of what is inside its keys."""
    rows = []
    for key in keys():
        if inner == bool(re.search(r"[.\[]", key.path)):
            told = key.description or texts.need("keys", key.path)
            more = texts.more("keys", key.path) if key.description else ""
            rows.append((f"`{key.path}`", key.type, "always" if key.always else "", _joined(told, more)))
    return rows


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


# ---------------------------------------------------------------------------------------------------------- the pages


def written(text: str, texts: Texts) -> str:
    """A page with its tables written anew."""
    left = {metric.name: metric for metric in metrics()}

    def table(kind: str, *words: str) -> str:
        if kind == "metrics":
            return _table(("metric", "type", "labels", "meaning"), metric_rows(texts, _taken(left, words)))
        if kind == "keys":
            return _table(("key", "type", "there", "meaning"), key_rows(texts, "inner" in words))
        head, rows = {
            "labels": (("label", "of", "values"), label_rows),
            "events": (("event", "level", "when"), event_rows),
            "causes": (("cause", "meaning"), cause_rows),
        }[kind]
        return _table(head, rows(texts))

    made = _TABLE.sub(lambda found: found[1] + table(*found[2].split()) + found[3], text)
    if 0 < len(left) < len(metrics()):
        raise Mismatch(f"metrics.md: no table has {', '.join(left)}; mend the patterns of its metrics")
    return made


def _taken(left: dict[str, Metric], patterns: Sequence[str]) -> list[Metric]:
    """Those of ``left`` that fit the patterns, in their order; they are not left any more."""
    fits = [name for pattern in patterns for name in left if fnmatchcase(name, _PREFIX + pattern)]
    return [left.pop(name) for name in dict.fromkeys(fits)]


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = ["|".join(f" {cell} " if cell else " " for cell in line) for line in (head, *rows)]
    return "".join(f"|{line}|\n" for line in (lines[0], "|".join(["---"] * len(head)), *lines[1:]))


def main(arguments: Sequence[str] | None = None, docs: Path = DOCS, file: Path = TEXTS) -> int:
    """Write the tables, or compare them with what is there. 1: they differ, or do not fit the code."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/metrics.md and docs/events.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the pages are in step")
    check = parser.parse_args(arguments).check
    texts = Texts(file)
    status = 0
    try:
        made = {docs / name: written((docs / name).read_text(encoding="utf-8"), texts) for name in PAGES}
        texts.used_up()
    except Mismatch as mismatch:
        print(mismatch, file=sys.stderr)
        return 1
    for path, text in made.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"docs/{path.name}: not in step with the code; `make reference` writes it anew", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
