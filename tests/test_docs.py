"""The documentation against the code: a reference that lags behind is worse than none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from monitor import config
from monitor.cli import npumon
from monitor.outputs import events
from monitor.outputs.metrics import Exposition
from monitor.records import Cause, EventName, FailureReason
from tests.outputs.specimens import BOARD, WORST_STANDING, worst_case

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SUFFIXES = {"counter": ("_total", "counter"), "info": ("_info", "gauge")}


def page(name: str) -> str:
    """The text of one page below docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def first_cells(text: str) -> set[str]:
    """What stands in backticks in the first column of all tables of ``text``."""
    return set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))


def section(text: str, heading: str) -> str:
    """The part of ``text`` below ``## heading``."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def test_every_exported_metric_is_documented_with_its_type_and_labels() -> None:
    """docs/metrics.md lists exactly the metrics that a scrape can have, each with its type and its labels."""
    exposition = Exposition(["m"], BOARD, "1", 0.0)
    results, told = worst_case("m")
    for result in results:
        exposition.record(result, WORST_STANDING)
    exposition.expect(60.0, {})
    for event in told:
        exposition.count_event(event)
    exported = {}
    for family in exposition.collect():
        suffix, kind = SUFFIXES.get(family.type, ("", family.type))
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[family.name + suffix] = (kind, labels)
    rows = re.findall(r"^\| `(npumon_\w+)` \| (\w+) \| ([^|]*)\|", page("metrics.md"), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == exported


def test_every_event_key_and_cause_is_documented() -> None:
    """docs/events.md lists exactly the event names, the keys of the schema, and the causes."""
    text = page("events.md")
    assert first_cells(section(text, "Names")) == set(get_args(EventName))
    assert first_cells(section(text, "Keys")) == set(events.schema()["properties"])
    assert first_cells(section(text, "Causes")) == set(get_args(Cause))


def test_every_failure_reason_and_cause_has_advice() -> None:
    """docs/troubleshooting.md says for each failure reason and each cause what to do."""
    text = page("troubleshooting.md")
    assert first_cells(section(text, "A check failed")) == set(get_args(FailureReason))
    assert first_cells(section(text, "A model is in fallback")) == set(get_args(Cause))


def test_the_readme_lists_every_command() -> None:
    """README.md has a row for each command of npumon, and for no other."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = {cell.removeprefix("npumon ").split()[0] for cell in first_cells(section(readme, "Commands"))}
    assert isinstance(npumon, click.Group)
    assert listed == set(npumon.commands)


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    """The configuration that README.md shows loads as it stands."""
    (example,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    file = tmp_path / "npumon.toml"
    file.write_text(example, encoding="utf-8")
    assert config.load(file).models


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(file: Path) -> None:
    """Each relative link of a page names a file or folder that is there."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", file.read_text(encoding="utf-8"))
    assert [target for target in targets if not (file.parent / target).exists()] == []
