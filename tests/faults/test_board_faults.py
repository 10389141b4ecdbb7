"""What a board's disk, clock and network do to the daemon: it checks on, says what it lost, and loses nothing else.

The daemon is the real one, with real probes on the real runtime. Its disks are real ones, small and its own; a model
falls back where its configuration says another SoC, which is how events come about.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.running import Running, npumon, running, wait_until, write_config
from tests.faults.apart import LOOPBACK, Clock, disk, fill, seen, within

YEAR = 365.25 * 86400.0


@pytest.fixture(scope="module")
def selu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole on the accelerator of soc_model 60; all of it falls back on 80."""
    return models.saved(models.selu_qdq(), tmp_path_factory.mktemp("selu"))


def configured(folder: Path, model: Path, soc: str = "60", listen: str = "") -> Path:
    """A configuration that checks the model each second, whatever that costs."""
    settings = {"path": model, "replays": 3, "compare_outputs": False, "options": {"soc_model": soc}}
    return write_config(folder, {"m": settings}, "1s", listen=listen)


def recorded(folder: Path, model: Path) -> Path:
    """The configuration of a daemon that has run before and told a fallback."""
    with running("run", "-c", configured(folder, model, "80")) as daemon:
        daemon.wait("fallback_detected")
    return configured(folder, model, "80")


def stored(config: Path) -> list[dict[str, Any]]:
    """What ``npumon events`` tells of the state in its place."""
    done = npumon("events", "-c", config, "--json")
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def names(events: list[dict[str, Any]]) -> list[str]:
    """The events' names and ids, those of latency left out, which a busy machine causes."""
    return [f"{event['event']} {event['id']}" for event in events if not event["event"].startswith("latency")]


def well(daemon: Running) -> None:
    """It is checked on, and it says that it is well."""
    daemon.wait_checks("m", more=2)
    assert daemon.get("/healthz")[0] == 200


# ------------------------------------------------------------------------------------------------------ disks


def test_a_disk_that_fills_up_costs_no_check_and_no_event(tmp_path: Path, selu: Path) -> None:
    """To the last byte full: failures are counted, a fallback is told; with room again the state has it, once."""
    config = configured(tmp_path, selu)
    state = tmp_path / "state"
    state.mkdir()
    with running("run", "-c", config, within=disk(state, 400)) as daemon:
        daemon.wait_checks("m")
        inside = seen(daemon.process.pid, state)
        ballast = fill(inside)
        configured(tmp_path, selu, "80", daemon.address.removeprefix("http://"))
        daemon.reload()
        told = daemon.wait("fallback_detected")
        refused = daemon.wait("state_not_written")
        assert "disk is full" in refused["error"]
        well(daemon)
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        ballast.unlink()
        failures = 0.0

        def written() -> bool:
            nonlocal failures
            before, failures = failures, daemon.metric("state_write_failures_total") or 0.0
            daemon.wait_checks("m")
            return before == failures

        wait_until(written, "the state is written again")
        kept = tmp_path / "kept"
        subprocess.run(["cp", "-a", inside, kept], check=True)
    again = tmp_path / "again"
    again.mkdir()
    kept.rename(again / "state")
    assert names(stored(configured(again, selu))).count(f"fallback_detected {told['id']}") == 1


def test_a_disk_that_is_full_from_the_start_costs_no_check(tmp_path: Path, selu: Path) -> None:
    """What was recorded counts: the open fallback is not told again; what is new is owed until there is room."""
    config = recorded(tmp_path, selu)
    before = names(stored(config))
    state = tmp_path / "state"
    ballast = f"dd if=/dev/zero of={state}/ballast bs=1k 2>/dev/null || true"
    with running("run", "-c", config, within=disk(state, 400, ballast)) as daemon:
        (note,) = [line for line in daemon.lines if line["event"] == "state_damaged"]
        assert "npumon.db cannot be written: " in note["detail"]
        assert "what it holds is used, and what is new waits until it can be" in note["detail"]
        daemon.wait("state_not_written")
        well(daemon)
        assert not daemon.told("fallback_detected")
        inside = seen(daemon.process.pid, state)
        (inside / "ballast").unlink()
        configured(tmp_path, selu, "60", daemon.address.removeprefix("http://"))
        daemon.reload()
        cleared = daemon.wait("fallback_cleared")
        well(daemon)
        kept = tmp_path / "kept"
        subprocess.run(["cp", "-a", inside, kept], check=True)
    again = tmp_path / "again"
    again.mkdir()
    kept.rename(again / "state")
    after = names(stored(configured(again, selu)))
    assert after[: len(before)] == before
    assert after.count(f"fallback_cleared {cleared['id']}") == 1


