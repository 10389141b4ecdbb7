"""Files: whole or absent, whatever kills their writer; readable by whom they may; and nothing left behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from monitor.capture.files import sweep, whole

HALF = """
import sys, time
from pathlib import Path
from monitor.capture.files import whole
with whole(Path(sys.argv[1]) / "fair-1-2-aa-1.npz", 0o600) as stream:
    stream.write(b"half")
    stream.flush()
    print("half", flush=True)
    time.sleep(600)
"""


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Until its block ends there is no file of its name, then there is all of it, and nothing else."""
    path = tmp_path / "calls-1-aa.json"
    with whole(path, 0o600) as stream:
        stream.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """An error within the block passes on, and the former file stays as it was."""
    path = tmp_path / "calls-1-aa.json"
    path.write_text("old")
    with pytest.raises(TypeError), whole(path, 0o600) as stream:
        stream.write("no bytes")  # type: ignore[call-overload]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_mode_does_not_depend_on_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    """The file has exactly the mode that was asked for, and never a wider one under its first name."""
    before = os.umask(umask)
    try:
        with whole(tmp_path / "calls-1-aa.json", mode) as stream:
            stream.write(b"secret")
            (fresh,) = tmp_path.iterdir()
            assert stat.S_IMODE(fresh.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "calls-1-aa.json").stat().st_mode) == mode


def test_a_killed_writer_leaves_nothing_for_long(tmp_path: Path) -> None:
    """Kill -9 in the middle of a write: no half file under the real name, and the next look removes the other."""
    with subprocess.Popen([sys.executable, "-c", HALF, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        (fresh,) = tmp_path.iterdir()
        sweep(tmp_path)
        assert fresh.exists(), "its writer lives"
        writer.kill()
    assert [file.suffix for file in tmp_path.iterdir()] == [".tmp"]
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_swept(tmp_path: Path) -> None:
    """What the application or an administrator keeps there is theirs, also with a name of that kind."""
    for name in ("work.tmp", ".work.tmp", ".fair.tmp", "calls-1-aa.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_sweeping_and_writing_at_once_lose_nothing(tmp_path: Path) -> None:
    """A file that is swept between its creation and its lock is made again."""
    over = threading.Event()

    def sweep_on() -> None:
        while not over.is_set():
            sweep(tmp_path)

    sweeper = threading.Thread(target=sweep_on)
    sweeper.start()
    try:
        for number in range(300):
            with whole(tmp_path / f"calls-{number}-aa.json", 0o600) as stream:
                stream.write(b"all")
    finally:
        over.set()
        sweeper.join()
    assert len(list(tmp_path.glob("calls-*-aa.json"))) == 300
    assert not list(tmp_path.glob(".*"))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """In a folder that others may write, a planted link leads nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".calls-1-aa.json.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"), whole(tmp_path / "calls-1-aa.json", 0o600):
        pass
    assert victim.read_text() == "mine"
