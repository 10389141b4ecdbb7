"""The commands at their edges: exit codes, JSON, help, terminals, and outputs that cannot be written."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from monitor.cli import npumon as group
from tests.e2e.running import COMMAND, Terminal, children, environment, npumon, wait_until, write_config

# The contract's keys (DESIGN, section 4). A document may have more; figures that were not measured are absent.
IDENTITY = {"model", "model_sha256", "verdict", "samples", "runtime"}
FIGURES = {"npu_flops_ratio", "npu_time_ratio", "unattributed_flops_ratio", "total_flops", "nodes", "partitions", "ops"}
LATENCY = {"median_seconds", "cv_ratio", "replays_seconds", "warmups_seconds"}
OP = {"node", "op_type", "flops_ratio", "reason", "remedy"}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, good: Path, selu: Path) -> list[dict[str, Any]]:
    """``check --json`` of a healthy model, one that fell back, and one that is not there."""
    models: dict[str, dict[str, Any]] = {
        "healthy": {"path": good, "options": {"soc_model": "60", "soc_modle": "60"}},
        "fallen": {"path": selu, "options": {"soc_model": "58"}, "gate": {"npu_flops": 0.99}},
        "absent": {"path": "absent.onnx"},
    }
    done = npumon("check", "-c", write_config(tmp_path_factory.mktemp("checked"), models), "--json")
    assert done.code == 1  # worse than healthy outweighs not measured
    assert done.err.startswith("absent: ")
    documents: list[dict[str, Any]] = json.loads(done.out)
    return documents


def test_check_prints_a_document_for_each_model(checked: list[dict[str, Any]]) -> None:
    """The contract's keys in the order of the configuration, with the raw replays."""
    healthy, fallen, absent = checked
    assert [document["verdict"] for document in checked] == ["healthy", "fallback", "unknown"]
    assert healthy.keys() >= IDENTITY | FIGURES | LATENCY
    assert fallen.keys() >= IDENTITY | FIGURES | LATENCY | {"cause"}
    assert "cause" not in healthy
    assert "error" not in healthy
    assert len(healthy["replays_seconds"]) == 5
    assert len(healthy["warmups_seconds"]) == 3
    assert healthy["ops"] == []
    assert healthy["nodes"].keys() == {"accelerator", "cpu", "edge"}
    assert (healthy["nodes"]["cpu"], healthy["nodes"]["edge"]) == (0, 2)
    assert [op["node"] for op in fallen["ops"]] == ["selu"]
    assert fallen["ops"][0].keys() >= OP
    assert absent["error"].keys() == {"reason", "detail", "mend"}
    assert absent["error"]["reason"] == "model_missing"
    assert not absent.keys() & (FIGURES | LATENCY | {"cause", "model_sha256", "runtime", "samples"})


def test_what_a_check_notes_is_in_the_document(checked: list[dict[str, Any]]) -> None:
    """An option that the provider ignores stands among the notes, not among the errors."""
    assert any("options.soc_modle" in note for note in checked[0]["notes"])


