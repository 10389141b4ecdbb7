"""The folder of a soak when it is somebody else's, read-only, damaged, on another board, or filled by a wrong clock."""

from __future__ import annotations

import math
import re
import resource
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from monitor.analysis.assess import assess
from monitor.config import Gate
from monitor.errors import UsageError
from monitor.outputs import soak_file
from monitor.outputs.soak_file import Kept
from monitor.records.soak import Subject
from monitor.service.soak_report import NothingMeasured, read, write
from tests.e2e.running import COMMAND, environment
from tests.faults.apart import disk
from tests.soak import night
from tests.soak.night import BOARD, START, Model
from tests.soak.soaking import Bench

SUBJECT = Subject("qnn", "1.32.0", "2.7.0", 60.0, {"m": {"replays": "30"}})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The folder of two hours of one model."""
    night.write(tmp_path / "a", [Model("m", 0.004, 1)], hours=2, cut=math.inf)
    return tmp_path / "a"


def keep(folder: Path, sessions: Sequence[tuple[float, Sequence[tuple[float, float]]]]) -> None:
    """A soak of ``sessions``: when each began by the clock, and of each check the soak's own time and the clock's."""
    model = Model("m", 0.004, 1)
    with soak_file.begun(folder, SUBJECT, 600.0) as file:
        for began, checks in sessions:
            session = file.begin(began, "one", BOARD)
            for elapsed, timestamp in checks:
                result = replace(model.check(elapsed, 600.0, 60.0, False)[0], timestamp=timestamp)
                assessed = assess(model.state, result, Gate(), BOARD)
                model.state = assessed.state
                kept = Kept(session.number, elapsed, 1, 10**8, 0, assessed.result)
                file.append(kept, elapsed, assessed.state, assessed.events)


def test_a_clock_that_is_set_back_moves_no_end(tmp_path: Path) -> None:
    """Ends of sessions are those of their last checks, not of those that a clock ahead of its time dated latest."""
    years = 5 * 365 * 86400.0
    early = [(60.0, START + years), (120.0, START + 120), (180.0, START + 180)]
    keep(tmp_path, [(START + years, early), (START + 500, [(240.0, START + 560)])])
    result = read(tmp_path).result
    (gap,) = result.gaps
    assert (gap.elapsed, gap.since, gap.until) == (180.0, START + 180, START + 500)
    assert result.ended == START + 560
    assert result.measured_seconds == 240.0


def test_another_board_is_refused(tmp_path: Path) -> None:
    """A folder that came to another board, or to another kernel, does not go on: its checks would be of two things."""
    keep(tmp_path, [(START, [(60.0, START + 60)])])
    for change, told in (
        ({"hostname": "b"}, "hostname was board-17, is b"),
        ({"kernel": "7"}, "kernel was 6.8.0-qcom, is 7"),
    ):
        with (
            soak_file.begun(tmp_path, SUBJECT, 600.0) as file,
            pytest.raises(UsageError) as caught,
        ):
            file.begin(START + 100, "two", replace(BOARD, **change))
        assert str(caught.value) == f"{tmp_path}: --out: a soak on another board: {told}; name another folder"
    with soak_file.begun(tmp_path, SUBJECT, 600.0) as file:
        assert file.begin(START + 100, "two", BOARD).number == 2


def test_a_check_is_on_the_disk_when_it_is_kept(tmp_path: Path) -> None:
    """Each commit waits for the disk: a log that is written ahead, and synced at each transaction."""
    with soak_file.begun(tmp_path, SUBJECT, 600.0) as file:
        modes = [file._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]


def test_a_soak_without_a_check_could_not_measure(tmp_path: Path) -> None:
    """What was begun and measured nothing is one line and the exit code for it, not a mistake in the arguments."""
    keep(tmp_path, [(START, [])])
    with pytest.raises(NothingMeasured) as caught:
        read(tmp_path)
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        f"{tmp_path}: no check was made yet; wait, or start npumon soak again with --out {tmp_path}"
    )


def test_an_archive_can_be_compared(two: Path) -> None:
    """Two soaks on a medium that is only read are compared; a soak is not begun there, and why is one line."""
    prefix = disk(two, 20_000, f"mount -o remount,ro {two}")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*prefix, *COMMAND, "soak", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)

    done = run("compare", two, two)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[0]) == (0, "", "m  not worse")
    done = run("report", two)
    assert (done.returncode, done.stderr) == (
        2,
        f"{two}/report.html: Read-only file system; free space there, or run this as a user that may write it\n",
    )
    done = run("-c", Bench(two.parent, ("m",)).config, "--duration", "1s", "--out", two)
    assert (done.returncode, done.stderr) == (
        2,
        f"{two}: --out: may not be written; name a folder that this user may write\n",
    )


def test_a_damaged_file_does_not_go_on(two: Path) -> None:
    """Whatever is damaged in it, going on is refused in one line, too, and nothing is written."""
    with closing(sqlite3.connect(two / "soak.db")) as connection:
        connection.execute("UPDATE about SET record = 'noise' WHERE key = 'subject'")
        connection.commit()
    with (
        pytest.raises(UsageError, match=r"soak\.db: damaged: .*; `sqlite3 soak\.db \.recover` may save the rest$"),
        soak_file.undamaged(two),
    ):
        soak_file.begun(two, SUBJECT, 600.0)


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    """A database of something else that is called soak.db stays what it is, to the byte."""
    with closing(sqlite3.connect(tmp_path / "soak.db")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = (tmp_path / "soak.db").read_bytes()
    with pytest.raises(UsageError, match="not the file of a soak; name another folder"):
        soak_file.begun(tmp_path, SUBJECT, 600.0)
    assert [path.name for path in tmp_path.iterdir()] == ["soak.db"]
    assert (tmp_path / "soak.db").read_bytes() == before


def test_a_report_that_finds_no_room_leaves_nothing_behind(two: Path) -> None:
    """The report that was there stays, whole, and no half of a new one lies beside it."""
    report = read(two)
    write(two, report)
    before = {path.name: path.read_bytes() for path in two.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError) as caught:
            write(two, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.fullmatch(
        r".*/report\.html: File too large; free space there, or run this .* may write it", str(caught.value)
    )
    assert {path.name: path.read_bytes() for path in two.iterdir()} == before


def test_a_model_that_was_not_checked_yet_is_unknown(tmp_path: Path) -> None:
    """Reported in the first minute, the second model has no check: unknown, an error in the pipeline, no pass."""
    subject = replace(SUBJECT, models={**SUBJECT.models, "later": {}})
    with soak_file.begun(tmp_path, subject, 600.0) as file:
        session = file.begin(START, "one", BOARD)
        model = Model("m", 0.004, 1)
        assessed = assess(model.state, model.check(60.0, 600.0, 60.0, True)[0], Gate(), BOARD)
        file.append(Kept(session.number, 60.0, 1, 10**8, 0, assessed.result), 60.0, assessed.state, assessed.events)
    report = read(tmp_path)
    assert [(one.verdict, one.checks) for one in report.result.models] == [("healthy", 1), ("unknown", 0)]
    write(tmp_path, report)
    assert "no check was made" in (tmp_path / "report.html").read_text()
    cases = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    assert {case[0].tag for case in cases if case.get("classname") == "later"} == {"error"}
