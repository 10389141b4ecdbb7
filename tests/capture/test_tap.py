"""The tap in one process: what it keeps, what it refuses, what it says, and that the application never notices."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.capture import InputTap
from monitor.capture.arrays import Feeds
from monitor.capture.writer import WAITING
from tests.capture.offering import assert_uniform, kept, ledgers, numbered, numbers, settle, tapping

WHOLE = "npumon.capture"


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll ``condition`` until it holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the tap."""
    return [record.getMessage() for record in caplog.records if record.name == WHOLE]


def threads() -> int:
    """How many taps have a thread."""
    return sum(thread.name == "npumon tap" for thread in threading.enumerate())


def test_an_input_is_kept_as_it_was_offered(tmp_path: Path) -> None:
    """The array in the file is the one at the time of the call, though the application uses its buffer again."""
    buffer = np.arange(4, dtype=np.float32)
    with tapping(tmp_path, rate=1.0) as tap:
        tap.offer({"x": buffer, "scale": 2.0}, 0.001)
        buffer[:] = -1
    (sample,) = kept(tmp_path, "fair")
    assert sample["x"].tolist() == [0, 1, 2, 3]
    assert sample["x"].dtype == np.float32
    assert sample["scale"].shape == ()


def test_the_fair_part_is_fair(tmp_path: Path) -> None:
    """Of 8000 calls, offered from the first on, those that are kept lie anywhere with the same chance."""
    with tapping(tmp_path, keep=128, rate=0.25) as tap:
        for call in range(8000):
            tap.offer(numbered(call), 0.001)
            settle(tap)
    places = [number / 8000 for number in numbers(tmp_path, "fair")]
    assert len(places) == 96
    assert_uniform(places)
    (calls,) = ledgers(tmp_path)
    assert sum(calls["bins"]) == 8000
    assert calls["seconds"] == pytest.approx(8.0)
    assert calls["dropped"] == 0
    # Shapes are counted for the share of calls that was considered: binomial, within 5 standard deviations.
    assert calls["shapes"].keys() == {"number[1]"}
    assert abs(calls["shapes"]["number[1]"] - 2000) < 5 * math.sqrt(8000 * 0.25 * 0.75)


def test_restarts_leave_the_sample_fair(tmp_path: Path) -> None:
    """Each process finds what the ones before it kept: of 6000 calls in six of them all had the same chance."""
    for start in range(0, 6000, 1000):
        with tapping(tmp_path, keep=128, rate=0.25) as tap:
            for call in range(start, start + 1000):
                tap.offer(numbered(call), 0.001)
                settle(tap)
    places = [number / 6000 for number in numbers(tmp_path, "fair")]
    assert len(places) == 96
    assert_uniform(places)
    assert [sum(calls["bins"]) for calls in ledgers(tmp_path)] == [1000] * 6


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_the_slow_part_is_the_slow_tail(share: float, tmp_path: Path) -> None:
    """Planted slow calls are a minority of all, and nine of ten in the slow part; the fair part has its due of them."""
    source = random.Random(3)
    slow = set(source.sample(range(1000, 10_000), round(10_000 * share)))
    with tapping(tmp_path, keep=64, rate=0.2) as tap:
        for call in range(10_000):
            tap.offer(numbered(call), source.gauss(0.024 if call in slow else 0.008, 0.0002))
            settle(tap)
            if call == 1000:
                wait_until(lambda: tap._writer.slow_from < math.inf)
    tail = numbers(tmp_path, "slow")
    assert len(tail) == 16
    assert sum(call in slow for call in tail) >= 15
    fair = numbers(tmp_path, "fair")
    assert len(fair) == 48
    deviation = math.sqrt(48 * share * (1 - share))
    assert abs(sum(call in slow for call in fair) - 48 * share) < 5 * deviation + 3


def test_bounds_hold_at_every_moment(tmp_path: Path) -> None:
    """Whoever looks while calls come sees at most what was allowed and the one that is just being written."""
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            sizes = []
            for file in tmp_path.glob("*.npz"):
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(file.stat().st_size)
            seen.append((len(sizes), sum(sizes)))

    watcher = threading.Thread(target=look)
    with tapping(tmp_path, keep=16, rate=1.0, most_bytes=200_000) as tap:
        watcher.start()
        for call in range(1500):
            tap.offer({"x": np.zeros(call % 3000)}, 0.001)
            settle(tap)
        over.set()
        watcher.join()
    assert len(seen) > 20
    assert max(count for count, _ in seen) <= 16 + 1
    assert max(size for _, size in seen) <= 200_000 + 200_000 // 8 + 1000
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= 200_000


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755)])
def test_modes_are_as_told(mode: int, folder_mode: int, tmp_path: Path) -> None:
    """Samples, counts and a folder that is made can be read by nobody else, unless the mode says so."""
    folder = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        with tapping(folder, rate=1.0, mode=mode) as tap:
            tap.offer(numbered(1), 0.001)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode}
    assert len(list(folder.iterdir())) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == folder_mode