def test_audit_prints_one_document(selu: Path) -> None:
    """The contract's keys without latency; exit code 0 where the default gate is met."""
    done = npumon("audit", selu, "-o", "soc_model=60", "--json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert document.keys() >= IDENTITY | FIGURES
    assert not document.keys() & LATENCY
    assert document["model"] == "selu"
    assert document["npu_flops_ratio"] == 1


def test_an_audit_that_measures_nothing_is_a_document_too(tmp_path: Path) -> None:
    """``error`` says why, and the exit code is 3."""
    done = npumon("audit", tmp_path / "absent.onnx", "--json")
    assert done.code == 3
    document = json.loads(done.out)
    assert document["error"]["reason"] == "model_missing"
    assert document["verdict"] == "unknown"
    assert not document.keys() & FIGURES


def test_a_session_that_is_refused_is_one_line(selu: Path) -> None:
    """A model that this SoC's backend cannot finalize gives its one-line cause and exit code 3, no traceback."""
    done = npumon("audit", selu, "-o", "soc_model=0")
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "Failed to finalize QNN graph" in done.err


def test_check_of_a_model_that_is_not_configured(tmp_path: Path, good: Path) -> None:
    """The names that there are stand in the line; exit code 2."""
    config = write_config(tmp_path, {"one": {"path": good}, "two": {"path": good}})
    done = npumon("check", "-c", config, "--model", "three")
    assert done == (2, "", f"{config}: --model three: no model has this name; there are one, two\n")


def test_check_config_measures_nothing(tmp_path: Path) -> None:
    """A valid file is valid wherever its models are, and one line says so."""
    config = write_config(tmp_path, {"one": {"path": "absent.onnx"}, "two": {"path": "absent.onnx"}})
    assert npumon("check-config", config) == (0, f"{config}: valid, 2 models\n", "")


@pytest.mark.parametrize("command", [(), *((name,) for name in group.commands)], ids=lambda command: " ".join(command))
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    """-h and --help say what the command does, in at most 100 columns."""
    long, short = npumon(*command, "--help"), npumon(*command, "-h")
    assert long == short
    assert (long.code, long.err) == (0, "")
    assert long.out.startswith("Usage: npumon")
    assert max(map(len, long.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nosuch",), "npumon: No such command 'nosuch'; see npumon --help"),
        (("check",), "npumon check: Missing option '-c' / '--config'; see npumon check --help"),
        (("run", "--nosuch"), "npumon run: No such option '--nosuch'; see npumon run --help"),
        (("audit",), "npumon audit: Missing argument 'MODEL'; see npumon audit --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    """Exit code 2, nothing on stdout, and where to read on."""
    assert npumon(*arguments) == (2, "", line + "\n")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("audit", "absent.onnx", "--json")])
def test_an_output_that_cannot_be_written(arguments: tuple[str, ...]) -> None:
    """A full disk behind stdout is one line, and an exit code that no gate takes for a verdict."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 3
    line = done.stderr.splitlines()[-1]
    assert line == "npumon: the output: No space left on device; make it writable or free space there"
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_gives_no_verdict(slow: Path) -> None:
    """Ctrl-C in a check ends it with 130, which is none of the verdicts' codes."""
    terminal = Terminal("audit", slow, "-o", "soc_model=60")
    terminal.read(until=lambda: "studying" in terminal.err)
    wait_until(lambda: bool(children(terminal.process.pid)), "a probe")
    assert terminal.end(signal.SIGINT) == 130
    assert terminal.err.endswith("npumon: interrupted\r\n")
    assert terminal.out == ""
    assert "Traceback" not in terminal.err


def test_people_at_a_terminal_see_progress(selu: Path) -> None:
    """A bar with the step under way on stderr, the table in colour on stdout; neither where there is no terminal."""
    terminal = Terminal("audit", selu, "-o", "soc_model=60")
    terminal.read()
    assert terminal.process.wait() == 0
    assert "creating the session" in terminal.err
    assert "100%" in terminal.err
    assert "\x1b[32mhealthy\x1b[0m" in terminal.out
    piped = npumon("audit", selu, "-o", "soc_model=60")
    assert (piped.code, piped.err) == (0, "")
    assert "\x1b" not in piped.out
    assert re.sub(r"\x1b\[\d*m", "", terminal.out.replace("\r", "")).splitlines()[:2] == piped.out.splitlines()[:2]


def test_people_at_a_terminal_read_the_log(tmp_path: Path, selu: Path) -> None:
    """On a terminal the daemon's log is one readable line an event with the worst ops below; elsewhere it is JSON."""
    model = {"path": selu, "options": {"soc_model": "58"}, "gate": {"npu_flops": 0.99}}
    terminal = Terminal("run", "-c", write_config(tmp_path, {"m": model}))
    terminal.read(until=lambda: "Selu selu" in terminal.out)
    assert terminal.end() == 0
    lines = terminal.out.splitlines()
    assert not [line for line in lines if line.startswith("{")]
    assert re.fullmatch(r"\d\d:\d\d:\d\d \x1b\[31merror  \x1b\[0m fallback_detected model=m .*", lines[1])
    assert "Selu selu (" in lines[2]
    assert lines[-1].endswith("stopped")
    assert terminal.err == ""


def test_a_daemon_outlives_its_log(tmp_path: Path, selu: Path) -> None:
    """Where no line of the log can be written, checks go on, and the exit code on SIGTERM is still 0."""
    config = write_config(tmp_path, {"m": {"path": selu}}, "1s")
    address = config.read_text().split('"')[1]

    def checks() -> float:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
                found = re.search(r'npumon_checks_total{model="m"} (.*)', response.read().decode())
        except OSError:
            return 0.0
        return float(found[1]) if found else 0.0

    command = [*COMMAND, "run", "-c", str(config)]
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment()) as process,
    ):
        try:
            wait_until(lambda: checks() >= 2, "two checks")
            process.terminate()
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
