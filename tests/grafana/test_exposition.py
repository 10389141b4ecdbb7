"""The real daemon's exposition as Prometheus reads it: through promtool, and for what promtool does not flag."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.running import free_port, running
from tests.grafana import metric_names
from tests.grafana.prometheus_server import program
from tests.grafana.test_alertmanager import tool

UNITS = re.compile(r"_(percent|percentage|permille|pct|ppm|kelvin|fahrenheit|mib|kib|kb|mb|mhz|khz|ghz|usec|msec)(_|$)")
QUANTILES = re.compile(r"_(p\d+|quantile\d*|percentile\d*|\d+th)(_|$)")
TARGETS = {"job", "instance"}
"""Labels that Prometheus sets on what it scrapes."""


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """What the demo's daemon exports once both of its models have been checked."""
    with running("demo", "--listen", f"127.0.0.1:{free_port()}", "--interval", "2s") as daemon:
        daemon.wait_checks("swift_f0", "qdq_cnn")
        status, text = daemon.get("/metrics")
        assert status == 200
        yield text


def promtools_complaints(text: str) -> set[str]:
    """What promtool has to say to it."""
    command = [program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    told = done.stdout + done.stderr
    assert bool(done.returncode) == bool(told)
    return set(told.splitlines())


def complaints(text: str) -> set[str]:
    """What is against Prometheus' conventions, or npumon's, and what promtool lets pass."""
    found = set()
    for family in text_string_to_metric_families(text):
        name = family.name
        wrong = {
            "is not npumon's": not name.startswith("npumon_"),
            "has a unit that is no base unit": UNITS.search(name),
            "is a quantile, which cannot be aggregated": QUANTILES.search(name) and family.type == "gauge",
            "is a series that tells when a series was made": name.endswith("_created"),
            "has no sample": not family.samples,
            "has a label of the target's": any(TARGETS & sample.labels.keys() for sample in family.samples),
            "has a quantile": any("quantile" in sample.labels for sample in family.samples),
            "has a time of its own": any(sample.timestamp is not None for sample in family.samples),
            "is no number": any(sample.value != sample.value for sample in family.samples),
            "is information with another value than 1": name.endswith("_info")
            and any(sample.value != 1 for sample in family.samples),
        }
        found |= {f"{name} {what}" for what, is_so in wrong.items() if is_so}
    return found


def test_promtool_finds_nothing(scraped: str) -> None:
    """Promtool accepts the real daemon's exposition without a word."""
    assert promtools_complaints(scraped) == set()


def test_nor_is_there_what_promtool_lets_pass(scraped: str) -> None:
    """Units, quantiles, labels of the target, times and values are as they should be."""
    assert complaints(scraped) == set()


def test_what_a_daemon_exports_is_documented(scraped: str) -> None:
    """No series has a name that the reference does not know; most that it knows are there."""
    names = set(re.findall(r"^(npumon_\w+)", scraped, re.MULTILINE))
    assert names <= metric_names.exported()
    assert len(names) > len(metric_names.exported()) / 2


@pytest.mark.parametrize(
    ("metric", "sample", "complaint"),
    [
        ("npumon_load_percent", " 1", "has a unit that is no base unit"),
        ("npumon_clock_mhz", " 1", "has a unit that is no base unit"),
        ("npumon_latency_p95_seconds", " 1", "is a quantile, which cannot be aggregated"),
        ("npumon_thing_created", " 1", "is a series that tells when a series was made"),
        ("npumon_models", '{instance="a"} 1', "has a label of the target's"),
        ("npumon_models", " NaN", "is no number"),
        ("npumon_models", " 1 1763829000000", "has a time of its own"),
        ("npumon_build_info", '{version="1"} 2', "is information with another value than 1"),
        ("models", " 1", "is not npumon's"),
    ],
)
def test_what_promtool_lets_pass_is_noticed(metric: str, sample: str, complaint: str) -> None:
    """The check above can fail where promtool does not: each of these is told."""
    text = f"# HELP {metric} Something.\n# TYPE {metric} gauge\n{metric}{sample}\n"
    assert complaints(text) == {f"{metric} {complaint}"}
    assert promtools_complaints(text) == set()


def test_a_gauge_with_quantiles_is_noticed_by_both() -> None:
    """A summary in the clothes of a gauge: ours says so, and so does promtool, which thus is really asked."""
    name = "npumon_latency_seconds"
    text = f'# HELP {name} Something.\n# TYPE {name} gauge\n{name}{{quantile="0.95"}} 1\n'
    assert complaints(text) == {f"{name} has a quantile"}
    assert any("quantile" in line for line in promtools_complaints(text))


@pytest.mark.parametrize("find", [program, tool])
def test_without_the_program_a_desk_skips_and_ci_fails(
    find: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is missing is never passed over in silence: a developer sees a skip, CI a failure that names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no promtool on this machine"):
        find("promtool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        find("promtool")