def test_a_board_whose_disk_is_full_everywhere_is_checked(tmp_path: Path, selu: Path) -> None:
    """No room for the state, nor for temporary files anywhere: what was recorded counts, and probes have memory."""
    config = recorded(tmp_path, selu)
    state = tmp_path / "state"
    script = f"""
        dd if=/dev/zero of={state}/ballast bs=1k 2>/dev/null || true
        cd /proc  # Python would take where it is started for temporary files, too
        for folder in /tmp /var/tmp /usr/tmp {tmp_path}; do
            if [ -d $folder ]; then mount --rbind $folder $folder; mount -o remount,ro,bind $folder; fi
        done
    """
    with running("run", "-c", config, within=disk(state, 400, script), TMPDIR="/proc") as daemon:
        assert len(daemon.told("state_damaged")) == 1
        daemon.wait("state_not_written")
        well(daemon)
        assert not daemon.told("fallback_detected")
        assert not daemon.told("check_failed")
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        (pid,) = daemon.children()
        (folder,) = re.findall(rb"\0TMPDIR=([^\0]*)", Path(f"/proc/{pid}/environ").read_bytes())
        assert folder.startswith(b"/dev/shm/")
    assert not Path(folder.decode()).exists()


@pytest.mark.slow
def test_a_state_that_is_read_only_costs_no_check(tmp_path: Path, selu: Path) -> None:
    """As a full one: what was recorded is used; that nothing is kept is told, and over when the disk is mended."""
    config = recorded(tmp_path, selu)
    state = tmp_path / "state"
    remount = f"mount -o remount,ro {state}"
    with running("run", "-c", config, within=disk(state, 4000, remount)) as daemon:
        (note,) = [line for line in daemon.lines if line["event"] == "state_damaged"]
        assert "npumon.db cannot be written: Read-only file system" in note["detail"]
        assert "Read-only file system" in daemon.wait("state_not_written")["error"]
        well(daemon)
        assert not daemon.told("fallback_detected")
        pid = str(daemon.process.pid)
        subprocess.run(["nsenter", "-t", pid, "-m", "mount", "-o", "remount,rw", state], check=True)
        daemon.wait_checks("m", more=2)
        failures = daemon.metric("state_write_failures_total")
        well(daemon)
        assert daemon.metric("state_write_failures_total") == failures


def test_a_read_only_place_where_nothing_was_recorded_is_told(tmp_path: Path, selu: Path) -> None:
    """There is nothing to go on with: one line that names file, key and mend, and an exit code that is tried again."""
    config = configured(tmp_path, selu)
    (tmp_path / "state").mkdir()
    prefix = disk(tmp_path / "state", 400, f"mount -o remount,ro {tmp_path}/state")
    daemon = Running("run", "-c", config, within=prefix)
    assert daemon.process.wait(60) == 3
    daemon.check_words()
    mend = "free it for this user or name another directory"
    assert daemon.err == f"{config}: monitor.state: cannot write {tmp_path}/state: Read-only file system; {mend}\n"


@pytest.mark.slow
def test_a_full_folder_for_temporary_files_costs_no_check(tmp_path: Path, selu: Path) -> None:
    """A probe that dies is replaced on the full disk as well, and measured; that no outputs were compared shows."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    config = configured(tmp_path, selu)
    config.write_text(config.read_text().replace("compare_outputs = false", "compare_outputs = true"))
    with running("run", "-c", config, within=disk(scratch, 4000), TMPDIR=str(scratch)) as daemon:
        daemon.wait_checks("m")
        assert daemon.metric("output_error_ratio", model="m") is not None
        (probe,) = daemon.children()
        fill(seen(daemon.process.pid, scratch))
        subprocess.run(["kill", "-9", str(probe)], check=True)
        first = daemon.wait("check_failed")
        assert daemon.wait("check_recovered")["id"] == first["id"]
        well(daemon)
        assert daemon.metric("npu_flops_ratio", model="m") == 1
        assert daemon.metric("latency_median_seconds", model="m") is not None
        assert daemon.metric("output_error_ratio", model="m") is None


# ------------------------------------------------------------------------------------------------- damage


def damaged_whole(file: Path) -> None:
    """Noise from end to end."""
    file.write_bytes(b"\xa5" * 40_000)


def damaged_header(file: Path) -> None:
    """The first 100 bytes are gone."""
    with file.open("r+b") as opened:
        opened.write(bytes(100))


def damaged_page(file: Path) -> None:
    """A page in the middle that holds an event."""
    at = file.read_bytes().index(b"fallback_detected") // 4096 * 4096
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(b"\xa5" * 4096)


def truncated(file: Path) -> None:
    """Half of it is gone."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def emptied(file: Path) -> None:
    """Nothing is left."""
    file.write_bytes(b"")


