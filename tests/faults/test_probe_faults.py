"""Whatever a probe does, the daemon tells it once, checks the other models on, recovers, and keeps nothing of it.

The daemon is the real one with real probes on the real runtime; only the fault is put into the probe, at the place
where native code would commit it.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from monitor.probe import lifeline
from monitor.service.daemon import GRACE
from monitor.service.scratch import PREFIX, scratch
from tests.e2e.running import exists, running, wait_until
from tests.faults.faulty import SOUND, Faulty, faulty, watched


class Case(NamedTuple):
    """A fault in a request, and what the daemon must say of it."""

    where: str
    fault: str
    reason: str
    words: str
    mend: str = ""


CRASHED, TIMED_OUT, NONSENSE = "probe_crashed", "probe_timeout", "probe_protocol"
CASES = (
    Case("Replay", "segfault", CRASHED, "the probe died of SIGSEGV"),
    Case("Replay", "abort", CRASHED, "the probe died of SIGABRT"),
    Case("Replay", "exit", CRASHED, "the probe ended with exit code 3"),
    Case("Replay", "killed", CRASHED, "the probe died of SIGKILL", "see the kernel's log for its out-of-memory killer"),
    Case("Replay", "hang", TIMED_OUT, "the probe did not answer Replay within 5 s, waiting", "raise `timeout`"),
    Case("Replay", "hang_locked", TIMED_OUT, "the probe did not answer Replay within 5 s, waiting", "raise `timeout`"),
    Case("Replay", "chatter", TIMED_OUT, "the probe did not answer Replay within 5 s", "raise `timeout`"),
    Case("Replay", "garbage", NONSENSE, "the probe talks nonsense: a frame of "),
    Case("Replay", "nonsense", NONSENSE, "the probe talks nonsense: "),
    Case("Replay", "no_memory", "run_failed", "an inference raised MemoryError", "the probe is renewed"),
    Case("Replay", "grow", CRASHED, "the probe was ended: it took ", "raise `memory`"),
    Case("Replay", "bomb", CRASHED, "the probe was ended: it had ", "look at `session`: its thread settings"),
    Case("Replay", "orphan", CRASHED, "the probe died of SIGSEGV"),
)


MEMORY, NOTICED = 600, 600 + 1280
"""MiB that a probe may take, and by which the daemon has seen that one takes more: the fault takes 640 at most in the
half second between two looks, and would go on to 4096."""
QUICK = frozenset({"segfault", "hang_locked", "garbage", "grow", "orphan"})
"""One of each kind of fault; the others' models would take the daemon a minute to start with."""


def marks(case: Case) -> Sequence[pytest.MarkDecorator]:
    """What takes too long together is left to the slow tests."""
    return () if case.fault in QUICK else (pytest.mark.slow,)


@pytest.fixture(scope="module")
def ward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, good: Path) -> Iterator[Faulty]:
    """One daemon with a model for each fault, since an incident that comes back is cleared later and later."""
    chosen = [case.fault for item in request.session.items if (case := case_of(item))]
    names = {name: watched(good, memory=MEMORY) for name in [*chosen, "stays", SOUND]}
    patient = watched(good, timeout="60s")  # draining a gigabyte takes a busy machine some seconds
    with faulty(tmp_path_factory.mktemp("ward"), {**names, "gigabyte": patient}) as sick:
        yield sick
        assert sick.failures(SOUND) == {}
        assert not sick.daemon.told("check_failed", SOUND)


def case_of(item: pytest.Item) -> Case | None:
    """The case that a test of this module, chosen for this run, is about."""
    case: Case | None = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return case if item.path == Path(__file__) else None


@pytest.mark.parametrize("case", [pytest.param(case, marks=marks(case)) for case in CASES], ids=lambda case: case.fault)
def test_a_fault_is_one_failed_check_that_is_told_and_recovered_from(ward: Faulty, case: Case) -> None:
    """One failure, with its reason in metrics and events; others are checked; a new probe recovers; nothing is left."""
    name, before, probes = case.fault, ward.at_rest(), ward.daemon.children()
    checked = ward.daemon.checks(SOUND)
    ward.commit(name, case.fault, case.where)
    failed = ward.event("check_failed", name)
    assert failed["error"]["reason"] == case.reason
    assert failed["error"]["detail"].startswith(case.words)
    if case.fault == "grow":
        assert MEMORY < taken(failed["error"]["detail"]) < NOTICED
    assert failed["error"].get("mend", "").startswith(case.mend)
    recovered = ward.event("check_recovered", name)
    assert recovered["id"] == failed["id"]
    assert ward.failures(name) == {case.reason: 1.0}
    wait_until(lambda: ward.daemon.checks(SOUND) > checked, "the sound model is checked on")
    ward.is_as(before)
    after = ward.daemon.children()
    assert len(after) == len(probes)
    assert probes - after  # others may be new as well, for a second look at the latency of a busy machine
    assert len(ward.daemon.told("check_failed", name)) == 1
    assert ward.daemon.metric("verdict", model=name, state="healthy") == 1
    assert not [pid for pid in session_members(probes - after) if exists(pid)]


