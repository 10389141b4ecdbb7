"""The documentation against the code: a reference that lags behind is worse than none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import get_args

import click
import jsonschema
import pytest

from monitor import config
from monitor.cli import npumon
from monitor.outputs import events
from monitor.records import Cause, FailureReason
from monitor.records.gate import CRITERIA, Bounds, Criterion, NewOp, Why
from tools import reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


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


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with copies of the pages that have generated tables."""
    for name in reference.PAGES:
        shutil.copy(ROOT / "docs" / name, tmp_path)
    return tmp_path


def test_the_reference_is_in_step_with_the_code() -> None:
    """The tables of metrics, labels, events, keys and causes are what `make reference` writes."""
    command = [sys.executable, "-m", "tools.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_that_was_edited_is_noticed_and_written_anew(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check names the page and the way out and writes nothing; without it the page is as before, prose and all."""
    whole = page("metrics.md")
    edited = whole.replace("| gauge | `model`, `state` |", "| counter | `model` |")
    (docs / "metrics.md").write_text(edited, encoding="utf-8")
    assert reference.main(["--check"], docs) == 1
    assert capsys.readouterr().err == "docs/metrics.md: not in step with the code; `make reference` writes it anew\n"
    assert (docs / "metrics.md").read_text(encoding="utf-8") == edited
    assert reference.main([], docs) == 0
    assert (docs / "metrics.md").read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (
            "reference.toml",
            "dynamic_shape = ",
            "dynamic_shapes = ",
            "reference.toml: [causes] lacks 'dynamic_shape': nothing says what it is; write a sentence",
        ),
        (
            "reference.toml",
            "[labels]\n",
            '[labels]\ncolour = "Blue."\n',
            "reference.toml: [labels] 'colour' is nothing that npumon has; remove it",
        ),
        (
            "metrics.md",
            "config_* * -->",
            "config_* [!s]* s[!t]* -->",
            "metrics.md: no table has npumon_state_write_failures_total; mend the patterns of its metrics",
        ),
    ],
)
def test_what_nobody_describes_is_named(
    docs: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, told: str
) -> None:
    """A sentence that is missing, one about what is not there, and a metric without a table: each in one line."""
    shutil.copy(reference.TEXTS, docs)
    text = (docs / name).read_text(encoding="utf-8")
    assert old in text
    (docs / name).write_text(text.replace(old, new), encoding="utf-8")
    assert reference.main([], docs, docs / "reference.toml") == 1
    assert capsys.readouterr().err == told + "\n"


def test_the_event_in_the_reference_is_one() -> None:
    """The event that docs/events.md shows meets the schema, and its id is made as the code makes it."""
    (example,) = re.findall(r"^```json\n(.*?)^```", page("events.md"), re.MULTILINE | re.DOTALL)
    event = json.loads(example)
    jsonschema.Draft202012Validator(events.schema()).validate(event)
    moment = datetime.fromisoformat(event["timestamp"]).timestamp()
    assert event["id"] == f"{event['model']}-fallback-{round(moment * 1000):x}"


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


def anchors(file: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(file: Path) -> None:
    """Each relative link of a page names a file or folder that is there, and a heading that is in it."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", file.read_text(encoding="utf-8")):
        there = file.parent / target if target else file
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_the_gates_document_is_described() -> None:
    """docs/gate.md has every criterion, every reason not to be measured, and every key of the document."""
    text = page("gate.md")
    assert first_cells(section(text, "The criteria")) == set(CRITERIA)
    assert set(get_args(Why)) <= set(re.findall(r"`(\w+)`", section(text, "`--json`")))
    keys = {key for record in (Bounds, Criterion, NewOp) for key in record.__struct_fields__} - {"cohorts", "ops"}
    assert keys <= set(re.findall(r"`(\w+)`", section(text, "`--json`")))
