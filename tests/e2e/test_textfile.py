"""``npumon run --textfile``, as node_exporter and a user see it."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.running import Done, free_port, npumon, running, wait_until, write_config


def value(file: Path, name: str, **labels: str) -> float | None:
    """The value of ``npumon_<name>`` in the file; ``None`` if it is not there."""
    samples = (sample for family in text_string_to_metric_families(file.read_text()) for sample in family.samples)
    found = [sample.value for sample in samples if sample.name == f"npumon_{name}" and sample.labels == labels]
    return found[0] if found else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The textfile in a folder of its own, where everything that appears is seen."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    return folder / "npumon.prom"


def test_mistakes_are_one_line(tmp_path: Path, good: Path) -> None:
    """A name that node_exporter would not read, and a folder that is not there: exit code 2, with the mend."""
    config = write_config(tmp_path, {"m": {"path": good}})
    wrong = tmp_path / "npumon.txt"
    line = f"--textfile {wrong}: node_exporter reads files that end in .prom only; write --textfile {wrong}.prom\n"
    assert npumon("run", "-c", config, "--textfile", wrong) == Done(2, "", line)
    gone = tmp_path / "gone" / "npumon.prom"
    mend = "create it, or name the one that node_exporter reads"
    line = f"--textfile {gone}: there is no folder {gone.parent}; {mend}\n"
    assert npumon("run", "-c", config, "--textfile", gone) == Done(2, "", line)


def test_the_file_follows_checks_and_reloads_and_goes(tmp_path: Path, good: Path, file: Path) -> None:
    """It is there at once, follows each check and each reload, also one that failed, and is gone when the daemon is."""
    listen = f"127.0.0.1:{free_port()}"
    config = write_config(tmp_path, {"m": {"path": good}}, listen=listen)
    with running("run", "-c", config, "--textfile", file) as daemon:
        wait_until(file.exists, "the file")
        assert value(file, "models") == 1
        daemon.wait_checks("m")
        checks = value(file, "checks_total", model="m")
        wait_until(lambda: value(file, "checks_total", model="m") != checks, "the next check")
        assert value(file, "verdict", model="m", state="healthy") == 1
        assert value(file, "npu_flops_ratio", model="m") == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o644

        write_config(tmp_path, {"other": {"path": good}}, listen=listen)
        daemon.reload()
        assert value(file, "checks_total", model="m") is None
        assert value(file, "verdict", model="other", state="unknown") is not None
        config.write_text("")
        daemon.reload("config_not_reloaded")
        assert value(file, "config_last_reload_successful") == 0
        daemon.wait_checks("other")
        assert os.listdir(file.parent) == [file.name]
        assert daemon.stop() == 0
    assert os.listdir(file.parent) == []


def test_a_folder_that_goes_costs_no_check(tmp_path: Path, good: Path, file: Path) -> None:
    """While the file cannot be written there is one line and no check less; then it is written again."""
    config = write_config(tmp_path, {"m": {"path": good}}, "1s")
    with running("run", "-c", config, "--textfile", file) as daemon:
        daemon.wait_checks("m")
        file.parent.rename(tmp_path / "away")
        daemon.wait_checks("m", more=3)
        (told,) = daemon.told("textfile_not_written")
        assert (told["level"], told["file"], told["error"]) == ("error", str(file), "No such file or directory")
        assert daemon.get("/healthz")[0] == 200
        (tmp_path / "away").rename(file.parent)
        told = daemon.wait("textfile_written")
        assert (told["level"], told["failures"] >= 3) == ("info", True)
        assert value(file, "verdict", model="m", state="healthy") == 1


def test_a_second_daemon_that_cannot_start_leaves_the_file(tmp_path: Path, good: Path, file: Path) -> None:
    """Where the address is taken by a daemon that writes the same file, that one's file stays."""
    config = write_config(tmp_path, {"m": {"path": good}})
    with running("run", "-c", config, "--textfile", file) as daemon:
        daemon.wait_checks("m")
        (tmp_path / "second").mkdir()
        second = write_config(tmp_path / "second", {"m": {"path": good}}, listen=daemon.address.removeprefix("http://"))
        assert npumon("run", "-c", second, "--textfile", file).code == 3
        assert value(file, "models") == 1


def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path, good: Path, file: Path) -> None:
    """A file that was left says what was true when it was written; the next daemon replaces it as it starts."""
    config = write_config(tmp_path, {"m": {"path": good}})
    with running("run", "-c", config, "--textfile", file) as daemon:
        daemon.wait_checks("m")
        wait_until(lambda: value(file, "last_check_timestamp_seconds", model="m") is not None, "a check in the file")
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    assert value(file, "check_stale", model="m") == 0
    with running("run", "-c", config, "--textfile", file):
        wait_until(lambda: value(file, "last_check_timestamp_seconds", model="m") is None, "a new file")