def taken(detail: str) -> int:
    """MiB that a probe had when it was ended for them."""
    found = re.fullmatch(rf"the probe was ended: it took (\d+) MiB of memory, {MEMORY} MiB are allowed", detail)
    assert found
    return int(found[1])


def session_members(leaders: set[int]) -> list[int]:
    """Processes of sessions that any of ``leaders`` has begun."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text(errors="replace").rpartition(")")[2].split()[3])
        except OSError:
            continue
        if session in leaders:
            found.append(int(stat.parent.name))
    return found


def test_a_gigabyte_of_log_is_drained_and_costs_no_check(ward: Faulty) -> None:
    """The probe goes on behind it, the check succeeds, and the daemon is not larger for it."""
    grown = resident(ward.daemon.process.pid)
    checked = ward.daemon.checks("gigabyte")
    ward.commit("gigabyte", "gigabyte")
    wait_until(lambda: not (ward.faults / "gigabyte").exists(), "the fault is committed")
    wait_until(lambda: ward.daemon.checks("gigabyte") >= checked + 2, "checks go on")
    ward.answers()
    assert ward.failures("gigabyte") == {}
    assert resident(ward.daemon.process.pid) - grown < 4 * 2**20


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_fault_that_stays_is_told_once_and_tried_less_and_less_often(ward: Faulty) -> None:
    """Failures of one kind are one event, each followed by twice the rest; the first success is told as recovery."""
    ward.commit("stays", "segfault", "Replay", stays=True)
    spans = [span_of_failure(ward, "stays", count) for count in (1.0, 2.0, 3.0, 4.0, 5.0)]
    rests = [begun - ended for (_, ended), (begun, _) in itertools.pairwise(spans)]
    assert all(rest > least - 0.1 for rest, least in zip(rests, (1, 2, 4, 8), strict=True)), rests
    ward.answers()
    assert len(ward.daemon.told("check_failed", "stays")) == 1
    ward.mend("stays")
    recovered = ward.event("check_recovered", "stays")
    assert recovered["id"] == ward.daemon.told("check_failed", "stays")[0]["id"]
    assert len(ward.daemon.told("check_failed", "stays")) == 1


def span_of_failure(ward: Faulty, name: str, count: float) -> tuple[float, float]:
    """When the ``count``-th check of a model that failed began and ended, in seconds."""
    wait_until(lambda: ward.failures(name) == {CRASHED: count}, f"failure {count:g}")
    ended = ward.daemon.metric("last_check_timestamp_seconds", model=name)
    lasted = ward.daemon.metric("last_check_duration_seconds", model=name)
    assert ended is not None
    assert lasted is not None
    return ended - lasted, ended


@pytest.mark.slow
def test_a_hang_in_session_creation_ends_at_its_time_limit(tmp_path: Path, good: Path) -> None:
    """Creation may take ten times `timeout`; then it is told, as another reason; the next probe recovers."""
    with faulty(tmp_path, {"stuck": watched(good, timeout="2s"), SOUND: watched(good)}) as sick:
        before = sick.at_rest()
        sick.commit("stuck", "killed")
        sick.event("check_failed", "stuck")
        sick.commit("stuck", "hang", "Open")
        failed = sick.event("check_failed", "stuck", 2)
        assert failed["error"]["reason"] == TIMED_OUT
        assert failed["error"]["detail"].startswith("the probe did not answer Open within 20 s, waiting")
        sick.event("check_recovered", "stuck")
        sick.is_as(before)
        assert sick.failures("stuck") == {CRASHED: 1.0, TIMED_OUT: 1.0}
        assert sick.failures(SOUND) == {}


@pytest.mark.parametrize(
    ("fault", "bound"), [pytest.param("hang", "LAST_WORD", marks=pytest.mark.slow), ("hang_locked", "LOCKED")]
)
def test_a_probe_that_hangs_does_not_outlive_a_daemon_that_was_killed(
    tmp_path: Path, good: Path, fault: str, bound: str
) -> None:
    """The kernel's timer ends it: after the daemon's own patience, or after far more where no thread of it runs again.

    Only the bound that is to end it is made short; the next daemon removes what it left.
    """
    assert (lifeline.LAST_WORD, lifeline.LOCKED) == (GRACE, 20 * GRACE)
    with faulty(tmp_path, {"lost": watched(good, timeout="60s")}, **{f"NPUMON_TEST_{bound}": "4"}) as sick:
        (pid,) = sick.daemon.children()
        sick.commit("lost", fault)
        wait_until(lambda: not (sick.faults / "lost").exists(), "the probe hangs")
        sick.daemon.process.kill()
        sick.daemon.process.wait()
        start = time.monotonic()
        wait_until(lambda: not exists(pid), "the probe goes", 20)
        assert time.monotonic() - start > 2
        (left,) = sick.temporary.iterdir()
        os.utime(left, (0, 0))
        with running("run", "-c", tmp_path / "npumon.toml", TMPDIR=str(sick.temporary)) as daemon:
            wait_until(lambda: daemon.checks("lost") > 0, "a check")
            assert not left.exists()


@pytest.mark.slow
def test_a_daemon_that_is_told_to_stop_waits_for_a_probe_that_hangs_and_then_ends_it(
    tmp_path: Path, good: Path
) -> None:
    """It ends with 0 after its grace of 30 s, and before systemd's patience of 45 s is over."""
    with faulty(tmp_path, {"lost": watched(good, timeout="120s")}) as sick:
        sick.commit("lost", "hang")
        wait_until(lambda: not (sick.faults / "lost").exists(), "the probe hangs")
        start = time.monotonic()
        assert sick.daemon.stop() == 0
        assert 29 < time.monotonic() - start < 40


