"""``events``, ``explain`` and ``baseline`` on a state directory as a daemon leaves it: what people see and type."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from monitor import recall
from monitor.outputs import database
from monitor.outputs.state import State
from monitor.outputs.stored import Reader
from monitor.records import BaselineRequest, ModelState
from tests.e2e.running import COMMAND, SCHEMA, Done, Terminal, environment, npumon, write_config
from tests.outputs.recorded import CLEARED, DETECTED, EVENTS, FALLEN_STATE, LEARNING, OLDER, PRESENT, WAITING_STATE
from tests.outputs.specimens import FALLBACK, HEALTHY

FALLEN = msgspec.structs.replace(FALLEN_STATE, baselines=(LEARNING, OLDER))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of three models; nothing was recorded yet."""
    models = {name: {"path": f"{name}.onnx"} for name in ("swift_f0", "detector", "ppocr_det")}
    return write_config(tmp_path, models, "90s")


@pytest.fixture
def recorded(config: Path) -> Path:
    """The same with a state: two models were checked, and five events happened, of a third one too."""
    with contextlib.closing(State.open(config.parent / "state", config)) as state:
        state.save_check(FALLBACK, FALLEN, EVENTS[:3])
        state.save_check(msgspec.structs.replace(HEALTHY, model="detector"), WAITING_STATE, EVENTS[3:])
    return config


def asked(config: Path, model: str) -> list[BaselineRequest]:
    """What waits for the daemon."""
    with Reader(config.parent / "state", config) as reader:
        return [request for _, request in reader.requests(model)]


# ---------------------------------------------------------------------------------------------------- events


def test_events_are_a_table_with_the_newest_last(recorded: Path) -> None:
    """Time, level, name, ID, model, reason and worst op types of each event; plain where there is no terminal."""
    done = npumon("events", "-c", recorded)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["when", "level", "event", "id"]
    assert lines[1] == "2025-11-22T16:30:00Z  error    fallback_detected  swift_f0-fallback-6921efc8"
    assert lines[2] == "    swift_f0: 3.9 % of the FLOPs run on the accelerator, the gate is 95 %"
    assert lines[3] == "    on the CPU: Conv x 18, Pad and 71 more ops"
    assert [line.split()[2] for line in lines if line[:2] == "20"] == [event.event for event in EVENTS]
    assert "\x1b" not in done.out


def test_events_as_json_are_the_lines_of_the_log(recorded: Path) -> None:
    """One object a line, each valid by the events' schema, in the log's own words."""
    done = npumon("events", "-c", recorded, "--json")
    assert (done.code, done.err) == (0, "")
    documents = [json.loads(line) for line in done.out.splitlines()]
    for document in documents:
        SCHEMA.validate(document)
    assert [(document["event"], document["id"]) for document in documents] == [(one.event, one.id) for one in EVENTS]
    assert list(documents[0])[:4] == ["timestamp", "level", "event", "id"]


def test_events_of_one_model_and_the_last_few(recorded: Path) -> None:
    """``--model`` selects, ``--limit`` counts from the newest."""
    done = npumon("events", "-c", recorded, "--model", "swift_f0", "--limit", "2", "--json")
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["fallback_changed", "fallback_cleared"]


def test_the_past_of_a_model_that_is_no_longer_configured(recorded: Path) -> None:
    """Its events can still be asked for by its name; a name that nobody had is a mistake."""
    recorded.write_text(recorded.read_text().replace('name = "ppocr_det"', 'name = "other"'))
    done = npumon("events", "-c", recorded, "--model", "ppocr_det")
    assert (done.code, len(done.out.splitlines())) == (0, 3)
    assert npumon("events", "-c", recorded, "--model", "pocr") == Done(
        2, "", f"{recorded}: --model pocr: no model has this name; there are swift_f0, detector, other\n"
    )


