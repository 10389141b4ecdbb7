"""The rules and the Prometheus configurations, through promtool, and what promtool does not flag.

They run on the programs that PATH finds; ``make test-prometheus`` puts those of a current Prometheus first.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from grafana.cohorts import POINTS
from tests.grafana.metric_names import exported, recorded, used
from tests.grafana.prometheus_server import program

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
GRAFANA = ROOT / "grafana"
RULES = [GRAFANA / "rules" / f"npumon.{kind}.yml" for kind in ("recording", "alerts")]
RECORDING, ALERTS = (path.read_text(encoding="utf-8") for path in RULES)
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
ALWAYS = "NpumonWatchdog"
"""The alert that always fires."""
GROUPS = re.findall(r"^  - name: (\w+)$", RECORDING + ALERTS, re.MULTILINE)


def run(*command: str | Path) -> str:
    """What the command wrote; it has to succeed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def alerts() -> dict[str, str]:
    """Each alert's name and its text in the rules."""
    parts = re.split(r"^      - alert: (\w+)$", ALERTS, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def expressions() -> list[str]:
    """Every ``expr`` of the rules."""
    texts = re.findall(r"^        expr: (?:\|\n((?:          .*\n|\n)+)|(.+)\n)", RECORDING + ALERTS, re.MULTILINE)
    return [block or line for block, line in texts]


def test_rules_are_valid() -> None:
    """Promtool accepts the rules and finds nothing to complain of."""
    told = run(program("promtool"), "check", "rules", *RULES)
    counts = [int(count) for count in re.findall(r"(\d+) rules found", told)]
    assert counts == [len(recorded()), len(alerts())]


@pytest.mark.parametrize("file", sorted(HERE.glob("rules_*.yml")), ids=lambda file: str(file.stem))
def test_rules_do_what_they_say(file: Path) -> None:
    """Each alert of the file fires, does not for its near miss, and resolves."""
    run(program("promtool"), "test", "rules", file)


@pytest.mark.parametrize(
    "file", sorted((GRAFANA / "prometheus").glob("prometheus*.yml")), ids=lambda file: str(file.stem)
)
def test_configurations_are_valid(file: Path) -> None:
    """Each example for a Prometheus is one, and finds the rules."""
    assert f"{len(alerts())} rules found" in run(program("promtool"), "check", "config", file)


def test_the_agents_configuration_is_valid() -> None:
    """The example for a board is one for Prometheus as an agent."""
    run(program("promtool"), "check", "config", "--agent", GRAFANA / "prometheus" / "agent.yml")


def test_a_misspelt_rule_is_noticed(tmp_path: Path) -> None:
    """The checks above can fail: a test of an alert that is another one does."""
    (tmp_path / "alerts.yml").write_text(ALERTS.replace('kind="unstable"', 'kind="unsteady"'), encoding="utf-8")
    test = (HERE / "rules_model.yml").read_text(encoding="utf-8")
    test = test.replace("../../grafana/rules/npumon.recording.yml", str(RULES[0]))
    test = test.replace("../../grafana/rules/npumon.alerts.yml", str(tmp_path / "alerts.yml"))
    (tmp_path / "test.yml").write_text(test, encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "NpumonLatencyUnstable" in done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """Each alert is expected by some test, and is expected not to fire by the same."""
    text = "".join(
        path.read_text(encoding="utf-8") for path in [*HERE.glob("rules_*.yml"), HERE / "test_rules_fleet.py"]
    )
    by_hand = {name for name in alerts() if re.search(rf"alertname: {name}\n", text)}
    silent = {name for name in alerts() if re.search(rf"alertname: {name}, .*exp_alerts: \[\]", text)}
    fleet = {"NpumonBoardUnlikeCohort", "NpumonRolloutRegression"}
    assert fleet == {name for name in alerts() if f'= "{name}"' in text}
    assert by_hand == alerts().keys() - fleet
    assert silent == by_hand - {ALWAYS}


def test_every_alert_says_what_when_and_where_to_read_on() -> None:
    """Each alert waits, is kept for a while, has a severity and texts that name the board, and its own anchor."""
    for name, text in alerts().items():
        if name != ALWAYS:
            assert re.search(r"^        for: \d+m$", text, re.MULTILINE), name
            assert re.search(r"^        keep_firing_for: \d+m$", text, re.MULTILINE), name
            assert re.search(r"^          severity: (critical|warning)$", text, re.MULTILINE), name
        for annotation in ("summary", "description"):
            assert re.search(rf"^          {annotation}: ", text, re.MULTILINE), f"{name}: {annotation}"
        assert f"runbook_url: docs/runbook.md#{name.lower()}\n" in text
        group = ALERTS[: ALERTS.index(f"- alert: {name}\n")].rpartition("- name: ")[2].split()[0]
        if group == "npumon_model":
            summary, _, description = text.partition("description:")
            assert all("$labels.model" in part and "$labels.instance" in part for part in (summary, description)), name


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """The runbook has one section for each alert, in order, with its three parts, and none for alerts that are not."""
    parts = re.split(r"^## (Npumon\w+)$", RUNBOOK, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == list(alerts())
    for name, text in sections.items():
        assert all(part in text for part in ("**Means.**", "**Confirm.**", "**Do.**")), name
        assert re.search(r"```(console|promql)\n[^\n]+\n```", text.partition("**Confirm.**")[2]), f"{name}: one command"


def test_rules_use_only_metrics_that_exist() -> None:
    """Each name in the rules is exported by npumon or recorded by a rule."""
    names = {name for expr in expressions() for name in used(expr)}
    assert len(expressions()) == len(recorded()) + len(alerts())
    assert names - exported() - recorded() == set()


def test_alert_dashboard_and_runbook_mean_the_same_distance_from_a_cohort() -> None:
    """How far a board's share may be from its cohort's is one figure."""
    text = alerts()["NpumonBoardUnlikeCohort"]
    assert set(re.findall(r"npumon_npu_flops_ratio:median [-+] ([\d.]+)\b and cohort", text)) == {str(POINTS)}
    assert f"by {POINTS * 100:.0f} points of the NPU-FLOP share" in RUNBOOK.replace("\n", " ")


def test_every_recording_rule_is_named_for_its_level_metric_and_operation() -> None:
    """Names are level:metric:operation, in base units, recorded once; the metric is npumon's."""
    names = re.findall(r"- record: (\S+)", RECORDING)
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*:npumon_[a-z_]+:[a-z][a-z0-9_]*", name), name
        assert not re.search(r"percent|millis|_ms\b|_us\b|micros|_mib\b|_kb\b|minutes|celcius|fahrenheit", name), name


def test_rules_need_nothing_newer_than_prometheus_2_42() -> None:
    """No function or modifier that came after 2.42, or only behind a feature flag, is used."""
    names = (
        r"mad_over_time|sort_by_label\w*|limitk|limit_ratio|info|double_exponential_smoothing|first_over_time|ts_of_\w+"
    )
    newer = rf"\b({names})\s*\("
    assert [found for expr in expressions() if (found := re.search(newer, expr))] == []
    assert [expr for expr in expressions() if re.search(r"\bfill(_left|_right)?\s*\(|@ ", expr)] == []