def damages(quick: Callable[[Path], None]) -> list[Any]:
    """All kinds, those but one left to the slow tests."""
    kinds = (damaged_whole, damaged_header, damaged_page, truncated, emptied)
    return [pytest.param(kind, marks=() if kind is quick else pytest.mark.slow, id=kind.__name__) for kind in kinds]


@pytest.mark.parametrize("damage", damages(damaged_page))
def test_a_state_that_is_damaged_at_the_start(tmp_path: Path, selu: Path, damage: Any) -> None:
    """It is kept aside and said; the fallback goes on under its old id if that could be read, or is told anew, once."""
    config = recorded(tmp_path, selu)
    file = tmp_path / "state" / "npumon.db"
    (before,) = names(stored(config))
    damage(file)
    with running("run", "-c", config) as daemon:
        well(daemon)
        assert bool(daemon.told("state_damaged")) == (damage is not emptied)
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        anew = daemon.told("fallback_detected")
        configured(tmp_path, selu, "60", daemon.address.removeprefix("http://"))
        daemon.reload()
        cleared = daemon.wait("fallback_cleared")["id"]
    after = names(stored(config))
    assert len(after) == len(set(after))
    if anew:
        assert [event["id"] for event in anew] == [cleared]
        assert f"fallback_detected {cleared}" in after
    else:
        assert f"fallback_detected {cleared}" == before
    assert f"fallback_cleared {cleared}" in after
    if damage is damaged_page:
        assert not anew
    assert file.with_name("npumon.db.corrupt-1").exists() == (damage is not emptied)


@pytest.mark.parametrize("damage", damages(damaged_whole))
def test_a_state_that_is_damaged_while_the_daemon_runs(tmp_path: Path, selu: Path, damage: Any) -> None:
    """Checks go on; no event is there twice, and none is missing unless the damage is said, now or at the next one."""
    config = configured(tmp_path, selu, "80")
    file = tmp_path / "state" / "npumon.db"
    with running("run", "-c", config) as daemon:
        told = daemon.wait("fallback_detected")
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        damage(file)
        npumon("baseline", "forget", "-c", config, "m")
        well(daemon)
        said = bool(daemon.told("state_damaged"))
    with running("run", "-c", config) as daemon:
        well(daemon)
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        said = said or bool(daemon.told("state_damaged"))
    events = names(stored(config))
    assert len(events) == len(set(events))
    assert said or f"fallback_detected {told['id']}" in events


def test_a_state_that_is_deleted_while_the_daemon_runs(tmp_path: Path, selu: Path) -> None:
    """It is made anew with all that was in it, and said once; nothing is told again after a restart."""
    config = configured(tmp_path, selu, "80")
    with running("run", "-c", config) as daemon:
        told = daemon.wait("fallback_detected")
        for file in (tmp_path / "state").iterdir():
            file.unlink()
        well(daemon)
        (note,) = daemon.told("state_damaged")
        assert "is not the file that was opened; what that one held is taken along" in note["detail"]
    assert names(stored(config)) == [f"fallback_detected {told['id']}"]
    with running("run", "-c", config) as daemon:
        well(daemon)
        assert not daemon.told("fallback_detected")


# ------------------------------------------------------------------------------------------------- the clock


def jump(daemon: Running, clock: Clock, shift: float) -> str:
    """Set its clock; the year that it is now. A check each second all the while: no burst, and none left out."""
    clock.tell(shift)
    checks, start = daemon.checks("m"), time.monotonic()
    daemon.wait_checks("m", more=3)
    ran, passed = daemon.checks("m") - checks, time.monotonic() - start
    # A busy machine may be late by seconds, a schedule that lost its way by a heartbeat of 10 s.
    assert passed - 5 <= ran <= passed + 2
    assert daemon.metric("check_stale", model="m") == 0
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/")[0] == 200
    return f"{time.gmtime(time.time() + shift).tm_year}-"