def test_no_events_is_an_answer(config: Path) -> None:
    """Where nothing ever changed, the command says so, and the JSON is empty."""
    with contextlib.closing(State.open(config.parent / "state", config)) as state:
        state.save_check(HEALTHY, ModelState("swift_f0"))
    nothing = "no events: nothing has changed since the first check"
    assert npumon("events", "-c", config) == Done(0, f"{nothing}\n", "")
    assert npumon("events", "-c", config, "--model", "detector") == Done(0, f"{nothing} of detector\n", "")
    assert npumon("events", "-c", config, "--json") == Done(0, "", "")


def test_events_at_a_terminal_have_colours(recorded: Path) -> None:
    """The level is in colour for people, as in the log."""
    terminal = Terminal("events", "-c", recorded)
    terminal.read()
    assert terminal.process.wait() == 0
    assert "\x1b[31merror  \x1b[0m  fallback_detected" in terminal.out


# --------------------------------------------------------------------------------------------------- explain


def test_explain_tells_one_incident_in_full(recorded: Path) -> None:
    """All events of the ID, the figures, the ops, and commands with the options that the model is configured with."""
    done = npumon("explain", "-c", recorded, DETECTED.id)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"npumon incident {DETECTED.id}\n\nmodel       swift_f0\n")
    for event in (DETECTED, EVENTS[3], CLEARED):
        assert f"  {event.event}\n      {event.reason}\n" in done.out
    assert "latency_unstable" not in done.out
    assert re.search(rf"\n  npumon audit (\\\n +)?{re.escape(str(recorded.parent))}/swift_f0\.onnx", done.out)
    assert "-o soc_model=60" in done.out
    assert "\nstatus      open since 2025-11-22T16:30:00Z\n" in done.out  # the state's word outweighs the events'


def test_the_beginning_of_an_id_is_enough(recorded: Path) -> None:
    """A prefix that only one incident has stands for it; one that is only in the models' states too."""
    whole = npumon("explain", "-c", recorded, "detector-unstable-6921f004")
    assert npumon("explain", "-c", recorded, "detector-u") == whole
    assert whole.out.startswith("npumon incident detector-unstable-6921f004\n")
    shifted = npumon("explain", "-c", recorded, "detector-s")
    assert "its events are so old that they are no longer kept" in shifted.out


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (
            "detector-",
            "detector-: 2 incidents begin so: detector-shifted-6921f100, detector-unstable-6921f004; "
            "write more of the one you mean",
        ),
        (
            "swift_f0-fallback-6921efc9",
            "swift_f0-fallback-6921efc9: no incident has this ID (did you mean swift_f0-fallback-6921efc8?); "
            "npumon events -c {file} lists them",
        ),
        ("xyz", "xyz: no incident has this ID; npumon events -c {file} lists them"),
    ],
)
def test_an_unknown_or_ambiguous_id_is_one_line(recorded: Path, wanted: str, line: str) -> None:
    """The nearest IDs, or those that begin so, stand in the line; exit code 2."""
    expected = f"{recorded}: {line.format(file=recorded)}\n"
    assert npumon("explain", "-c", recorded, wanted) == Done(2, "", expected)


# -------------------------------------------------------------------------------------------------- baseline


def test_baseline_show(recorded: Path) -> None:
    """Each model's baselines with what counts, what is learned and what waits."""
    done = npumon("baseline", "show", "-c", recorded)
    assert (done.code, done.err) == (0, "")
    assert "baseline  1f77e0aa  present, learning: 3 of 10 healthy checks\n" in done.out
    assert "baseline  1f3a9c2e  present, waiting for npumon baseline accept\n" in done.out
    assert "baseline  77ab01cd  older, accepted 2025-10-24T16:30:00Z, counts\n" in done.out
    assert done.out.endswith("ppocr_det\n  no baseline yet: healthy checks of npumon run make one\n")
    assert re.findall(r"^\S+$", done.out, re.MULTILINE) == ["swift_f0", "detector", "ppocr_det"]


