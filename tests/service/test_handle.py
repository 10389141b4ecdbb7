"""A probe may do anything; the parent gets one bounded failure in time and keeps nothing of it.

The children are real processes: fake_probe.py speaks the wire and misbehaves where native code would.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor import wire
from monitor.errors import MeasureError
from monitor.records import Failure
from monitor.service import handle as module
from monitor.service import process
from monitor.service.handle import OUTPUT_KEPT, ProbeClosed, ProbeHandle

FAKE = Path(__file__).with_name("fake_probe.py")
SPEC = wire.Spec(name="m", path="/m.onnx", provider="qnn")
OPEN = wire.Open(SPEC, 1)
Spawn = Callable[..., ProbeHandle]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start fake probes that are closed after the test."""
    handles: list[ProbeHandle] = []

    def start(*fault: str) -> ProbeHandle:
        handles.append(ProbeHandle([sys.executable, str(FAKE), *(fault or ("sound",))]))
        return handles[-1]

    yield start
    for handle in handles:
        handle.close(0)


def failure_of(probe: ProbeHandle, timeout: float = 20.0, message: wire.Open = OPEN) -> Failure:
    """The failure that a request ends in."""
    with pytest.raises(MeasureError) as caught:
        probe.request(message, timeout)
    assert "\n" not in str(caught.value)
    return caught.value.failure


