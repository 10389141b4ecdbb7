"""The Loki example on lines that a real daemon wrote for journald.

No Alloy and no Loki is to be had from a package registry. Here the stages of ``config.alloy`` are read from the file
and applied as their documentation says, and LogQL is parsed by the grammar of Grafana's editor; the folder's README
says what else was checked, and how.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monitor.outputs import events
from tests import models
from tests.e2e.running import COMMAND, environment, write_config
from tests.grafana.prometheus_server import program
from tools.dashboards import npm

ROOT = Path(__file__).resolve().parents[2]
LOKI = ROOT / "grafana" / "loki"
CONFIG = (LOKI / "config.alloy").read_text(encoding="utf-8")
RULES = (LOKI / "npumon.rules.yml").read_text(encoding="utf-8")
README = (LOKI / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "tools" / "loki" / "package.json"


# ------------------------------------------------------------------------------------------- the example, read


def block(name: str) -> str:
    """What is between the braces of the block ``name`` of config.alloy, which occurs once."""
    found = re.findall(rf"^( *){re.escape(name)}(?: \"\w+\")? \{{\n(.*?)^\1\}}", CONFIG, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, name
    text: str = found[0][1]
    return text


def mapping(name: str, attribute: str) -> dict[str, str]:
    """The map ``attribute`` of a block: names, and what they are taken from; an empty text is the name itself."""
    inner = re.search(rf"^ *{attribute} *= \{{(.*?)\}}", block(name), re.MULTILINE | re.DOTALL)
    assert inner, f"{name}: {attribute}"
    pairs = re.findall(r'(\w+) *= "([^"]*)"', inner[1])
    return {key: value or key for key, value in pairs}


def alerts() -> dict[str, str]:
    """Each alert's name and its text in the rules."""
    parts = re.split(r"^      - alert: (\w+)$", RULES, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def expressions() -> dict[str, str]:
    """Each alert's LogQL."""
    found = {}
    for name, text in alerts().items():
        expression = re.search(r"^        expr: \|\n((?:          .*\n)+)", text, re.MULTILINE)
        assert expression, name
        found[name] = expression[1]
    return found


class Entry(NamedTuple):
    """What Loki would store of one line."""

    labels: dict[str, str]
    metadata: dict[str, str]
    timestamp: datetime
    line: str


def shipped(message: str) -> Entry:
    """``message`` after the stages of the example, in their order: values that are absent become no label."""
    data = json.loads(message)
    extracted = {name: data[key] for name, key in mapping("stage.json", "expressions").items() if key in data}
    source = re.search(r'source = "(\w+)"', block("stage.timestamp"))
    assert source
    assert 'format = "RFC3339Nano"' in block("stage.timestamp")
    labels = mapping("loki.source.journal", "labels") | {"instance": "board-17"}
    chosen = mapping("stage.labels", "values")
    labels |= {name: extracted[key] for name, key in chosen.items() if key in extracted}
    kept = mapping("stage.structured_metadata", "values")
    metadata = {name: extracted[key] for name, key in kept.items() if key in extracted}
    return Entry(labels, metadata, datetime.fromisoformat(extracted[source[1]]), message)


# ------------------------------------------------------------------------------------------- a daemon's journal


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that a real daemon, with a model that falls back, gave to what it took for journald."""
    folder = tmp_path_factory.mktemp("journal")
    config = write_config(folder, {"m": {"path": models.saved(models.selu_qdq(), folder)}}, options={"soc_model": "80"})
    out = folder / "journal"
    with out.open("wb") as stream:
        status = os.fstat(stream.fileno())
        variables = environment(JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
        process = subprocess.Popen([*COMMAND, "run", "-c", config], stdout=stream, env=variables)
    try:
        deadline = time.monotonic() + 90
        while b"fallback_detected" not in out.read_bytes():
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    return out.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def entries(journal: list[str]) -> dict[str, Entry]:
    """What Loki would store of it, by event. journald takes the priority off (sd-daemon(3))."""
    assert all(re.match(r"<[0-7]>\{", line) for line in journal)
    shipped_lines = [shipped(line[3:]) for line in journal]
    return {entry.labels["event"]: entry for entry in shipped_lines}


def test_streams_have_few_labels_of_few_values(entries: dict[str, Entry]) -> None:
    """A line's labels are job, instance, event and level; the last two are from fixed lists, on every line."""
    documented = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert entries.keys() >= {"started", "fallback_detected", "stopped"}
    for entry in entries.values():
        assert entry.labels.keys() == {"job", "instance", "event", "level"}
        assert f"`{entry.labels['event']}`" in documented
        assert entry.labels["level"] in ("info", "warning", "error", "critical")


def test_an_event_brings_its_time_and_what_it_is_about(entries: dict[str, Entry]) -> None:
    """A fallback has model, cause and id beside its line, and the time at which it was found."""
    entry = entries["fallback_detected"]
    line = json.loads(entry.line)
    assert entry.labels["level"] == line["level"]
    assert entry.metadata == {key: line[key] for key in ("model", "cause", "id")}
    assert entry.metadata["model"] == "m"
    assert entry.timestamp.tzinfo is not None
    assert abs(entry.timestamp.timestamp() - time.time()) < 300
    assert "started" in entries
    assert entries["started"].metadata == {}


def test_what_is_extracted_is_used(entries: dict[str, Entry]) -> None:
    """Every key that the JSON stage takes is one of an event's, and is the time, a label or metadata."""
    taken = set(mapping("stage.json", "expressions").values())
    assert taken <= set(events.schema()["properties"])
    kept = mapping("stage.labels", "values").keys() | mapping("stage.structured_metadata", "values").keys()
    assert taken == kept | {"timestamp"}


def test_components_are_wired() -> None:
    """What one component forwards to another, or takes from it, is there under that name."""
    defined = {f"{kind}.{name}" for kind, name in re.findall(r"^([\w.]+) \"(\w+)\" \{", CONFIG, re.MULTILINE)}
    used = set(re.findall(r"\b(loki\.[a-z.]+\.\w+)\.(?:receiver|rules)\b", CONFIG))
    assert used == defined - {"loki.source.journal.npumon"}


# ------------------------------------------------------------------------------------------- the rules


def test_rules_are_rules(tmp_path: Path) -> None:
    """But for their LogQL, which promtool cannot read, it finds them right: structure, labels and templates."""
    text, count = re.subn(r"expr: \|\n(?: {10}.*\n)+", "expr: vector(1)\n", RULES)
    assert count == len(alerts()) == RULES.count("expr:")
    file = tmp_path / "rules.yml"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} rules found" in done.stdout


