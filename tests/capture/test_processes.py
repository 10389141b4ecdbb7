"""The tap among processes: forked, spawned, killed, out of disk, without rights; and one folder for all of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor.capture import InputTap
from tests.capture.offering import CROWD_CALLS, CROWDED, assert_uniform, kept, ledgers, numbered, numbers
from tests.e2e.running import environment
from tests.faults.apart import disk

QUIET = ("-W", "ignore::DeprecationWarning")
"""From Python 3.12 on, to fork beside any thread, also numpy's, is called dangerous, as it is."""


def program(text: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that has a tap to its end; a tap must leave stderr alone."""
    return subprocess.run(
        [sys.executable, *QUIET, "-c", text, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


CROWD = """
import multiprocessing, sys
from pathlib import Path
from tests.capture.offering import crowded
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    workers = [context.Process(target=crowded, args=(Path(sys.argv[1]), number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers])
"""


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_processes_share_a_folder(start: str, tmp_path: Path) -> None:
    """Three at once: every file that a reader meets is whole, the bounds hold, each one's calls are counted."""
    command = [sys.executable, *QUIET, "-c", CROWD, str(tmp_path), start]
    looks = 0
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as crowd:
        while crowd.poll() is None:
            looks += look(tmp_path)
            time.sleep(0.01)
        assert crowd.stdout is not None
        assert crowd.stdout.read() == "[0, 0, 0]\n"
    assert looks > 0
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= CROWDED["most_bytes"]
    assert [sum(ledger["bins"]) for ledger in ledgers(tmp_path)] == [CROWD_CALLS] * 3
    assert not list(tmp_path.glob(".*"))
    assert_uniform([number / (3 * CROWD_CALLS) for number in numbers(tmp_path, "fair")])


def look(folder: Path) -> bool:
    """Whether there is something in ``folder``, of which all must be whole and within the bounds of three processes."""
    sizes = []
    for file in folder.glob("*.npz"):
        with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
            sizes.append(os.fstat(stream.fileno()).st_size)
            with np.load(stream) as arrays:
                assert sorted(arrays.files) == ["number", "size"]
                assert arrays["size"].shape == (int(arrays["number"][0]) % 1000,)
    assert len(sizes) <= CROWDED["keep"] + 3
    assert sum(sizes) <= CROWDED["most_bytes"] * (1 + 3 / 8)
    return bool(sizes)


FORK = """
import os, sys, threading, time
import numpy as np
from monitor.capture import InputTap
tap = InputTap(sys.argv[1], keep=8, rate=1.0)
def call(number):
    tap.offer({"number": np.array([number])}, 0.001)
    time.sleep(0.01)
call(1)
writer = tap._writer
held = threading.Event()
def hold():
    with writer.ledger._lock:
        held.set()
        time.sleep(30)
threading.Thread(target=hold, daemon=True).start()
held.wait()
children = []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        call(10 + child)
        sys.exit(tap._writer is writer)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(codes)
os._exit(0)
"""


def test_a_child_does_not_inherit_a_held_lock(tmp_path: Path) -> None:
    """Forked while another thread counts, children count and keep in files of their own, and nobody hangs."""
    done = program(FORK, tmp_path)
    assert (done.stdout, done.stderr) == ("[0, 0]\n", "")
    assert set(numbers(tmp_path, "fair")) == {1, 10, 11}
    # The parent left by os._exit and could write only what it had counted by its thread's first look.
    assert len([ledger for ledger in ledgers(tmp_path) if sum(ledger["bins"]) == 1]) >= 2


POOL = """
import multiprocessing, sys
import numpy as np
from monitor.capture import InputTap
tap = InputTap(sys.argv[1], keep=64, rate=1.0)
def work(number):
    tap.offer({"number": np.array([number])}, 0.001)
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    work(6)
"""


def test_short_children_leave_their_counts(tmp_path: Path) -> None:
    """A fork of multiprocessing that ends at once writes down its only call, as the program does at its end."""
    done = program(POOL, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [sum(ledger["bins"]) for ledger in ledgers(tmp_path)] == [1] * 7
    assert sorted(numbers(tmp_path, "fair")) == list(range(7))


ALONE = """
import sys
import numpy as np
from monitor.capture import InputTap
tap = InputTap(sys.argv[1], rate=1.0)
tap.offer({"number": np.array([1])}, 0.001)
assert "multiprocessing.util" not in sys.modules
"""


def test_a_short_program_leaves_its_counts(tmp_path: Path) -> None:
    """A program that ends after its only call, without a word to the tap, has written it down."""
    done = program(ALONE, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [sum(ledger["bins"]) for ledger in ledgers(tmp_path)] == [1]
    assert numbers(tmp_path, "fair") == [1]


ON_AND_ON = """
import sys, time
import numpy as np
from monitor.capture import InputTap
tap = InputTap(sys.argv[1], keep=16, rate=1.0, most_bytes=2**24, half_life=0.001)
x = np.zeros(100_000)
print("on", flush=True)
while True:
    tap.offer({"x": x}, 0.001)
    time.sleep(0.0005)
"""


def test_killed_processes_leave_whole_files(tmp_path: Path) -> None:
    """Kill -9 at any moment, again and again: every sample can be read, and half-written ones do not gather."""
    for attempt in range(4):
        command = [sys.executable, "-c", ON_AND_ON, str(tmp_path)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "on\n"
            time.sleep(0.15 + 0.01 * attempt)
            process.send_signal(signal.SIGKILL)
        assert all(sample["x"].shape == (100_000,) for sample in kept(tmp_path))
        assert len(list(tmp_path.glob(".*.tmp"))) <= 1
    tap = InputTap(tmp_path, keep=16, most_bytes=2**24)
    tap.offer(numbered(1), 0.001)
    tap.close()
    assert 0 < len(list(tmp_path.glob("*.npz"))) <= 16
    assert not list(tmp_path.glob(".*"))


FULL = """
import resource, sys, time
import numpy as np
from monitor.capture import InputTap
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 10**9))
tap = InputTap(sys.argv[1], keep=8, rate=1.0)
for number in range(20):
    tap.offer({"number": np.array([number])}, 0.001)
    tap.offer({"number": np.arange(1000)}, 0.001)
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
tap.offer({"number": np.full(1000, 99)}, 0.001)
"""


def test_a_full_disk_costs_samples_only(tmp_path: Path) -> None:
    """What does not fit is said once and leaves nothing half-written; what fits is kept, and all once there is room."""
    done = program(FULL, tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{tmp_path}: calls were not written down: OSError: [Errno 27] File too large",
        f"{tmp_path}: a sample was not kept: OSError: [Errno 27] File too large",
    ]
    assert not list(tmp_path.glob(".*"))
    small = [sample["number"] for sample in kept(tmp_path, "fair") if sample["number"].size == 1]
    assert len(small) >= 3
    (ledger,) = ledgers(tmp_path)
    assert sum(ledger["bins"]) == 41
    assert 1 <= ledger["dropped"] <= 20


WITHOUT_RIGHTS = """
import os, sys, time
from pathlib import Path
import numpy as np
from monitor.capture import InputTap
folder = Path(sys.argv[1])
if os.getuid() == 0:
    os.chown(folder, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
tap = InputTap(folder, keep=8, rate=1.0)
def call(number):
    tap.offer({"number": np.array([number])}, 0.001)
    time.sleep(0.05)
call(1)
folder.chmod(0o500)
call(2)
call(3)
folder.chmod(0o700)
call(4)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that another user can reach, as tmp_path cannot be."""
    with tempfile.TemporaryDirectory(prefix="npumon-test-") as folder:
        Path(folder).chmod(0o755)
        samples = Path(folder) / "samples"
        samples.mkdir()
        yield samples


def test_a_folder_that_may_not_be_written(public: Path) -> None:
    """Rights that go under way are said once and cost the samples of that time."""
    done = program(WITHOUT_RIGHTS, public)
    assert done.returncode == 0, done.stderr
    assert set(numbers(public, "fair")) == {1, 4}
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "a sample was not kept: PermissionError" in line]) == 1
    assert all("PermissionError" in line for line in lines)
    assert sum(ledgers(public)[0]["bins"]) == 4
    assert ledgers(public)[0]["dropped"] == 2


SMALL_DISK = """
import json, subprocess, sys, time
from pathlib import Path
import numpy as np
from monitor.capture import InputTap
from tests.faults.apart import fill
from tests.capture.offering import ledgers, numbered, numbers, settle
folder = Path(sys.argv[1]) / "samples"
tap = InputTap(folder, keep=16, rate=1.0)
def call(number, **more):
    tap.offer({**numbered(number), **more}, 0.001)
    settle(tap)
    time.sleep(0.05)
call(1)
if sys.argv[2] == "full":
    ballast = fill(folder.parent)
    mend = ballast.unlink
else:
    subprocess.run(["mount", "-o", "remount,ro", folder.parent], check=True)
    mend = lambda: subprocess.run(["mount", "-o", "remount,rw", folder.parent], check=True)
for number in range(2, 6):
    call(number, large=np.zeros(20_000))
left = [file.name for file in folder.iterdir() if file.name.startswith(".")]
mend()
call(6)
tap.close()
(calls,) = ledgers(folder)
print(json.dumps([numbers(folder, "fair"), left, sum(calls["bins"]), calls["dropped"]]))
"""


@pytest.mark.parametrize(("what", "error"), [("full", "Errno 28"), ("read-only", "Errno 30")])
def test_a_disk_without_room_or_rights(what: str, error: str, tmp_path: Path) -> None:
    """A real disk that is full, or read-only as after a fault, costs the samples of that time and one line a kind."""
    (tmp_path / "disk").mkdir()
    command = [*disk(tmp_path / "disk", 256), sys.executable, "-c", SMALL_DISK, str(tmp_path / "disk"), what]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    kept_calls, half_written, counted, dropped = json.loads(done.stdout)
    assert (sorted(kept_calls), half_written, counted, dropped) == ([1, 6], [], 6, 4)
    lines = done.stderr.splitlines()
    assert [line for line in lines if "a sample was not kept" in line and error in line]
    assert len(lines) == len({line.split(":")[1] for line in lines})
