"""What the runtime raises while a model runs is told apart and counted; the accelerator gets its time to come back."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from monitor.service.life import RECOVERY
from tests.e2e.running import Line, exists
from tests.faults.faulty import SOUND, faulty, watched


@pytest.mark.parametrize(
    ("fault", "reason", "restarts"),
    [
        pytest.param("EPFail", "provider_failed", False, marks=pytest.mark.slow),
        pytest.param("EngineError", "engine_failed", True, marks=pytest.mark.slow),
        ("DeviceReset", "device_reset", True),
    ],
)
def test_an_error_of_the_runtime_is_counted_by_its_kind_and_a_new_probe_recovers(
    tmp_path: Path, good: Path, fault: str, reason: str, restarts: bool
) -> None:
    """One failure of that reason, with its cause; the new probe waits only where the accelerator restarts."""
    with faulty(tmp_path, {"m": watched(good), SOUND: watched(good)}) as sick:
        before, probes = sick.at_rest(), sick.daemon.children()
        sick.commit("m", fault)
        failed = sick.event("check_failed", "m")
        assert failed["cause"] == "runtime_error"
        assert failed["error"]["reason"] == reason
        assert failed["error"]["detail"].startswith(f"an inference raised {fault}: ")
        assert sick.daemon.metric("verdict_cause", model="m", cause="runtime_error") == 1
        checked = sick.daemon.checks(SOUND)
        recovered = sick.event("check_recovered", "m")
        assert (moment(recovered) - moment(failed) > RECOVERY) is restarts
        assert recovered["id"] == failed["id"]
        assert sick.failures("m") == {reason: 1.0}
        assert sick.failures(SOUND) == {}
        assert sick.daemon.checks(SOUND) > checked
        sick.is_as(before)
        assert not all(exists(pid) for pid in probes)  # the sound one's may be new as well, for a second look
        assert len(sick.daemon.told("check_failed", "m")) == 1


def moment(line: Line) -> float:
    """When the check of an event ended, in seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def test_an_accelerator_that_was_down_is_found_again_before_the_next_audit(tmp_path: Path, good: Path) -> None:
    """A session made while the backend did not come up is a fallback, and is made anew until it does."""
    with faulty(tmp_path, {"down": watched(good)}) as sick:
        (pid,) = sick.daemon.children()
        sick.commit("down", "no_backend", "Open", stays=True)
        os.kill(pid, signal.SIGKILL)
        raised = sick.event("fallback_detected", "down")
        assert raised["cause"] == "accelerator_unavailable"
        sick.mend("down")
        cleared = sick.event("fallback_cleared", "down")
        assert cleared["id"] == raised["id"]
        assert sick.daemon.metric("verdict", model="down", state="healthy") == 1
        assert sick.failures("down") == {"probe_crashed": 1.0}