@pytest.mark.parametrize("name", alerts())
def test_an_alert_goes_by_what_is_there(name: str, entries: dict[str, Entry]) -> None:
    """Its selector has labels of the streams and events of ours; it sums by what exists, and says no more than that."""
    expression, text = expressions()[name], alerts()[name]
    selector = re.search(r"\{(.*?)\}", expression)
    assert selector
    matchers = dict(re.findall(r'(\w+)=~?"([^"]*)"', selector[1]))
    entry = entries["fallback_detected"]
    assert matchers.keys() <= entry.labels.keys()
    assert matchers["job"] == entry.labels["job"]
    documented = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert all(f"`{event}`" in documented for event in matchers["event"].split("|"))

    from_line = dict(re.findall(r'(\w+)="(ops\[0\]\.\w+)"', expression.replace(selector[0], "")))
    (op, *_) = json.loads(entry.line)["ops"]
    assert all(op[path.removeprefix("ops[0].")] for path in from_line.values())
    grouped = re.search(r"sum by \((.*?)\)", expression)
    assert grouped
    by = set(grouped[1].split(", "))
    assert by <= entry.labels.keys() | entry.metadata.keys() | from_line.keys()
    # A name that is a label already would come out of `json` under another one.
    assert not from_line.keys() & (entry.labels.keys() | entry.metadata.keys())
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= by

    page, _, anchor = re.search(r"runbook_url: (\S+)$", text, re.MULTILINE)[1].partition("#")  # type: ignore[index]
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def _errors(expressions: list[str]) -> list[list[str]]:
    """What Grafana's grammar of LogQL has no place for in each expression."""
    if shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing: apt-get install --no-install-recommends nodejs npm")
        pytest.skip("no npm on this machine")
    home = npm.install(PACKAGE, "loki")
    script = PACKAGE.with_name("parse.cjs")
    variables = os.environ | {"NODE_PATH": str(home / "node_modules")}
    done = subprocess.run(
        ["node", script], input=json.dumps(expressions), capture_output=True, text=True, check=True, env=variables
    )
    found: Any = json.loads(done.stdout)
    assert len(found) == len(expressions)
    return [list(errors) for errors in found]


@pytest.mark.slow
def test_logql_is_logql() -> None:
    """The grammar of Grafana's editor takes every expression of the rules and every query of the README."""
    queries = re.findall(r"^```logql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert queries
    every = [*expressions().values(), *queries]
    assert _errors(every) == [[]] * len(every)


@pytest.mark.slow
def test_broken_logql_is_noticed() -> None:
    """The check above can fail: a stage that is none, and a bracket that is missing."""
    wrong = expressions()["NpumonFallbackEvent"]
    assert all(_errors([wrong.replace("| json", "| jsn ="), wrong.replace(" [10m]", "")]))