def test_baseline_show_of_one_model_as_json(recorded: Path) -> None:
    """A document a model, in the order of the configuration."""
    (document,) = json.loads(npumon("baseline", "show", "-c", recorded, "--model", "detector", "--json").out)
    assert document["model"] == "detector"
    assert [(one["id"], one["state"], one["counts"]) for one in document["baselines"]] == [
        (PRESENT.id, "waiting", False),
        (OLDER.id, "accepted", True),
    ]
    assert npumon("baseline", "show", "-c", recorded, "--model", "x") == Done(
        2, "", f"{recorded}: --model x: no model has this name; there are swift_f0, detector, ppocr_det\n"
    )


@pytest.mark.parametrize(
    ("arguments", "request_", "words"),
    [
        (("accept", "detector"), BaselineRequest("detector", "accept"), "accept the present level"),
        (
            ("accept", "detector", "77"),
            BaselineRequest("detector", "accept", OLDER.id),
            "accept the level of baseline 77ab01cd",
        ),
        (("forget", "detector"), BaselineRequest("detector", "forget"), "forget all baselines"),
        (
            ("forget", "swift_f0", "1f77e0aa"),
            BaselineRequest("swift_f0", "forget", LEARNING.id),
            "forget baseline 1f77e0aa",
        ),
    ],
)
def test_a_change_is_asked_of_the_daemon(
    recorded: Path, arguments: tuple[str, ...], request_: BaselineRequest, words: str
) -> None:
    """The request waits in the state, the line says when it takes effect, and ``show`` shows that it waits."""
    action, model, *baseline = arguments
    when = "at its next check of the model (one every 1m30s, while npumon run runs)"
    line = f"{model}: the daemon will {words} {when}\n"
    assert npumon("baseline", action, "-c", recorded, model, *baseline) == Done(0, line, "")
    assert asked(recorded, model) == [request_]
    shown = npumon("baseline", "show", "-c", recorded, "--model", model).out
    assert f"  asked     {words}; takes effect at the daemon's next check\n" in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("accept", "detectr"), "detectr: no model has this name; there are swift_f0, detector, ppocr_det"),
        (("forget", "ppocr_det"), "ppocr_det: it has no baseline yet; healthy checks of npumon run make one"),
        (
            ("accept", "detector", "1f3a9c2f"),
            "1f3a9c2f: no baseline has this ID (did you mean 1f3a9c2e?); detector has 1f3a9c2e, 77ab01cd",
        ),
        (("forget", "detector", "zz"), "zz: no baseline has this ID; detector has 1f3a9c2e, 77ab01cd"),
    ],
)
def test_a_request_that_cannot_be_served_is_not_left(recorded: Path, arguments: tuple[str, ...], line: str) -> None:
    """An unknown model or baseline is one line with what there is; exit code 2, and nothing waits."""
    assert npumon("baseline", *arguments, "-c", recorded) == Done(2, "", f"{recorded}: {line}\n")
    assert asked(recorded, arguments[1]) == []


def test_what_was_not_measured_cannot_be_accepted(recorded: Path) -> None:
    """A baseline that was never learned to its end, and a present one without a check, have no level."""
    state = recorded.parent / "state"
    empty = msgspec.structs.replace(LEARNING, medians=())
    with contextlib.closing(State.open(state, recorded)) as opened:
        opened.save_check(FALLBACK, msgspec.structs.replace(FALLEN, baselines=(empty,)))
        result = msgspec.structs.replace(HEALTHY, model="detector")
        opened.save_check(result, msgspec.structs.replace(WAITING_STATE, baselines=(PRESENT, LEARNING)))
    assert npumon("baseline", "accept", "-c", recorded, "swift_f0") == Done(
        2, "", f"{recorded}: swift_f0: nothing was measured yet that could be accepted; wait for a check\n"
    )
    assert npumon("baseline", "accept", "-c", recorded, "detector", "1f77") == Done(
        2,
        "",
        f"{recorded}: detector: baseline 1f77e0aa was not learned to its end and has no level to accept; "
        f"npumon baseline show -c {recorded} shows the others\n",
    )


