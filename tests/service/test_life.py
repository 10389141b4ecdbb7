"""The processes of one model: none beside another that is stuck, one grace for all, no study that fails all the time.

The probes are real ones, but where a test is about the way they go.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor import wire
from monitor.config import Model
from monitor.probe import demo_model
from monitor.records import Failure, Fault, SessionFacts, Study
from monitor.service import handle, life, process
from monitor.service.check import Checker
from monitor.service.handle import ProbeHandle
from monitor.service.identity import sha256_of, spec_of
from monitor.service.life import Keeper
from monitor.service.schedule import Backoff
from monitor.service.studies import Memory
from tests import models
from tests.e2e.running import INSIDE_PROBES, ROOT, children, wait_until

FAKE = Path(__file__).with_name("fake_probe.py")
STUDYING = "studying the model on the CPU"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network, which the accelerator takes whole."""
    return models.saved(demo_model.build(), tmp_path_factory.mktemp("models"), "good.onnx")


def checker(path: Path, steps: list[str], **settings: object) -> Checker:
    """What checks the model, and notes its ``steps``."""
    given = {"options": {"soc_model": "60"}, "replays": 2, "compare_outputs": False, **settings}
    return Checker(Model("m", path, **given), "qnn", math.inf, Memory(), steps.append)  # type: ignore[arg-type]


