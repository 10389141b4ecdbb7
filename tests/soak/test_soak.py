"""A soak with the real command, real probes and the real provider on the simulator, as a release would have it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.running import COMMAND, INSIDE_PROBES, ROOT, Terminal, children, environment, exists, npumon, wait_until
from tests.soak import night
from tests.soak.night import Model
from tests.soak.soaking import Bench

CHECKS = 44
"""Of each model, after which what is planted must show, however long a busy machine takes for them."""


def checks(bench: Bench) -> list[tuple[int, str, float, bytes]]:
    """Every check as it is kept: its number, model, time and replays."""
    path = bench.out / "soak.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as connection:
        try:
            return connection.execute("SELECT seq, model, elapsed, replays FROM checks ORDER BY seq").fetchall()
        except sqlite3.OperationalError:  # its tables are not there yet
            return []


def least(bench: Bench) -> int:
    """How many checks each of three models has at least."""
    counts = Counter(model for _, model, _, _ in checks(bench))
    return min(counts.values()) if len(counts) == 3 else 0


def started(bench: Bench, duration: str) -> subprocess.Popen[str]:
    """A soak that runs."""
    return subprocess.Popen(
        [*COMMAND, *map(str, bench.command(duration))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**bench.environment),
        start_new_session=True,
    )


@pytest.mark.slow
def test_what_is_planted_is_found_and_nothing_else(tmp_path: Path) -> None:
    """A drift, a leak and a placement that changes are each reported, of their own model, and only these."""
    bench = Bench(tmp_path)
    bench.plant_all(over=60)
    process = started(bench, "1h")
    wait_until(lambda: least(bench) >= CHECKS / 2, "half of the checks", 300)
    bench.move()
    wait_until(lambda: least(bench) >= CHECKS, "all checks", 300)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert bench.findings() == {"drifts": ["drift"], "leaks": ["memory"], "moves": ["placement"]}
    drifts, leaks, moves = bench.summary()["models"]
    seconds = bench.summary()["measured_seconds"]
    assert 0.03 < drifts["drift"]["low"] < 0.6 * seconds / 60
    # Five replays and three warm-ups a check keep as many pieces.
    assert leaks["memory"]["low"] < 8 * 400_000 * 1.1
    assert leaks["memory"]["high"] > 5 * 400_000
    assert [span["nodes_cpu"] for span in moves["spans"]] == [0, 1]
    assert "Selu" in moves["spans"][1]["change"]
    suites = ElementTree.parse(bench.out / "junit.xml").getroot()
    failed = {
        (case.get("classname"), case.get("name"))
        for case in suites.iter("testcase")
        if case.find("failure") is not None
    }
    assert failed == {("drifts", "drift"), ("leaks", "memory"), ("moves", "placement")}


@pytest.mark.slow
def test_nothing_planted_is_nothing_found(tmp_path: Path) -> None:
    """The same soak without anything planted has no finding, and ends with 0."""
    bench = Bench(tmp_path)
    process = started(bench, "1h")
    wait_until(lambda: least(bench) >= CHECKS, "all checks", 300)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    # As many seconds as are measured by now are all that is wanted: then it is complete.
    done = bench.run(f"{int(bench.summary()['measured_seconds'])}s")
    assert (done.code, bench.findings()) == (0, {"drifts": [], "leaks": [], "moves": []}), done.out
    page = (bench.out / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page), "the report must open offline"


def test_a_killed_soak_goes_on_and_tells_the_gap(tmp_path: Path) -> None:
    """Killed in the middle and started again: every check is still there, the time adds up, and the gap is told."""
    bench = Bench(tmp_path, ("m",))
    process = started(bench, "10m")
    wait_until(lambda: len(checks(bench)) >= 4, "four checks")
    probes = children(process.pid)
    process.kill()
    process.communicate()
    before = checks(bench)
    wait_until(lambda: not any(map(exists, probes)), "the end of its probes")

    time.sleep(1)
    wanted = round(before[-1][2]) + 5
    done = bench.run(f"{wanted}s")
    assert done.code == 0, done.err
    after = checks(bench)
    assert after[: len(before)] == before
    assert [row[2] for row in after] == sorted(row[2] for row in after)
    found = bench.summary()
    assert found["complete"]
    assert wanted <= found["measured_seconds"] < wanted + 30
    assert found["models"][0]["checks"] == len(after) > len(before)
    (gap,) = found["gaps"]
    assert gap["after_seconds"] == before[-1][2]
    assert not gap["rebooted"]
    page = (bench.out / "report.html").read_text()
    assert "Interruptions" in page
    assert "npumon ended and was started again" in page


def test_a_soak_that_is_told_to_end_reports_what_it_has(tmp_path: Path) -> None:
    """SIGTERM ends it early: reports are written, what is missing is said and is no pass, no process is left."""
    bench = Bench(tmp_path, ("m",))
    process = started(bench, "10m")
    wait_until(lambda: len(checks(bench)) >= 2, "two checks")
    probes = children(process.pid)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "of 10m measured" in out
    assert re.fullmatch(r"npumon soak: ended early, \d+ s were not measured; the same command goes on\n", err)
    assert not any(map(exists, probes))
    assert not bench.summary()["complete"]
    (case,) = [
        one for one in ElementTree.parse(bench.out / "junit.xml").iter("testcase") if one.get("name") == "duration"
    ]
    assert case.find("error") is not None
    # Another configuration may not go on with it, and nor may another model's bytes.
    text = bench.config.read_text()
    bench.config.write_text(text.replace("replays = 5", "replays = 6"))
    refused = bench.run("10m")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "a soak of another configuration: m: replays was 5, is 6; name another folder" in refused.err
    bench.config.write_text(text)
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes() + b"\n")
    refused = bench.run("10m")
    assert (refused.code, "m: path sha256 was" in refused.err) == (2, True), refused.err


def test_told_to_end_before_its_first_check_it_could_not_measure(tmp_path: Path) -> None:
    """SIGINT while the first session is created: 3 and one line, nothing is left running."""
    bench = Bench(tmp_path, ("m",))
    process = started(bench, "10m")
    wait_until(lambda: bool(children(process.pid)), "the first probe")
    probes = children(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert re.fullmatch(r"\S+: no check was made yet; wait, or start npumon soak again with --out \S+\n", err)
    assert not any(map(exists, probes))


def test_a_model_that_fails_and_fails_does_not_prolong_it(tmp_path: Path) -> None:
    """What is tried less and less often is tried once more at the end: then it is over, and could not be measured."""
    bench = Bench(tmp_path, ("m",))
    (tmp_path / "m.onnx").write_bytes(b"no model")
    done = bench.run("5s")  # tried after 0, 1, 3 and 7 seconds, were it not for the end
    assert done.code == 3, done.err
    found = bench.summary()
    assert found["complete"]
    assert found["measured_seconds"] < 6.5
    (model,) = found["models"]
    assert (model["verdict"], model["checks"]) == ("unknown", model["failed"])
    outcomes = {case[0].tag for case in ElementTree.parse(bench.out / "junit.xml").iter("testcase") if len(case)}
    assert outcomes == {"error", "system-out"}


def test_two_soaks_are_compared(tmp_path: Path) -> None:
    """Exit code and table say whether B is worse; with --json the same for programs; the bound can be set."""
    night.write(tmp_path / "a", [Model("m", 0.004, 1)], hours=2)
    night.write(tmp_path / "b", [Model("m", 0.0044, 2)], hours=2)
    same = npumon("soak", "compare", tmp_path / "a", tmp_path / "a")
    assert (same.code, same.out.splitlines()[0]) == (0, "m  not worse")
    worse = npumon("soak", "compare", tmp_path / "a", tmp_path / "b", "--json")
    assert worse.code == 1
    (found,) = json.loads(worse.out)["models"]
    assert found["worse"] == ["latency"]
    assert found["low"] < 1.1 < found["high"]
    assert npumon("soak", "compare", tmp_path / "a", tmp_path / "b", "--bound", "15").code == 0


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    """At a terminal a bar tells how far the soak is and what it does; Ctrl-C ends it with its reports."""
    bench = Bench(tmp_path, ("m",))
    terminal = Terminal(*bench.command("20m", "--pace", "1m"))
    # Paced, so that it is one check: what many of them say of a busy machine's latency is not asked here.
    terminal.read(until=lambda: "left, 1 check, waiting" in terminal.err)
    assert terminal.end(signal.SIGINT) == 3, terminal.out + terminal.err
    assert re.search(r"\[-+\]\s+0%\s+(20m|19m\d+s) left, 1 check, waiting", terminal.err)
    assert max(map(len, re.split(r"[\r\n]", re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", terminal.err)))) < 100
    assert bench.summary()["models"][0]["checks"] == 1
    assert (bench.out / "report.html").exists()


def test_a_terminal_that_is_closed_ends_no_soak(tmp_path: Path) -> None:
    """Whose terminal has gone loses the bar; the checks go on, and a signal still ends it in good order."""
    bench = Bench(tmp_path, ("m",))
    terminal = Terminal(*bench.command("20m"))
    wait_until(lambda: len(checks(bench)) >= 1, "a check")
    for master in [*terminal._ends]:
        os.close(master)
    terminal._ends.clear()
    count = len(checks(bench))
    wait_until(lambda: len(checks(bench)) >= count + 12, "checks without a terminal")
    time.sleep(2)  # the bar is drawn each second
    assert terminal.process.poll() is None
    terminal.process.send_signal(signal.SIGTERM)
    terminal.process.wait(60)
    assert (bench.out / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--duration", "8h", "--out", "o"), "npumon soak: missing -c FILE; see npumon soak --help\n"),
        (
            ("-c", "npumon.toml", "--duration", "8", "--out", "o"),
            "--duration 8: expected a duration from 1s to 365d; write 8h, 90m or 30s\n",
        ),
        (
            ("-c", "npumon.toml", "--duration", "8h", "--out", "o", "--pace", "often"),
            "--pace often: expected a duration from 0s to 365d; write 8h, 90m or 30s\n",
        ),
        (("report", "o"), "o: no soak was made here; npumon soak -c FILE --duration 8h --out o makes one\n"),
        (
            ("-c", "npumon.toml", "--duration", "8h", "--out", "npumon.toml"),
            "npumon.toml: --out: File exists; name a folder that this user may write\n",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    """Arguments that cannot be used end with 2 and one line that says what to write."""
    Bench(tmp_path, ("m",))
    done = npumon("soak", *arguments, cwd=tmp_path)
    assert (done.code, done.err) == (2, told)


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """What is called soak.db and is none is neither written nor taken for one."""
    bench = Bench(tmp_path, ("m",))
    bench.out.mkdir()
    file = bench.out / "soak.db"
    file.write_bytes(b"not a database, but somebody's work " * 100)
    done = npumon(*bench.command("1s"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot be read as a soak" in done.err
    assert file.read_bytes().startswith(b"not a database")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """A soak whose file the disk has damaged in the middle is not taken for whole, and what may save it is said."""
    night.write(tmp_path / "a", [Model("m", 0.004, 1)], hours=1)
    file = tmp_path / "a" / "soak.db"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 3 : len(whole) // 3 + 20_000] = b"\xa5" * 20_000
    file.write_bytes(whole)
    done = npumon("soak", "report", tmp_path / "a")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert re.search(r"soak\.db: damaged: .*; `sqlite3 soak\.db \.recover` may save the rest$", done.err.strip())


def test_a_full_disk_ends_it_in_one_line(tmp_path: Path) -> None:
    """What cannot be kept ends the soak with 3, and what was kept before is still there."""
    bench = Bench(tmp_path, ("m",))
    script = 'ulimit -f 200; trap "" XFSZ; exec "$@"'  # in units of 1 KiB
    command = ["bash", "-c", script, "bash", *COMMAND, *map(str, bench.command("10m"))]
    more = {**bench.environment, "PYTHONPATH": os.pathsep.join([INSIDE_PROBES, str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=120, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert re.search(
        r"soak\.db: disk I/O error; free space there, then go on with the same command$", done.stderr.strip()
    )
    assert checks(bench)


def test_a_model_that_is_not_there_is_no_soak(tmp_path: Path) -> None:
    """Without the model's file nothing is begun: one line, and 3."""
    bench = Bench(tmp_path, ("m",))
    (tmp_path / "m.onnx").unlink()
    done = npumon(*bench.command("1s"))
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert done.err.endswith("m.onnx: No such file or directory; deploy the model or correct models.path\n")
    assert not bench.out.exists()