def gone(pid: int) -> bool:
    """Whether no process has this id any more, not even as a zombie."""
    return not Path(f"/proc/{pid}").exists()


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether ``condition`` comes true."""
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_each_request_gets_its_own_kind_of_answer(spawn: Spawn) -> None:
    """One probe answers all four requests in turn, small and large, and stays alive."""
    probe = spawn()
    assert probe.request(OPEN, 20).create_seconds == 0.5
    assert len(probe.request(wire.Audit(3, 5.0), 20).runs) == 3
    assert probe.request(wire.Replay(4, 1, 5.0), 20).seconds == (0.001,) * 4
    assert probe.request(wire.MakeStudy(SPEC, 1), 20).notes[1] == "m"
    assert probe.alive
    assert (probe.rss or 0) > 2**20


def test_a_request_and_an_answer_larger_than_the_pipe_are_passed_whole(spawn: Spawn) -> None:
    """Frames of megabytes cross pipes of 64 KiB in both directions."""
    name = "x" * 5_000_000
    assert spawn().request(wire.MakeStudy(wire.Spec(name, "/m.onnx", "qnn"), 1), 60).notes[1] == name


def test_a_probe_that_does_not_even_read_times_out(spawn: Spawn) -> None:
    """A request that a stopped probe leaves in the pipe unread ends at the timeout."""
    probe = spawn()
    os.kill(probe.pid, signal.SIGSTOP)
    large = wire.Open(wire.Spec("x" * 200_000, "/m.onnx", "qnn"), 1)
    assert failure_of(probe, 1.0, large).reason == "probe_timeout"


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        ("crash", "probe_crashed", "exit code 1: RuntimeError: the accelerator is on fire"),
        ("segfault", "probe_crashed", "died of SIGSEGV"),
        ("abort", "probe_crashed", "died of SIGABRT"),
        ("killed", "probe_crashed", "died of SIGKILL"),
        ("exit", "probe_crashed", "exit code 3"),
        ("exit_at_once", "probe_crashed", "exit code 1: no such library"),
        ("partial", "probe_crashed", "exit code 0"),
        ("garbage", "probe_protocol", "nonsense"),
        ("giant", "probe_protocol", "a frame of 4294967295 bytes"),
        ("twice", "probe_protocol", "more than one answer"),
        ("wrong", "probe_protocol", "answered Open with Replayed"),
        ("close_pipe", "probe_protocol", "closed its pipe and lives on, waiting"),
    ],
)
def test_a_fault_is_named_and_the_process_is_gone(spawn: Spawn, fault: str, reason: str, detail: str) -> None:
    """Each fault gives its bounded reason and what is known of it, at once and again, and no process stays behind."""
    probe = spawn(fault)
    failure = failure_of(probe)
    assert failure.reason == reason
    assert detail in failure.detail
    assert not probe.alive
    assert probe.rss is None
    assert gone(probe.pid)
    assert failure_of(probe) == failure


@pytest.mark.parametrize("fault", ["hang", "chatter", "dribble"])
def test_no_answer_ends_at_the_timeout(spawn: Spawn, fault: str) -> None:
    """A probe that hangs, prints without end, or sends its answer for ever is killed when the time is up."""
    probe = spawn(fault)
    start = time.monotonic()
    failure = failure_of(probe, 1.0)
    assert failure.reason == "probe_timeout"
    assert "`timeout`" in failure.mend
    assert 1.0 <= time.monotonic() - start < 5.0
    assert len(probe.output) <= OUTPUT_KEPT
    assert gone(probe.pid)


def test_a_stopped_probe_times_out_and_is_said_to_be_stopped(spawn: Spawn) -> None:
    """SIGSTOP ends in a timeout that says what the kernel knows, and the stopped process does not stay."""
    probe = spawn()
    probe.request(OPEN, 20)
    os.kill(probe.pid, signal.SIGSTOP)
    assert "stopped by a signal" in failure_of(probe, 0.5).detail
    assert gone(probe.pid)


def test_a_crash_is_seen_behind_a_pipe_that_a_grandchild_holds_open(spawn: Spawn) -> None:
    """A dead probe whose own child keeps the pipe open is a crash long before the timeout, and both are gone."""
    probe = spawn("grandchild")
    start = time.monotonic()
    assert "exit code 7" in failure_of(probe, 60.0).detail
    assert time.monotonic() - start < 10
    assert eventually(lambda: not _group(probe.pid))


def _group(pgid: int) -> list[str]:
    stats = (path.read_text(encoding="utf-8") for path in Path("/proc").glob("[0-9]*/stat") if path.exists())
    fields = (stat.rpartition(")")[2].split() for stat in stats)
    return [field[0] for field in fields if field[2] == str(pgid) and field[0] not in "ZX"]


def test_what_the_probe_reports_itself_leaves_it_usable(spawn: Spawn) -> None:
    """A failure that the probe answers with is passed on as it is, and the next request works."""
    probe = spawn("failed")
    assert failure_of(probe) == Failure("run_failed", "no", "try")
    assert probe.request(OPEN, 20).create_seconds == 0.5


def test_unasked_bytes_are_never_taken_for_an_answer(spawn: Spawn) -> None:
    """Bytes that lie in the pipe before a request break the probe."""
    probe = spawn("unasked")
    time.sleep(0.5)
    failure = failure_of(probe)
    assert failure.reason == "probe_protocol"


def test_a_great_deal_of_output_does_not_block_the_answer(spawn: Spawn) -> None:
    """Output is drained while the parent waits; the answer comes and only the end of the output is kept."""
    probe = spawn("gigabyte")
    probe.request(OPEN, 60)
    assert probe.output.endswith("enough said\n")
    assert len(probe.output) == OUTPUT_KEPT


def test_an_idle_probe_blocked_on_output_goes_on_at_the_next_request(spawn: Spawn) -> None:
    """A probe that filled its output pipe between two requests answers the second one."""
    probe = spawn("idle_chatter")
    probe.request(OPEN, 20)
    probe.request(OPEN, 20)
    probe.close(20)
    assert probe.output.endswith("said while idle\n")


def test_a_probe_that_died_between_requests_is_a_crash(spawn: Spawn) -> None:
    """Death while idle shows in ``alive`` and fails the next request with its exit code."""
    probe = spawn("idle_exit")
    probe.request(OPEN, 20)
    assert eventually(lambda: not probe.alive)
    failure = failure_of(probe)
    assert failure == Failure("probe_crashed", "the probe ended with exit code 4")


def test_a_command_that_cannot_start_is_a_crash_and_leaks_nothing() -> None:
    """A missing interpreter fails like a crash and leaves no descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(MeasureError, match="cannot start a probe") as caught:
        ProbeHandle(["/nonexistent/python"])
    assert caught.value.failure.reason == "probe_crashed"
    assert set(os.listdir("/proc/self/fd")) == before


