"""The gate where there is no verdict: what a pipeline finds then, on stderr and in the files that it collects."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path
from xml.etree import ElementTree

from tests.e2e.running import COMMAND, Done, environment, free_port, npumon
from tests.service.test_prometheus import EMPTY, Answer, answering


def gate(url: str, *more: str | Path) -> Done:
    """The gate over any boards of this server."""
    return npumon("gate", "--prometheus", url, "--match", 'job="npumon"', *more)


def yesterday(folder: Path) -> Path:
    """A JUnit file that an earlier gate left, in which all passed."""
    file = folder / "gate.xml"
    file.write_text('<testsuites tests="1" errors="0"/>', encoding="utf-8")
    return file


def error_in(file: Path) -> str:
    """The message of the only test case in a JUnit file, which is an error."""
    root = ElementTree.parse(file).getroot()
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    (told,) = root.findall(".//testcase/error")
    return told.get("message", "")


def test_that_nothing_was_measured_is_told_in_the_files_too(tmp_path: Path) -> None:
    """A pipeline that collects JUnit or reads JSON finds the line that stands on stderr, and no pass of yesterday."""
    file, url = yesterday(tmp_path), f"http://127.0.0.1:{free_port()}"
    done = gate(url, "--junit", file, "--json")
    line = f"{url}: connection refused; start Prometheus there, or mend the URL"
    assert (done.code, done.err) == (3, line + "\n")
    document = json.loads(done.out)
    assert (document["outcome"], document["error"]) == ("unmeasured", line)
    assert error_in(file) == line


def test_a_mistake_leaves_no_pass_of_yesterday(tmp_path: Path) -> None:
    """Exit code 2 has no document, and its JUnit file is an error."""
    file = yesterday(tmp_path)
    done = gate("http://127.0.0.1:9", "--window", "1h", "--soak", "2h", "--junit", file, "--json")
    assert (done.code, done.out) == (2, "")
    assert error_in(file) == "--soak: 2h does not fit in a window of 1h; raise --window or lower --soak"


def test_a_gate_that_is_killed_leaves_an_error(tmp_path: Path) -> None:
    """A job that runs out of time is no pass, whatever file an earlier one left."""
    file, asked = yesterday(tmp_path), threading.Event()

    def slow(path: str, headers: dict[str, str]) -> Answer:
        asked.set()
        time.sleep(1)
        return 200, EMPTY, {}

    with answering(slow) as url:
        words = ("gate", "--prometheus", url, "--match", 'job="npumon"', "--junit", str(file))
        process = subprocess.Popen([*COMMAND, *words], env=environment())
        assert asked.wait(60)
        process.kill()
        process.wait()
    assert error_in(file) == "the gate did not come to its end"


def test_a_file_that_cannot_be_written_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    """One line and exit code 2, not a traceback after minutes of queries."""
    file = tmp_path / "absent" / "gate.xml"
    done = gate("http://127.0.0.1:9", "--junit", file)
    told = f"--junit: {file}: No such file or directory; name a file in a folder that can be written\n"
    assert (done.code, done.out, done.err) == (2, "", told)


def test_the_moment_is_by_the_servers_clock() -> None:
    """Where this machine's clock is a day late, boards would be judged by what they were before the rollout."""
    asked: list[dict[str, list[str]]] = []

    def answer(path: str, headers: dict[str, str]) -> Answer:
        form = urllib.parse.parse_qs(headers["form"])
        asked.append(form)
        value = {"metric": {}, "value": [1, "1600000000.5"]}
        known = [value] if form["query"] == ["vector(time())"] else []
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": known}}), {}

    with answering(answer) as url:
        assert gate(url).code == 3
    assert "time" not in asked[0]
    assert {one["time"][0] for one in asked[1:]} == {"1600000000.500"}
