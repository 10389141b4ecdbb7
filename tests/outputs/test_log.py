"""The log: JSON for machines, lines for people, bounded, and never in the way of the daemon."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outputs import log
from tests.outputs.specimens import AWKWARD


class Terminal(io.StringIO):
    """A stream that says it is a terminal (there is none in a test)."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture(autouse=True)
def no_colour_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests decide about colour themselves, whatever the machine they run on prefers."""
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_json_when_not_at_a_terminal() -> None:
    """Elsewhere than at a terminal each record is one JSON object with time, level and event first."""
    stream = io.StringIO()
    log.configure(stream)
    log.logger.warning("state_damaged", detail="moved aside")
    log.logger.info("stopped")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert list(first) == ["timestamp", "level", "event", "detail"]
    assert (first["level"], first["event"], first["detail"]) == ("warning", "state_damaged", "moved aside")
    assert (second["level"], second["event"]) == ("info", "stopped")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])


def test_readable_at_a_terminal() -> None:
    """At a terminal a record is a line of words with the level in colour."""
    stream = Terminal()
    log.configure(stream)
    log.logger.warning("state_damaged", detail="moved aside", share=0.123456)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d \x1b\[33mwarning\x1b\[0m state_damaged detail=\"moved aside\" share=0\.1235\n",
        stream.getvalue(),
    )


def test_no_colour_elsewhere_or_when_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readable lines in a file, or with NO_COLOR set, have no escape sequence."""
    monkeypatch.setenv("NO_COLOR", "1")
    unwanted, file = Terminal(), io.StringIO()
    log.configure(unwanted)
    log.logger.error("probe_gone")
    monkeypatch.delenv("NO_COLOR")
    log.configure(file, json=False)
    log.logger.error("probe_gone")
    for stream in (unwanted, file):
        assert re.fullmatch(r"\d\d:\d\d:\d\d error   probe_gone\n", stream.getvalue())


def test_names_cannot_drive_the_terminal() -> None:
    """Escape sequences and line ends in names and reasons do not reach the terminal."""
    stream = Terminal()
    log.configure(stream)
    log.logger.info("model_changed", model=AWKWARD)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\x1b") == 2


def test_ops_are_told_one_a_line() -> None:
    """At a terminal the worst five ops stand below their event, and the others are counted, the omitted ones too."""
    stream = io.StringIO()
    log.configure(stream, json=False)
    op = {"op_type": "Conv", "node": "conv1", "flops_ratio": 0.5, "reason": "Dynamic shape"}
    log.logger.error("fallback_detected", ops=[op] * 7, ops_omitted=3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7
    assert lines[1].strip() == "Conv conv1 (50.0 % of FLOPs): Dynamic shape"
    assert lines[-1].strip() == "and 5 more"


def logged_to(path: Path, journal: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a service writes into ``path`` with this ``JOURNAL_STREAM``; ``{}`` stands for the file itself."""
    with path.open("w", encoding="utf-8") as stream:
        status = path.stat()
        if journal is None:
            monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        else:
            monkeypatch.setenv("JOURNAL_STREAM", journal.replace("{}", f"{status.st_dev}:{status.st_ino}"))
        log.configure(stream)
        log.logger.error("check_failed")
        log.logger.warning("latency_shifted", text="a\nb")
        log.logger.info("stopped")
    return path.read_text(encoding="utf-8").splitlines()


def test_journald_is_told_the_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout is the journal's stream (here a file plays it), each line is ``<N>`` and the same JSON object."""
    lines = logged_to(tmp_path / "journal", "{}", monkeypatch)
    assert [line[:3] for line in lines] == ["<3>", "<4>", "<6>"]
    documents = [json.loads(line[3:]) for line in lines]
    assert [document["event"] for document in documents] == ["check_failed", "latency_shifted", "stopped"]
    assert [document["level"] for document in documents] == ["error", "warning", "info"]


@pytest.mark.parametrize("journal", [None, "", "8:1", "1{}", "{}0", "nonsense"])
def test_no_prefix_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str | None) -> None:
    """Redirected into a file, a line is JSON from its first character, also if a service's environment is left."""
    for line in logged_to(tmp_path / "file", journal, monkeypatch):
        assert json.loads(line)


def test_a_pipe_can_be_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's stream is recognized by device and inode, whatever kind of file it is."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with open(reading, encoding="utf-8") as read, open(writing, "w", encoding="utf-8") as stream:
        log.configure(stream)
        log.logger.error("check_failed")
        assert read.readline().startswith('<3>{"timestamp":')


def test_debug_is_not_logged() -> None:
    """The log begins at ``info``."""
    stream = io.StringIO()
    log.configure(stream)
    log.logger.debug("detail")
    assert stream.getvalue() == ""


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.just("x" * 9000),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=9), children, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=20), json_like, max_size=12), st.text(max_size=30) | st.just("漢" * 20_000))
def test_a_line_is_bounded_and_valid(fields: dict[str, object], event: str) -> None:
    """Whatever is logged becomes strict JSON in at most LINE_LIMIT bytes."""
    line = log.to_line({"event": event, "level": "info"} | fields)
    assert len(line.encode()) <= log.LINE_LIMIT
    assert "\n" not in line
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)


def test_what_does_not_fit_is_left_out_and_named() -> None:
    """The longest fields go first, and the line says which."""
    fields = {"timestamp": "t", "level": "info", "event": "e", "big": ["y" * 3000] * 20, "small": "kept"}
    document = json.loads(log.to_line(fields))
    assert document == {"timestamp": "t", "level": "info", "event": "e", "small": "kept", "truncated": ["big"]}


def test_objects_and_odd_text_are_written_anyway() -> None:
    """A path, a set and a lone surrogate do not stop the log; what is no number becomes null."""
    document = json.loads(log.to_line({"event": "e", "set": {1}, "type": int, "name": "\udc80", "nan": float("nan")}))
    assert document == {"event": "e", "set": [1], "type": "<class 'int'>", "name": "?", "nan": None}


def test_a_full_disk_stops_nothing() -> None:
    """Where the log goes to a full disk, lines are lost and the program goes on."""
    program = (
        "import sys\n"
        "from monitor.outputs import log\n"
        "log.configure(sys.stdout)\n"
        "for _ in range(200):\n    log.logger.error('lost', text='x' * 500)\n"
        "print('alive', file=sys.stderr)\n"
    )
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr.startswith("alive\n")


def test_a_closed_stream_stops_nothing() -> None:
    """Logging to a stream that is closed raises nothing."""
    stream = io.StringIO()
    log.configure(stream)
    stream.close()
    log.logger.error("lost")
    assert stream.closed


def test_lines_of_threads_do_not_mix() -> None:
    """Lines written from several threads at once are each whole."""
    stream = io.StringIO()
    log.configure(stream)
    threads = [
        threading.Thread(target=lambda: [log.logger.info("tick", text="x" * 200) for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["tick"] * 400


def test_structlog_does_not_drag_rich_in() -> None:
    """Where rich is installed, the daemon's log still does not import it, and others still can."""
    program = (
        "import sys, monitor.outputs.log as log\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'rich'], 'rich was imported'\n"
        "import structlog.dev\n"
        "assert structlog.dev.rich is None\n"
        "try:\n    import rich\n    print('importable')\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    installed = importlib.util.find_spec("rich") is not None
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("importable" if installed else "No module named 'rich'")