def test_a_folder_has_its_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    """A service with UMask=0077 that shares its samples makes a folder that the group gets into, setgid kept."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o2755)
    before = os.umask(0o077)
    try:
        with tapping(above / "samples", rate=1.0, mode=0o640) as tap:
            tap.offer(numbered(1), 0.001)
    finally:
        os.umask(before)
    assert stat.S_IMODE((above / "samples").stat().st_mode) == 0o2750
    assert {stat.S_IMODE(file.stat().st_mode) for file in (above / "samples").iterdir()} == {0o640}


def test_a_group_may_share_a_folder(tmp_path: Path) -> None:
    """In a folder that was made for a group, what is written is the group's to read: so the daemon gets at it."""
    group = 4711 if os.getuid() == 0 else os.getgroups()[-1]
    folder = tmp_path / "samples"
    folder.mkdir()
    os.chown(folder, -1, group)
    folder.chmod(0o2750)
    with tapping(folder, rate=1.0, mode=0o640) as tap:
        tap.offer(numbered(1), 0.001)
    assert {(file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) for file in folder.iterdir()} == {(group, 0o640)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2750


def test_no_input_is_no_sample(tmp_path: Path) -> None:
    """A call without inputs is counted; there is nothing of it to replay."""
    with tapping(tmp_path, rate=1.0) as tap:
        tap.offer({}, 0.001)
    assert kept(tmp_path) == []
    assert sum(ledgers(tmp_path)[0]["bins"]) == 1


# ------------------------------------------------------------------------------------------------ redaction


def test_a_hook_decides_what_is_kept(tmp_path: Path) -> None:
    """It may give back other arrays, or its argument changed, or nothing; what the application has stays untouched."""
    offered = {name: np.arange(4.0) + 1 for name in ("changed", "replaced", "refused", "emptied")}

    def redact(feeds: Feeds) -> Feeds | None:
        if "changed" in feeds:
            feeds["changed"][:2] = 0
            return feeds
        if "emptied" in feeds:
            return {}
        return None if "refused" in feeds else {"replaced": np.zeros(2)}

    with tapping(tmp_path, rate=1.0, redact=redact) as tap:
        for name, array in offered.items():
            tap.offer({name: array}, 0.001)
            settle(tap)
    assert len(kept(tmp_path)) == 2
    assert sorted((name, array.tolist()) for sample in kept(tmp_path) for name, array in sample.items()) == [
        ("changed", [0, 0, 3, 4]),
        ("replaced", [0, 0]),
    ]
    assert all(array.tolist() == [1, 2, 3, 4] for array in offered.values())
    assert ledgers(tmp_path)[0]["dropped"] == 0


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda feeds: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda feeds: (_ for _ in ()).throw(SystemExit("enough")), "SystemExit: enough"),
        (lambda feeds: {"x": ["a", "name"]}, "TypeError: x holds <U4; only numbers and flags are kept"),
        (lambda feeds: 7, "AttributeError: 'int' object has no attribute 'items'"),
    ],
    ids=["raises", "exits", "text", "nonsense"],
)
def test_a_broken_hook_keeps_nothing(
    broken: Callable[[Feeds], Any], complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing goes to the disk unredacted; the failure is said once, and the tap goes on."""
    with tapping(tmp_path, rate=1.0, redact=lambda feeds: feeds if "fine" in feeds else broken(feeds)) as tap:
        for _ in range(3):
            tap.offer({"x": np.ones(1)}, 0.001)
            settle(tap)
        tap.offer({"fine": np.ones(1)}, 0.001)
    assert [list(sample) for sample in kept(tmp_path)] == [["fine"]]
    assert said(caplog) == [f"{tmp_path}: a sample was not kept: {complaint}"]
    assert ledgers(tmp_path)[0]["dropped"] == 3


# ------------------------------------------------------------------------------------------------ never in the way


def test_nonsense_is_refused_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Text, objects, sizes and times that cannot be are no exception for the application, and one line a kind."""
    with tapping(tmp_path, rate=1.0, most_bytes=8000) as tap:
        for _ in range(5):
            tap.offer({"words": np.array(["a"], object)}, 0.001)
            tap.offer({"x": np.zeros(1000)}, 0.001)
            tap.offer({"x": np.ones(1)}, math.nan)
            tap.offer(None, 0.001)  # type: ignore[arg-type]
            settle(tap)
    assert kept(tmp_path) == []
    why = f"{tmp_path}: a call was not kept: "
    assert sorted(said(caplog)) == [
        why + "AttributeError: 'NoneType' object has no attribute 'items'",
        why + "TypeError: words holds object; only numbers and flags are kept",
        why + "ValueError: it has 8000 bytes, and may have an eighth of most_bytes, 1000",
    ]
    calls = ledgers(tmp_path)[0]
    assert sum(calls["bins"]) == 15
    assert calls["dropped"] == 10


class Unspeakable(OSError):
    """Can be neither told nor compared."""

    def __init__(self) -> None:
        super().__init__(["no number"], "x")

    def __str__(self) -> str:
        raise RuntimeError


class Hostile:
    """Whatever is asked of it, it raises."""

    def __getattr__(self, name: str) -> Any:
        raise Unspeakable

    def __len__(self) -> int:
        raise Unspeakable


@pytest.mark.parametrize(
    "feeds",
    [
        "text",
        7,
        Hostile(),
        {"x": None},
        {"x": Hostile()},
        {"x": object()},
        {"x": [[1, 2], [3]]},
        {"x": [Hostile(), 1]},
        {"x": b"bytes"},
        {"x": 1j},
        {"x": np.zeros(2, [("a", "f4")])},
        {"x": np.array([{}, None])},
        {7: np.zeros(1)},
    ],
    ids=lambda feeds: str(type(feeds).__name__),
)
def test_no_feeds_raise_into_the_application(feeds: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Anything may be offered; the tap goes on with the next call, says at most one line, and keeps what can be fed."""
    with tapping(tmp_path, rate=1.0) as tap:
        for _ in range(3):
            tap.offer(feeds, 0.001)
            settle(tap)
        tap.offer(numbered(1), 0.001)
    assert [sample["number"].tolist() for sample in kept(tmp_path) if "number" in sample] == [[1]]
    assert sum(ledgers(tmp_path)[0]["bins"]) == 4
    assert len(said(caplog)) <= 1


def test_a_stalled_disk_stops_nobody(tmp_path: Path) -> None:
    """While the tap's thread is stuck, calls are counted, a few samples wait, the rest are dropped, nobody waits."""
    stuck = threading.Event()

    def redact(feeds: Feeds) -> Feeds:
        assert stuck.wait(60)
        return feeds

    with tapping(tmp_path, rate=1.0, redact=redact) as tap:
        slowest = 0.0
        for call in range(5000):
            start = time.thread_time()
            tap.offer(numbered(call), 0.001)
            slowest = max(slowest, time.thread_time() - start)
        dropped = tap._writer.ledger._dropped
        stuck.set()
    assert slowest < 0.1
    assert 5000 - dropped <= 2 * WAITING
    assert len(kept(tmp_path)) == 5000 - dropped
    assert sum(ledgers(tmp_path)[0]["bins"]) == 5000


def test_the_end_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that never answers holds up the end of the process for a bounded time."""
    monkeypatch.setattr("monitor.capture.writer.PATIENCE", 0.2)
    stuck = threading.Event()
    tap = InputTap(tmp_path, rate=1.0, redact=lambda feeds: feeds if stuck.wait(60) else None)
    for call in range(100):
        tap.offer(numbered(call), 0.001)
    start = time.monotonic()
    tap.close()
    assert time.monotonic() - start < 10
    start = time.monotonic()
    tap.close()
    assert time.monotonic() - start < 0.2, "a second time, as by atexit behind multiprocessing, does not wait again"
    stuck.set()
    wait_until(lambda: not threads())


def test_a_folder_that_goes_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Removing the samples starts a new sample; a folder whose place is gone is said once and waited for."""
    for pause in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"monitor.capture.writer.{pause}", 0.05)
    folder = tmp_path / "disk" / "samples"
    with tapping(folder, rate=1.0) as tap:
        tap.offer(numbered(1), 0.001)
        wait_until(lambda: numbers(folder) == [1])
        folder.rename(tmp_path / "old")
        wait_until(folder.is_dir)
        tap.offer(numbered(2), 0.001)
        wait_until(lambda: numbers(folder) == [2])
        (tmp_path / "disk").rename(tmp_path / "unplugged")
        for call in range(3, 6):
            tap.offer(numbered(call), 0.001)
            settle(tap)
        wait_until(lambda: len(said(caplog)) >= 4)
        time.sleep(0.2)  # a few looks more
        assert not (tmp_path / "disk").exists(), "a mount point's parents are not made again"
        (tmp_path / "unplugged").rename(tmp_path / "disk")
        tap.offer(numbered(6), 0.001)
    assert {2, 6} <= set(numbers(folder))
    assert sorted(line.split(":")[1] for line in said(caplog)) == [
        " a sample was not kept",
        " calls were not written down",
        " the folder was not looked through",
        " there is no folder",
    ]
    assert all("FileNotFoundError" in line for line in said(caplog))


def test_a_folder_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that cannot be made is no reason for the application not to start."""
    (tmp_path / "file").touch()
    with tapping(tmp_path / "file", rate=1.0) as tap:
        for call in range(10):
            tap.offer(numbered(call), 0.001)
    assert any(line.startswith(f"{tmp_path / 'file'}: there is no folder: FileExistsError") for line in said(caplog))
    assert len(said(caplog)) == len({line.split(":")[1] for line in said(caplog)})


def test_a_log_handler_that_raises_reaches_nobody(tmp_path: Path) -> None:
    """The application's logging may be as broken as it likes: neither its calls nor the tap's thread notice."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError

    handler = Broken()
    logging.getLogger(WHOLE).addHandler(handler)
    try:
        with tapping(tmp_path, rate=1.0) as tap:
            tap.offer({"x": ["a"]}, 0.001)
            settle(tap)
            tap.offer(numbered(1), 0.001)
    finally:
        logging.getLogger(WHOLE).removeHandler(handler)
    assert numbers(tmp_path) == [1]


def test_no_thread_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A process that may have no more threads works on, without samples, and is told so once."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with tapping(tmp_path, rate=1.0) as tap:
        for call in range(100):
            tap.offer(numbered(call), 0.001)
    assert said(caplog) == [f"{tmp_path}: nothing is kept: RuntimeError: can't start new thread"]


def test_the_applications_random_numbers_are_its_own(tmp_path: Path) -> None:
    """A tap neither draws from a generator that the application seeded, nor draws the same with every seed."""
    kept_calls = []
    for name in "ab":
        random.seed(1)
        np.random.seed(1)
        expected = random.Random(1).random()
        with tapping(tmp_path / name, keep=8, rate=0.5) as tap:
            for call in range(200):
                tap.offer(numbered(call), 0.001)
                settle(tap)
        assert random.random() == expected
        kept_calls.append(numbers(tmp_path / name))
    assert kept_calls[0] != kept_calls[1]


def test_many_threads_offer_at_once(tmp_path: Path) -> None:
    """Every call of every thread is counted, and every file is whole and of one call."""

    def run(thread: int) -> None:
        for call in range(2000):
            number = 2000 * thread + call
            tap.offer({"number": np.array([number]), "again": np.full(1000, number)}, 0.001)

    with tapping(tmp_path, keep=64, rate=0.1) as tap:
        runners = [threading.Thread(target=run, args=(thread,)) for thread in range(6)]
        for runner in runners:
            runner.start()
        for runner in runners:
            runner.join()
    samples = kept(tmp_path)
    assert 4 <= len(samples) <= 64
    assert all((sample["again"] == sample["number"][0]).all() for sample in samples)
    assert sum(ledgers(tmp_path)[0]["bins"]) == 12_000


# ------------------------------------------------------------------------------------------------ its life


def test_nothing_happens_before_the_first_call(tmp_path: Path) -> None:
    """A tap that is only made has no thread and no folder: servers fork after they have set things up."""
    before = threads()
    tap = InputTap(tmp_path / "samples")
    assert threads() == before
    assert not (tmp_path / "samples").exists()
    tap.close()


def test_after_its_end_it_does_nothing(tmp_path: Path) -> None:
    """Offers after close are no error and are not counted; closing again is none either."""
    tap = InputTap(tmp_path, rate=1.0)
    tap.offer(numbered(1), 0.001)
    tap.close()
    tap.close()
    tap.offer(numbered(2), 0.001)
    assert numbers(tmp_path) == [1]
    assert sum(ledgers(tmp_path)[0]["bins"]) == 1
    assert not threads()


def test_a_tap_that_is_forgotten_ends(tmp_path: Path) -> None:
    """Who loads a model anew and drops the old tap with it leaves no thread behind, and loses no count."""
    tap = InputTap(tmp_path, rate=1.0)
    tap.offer(numbered(1), 0.001)
    wait_until(lambda: threads() == 1)
    del tap
    gc.collect()
    wait_until(lambda: not threads())
    assert numbers(tmp_path) == [1]
    assert sum(ledgers(tmp_path)[0]["bins"]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 3},
        {"rate": 0.0},
        {"rate": 1.5},
        {"rate": math.nan},
        {"most_bytes": 0},
        {"half_life": 0.0},
        {"half_life": math.nan},
        {"mode": 0o400},
        {"mode": 0o700},
        {"mode": 0o1600},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    """The programmer sees it at once, with all that was expected, and nothing is made."""
    with pytest.raises(ValueError, match=r"^keep = .*: expected keep from 4, rate above 0 and up to 1, mode from"):
        InputTap(tmp_path / "samples", **settings)
    assert not (tmp_path / "samples").exists()
