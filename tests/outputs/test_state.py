"""The state is neither lost nor doubled, whatever is done to the disk, the file and the process.

Real databases in a temporary directory; a full disk is a limit on the size of files (``RLIMIT_FSIZE``).
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.errors import UsageError
from monitor.outputs import database
from monitor.outputs import state as module
from monitor.outputs.database import FILE
from monitor.outputs.state import REQUESTS, STUDIES, State, StateWriteError, study_key
from monitor.outputs.stored import EVENTS, REPLAYS, Reader
from monitor.records import (
    Baseline,
    BaselineRequest,
    CheckResult,
    Digest,
    Event,
    Execution,
    Identity,
    Incident,
    Latency,
    ModelState,
    Node,
    Rates,
    Round,
    Study,
)

CONFIG = Path("/etc/npumon.toml")
ROOT = Path(__file__).resolve().parents[2]
ACCEPT = BaselineRequest("m", "accept")

# The schema as npumon 0.1.0 had it; never to be changed.
SCHEMA_1 = """
CREATE TABLE results (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE models (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE replays (seq INTEGER PRIMARY KEY, model TEXT NOT NULL, record BLOB NOT NULL);
CREATE INDEX replays_of ON replays (model, seq);
CREATE TABLE studies (key TEXT PRIMARY KEY, used INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
"""


def check(model: str = "m", number: int = 1) -> tuple[CheckResult, ModelState, list[Event]]:
    """The ``number``-th check of a model, with one event that the state also knows of."""
    latency = Latency(0.01, 0.02, (0.01, float(number)), (0.1,))
    result = CheckResult(model, 1e9 + number, 1.5, "healthy", "ok", latency=latency)
    state = ModelState(model, failure=Incident(str(number), 1e9))
    return result, state, [Event(1e9 + number, "info", "check_recovered", str(number), model, "ok")]


def study(name: str = "ab") -> Study:
    """A small study."""
    return Study(
        model_sha256=name,
        dims={"batch": 1},
        samples="synthetic",
        assumed={},
        nodes=(Node("conv1", "Conv", attributes={"group": 1}),),
        runs=((Execution(0, ((1, 3), None), ((1, 3),)),),),
        partitioned=(),
        constants=("w",),
        inputs=("x",),
        outputs=("y",),
        onnxruntime="1.0",
    )


def ids(state: State) -> list[int]:
    """The numbers of the stored events."""
    return [int(event.id) for event in state.events()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory that is not there yet."""
    return tmp_path / "deep" / "state"


@pytest.fixture
def state(directory: Path) -> Iterator[State]:
    """An open state."""
    with contextlib.closing(State.open(directory, CONFIG)) as one:
        yield one


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_check_survives_a_restart(directory: Path) -> None:
    """Result, model state, events, replays and study come back exactly as they were saved."""
    key = study_key("ab", {"batch": 1}, "none")
    with contextlib.closing(State.open(directory, CONFIG)) as first:
        first.save_check(*check("a", 1))
        first.save_check(*check("b", 2))
        first.save_check(*check("a", 3))
        first.put_study(key, study())
    with contextlib.closing(State.open(directory, CONFIG)) as second:
        assert second.results() == {"a": check("a", 3)[0], "b": check("b", 2)[0]}
        assert second.model_states() == {"a": check("a", 3)[1], "b": check("b", 2)[1]}
        assert ids(second) == [1, 2, 3]
        assert [event.id for event in second.events(2)] == ["2", "3"]
        assert [latency.replays_seconds[1] for latency in second.replays("a")] == [1.0, 3.0]
        assert [latency.replays_seconds[1] for latency in second.replays("a", 1)] == [3.0]
        assert second.study(key) == study()
        assert second.study(study_key("ab", {"batch": 2}, "none")) is None
        assert second.notes == []


def test_a_check_that_measured_nothing_adds_no_replays(state: State) -> None:
    """A failed check leaves the replays of the last good one alone."""
    state.save_check(*check())
    state.save_check(CheckResult("m", 1.0, 1.0, "unknown", "no"), ModelState("m"))
    assert len(state.replays("m")) == 1
    assert state.results()["m"].verdict == "unknown"


def test_the_files_are_private(directory: Path, state: State) -> None:
    """Directory 0700, files 0600, also the side files, also one that was laxer."""
    state.save_check(*check())
    assert directory.stat().st_mode & 0o777 == 0o700
    files = list(directory.iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    (directory / FILE).chmod(0o644)
    State.open(directory, CONFIG).close()
    assert (directory / FILE).stat().st_mode & 0o777 == 0o600


def test_every_table_is_bounded(state: State) -> None:
    """Events, replays and studies stay at their limits; the oldest, or longest unused, go."""
    result, memory, _ = check()
    for start in range(0, EVENTS + 500, 100):
        state.save_check(result, memory, [check(number=start + index)[2][0] for index in range(100)])
    assert ids(state) == list(range(500, EVENTS + 500))
    for number in range(REPLAYS + 5):
        state.save_check(*check(number=number))
    state.save_check(*check("other", 1))
    assert [latency.replays_seconds[1] for latency in state.replays("m")] == list(range(5, REPLAYS + 5))
    for number in range(STUDIES):
        state.put_study(str(number), study(str(number)))
    assert state.study("0") == study("0")
    state.put_study("new", study())
    assert state.study("0") is not None
    assert state.study("new") is not None
    assert state.study("1") is None


def test_a_study_key_covers_all_that_shapes_the_study() -> None:
    """Model, dims, samples and versions change the key; the order of dims does not."""
    key = study_key("ab", {"a": 1, "b": 2}, "s", "1.32")
    assert key == study_key("ab", {"b": 2, "a": 1}, "s", "1.32")
    others = [
        ("ac", {"a": 1, "b": 2}, "s", "1.32"),
        ("ab", {"a": 1}, "s", "1.32"),
        ("ab", {"a": 1, "b": 2}, "s", "1.33"),
    ]
    assert len({key, study_key("ab", {"a": 1, "b": 2}, "t", "1.32"), *(study_key(*other) for other in others)}) == 5


def test_a_forgotten_model_is_gone_but_its_events_stay(state: State) -> None:
    """What is no longer configured leaves results, states and replays; history stays history."""
    state.save_check(*check("a", 1))
    state.save_check(*check("b", 2))
    state.forget("a")
    assert set(state.results()) == set(state.model_states()) == {"b"}
    assert state.replays("a") == []
    assert ids(state) == [1, 2]


@pytest.mark.parametrize(("below", "why"), [("state", "Not a directory"), ("", "Not a directory")])
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, below: str, why: str) -> None:
    """A regular file in the way is a usage error that names file, key, directory and mend."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    directory = tmp_path / "file" / below
    with pytest.raises(UsageError) as caught:
        State.open(directory, CONFIG)
    assert str(caught.value) == (
        f"/etc/npumon.toml: monitor.state: cannot write {directory}: {why}; "
        "free it for this user or name another directory"
    )


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As a user who is not root, who may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_without_permission_is_one_line() -> None:
    """A directory of somebody else is a usage error with the system's own word for it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        directory = Path(folder)
        directory.chmod(0o555)
        with nobody(), pytest.raises(UsageError, match=r"monitor\.state: cannot write .*: Permission denied; "):
            State.open(directory, CONFIG)


def test_a_disk_that_is_full_at_the_start_is_one_line(directory: Path) -> None:
    """No room for even an empty database is a usage error."""
    with full_disk(0), pytest.raises(UsageError, match=r"monitor\.state: cannot write "):
        State.open(directory, CONFIG)


def test_what_a_full_disk_refused_is_written_once_there_is_room(directory: Path) -> None:
    """Refused checks raise one line each; afterwards all events are there once, and each model's last state."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check("a", 1))
        with full_disk(1):
            for number, model in ((2, "a"), (3, "b"), (4, "a")):
                with pytest.raises(StateWriteError, match="cannot be written") as caught:
                    state.save_check(*check(model, number))
                assert "\n" not in str(caught.value)
            with pytest.raises(StateWriteError):
                state.put_study("key", study())
            assert ids(state) == [1]
        state.save_check(*check("c", 5))
        assert sorted(ids(state)) == [1, 2, 3, 4, 5]
        state.save_check(*check("c", 6))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert sorted(ids(state)) == [1, 2, 3, 4, 5, 6]
        assert state.model_states() == {"a": check("a", 4)[1], "b": check("b", 3)[1], "c": check("c", 6)[1]}


def test_what_is_owed_is_written_at_the_end(directory: Path) -> None:
    """A check that a full disk refused is written by closing, if there is room by then."""
    state = State.open(directory, CONFIG)
    with full_disk(1), pytest.raises(StateWriteError):
        state.save_check(*check())
    state.close()
    with contextlib.closing(State.open(directory, CONFIG)) as again:
        assert ids(again) == [1]


def test_a_forgotten_model_is_not_owed_either(state: State) -> None:
    """A refused check of a model that is then removed from the configuration does not come back."""
    with full_disk(1), pytest.raises(StateWriteError):
        state.save_check(*check("a", 1))
    state.forget("a")
    state.save_check(*check("b", 2))
    assert set(state.results()) == {"b"}


def test_garbage_is_set_aside_and_only_the_last_two_are_kept(directory: Path) -> None:
    """A file that is no database is kept beside the new one, said in a note, and does not pile up."""
    directory.mkdir(parents=True)
    for content in ("one", "two", "three"):
        (directory / FILE).write_text(content * 1000, encoding="utf-8")
        with contextlib.closing(State.open(directory, CONFIG)) as state:
            (note,) = state.notes
            assert f"damaged (file is not a database); it is kept as {FILE}.corrupt-1" in note
            state.save_check(*check())
            assert ids(state) == [1]
    kept = {path.name: path.read_text(encoding="utf-8")[:5] for path in directory.glob("*corrupt*")}
    assert kept == {f"{FILE}.corrupt-1": "three", f"{FILE}.corrupt-2": "twotw"}


def test_a_database_of_a_newer_version_is_kept_for_it(directory: Path) -> None:
    """After a downgrade the newer database is set aside whole, not destroyed."""
    State.open(directory, CONFIG).close()
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert "of version 99, from a newer npumon" in state.notes[0]
    with contextlib.closing(sqlite3.connect(directory / f"{FILE}.newer-1")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_an_older_database_is_brought_up_in_one_go(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration keeps what is there; one that fails half-way changes nothing."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check())
    monkeypatch.setattr(database, "VERSION", 4)
    steps = dict(database._MIGRATIONS)
    monkeypatch.setattr(database, "_MIGRATIONS", steps | {3: "CREATE TABLE extra (x); INSERT INTO nowhere VALUES (1)"})
    with pytest.raises(UsageError, match="no such table: nowhere"):
        State.open(directory, CONFIG)
    monkeypatch.setattr(database, "_MIGRATIONS", steps | {3: "CREATE TABLE extra (x)"})
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert ids(state) == [1]
        assert state.notes == []


def made_by_version_1(directory: Path) -> None:
    """A database as version 1 left it, with one check."""
    directory.mkdir(parents=True)
    result, memory, events = check()
    with contextlib.closing(sqlite3.connect(directory / FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in SCHEMA_1.split(";"):  # as it was run: SQLite keeps the text of each
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO results VALUES ('m', ?)", (msgspec.msgpack.encode(result),))
        connection.execute("INSERT INTO models VALUES ('m', ?)", (msgspec.msgpack.encode(memory),))
        connection.execute("INSERT INTO events (record) VALUES (?)", (msgspec.msgpack.encode(events[0]),))
        row = ("m", msgspec.msgpack.encode(result.latency))
        connection.execute("INSERT INTO replays (model, record) VALUES (?, ?)", row)


def test_a_database_of_version_1_is_brought_up(directory: Path) -> None:
    """All that version 1 recorded is there afterwards, none of it is set aside, and requests can be left."""
    made_by_version_1(directory)
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state.notes == []
        assert state.results() == {"m": check()[0]}
        assert state.model_states() == {"m": check()[1]}
        assert (ids(state), len(state.replays("m"))) == ([1], 1)
        state.request(ACCEPT)
        assert [request for _, request in state.requests("m")] == [ACCEPT]
    assert [file.name for file in directory.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET record = x'c1'",
        "UPDATE {table} SET record = x'80'",
        "UPDATE {table} SET record = 'text'",
        "UPDATE {table} SET record = 5",
    ],
)
@pytest.mark.parametrize("table", ["results", "models", "events", "replays", "studies", "requests"])
def test_a_row_that_does_not_decode_is_dropped_with_a_note(directory: Path, table: str, statement: str) -> None:
    """A row of another version or with damage is named once and gone; the other tables are not touched."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check())
        state.put_study("key", study())
        state.request(ACCEPT)
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection, connection:
        connection.execute(statement.format(table=table))
    for expected in (1, 0):
        with contextlib.closing(State.open(directory, CONFIG)) as state:
            found = [state.results(), state.model_states(), state.events(), state.replays("m"), state.study("key")]
            found.append(state.requests("m"))
            assert sum(not part for part in found) == 1
            assert len(state.notes) == expected
            assert all(table in note and "\n" not in note for note in state.notes)


ACCEPTED = Baseline("ab", Identity("00", "qnn 2.7.0"), 1e9, (0.01,), 0.01, 1e9, rates=Rates(1.0, 30.0, (0.5,), (0.5,)))
REMEMBERED = ModelState(
    "m", failure=Incident("1", 1e9), digests=(Digest(1e9, 0.01, 0.04, (Round(30, {3: 1}),)),), baselines=(ACCEPTED,) * 2
)


@pytest.mark.parametrize(
    ("path", "kept", "lost"),
    [
        (["digests"], {"digests": ()}, "digests"),
        (["digests", 0], {"digests": ()}, "digests"),
        (["digests", 0, 3, 0, 1], {"digests": ()}, "digests"),
        (["failure"], {"failure": None}, "failure"),
        (["failure", "since"], {"failure": None}, "failure"),
        (["baselines", 1, "rates"], {"baselines": (ACCEPTED, replace(ACCEPTED, rates=Rates()))}, "a baseline's rates"),
        (["baselines", 0, "identity"], {"baselines": (ACCEPTED,)}, "a baseline"),
        (["baselines", 0], {"baselines": (ACCEPTED,)}, "a baseline"),
        (["baselines"], {"baselines": ()}, "a baseline"),
    ],
)
def test_what_was_accepted_outlives_a_part_that_does_not_decode(
    directory: Path, path: list[str | int], kept: dict[str, object], lost: str
) -> None:
    """Of a model's state only the part that another version wrote otherwise is lost, and it is said what that was."""
    document = msgspec.msgpack.decode(msgspec.msgpack.encode(REMEMBERED), strict=False)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "of another kind"
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(check()[0], REMEMBERED)
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection, connection:
        connection.execute("UPDATE models SET record = ?", (msgspec.msgpack.encode(document),))
    for reader in (State.open(directory, CONFIG), Reader(directory, CONFIG)):
        with contextlib.closing(reader):
            assert reader.model_states() == {"m": replace(REMEMBERED, **kept)}
            assert reader.notes == [f"the state's models row 'm' is readable but for {lost}"]


def test_a_study_that_unpacks_beyond_the_limit_is_dropped(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed bomb in the file is never unpacked beyond the limit."""
    state.put_study("key", study())
    monkeypatch.setattr(module, "STUDY_LIMIT", 10)
    assert state.study("key") is None
    assert len(state.notes) == 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 200), cut=st.booleans())
def test_any_damage_to_the_file_leaves_a_state_that_works(tmp_path: Path, seed: int, changes: int, cut: bool) -> None:
    """Random bytes overwritten or the end cut off: it opens, reads without a crash, and saves a check."""
    directory = tmp_path / str(seed)
    sound = tmp_path / "sound"
    if not sound.exists():
        with contextlib.closing(State.open(sound, CONFIG)) as state:
            for number in range(30):
                state.save_check(*check("ab"[number % 2], number))
            state.put_study("key", study())
    data = bytearray((sound / FILE).read_bytes())
    chance = random.Random(seed)
    for _ in range(changes):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if cut:
        del data[chance.randrange(len(data)) :]
    directory.mkdir(exist_ok=True)
    for file in directory.iterdir():
        file.unlink()
    (directory / FILE).write_bytes(data)
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.results(), state.model_states(), state.events(), state.replays("a"), state.study("key")
        state.save_check(*check("c", 100))
        assert state.results()["c"] == check("c", 100)[0]
        assert state.events()[-1].id == "100"


WRITER = """
import sys
from pathlib import Path
from monitor.outputs.state import State
from monitor.records import CheckResult, Event, Incident, Latency, ModelState
state = State.open(Path(sys.argv[1]), Path("config"))
number = int(state.model_states()["m"].failure.id) if state.results() else 0
while True:
    number += 1
    latency = Latency(0.01, 0.02, (0.01, float(number)), (0.1,))
    result = CheckResult("m", 1e9 + number, 1.5, "healthy", "ok", latency=latency)
    event = Event(1e9 + number, "info", "check_recovered", str(number), "m", "ok")
    state.save_check(result, ModelState("m", failure=Incident(str(number), 1e9)), [event])
    print(number, flush=True)
"""


def test_kill_at_any_moment_loses_and_doubles_nothing(directory: Path) -> None:
    """Killed with SIGKILL at random moments, every check that was accepted is there, its event exactly once."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    chance = random.Random(7)
    accepted = 0
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as writer:
            assert writer.stdout is not None
            accepted = max(accepted, int(writer.stdout.readline()))
            time.sleep(chance.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            accepted = max([accepted, *(int(line) for line in writer.stdout.read().split())])
        with contextlib.closing(State.open(directory, CONFIG)) as state:
            stored = ids(state)
            assert stored == list(range(max(1, stored[-1] - EVENTS + 1), stored[-1] + 1))
            assert stored[-1] >= accepted
            assert state.model_states()["m"] == check("m", stored[-1])[1]
            assert state.results()["m"] == check("m", stored[-1])[0]
            assert state.notes == []


# ------------------------------------------------------------------------------------------------- requests


def test_requests_wait_until_a_check_has_served_them(state: State) -> None:
    """Requests come back by model, oldest first, and those that a saved check has served are gone with it."""
    asked = [ACCEPT, BaselineRequest("m", "forget", "ab"), BaselineRequest("other", "forget")]
    for request in asked:
        state.request(request)
    assert [request for _, request in state.requests("m")] == asked[:2]
    assert [request for _, request in state.requests("other")] == asked[2:]
    first = state.requests("m")[0][0]
    state.save_check(*check(), served=[first])
    assert [request for _, request in state.requests("m")] == asked[1:2]
    assert [request for _, request in state.requests("other")] == asked[2:]


def test_a_request_of_another_process_is_seen_by_the_daemon(directory: Path, state: State) -> None:
    """What a command leaves beside a running daemon is there at its next look, and outlives both."""
    with contextlib.closing(State.attach(directory, CONFIG)) as command:
        command.request(ACCEPT)
    assert [request for _, request in state.requests("m")] == [ACCEPT]
    state.close()
    with contextlib.closing(State.open(directory, CONFIG)) as again:
        assert [request for _, request in again.requests("m")] == [ACCEPT]


def test_a_request_is_not_served_twice_when_the_check_is_owed(directory: Path, state: State) -> None:
    """While the disk is full, what an owed check has served is not handed out again; then it goes with the check."""
    state.request(ACCEPT)
    ((number, _),) = state.requests("m")
    with full_disk(1):
        for served in ([number], []):
            with pytest.raises(StateWriteError):
                state.save_check(*check(), served=served)
            assert state.requests("m") == []
        with Reader(directory, CONFIG) as reader:
            assert [request for _, request in reader.requests("m")] == [ACCEPT]
    state.save_check(*check("other"))
    with Reader(directory, CONFIG) as reader:
        assert reader.requests("m") == []


def test_requests_are_bounded(state: State) -> None:
    """Nobody fills the disk with requests that no daemon serves: the oldest make room."""
    for number in range(REQUESTS + 3):
        state.request(BaselineRequest("m", "forget", str(number)))
    assert [request.baseline for _, request in state.requests("m")] == [str(n) for n in range(3, REQUESTS + 3)]


def test_a_forgotten_model_has_no_requests(state: State) -> None:
    """A model that is configured anew does not get what was asked for its predecessor."""
    state.request(ACCEPT)
    state.request(BaselineRequest("other", "accept"))
    state.forget("m")
    assert state.requests("m") == []
    assert len(state.requests("other")) == 1


def test_a_request_that_a_full_disk_refuses_is_an_error(directory: Path, state: State) -> None:
    """Nobody is told that the daemon will do what it will never know."""
    with (
        contextlib.closing(State.attach(directory, CONFIG)) as command,
        full_disk(1),
        pytest.raises(StateWriteError, match="the state cannot be written: "),
    ):
        command.request(ACCEPT)


# ------------------------------------------------------------------------------------------ beside the daemon


def refused(directory: Path) -> str:
    """The one line that both ways of opening for a command give, but for the word for what they cannot do."""
    lines = []
    for attempt in (lambda: Reader(directory, CONFIG), lambda: State.attach(directory, CONFIG)):
        with pytest.raises(UsageError) as caught:
            attempt()
        lines.append(str(caught.value).replace(": cannot write ", ": cannot read "))
    assert lines[0] == lines[1]
    return lines[0]


NOTHING = "/etc/npumon.toml: monitor.state: {}: nothing was recorded yet; start npumon run -c /etc/npumon.toml"


def test_a_command_makes_no_state(directory: Path) -> None:
    """Without a state a command says that nothing was recorded yet, and leaves no directory behind."""
    assert refused(directory) == NOTHING.format(directory)
    assert not directory.exists()
    directory.mkdir(parents=True)
    assert refused(directory) == NOTHING.format(directory)
    (directory / FILE).touch()  # as a daemon has it for a moment when it starts
    assert refused(directory) == NOTHING.format(directory)
    assert (directory / FILE).stat().st_size == 0
    assert refused(directory / FILE) == NOTHING.format(directory / FILE)


def test_a_command_migrates_nothing(directory: Path) -> None:
    """The database of an older npumon is left to its daemon, that of a newer one to its commands."""
    made_by_version_1(directory)
    path = directory / FILE
    assert refused(directory) == (
        f"/etc/npumon.toml: monitor.state: {path} is of version 1, from an older npumon; "
        "restart npumon run -c /etc/npumon.toml, which brings it up to date"
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert refused(directory) == (
        f"/etc/npumon.toml: monitor.state: {path} is of version 99, from a newer npumon; use that one's command"
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_command_sets_nothing_aside(directory: Path) -> None:
    """A damaged file is named and left to the daemon, which keeps it aside."""
    directory.mkdir(parents=True)
    (directory / FILE).write_text("no database" * 1000, encoding="utf-8")
    assert refused(directory) == (
        f"/etc/npumon.toml: monitor.state: cannot read {directory / FILE}: file is not a database; "
        "restart npumon run -c /etc/npumon.toml, which keeps a damaged file aside and starts a new one"
    )
    assert [file.name for file in directory.iterdir()] == [FILE]


def test_damage_that_shows_while_reading_is_one_line(directory: Path) -> None:
    """A table that is not there, or pages that make no sense, end a command with one line, never a traceback."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check())
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection:
        connection.execute("DROP TABLE events")
    with Reader(directory, CONFIG) as reader:
        assert reader.results() == {"m": check()[0]}
        with pytest.raises(UsageError) as caught:
            reader.events()
    assert str(caught.value) == (
        f"/etc/npumon.toml: monitor.state: cannot read {directory / FILE}: no such table: events; "
        "restart npumon run -c /etc/npumon.toml, which keeps a damaged file aside and starts a new one"
    )


def test_a_state_of_somebody_else_is_one_line() -> None:
    """Who may not read or write the daemon's state is told as whom to run the command."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        directory = Path(folder)
        State.open(directory, CONFIG).close()
        directory.chmod(0o755)
        (directory / FILE).chmod(0o600 if os.geteuid() == 0 else 0)
        with nobody():
            line = refused(directory)
    assert line == (
        f"/etc/npumon.toml: monitor.state: cannot read {directory / FILE}: Permission denied; "
        "run this as the user that npumon run runs as, or as root"
    )


def test_a_state_on_a_disk_that_became_read_only_can_be_read() -> None:
    """Where SQLite can make no files beside the database, a command reads it all the same, and cannot write it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        directory = Path(folder)
        with contextlib.closing(State.open(directory, CONFIG)) as state:
            state.save_check(*check())
        (directory / FILE).chmod(0o666)
        directory.chmod(0o555)
        with nobody():
            with Reader(directory, CONFIG) as reader:
                assert [event.id for event in reader.events()] == ["1"]
            with pytest.raises(UsageError) as caught:
                State.attach(directory, CONFIG)
        assert str(caught.value) == (
            f"/etc/npumon.toml: monitor.state: cannot write {directory / FILE}: "
            "attempt to write a readonly database; run this as the user that npumon run runs as, or as root"
        )


def test_a_state_on_a_full_disk_can_be_read(directory: Path) -> None:
    """A full disk is when somebody asks what happened: without a daemon, nothing has to be written for the answer."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check())
    with full_disk(1), Reader(directory, CONFIG) as reader:
        assert [event.id for event in reader.events()] == ["1"]


def test_what_is_only_in_the_log_is_not_read_past(directory: Path) -> None:
    """Where the newest checks are in SQLite's log and it cannot be read, a command refuses rather than tell less."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check())
        copy = directory.parent / "copy"
        copy.mkdir()
        for name in (FILE, f"{FILE}-wal"):
            (copy / name).write_bytes((directory / name).read_bytes())
    with full_disk(1), pytest.raises(UsageError) as caught:
        Reader(copy, CONFIG)
    assert str(caught.value) == (
        f"/etc/npumon.toml: monitor.state: cannot read {copy / FILE}: disk I/O error; "
        "free space there, or look for errors of the disk in the kernel's log"
    )
    with Reader(copy, CONFIG) as reader:
        assert [event.id for event in reader.events()] == ["1"]


def test_a_busy_state_is_one_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process holds the file for itself for long, the command says so instead of waiting for ever."""
    State.open(directory, CONFIG).close()
    monkeypatch.setattr(database, "_PATIENCE", 0.05)
    with contextlib.closing(sqlite3.connect(directory / FILE, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        assert refused(directory) == (
            f"/etc/npumon.toml: monitor.state: cannot read {directory / FILE}: database is locked; try again"
        )


def test_a_reader_sees_one_moment_and_holds_nobody_up(directory: Path, state: State) -> None:
    """While a command reads, the daemon writes on; the command's answers belong together, the next one's are new."""
    state.save_check(*check(number=1))
    with Reader(directory, CONFIG) as reader:
        assert reader.results()["m"] == check(number=1)[0]
        state.save_check(*check(number=2))
        assert [event.id for event in reader.events()] == ["1"]
        assert reader.model_states()["m"] == check(number=1)[1]
    with Reader(directory, CONFIG) as reader:
        assert [event.id for event in reader.events()] == ["1", "2"]


def test_a_reader_leaves_a_row_that_it_cannot_decode(directory: Path, state: State) -> None:
    """A damaged row is named and left out of the answer; dropping it is the daemon's."""
    state.save_check(*check(number=1))
    state.save_check(*check(number=2))
    with contextlib.closing(sqlite3.connect(directory / FILE)) as connection, connection:
        connection.execute("UPDATE events SET record = x'c1' WHERE seq = 1")
    for _ in range(2):
        with Reader(directory, CONFIG) as reader:
            assert [event.id for event in reader.events()] == ["2"]
            (note,) = reader.notes
            assert note.startswith("the state's events row 1 is not readable (")
            assert note.endswith(") and is left out")


# ------------------------------------------------------------------------------------------------- power cuts


def copied(directory: Path) -> Path:
    """The files of an open state as they are at this moment, as a power cut leaves them."""
    copy = directory.with_name("copy")
    copy.mkdir(exist_ok=True)
    for name in (FILE, f"{FILE}-wal"):
        (copy / name).write_bytes((directory / name).read_bytes())
    return copy


def test_what_is_saved_is_on_the_disk(directory: Path) -> None:
    """Every commit is synced, also of the log: a check that was saved outlives a power cut, not only the process."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert state._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["cut", "zeros", "noise"]))
def test_a_torn_log_loses_whole_checks_from_its_end_only(tmp_path: Path, seed: int, kind: str) -> None:
    """However much of the log's end is not on the disk: the checks before are there, whole, and nothing is damaged."""
    directory = tmp_path / "state"
    if not directory.exists():
        state = State.open(directory, CONFIG)
        for number in range(1, 13):
            state.save_check(*check(number=number))
        copied(directory)
        state.close()
    log = (tmp_path / "copy" / f"{FILE}-wal").read_bytes()
    cut = random.Random(seed).randrange(len(log))
    lost = b"" if kind == "cut" else (bytes if kind == "zeros" else random.Random(seed).randbytes)(len(log) - cut)
    torn = tmp_path / f"{kind}{seed}"
    torn.mkdir(exist_ok=True)
    (torn / FILE).write_bytes((tmp_path / "copy" / FILE).read_bytes())
    (torn / f"{FILE}-wal").write_bytes(log[:cut] + lost)
    with contextlib.closing(State.open(torn, CONFIG)) as state:
        stored = ids(state)
        assert stored == list(range(1, len(stored) + 1))
        assert state.notes == []
        assert state.results() == ({"m": check(number=len(stored))[0]} if stored else {})
        assert state.model_states() == ({"m": check(number=len(stored))[1]} if stored else {})


def test_what_was_saved_and_not_told_is_told_by_the_next_life(directory: Path) -> None:
    """An event is untold from its saving until it is said to be told; then no later life tells it again."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check(number=1))
        state.mark_told()
        state.save_check(*check(number=2))
        state.save_check(*check("other", number=3))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert [event.id for event in state.untold()] == ["2", "3"]
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert [event.id for event in state.untold()] == ["2", "3"]
        state.mark_told()
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state.untold() == []
        assert ids(state) == [1, 2, 3]


def test_what_was_told_while_the_disk_was_full_is_not_told_again(directory: Path) -> None:
    """Events that could be told but not saved are saved later, as told; those after them are not told yet."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        with full_disk(1), pytest.raises(StateWriteError):
            state.save_check(*check(number=1))
        state.mark_told()
        state.save_check(*check(number=2))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert ids(state) == [1, 2]
        assert [event.id for event in state.untold()] == ["2"]


def test_a_note_that_a_full_disk_refuses_is_made_up_for(directory: Path) -> None:
    """What could not be marked as told is, the next time."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check(number=1))
        with full_disk(1):
            state.mark_told()
        state.mark_told()
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state.untold() == []


# ---------------------------------------------------------------------------------------------------- damage


def remembering(directory: Path, events: int = 200) -> None:
    """A state of several pages with an accepted baseline in it."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(check()[0], REMEMBERED, [check(number=number)[2][0] for number in range(events)])
        state.mark_told()
        state.request(ACCEPT)


def page_of(path: Path, what: bytes) -> int:
    """Where the 4 KiB page begins that holds ``what``."""
    return path.read_bytes().index(what) // 4096 * 4096


def destroy(path: Path, page: int) -> None:
    """Overwrite a page, in place."""
    with path.open("r+b") as file:
        file.seek(page)
        file.write(b"\xa5" * 4096)


def test_an_accepted_baseline_outlives_damage_elsewhere_in_the_file(directory: Path) -> None:
    """A damaged page of events costs the events on it; what people accepted, asked for and were told is taken along."""
    remembering(directory)
    destroy(directory / FILE, page_of(directory / FILE, msgspec.msgpack.encode(check(number=100)[2][0])))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state.model_states() == {"m": REMEMBERED}
        assert state.results() == {"m": check()[0]}
        assert [request for _, request in state.requests("m")] == [ACCEPT]
        left = ids(state)
        assert left == sorted(set(left))
        assert {0, 199} <= set(left) < set(range(200))
        (note,) = state.notes
        assert f"it is kept as {FILE}.corrupt-1 and a new one is started with 1 models, 1 results, {len(left)} " in note
        state.save_check(*check("a", 1000))
        assert ids(state)[-1] == 1000


def test_damage_that_shows_while_running_costs_no_restart(directory: Path) -> None:
    """A file that turns out to be damaged when a check is saved is replaced there and then, and the check is in it."""
    remembering(directory)
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        destroy(directory / FILE, page_of(directory / FILE, msgspec.msgpack.encode(check(number=199)[2][0])))
        with contextlib.closing(State.attach(directory, CONFIG)) as command:
            command.request(ACCEPT)  # another's write makes SQLite read the file again
        state.save_check(*check("other", 1000))
        assert set(state.results()) == {"m", "other"}
        assert state.model_states()["m"] == REMEMBERED
        assert ids(state)[-1] == 1000
        assert any("it is kept as" in note for note in state.notes)
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert state.notes == []
        assert ids(state)[-1] == 1000


@contextlib.contextmanager
def refusing(file: Path, refusals: int) -> Iterator[None]:
    """The disk of this database is full, so many times."""
    connect = database.connect

    def refused(path: Path) -> sqlite3.Connection:
        nonlocal refusals
        if path == file and refusals:
            refusals -= 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return connect(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "connect", refused)
        yield


def test_what_was_told_on_a_disk_that_was_full_from_the_start_is_not_told_again(directory: Path) -> None:
    """An event that the life before had not told is told by this one, and by none after it once the disk is mended."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check(number=1))
        full = copied(directory)
    with refusing(full / FILE, 1), contextlib.closing(State.open(full, CONFIG)) as state:
        assert [event.id for event in state.untold()] == ["1"]
        state.mark_told()
        state.save_check(*check(number=2)[:2])
        state.mark_told()
    with contextlib.closing(State.open(full, CONFIG)) as state:
        assert state.results() == {"m": check(number=2)[0]}
        assert state.untold() == []


@pytest.mark.parametrize("whole", [False, True], ids=["files", "folder"])
def test_a_state_that_is_deleted_under_the_daemon_is_made_anew(directory: Path, whole: bool) -> None:
    """What is saved from then on would be lost with the process; what was there is taken along, and it is said."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(check()[0], REMEMBERED, check()[2])
        state.mark_told()
        state.request(ACCEPT)
        for file in list(directory.iterdir()):
            file.unlink()
        if whole:
            directory.rmdir()
        state.save_check(*check("other", 2))
        assert state.notes == [f"{directory / FILE} is not the file that was opened; what that one held is taken along"]
        state.save_check(*check("other", 3))
        assert len(state.notes) == 1
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert ids(state) == [1, 2, 3]
        assert [event.id for event in state.untold()] == ["2", "3"]
        assert state.model_states() == {"m": REMEMBERED, "other": check("other", 3)[1]}
        assert [request for _, request in state.requests("m")] == [ACCEPT]
        assert state.notes == []


def test_a_state_that_another_one_replaces_is_not_mixed_up_with_it(directory: Path) -> None:
    """One that was put back from elsewhere goes on with what it has, and with what this life has found."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check("a", 1))
    shutil.copytree(directory, directory.with_name("kept"))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check("b", 2))
        shutil.rmtree(directory)
        directory.with_name("kept").rename(directory)
        state.save_check(*check("a", 3))
        assert ids(state) == [1, 2, 3]
        assert state.model_states() == {"a": check("a", 3)[1], "b": check("b", 2)[1]}


def test_a_state_that_is_made_anew_where_there_is_too_little_room_loses_nothing(directory: Path) -> None:
    """What was there is taken along as a whole, once there is room for it."""
    remembering(directory, EVENTS)
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        shutil.rmtree(directory)
        with full_disk(120_000), pytest.raises(StateWriteError, match="the state cannot be written: "):
            state.save_check(*check("other", EVENTS))
        assert len(ids(state)) == EVENTS
        state.save_check(*check("other", EVENTS + 1))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert ids(state) == list(range(2, EVENTS + 2))
        assert state.model_states()["m"] == REMEMBERED


def test_a_state_that_cannot_be_made_anew_is_owed(directory: Path) -> None:
    """While something is in the way, what was known is known, and what is new is written once it is gone."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check("a", 1))
        shutil.rmtree(directory)
        directory.touch()
        for number in (2, 3):
            with pytest.raises(StateWriteError, match="the state cannot be written: "):
                state.save_check(*check("b", number))
        assert ids(state) == [1]
        directory.unlink()
        state.save_check(*check("b", 4))
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        assert ids(state) == [1, 2, 3, 4]


def test_what_cannot_be_written_at_the_start_is_remembered_and_owed(directory: Path) -> None:
    """On a disk that is full from the start what was recorded counts, also in the log, and what is new is owed."""
    with contextlib.closing(State.open(directory, CONFIG)) as state:
        state.save_check(*check(number=1))
        full = copied(directory)
    with refusing(full / FILE, 2), contextlib.closing(State.open(full, CONFIG)) as state:
        assert state.notes == [
            f"{full / FILE} cannot be written: database or disk is full; "
            "what it holds is used, and what is new waits until it can be"
        ]
        assert state.results() == {"m": check(number=1)[0]}
        with pytest.raises(StateWriteError, match="the state cannot be written: database or disk is full"):
            state.save_check(*check(number=2))
        state.save_check(*check("other", 3))
    with contextlib.closing(State.open(full, CONFIG)) as state:
        assert ids(state) == [1, 2, 3]
        assert state.notes == []