@pytest.mark.parametrize("beside_a_daemon", [False, True])
def test_a_request_that_a_full_disk_refuses(recorded: Path, beside_a_daemon: bool) -> None:
    """Nobody is told that the daemon will do what it does not know of; a limit on files stands in for a full disk."""
    state = recorded.parent / "state"
    command = ("prlimit", "--fsize=1", *COMMAND, "baseline", "accept", "-c", str(recorded), "detector")
    with contextlib.ExitStack() as stack:
        if beside_a_daemon:
            stack.enter_context(contextlib.closing(State.open(state, recorded)))
        done = subprocess.run(command, env=environment(PYTHONDONTWRITEBYTECODE="1"), capture_output=True, text=True)
    if beside_a_daemon:
        line = f"the state cannot be written: disk I/O error; free space in {state}, or try again"
    else:
        line = (
            f"cannot write {state / database.FILE}: disk I/O error; "
            "free space there, or look for errors of the disk in the kernel's log"
        )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{recorded}: monitor.state: {line}\n")
    assert asked(recorded, "detector") == []


# --------------------------------------------------------------------------------------------------- in common

COMMANDS = [("events",), ("explain", "x"), ("baseline", "show"), ("baseline", "accept", "detector")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_was_recorded_yet(config: Path, command: tuple[str, ...]) -> None:
    """Before the first start of the daemon each command says what to start, and makes no state of its own."""
    state = config.parent / "state"
    line = f"{config}: monitor.state: {state}: nothing was recorded yet; start npumon run -c {config}\n"
    assert npumon(*command, "-c", config) == Done(2, "", line)
    assert not state.exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_damaged_state(recorded: Path, command: tuple[str, ...]) -> None:
    """A file that is no database is one line, and stays where it is."""
    path = recorded.parent / "state" / database.FILE
    path.write_bytes(b"no database" * 1000)
    line = (
        f"{recorded}: monitor.state: cannot read {path}: file is not a database; "
        f"restart npumon run -c {recorded}, which keeps a damaged file aside and starts a new one\n"
    )
    assert npumon(*command, "-c", recorded) == Done(2, "", line)
    assert path.read_bytes() == b"no database" * 1000


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_bad_configuration(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The same line as in every other command."""
    file = tmp_path / "npumon.toml"
    file.write_text("[[models]]\nnam = 1\n")
    assert npumon(*command, "-c", file) == Done(2, "", f"{file}:2: models[0].nam: unknown key; write name\n")


def test_a_row_that_cannot_be_read_is_said(recorded: Path) -> None:
    """The others are printed, and stderr has a line about it."""
    with contextlib.closing(State.open(recorded.parent / "state", recorded)) as state:
        state._connection.execute("UPDATE events SET record = x'c1' WHERE seq = 1")
    done = npumon("events", "-c", recorded, "--json")
    assert (done.code, len(done.out.splitlines())) == (0, 4)
    assert re.fullmatch(r"the state's events row 1 is not readable \(.*\) and is left out\n", done.err)


@pytest.mark.parametrize("name", recall.baseline.commands)
def test_every_baseline_command_has_help(name: str) -> None:
    """-h and --help say what the command does, in at most 100 columns."""
    long, short = npumon("baseline", name, "--help"), npumon("baseline", name, "-h")
    assert long == short
    assert (long.code, long.err) == (0, "")
    assert long.out.startswith(f"Usage: npumon baseline {name} ")
    assert max(map(len, long.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("events", "--limit", "0"), "events: Invalid value for '--limit': 0 is not in the range 1<=x<=1000"),
        (("explain",), "explain: Missing argument 'ID'"),
        (("baseline", "accept"), "baseline accept: Missing argument 'MODEL'"),
        (("baseline", "nosuch"), "baseline: No such command 'nosuch'"),
    ],
)
def test_wrong_usage_is_one_line(config: Path, arguments: tuple[str, ...], line: str) -> None:
    """Exit code 2, nothing on stdout, and where to read on."""
    options = () if arguments == ("baseline", "nosuch") else ("-c", config)
    command = line.partition(":")[0]
    assert npumon(*arguments, *options) == Done(2, "", f"npumon {line}; see npumon {command} --help\n")