def test_a_clock_that_jumps_changes_no_schedule(tmp_path: Path, selu: Path) -> None:
    """Years forward, years back, to 1970: checks go on as before, and there are events in each year."""
    clock = Clock(tmp_path)
    config = configured(tmp_path, selu)
    with running("run", "-c", config, **clock.environment) as daemon:
        listen = daemon.address.removeprefix("http://")
        daemon.wait_checks("m")
        for count, shift in enumerate((5 * YEAR, -8 * YEAR, 60 * YEAR, 10 - time.time()), start=1):
            year = jump(daemon, clock, shift)
            configured(tmp_path, selu, "80", listen)
            daemon.reload()
            told = daemon.wait("fallback_detected", count=count)
            assert told["timestamp"].startswith(year)
            configured(tmp_path, selu, "60", listen)
            daemon.reload()
            assert daemon.wait("fallback_cleared", count=count)["id"] == told["id"]


def test_a_board_that_boots_in_1970_and_learns_the_time(tmp_path: Path, selu: Path) -> None:
    """Checks go on as before over the step to today; what was found in 1970 is over today, under one id."""
    clock, config = Clock(tmp_path), configured(tmp_path, selu, "80")
    boot = 10 - time.time()
    clock.tell(boot)
    with running("run", "-c", config, **clock.environment) as daemon:
        told = daemon.wait("fallback_detected")
        assert jump(daemon, clock, boot) == "1970-"  # a step of nothing
        assert {line["timestamp"][:5] for line in daemon.lines} == {"1970-"}
        today = jump(daemon, clock, 0.0)
        assert len(daemon.told("fallback_detected")) == 1
        configured(tmp_path, selu, "60", daemon.address.removeprefix("http://"))
        daemon.reload()
        cleared = daemon.wait("fallback_cleared")
        assert cleared["id"] == told["id"]
        assert cleared["timestamp"].startswith(today)
    kept = [name for name in names(stored(config)) if name.startswith("fallback")]
    assert kept == [f"fallback_detected {told['id']}", f"fallback_cleared {told['id']}"]


@pytest.mark.slow
def test_a_clock_that_stands_still_names_no_two_incidents_alike(tmp_path: Path, selu: Path) -> None:
    """All checks at the same microsecond of 1970, over a restart: each incident has its own id, each event is kept."""
    clock = Clock(tmp_path)
    clock.tell(7.0, rate=0.0)
    config = configured(tmp_path, selu)
    for _ in range(2):
        with running("run", "-c", config, **clock.environment) as daemon:
            listen = daemon.address.removeprefix("http://")
            for count in (1, 2):
                for soc, event in (("80", "fallback_detected"), ("60", "fallback_cleared")):
                    configured(tmp_path, selu, soc, listen)
                    daemon.reload()
                    daemon.wait(event, count=count)
            told = {line["timestamp"] for line in daemon.lines if "timestamp" in line}
            assert told == {"1970-01-01T00:00:07.000Z"}
    raised = [name for name in names(stored(config)) if name.startswith("fallback_detected")]
    assert len(raised) == len(set(raised)) == 4


# ------------------------------------------------------------------------------------------------- the network


def checks(metrics: Path) -> float:
    """How many checks of the model the text file tells of."""
    text = metrics.read_text() if metrics.exists() else ""
    found = re.search(r'^npumon_checks_total\{model="m"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_board_without_a_network_is_checked(tmp_path: Path, selu: Path) -> None:
    """Not even the loopback is up: checks go on, and their metrics are in the text file."""
    config = configured(tmp_path, selu)
    metrics = tmp_path / "npumon.prom"
    with running("run", "-c", config, "--textfile", metrics, within=within("--net", script="true")):
        wait_until(lambda: checks(metrics) >= 3, "three checks")


@pytest.mark.slow
def test_a_network_that_goes_away_and_comes_back(tmp_path: Path, selu: Path) -> None:
    """Checks go on while nobody can reach the daemon, and it answers at its address once that is there again."""
    config = configured(tmp_path, selu)
    metrics = tmp_path / "npumon.prom"
    prefix = within("--net", script=f'{sys.executable} -c "{LOOPBACK}" 1')
    with running("run", "-c", config, "--textfile", metrics, within=prefix) as daemon:
        enter = ("nsenter", "-t", str(daemon.process.pid), "-n", sys.executable, "-c")
        ask = f"import urllib.request; print(urllib.request.urlopen('{daemon.address}/healthz', timeout=2).status)"

        def answers() -> bool:
            return subprocess.run([*enter, ask], capture_output=True, text=True).stdout == "200\n"

        wait_until(answers, "it answers")
        subprocess.run([*enter, LOOPBACK, "0"], check=True)
        assert not answers()
        before = checks(metrics)
        wait_until(lambda: checks(metrics) >= before + 2, "checks without a network")
        subprocess.run([*enter, LOOPBACK, "1"], check=True)
        wait_until(answers, "it answers again")