def test_no_probe_is_started_beside_one_that_cannot_be_ended(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver holds keeps accelerator and memory: checks say so, start nothing, and go on once it is gone.

    No driver does so here: the probe is stopped, and what kills is taken away.
    """
    checks = checker(good, [], timeout=3.0)
    try:
        assert checks.check().error is None
        assert checks.process is not None
        pid, _ = checks.process
        os.kill(pid, signal.SIGSTOP)
        try:
            with monkeypatch.context() as held:
                held.setattr(process, "kill_session", lambda leader: set())
                held.setattr(handle, "REAP_TIMEOUT", 0.1)
                error = checks.check().error
                assert error is not None
                assert error.reason == "probe_timeout"
            assert checks.check().error == Failure(
                "probe_timeout",
                f"an earlier probe (process {pid}) was killed and is still there, stopped by a signal",
                "look for its driver in the kernel's log; mostly only a reboot ends it",
            )
            assert children(os.getpid()) == {pid}
        finally:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: checks.check().error is None, "a check")
        assert not Path(f"/proc/{pid}").exists()
    finally:
        checks.close()


def test_the_processes_of_a_model_have_one_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them do not go by themselves, they end when it is over: systemd does not wait for longer."""
    monkeypatch.setattr(life, "ProbeHandle", lambda memory: ProbeHandle([sys.executable, str(FAKE), "stubborn"]))
    keeper = Keeper(Model("m", Path("m.onnx")), "qnn", math.inf, Memory(), None, lambda step: None, None)
    for _ in range(3):
        keeper.start().request(wire.Open(wire.Spec("m", "m.onnx", "qnn"), 1), 20)
    start = time.monotonic()
    keeper.close(1.5)
    assert 1.5 <= time.monotonic() - start < 3


def test_a_study_that_fails_is_not_made_at_each_check(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that lives for one check does without it for a while, and says so; another model is studied at once."""
    (tmp_path / "m").write_text("MakeStudy segfault *")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((INSIDE_PROBES, str(ROOT))))
    monkeypatch.setenv("NPUMON_TEST_FAULTS", str(tmp_path))
    path = tmp_path / "model.onnx"
    path.write_bytes(good.read_bytes())
    steps: list[str] = []
    checks = checker(path, steps, resident=False)
    try:
        for _ in range(2):
            result = checks.check()
            assert result.error is None
            assert result.placement is not None
            assert result.placement.npu_flops_ratio is None
            assert result.placement.notes == ("FLOPs are not known: the probe died of SIGSEGV",)
        assert steps.count(STUDYING) == 1
        (tmp_path / "m").unlink()
        os.utime(path, (0, 0))
        result = checks.check()
        assert steps.count(STUDYING) == 2
        assert result.placement is not None
        assert result.placement.npu_flops_ratio == 1
    finally:
        checks.close()


class Clock:
    """What ``life`` and its rests read instead of :mod:`time`, in seconds."""

    now = 0.0

    def monotonic(self) -> float:
        """The same until the test moves it."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for keepers that are made from here on."""
    clock = Clock()
    monkeypatch.setattr(life, "time", clock)
    monkeypatch.setattr(life, "Backoff", partial(Backoff, clock.monotonic))
    return clock


def test_a_study_that_fails_is_tried_again_after_ten_times_as_long_then_twice_that_up_to_six_hours(
    good: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a second earlier, and not later; once it succeeds, the next failure is the first again."""
    fault = "segfault"

    def lasting(memory: int | None) -> ProbeHandle:
        clock.now += 100
        return ProbeHandle([sys.executable, str(FAKE), fault])

    monkeypatch.setattr(life, "ProbeHandle", lasting)
    steps: list[str] = []
    model = Model("m", good)
    keeper = Keeper(model, "qnn", math.inf, Memory(), None, steps.append, None)

    def studied() -> bool:
        before = len(steps)
        keeper.study(spec_of(model, "qnn"))
        return len(steps) > before

    def rested(seconds: float) -> bool:
        clock.now += seconds - 1
        early = studied()
        clock.now += 1
        return not early and studied()

    assert studied()
    for seconds in (1000, 2000, 4000, 8000, 16000, 6 * 3600, 6 * 3600):
        assert rested(seconds), seconds
    clock.now += 6 * 3600
    fault = "sound"
    assert studied()
    fault = "segfault"
    assert studied()  # again, since what the other found out is of another model
    assert rested(1000)


def test_an_accelerator_that_is_down_is_looked_for_after_ten_seconds_then_twice_that_up_to_ten_minutes(
    good: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is kept for as long, whatever the audit's interval; once it comes up, the session stays."""
    faults: tuple[Fault, ...] = (Fault("accelerator_unavailable", "the backend did not load"),)

    class Opened(ProbeHandle):
        def request(self, message: wire.Request, timeout: float) -> Any:
            reply = super().request(message, timeout)
            match reply:
                case SessionFacts():
                    return msgspec.structs.replace(reply, faults=faults)
                case Study():
                    return msgspec.structs.replace(reply, model_sha256=sha256_of(str(good)))
                case _:
                    return reply

    monkeypatch.setattr(life, "ProbeHandle", lambda memory: Opened([sys.executable, str(FAKE), "sound"]))
    keeper = Keeper(
        Model("m", good, compare_outputs=False), "qnn", 24 * 3600.0, Memory(), None, lambda step: None, None
    )
    try:
        probe = keeper.alive(lambda handle: None).handle
        for seconds in (10, 20, 40, 80, 160, 320, 600, 600):
            clock.now += seconds - 1
            assert keeper.alive(lambda handle: None).handle is probe, seconds
            clock.now += 1
            renewed = keeper.alive(lambda handle: None).handle
            assert renewed is not probe, seconds
            probe = renewed
        faults = ()
        clock.now += 600
        probe = keeper.alive(lambda handle: None).handle
        clock.now += 24 * 3600 - 1
        assert keeper.alive(lambda handle: None).handle is probe
    finally:
        keeper.close(5.0)


def test_a_study_is_kept_under_the_model_that_it_is_of(tmp_path: Path) -> None:
    """A model that is replaced right before its study is read is not given the other's study when it comes back."""
    path, new = models.saved(demo_model.build(), tmp_path), models.saved(models.selu_qdq(), tmp_path, "new.onnx")
    first = path.read_bytes()
    model = Model("m", path)

    def deploy(step: str) -> None:
        if step == STUDYING:
            path.write_bytes(new.read_bytes())

    kept = Memory()
    keeper = Keeper(model, "qnn", 3600.0, kept, None, deploy, None)
    other, _ = keeper.study(spec_of(model, "qnn"))
    keeper.close(5.0)
    path.write_bytes(first)
    keeper = Keeper(model, "qnn", 3600.0, kept, None, lambda step: None, None)
    study, _ = keeper.study(spec_of(model, "qnn"))
    keeper.close(5.0)
    assert other is not None
    assert study is not None
    assert other.model_sha256 == sha256_of(str(new))
    assert study.model_sha256 == sha256_of(str(path))