def test_what_is_sent_to_the_whole_service_costs_no_probe(tmp_path: Path, good: Path) -> None:
    """SIGTERM, SIGINT and SIGHUP reach probes where somebody signals the unit or its group; no check fails of it."""
    with faulty(tmp_path, {SOUND: watched(good, timeout="60s")}) as sick:
        (pid,) = sick.daemon.children()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        sick.daemon.wait_checks(SOUND, more=2)
        assert sick.daemon.children() == {pid}
        assert sick.failures(SOUND) == {}


def test_the_kernel_is_asked_to_take_probes_before_anything_else(ward: Faulty) -> None:
    """Out of memory, the kernel ends a probe before the daemon that watches it, and before the application."""
    own = score(ward.daemon.process.pid)
    wait_until(lambda: {score(pid) for pid in ward.daemon.children()} == {1000}, "every probe has volunteered")
    assert own < 1000


def score(pid: int) -> int:
    """How ready the kernel is to kill a process when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_daemon_that_is_a_containers_first_process_reaps_what_probes_leave(tmp_path: Path, good: Path) -> None:
    """A dead probe's children fall to the daemon there; they are killed with it, and none stays as a zombie."""
    with faulty(tmp_path, {"orphan": watched(good)}, NPUMON_TEST_SUBREAPER="1") as sick:
        before = sick.at_rest()
        sick.commit("orphan", "orphan")
        sick.event("check_failed", "orphan")
        sick.event("check_recovered", "orphan")
        sick.is_as(before)
        assert len(sick.daemon.children()) == 1


def test_what_killed_daemons_left_is_removed_and_nothing_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that nobody locks goes when the next is made; one that is locked, or was made just now, stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, fresh, foreign = (tmp_path / name for name in (f"{PREFIX}left", f"{PREFIX}fresh", "npumon-other"))
    with scratch() as used:
        for folder in (left, fresh, foreign):
            folder.mkdir()
            (folder / "profile.json").write_text("[]")
        for old in (left, foreign, Path(used.path)):
            os.utime(old, (time.time() - 120,) * 2)
        with scratch() as another:
            assert {str(folder) for folder in tmp_path.iterdir()} == {used.path, another.path, str(fresh), str(foreign)}
    assert {folder.name for folder in tmp_path.iterdir()} == {fresh.name, foreign.name}