def test_close_lets_the_running_inference_end(spawn: Spawn, tmp_path: Path) -> None:
    """Closing hangs up and waits: the child finishes what it does and goes by itself."""
    mark = tmp_path / "mark"
    probe = spawn("inference", str(mark))
    probe.request(OPEN, 20)
    probe.close(20)
    assert mark.read_text(encoding="utf-8") == "ended by itself"
    assert gone(probe.pid)
    with pytest.raises(ProbeClosed):
        probe.request(OPEN, 20)


def test_close_kills_after_the_grace(spawn: Spawn) -> None:
    """A child that ignores the hang-up is killed when the grace is over, not before and not much later."""
    probe = spawn("stubborn")
    probe.request(OPEN, 20)
    start = time.monotonic()
    probe.close(0.5)
    assert 0.5 <= time.monotonic() - start < 3
    assert gone(probe.pid)


def test_closing_during_a_request_is_no_failure(spawn: Spawn) -> None:
    """A request that another thread abandons by closing ends in ProbeClosed within the grace."""
    probe = spawn("hang")
    threading.Timer(0.3, probe.close, [0.5]).start()
    start = time.monotonic()
    with pytest.raises(ProbeClosed):
        probe.request(OPEN, 60)
    assert time.monotonic() - start < 5


def test_an_answer_within_the_grace_is_delivered(spawn: Spawn) -> None:
    """The inference that runs when the handle is closed may still bring its answer home."""
    probe = spawn("slow")
    threading.Timer(0.3, probe.close, [20]).start()
    assert probe.request(OPEN, 60).create_seconds == 0.5


def test_an_interrupted_request_is_never_continued_by_another(spawn: Spawn) -> None:
    """After Ctrl-C during a request its answer may still come, so the probe is not asked again."""
    probe = spawn("slow")

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            probe.request(OPEN, 60)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not probe.alive
    assert failure_of(probe).reason == "internal"


@pytest.mark.parametrize("answered", [False, True], ids=["just started", "at rest"])
def test_a_probe_is_deaf_to_what_is_sent_to_the_whole_service(answered: bool) -> None:
    """To stop it, or to have it reload: a probe goes when the service says so, at whatever moment a signal comes."""
    probe = ProbeHandle()
    try:
        if answered:
            assert failure_of(probe, 60).reason == "model_missing"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(probe.pid, number)
        assert failure_of(probe, 60).reason == "model_missing"
    finally:
        probe.close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_process_that_cannot_be_killed_holds_nobody_up(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may hold it: it is given up in time, however often it is closed, known as stuck, and reaped in the end.

    No driver does so here: what kills is taken away instead.
    """
    monkeypatch.setattr(process, "kill_session", lambda leader: set())
    monkeypatch.setattr(module, "REAP_TIMEOUT", 0.1)
    probe = spawn("hang")
    try:
        assert failure_of(probe, 0.3).reason == "probe_timeout"
        for _ in range(2):
            probe.close(0.1)
            assert probe.stuck
    finally:
        os.kill(probe.pid, signal.SIGKILL)
    assert eventually(lambda: not probe.stuck)
    assert gone(probe.pid)


def test_the_protocol_survives_ctrl_c_at_the_terminal(spawn: Spawn) -> None:
    """The child is not in the parent's process group, so a terminal's SIGINT does not reach it."""
    assert os.getpgid(spawn().pid) != os.getpgrp()


def test_fifty_probes_leave_no_descriptor_zombie_or_thread() -> None:
    """Whether they end well or badly, fifty probes leave the parent as it was."""

    def ours() -> tuple[set[str], int, list[str]]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
        return set(os.listdir("/proc/self/fd")), threading.active_count(), children

    before = ours()
    for index in range(50):
        fault = ("sound", "crash", "segfault", "garbage", "hang")[index % 5]
        probe = ProbeHandle([sys.executable, str(FAKE), fault])
        if fault == "sound":
            probe.request(OPEN, 20)
        else:
            failure_of(probe, 0.1 if fault == "hang" else 20)
        probe.close(5)
        probe.close(5)
    assert ours() == before
