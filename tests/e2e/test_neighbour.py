"""The budget of accelerator time in the real daemon: replays shrink, checks come later, and a reload changes it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.running import npumon, running, wait_until, write_config
from tests.faults.apart import within

WAITED = "the check waited until max_duty paid for 5 replays"


def with_duty(config: Path, share: str) -> Path:
    """The configuration with this ``max_duty``, in the place of the one it had."""
    lines = [line for line in config.read_text().splitlines(keepends=True) if not line.startswith("max_duty")]
    config.write_text("".join(lines).replace("[monitor]\n", f"[monitor]\nmax_duty = {share}\n"))
    return config


def test_replays_shrink_and_checks_wait(tmp_path: Path, good: Path) -> None:
    """A budget that pays for no check a second stretches the interval, says so everywhere once, and is kept to."""
    config = with_duty(write_config(tmp_path, {"m": {"path": good, "replays": 50}}, "1s"), "0.02")
    with running("run", "-c", config) as daemon:
        wait_until(lambda: (daemon.metric("checks_postponed_total", model="m", reason="duty") or 0) >= 1, "a wait")
        daemon.wait_checks("m")
        assert [line["detail"] for line in daemon.told("check_note", "m")].count(WAITED) == 1
        (line,) = daemon.told("check_postponed", "m")
        assert (line["reason"], line["detail"]) == ("duty", "max_duty does not pay for a check yet")
        replays = daemon.metric("replays", model="m")
        assert replays is not None
        assert 5 <= replays < 50
        assert daemon.metric("check_stale", model="m") == 0
        # What could be saved up, 300 s at 2 %, is there from the start.
        assert 0 < (daemon.metric("duty_ratio") or 0) < (6 + 0.02 * 90) / 600
        with_duty(config, "1")
        daemon.reload()
        wait_until(lambda: daemon.metric("replays", model="m") == 50, "all replays")
        postponed = daemon.metric("checks_postponed_total", model="m", reason="duty")
        daemon.wait_checks("m", more=3)
        assert daemon.metric("checks_postponed_total", model="m", reason="duty") == postponed


def test_a_single_check_is_not_held_back(tmp_path: Path, good: Path) -> None:
    """``npumon check`` makes all replays that are configured, whatever the budget."""
    config = with_duty(write_config(tmp_path, {"m": {"path": good, "replays": 50}}), "0.000001")
    done = npumon("check", "-c", config, "--json")
    assert done.code == 0
    assert "max_duty" not in done.out
    assert done.out.count("replays_seconds") == 1


def pressure(full: int) -> str:
    """What the kernel tells of memory while all tasks wait for it in so many percent of the time."""
    return "".join(f"{who} avg10={full}.00 avg60=0.00 avg300=0.00 total=1\n" for who in ("some", "full"))


def test_a_board_in_distress_is_left_alone_for_a_while(tmp_path: Path, good: Path) -> None:
    """A check comes three quarters of an interval later, then it is made; on a board that has recovered, in time."""
    told = tmp_path / "memory"
    told.write_text(pressure(50))
    mount = within("--mount", script=f"mount --bind {told} /proc/pressure/memory")
    config = write_config(tmp_path, {"m": {"path": good}}, "2s")
    with running("run", "-c", config, within=mount) as daemon:

        def postponed() -> float:
            return daemon.metric("checks_postponed_total", model="m", reason="memory") or 0.0

        wait_until(lambda: postponed() == 3, "three times")
        assert daemon.checks("m") == 1
        daemon.wait_checks("m")
        assert postponed() == 3
        (line,) = daemon.told("check_postponed", "m")
        assert line["detail"] == "for 50 % of the last 10 s all tasks waited for memory"
        told.write_text(pressure(0))
        before = postponed()
        daemon.wait_checks("m", more=2)
        assert postponed() - before <= 1
        assert daemon.metric("check_stale", model="m") == 0
