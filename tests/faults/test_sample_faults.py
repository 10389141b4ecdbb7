"""Whatever lies in a folder of samples, and whatever happens to it meanwhile, checks go on with what can be replayed.

The daemon is the real one with real probes on the real runtime. ``tests/probe/test_samples.py`` has the variants of
each fault that need no daemon.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.e2e.running import wait_until
from tests.faults.faulty import SOUND, Faulty, faulty, watched

SAMPLES = "correct models.samples, or remove it to replay synthesized inputs"
RIGHT = np.linspace(0, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)

REJECTED = {
    "bomb.npz": ("too_large", "more than 256 MiB uncompressed"),
    "cut.npz": ("unreadable", "File is not a zip file"),
    "device.npz": ("unreadable", "not a regular file"),
    "directory.npz": ("unreadable", "Is a directory"),
    "dtype.npz": ("dtype", "image is float64, the model takes tensor(float)"),
    "empty.npz": ("unreadable", "File is not a zip file"),
    "flipped.npz": ("unreadable", "Bad CRC-32 for file 'image.npy'"),
    "loop.npz": ("unreadable", "Too many levels of symbolic links"),
    "lzma.npz": ("unreadable", "image.npy is compressed in another way than numpy does it"),
    "many.npz": ("too_large", "more than 1 MiB of names"),
    "\\xff\\xfe.npz": ("name", "lacks image; has no input called picture"),
    "nested.npz": ("unreadable", r"the magic string is not correct; expected b'\x93NUMPY', got b'PK\x03\x04-\x00'"),
    "nowhere.npz": ("unreadable", "No such file or directory"),
    "pickle.npz": ("unreadable", "holds pickled objects, which are never loaded"),
    "pipe.npz": ("unreadable", "not a regular file"),
    "promise.npz": ("unreadable", "image.npy is cut or damaged: its size is not that of its shape"),
    "shape.npz": ("shape", "image is [1, 3, 32, 33], the model takes [1, 3, 32, 32]"),
}


def put(folder: Path, name: str, image: npt.NDArray[Any] = RIGHT) -> None:
    """A sample, in one step as others see it."""
    with (folder / f".{name}").open("wb") as stream:
        np.savez(stream, image=image)
    (folder / f".{name}").rename(folder / name)


def spoil(folder: Path) -> None:
    """Everything that is wrong, beside two samples that are right and two whose values are odd."""
    for name in ("right.npz", "also right.npz"):
        put(folder, name)
    put(folder, "nan.npz", np.full_like(RIGHT, np.nan))
    put(folder, "infinite.npz", np.full_like(RIGHT, -np.inf))
    put(folder, "dtype.npz", RIGHT.astype(np.float64))
    put(folder, "shape.npz", np.zeros((1, 3, 32, 33), np.float32))
    put(folder, "pickle.npz", np.array([{}], object))
    right = (folder / "right.npz").read_bytes()
    (folder / "cut.npz").write_bytes(right[: len(right) // 2])
    (folder / "empty.npz").touch()
    flipped = bytearray(right)
    flipped[len(right) // 2] ^= 1
    (folder / "flipped.npz").write_bytes(flipped)
    (folder / "directory.npz").mkdir()
    os.mkfifo(folder / "pipe.npz")
    for name, to in (("device", "/dev/zero"), ("loop", "loop.npz"), ("nowhere", "nothing.npz")):
        (folder / f"{name}.npz").symlink_to(to)
    np.savez(folder / "strange.npz", picture=RIGHT)
    os.rename(folder / "strange.npz", os.path.join(os.fsencode(folder), b"\xff\xfe.npz"))
    bombs(folder, right)


def bombs(folder: Path, right: bytes) -> None:
    """Archives that cost more than they weigh."""
    bomb = zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED)
    with bomb, bomb.open("image.npy", "w") as member:
        for _ in range(257):
            member.write(bytes(2**20))
    with zipfile.ZipFile(folder / "nested.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", right)
    with zipfile.ZipFile(folder / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("image.npy", right)
    with zipfile.ZipFile(folder / "many.npz", "w") as archive:
        for number in range(10_000):
            archive.writestr(f"{number:065}", b"")
    head = right.index(b"(1, 3, 32, 32)")
    with zipfile.ZipFile(folder / "promise.npz", "w") as archive:
        array = bytearray(right[right.index(b"\x93NUMPY") : right.index(b"PK\x01\x02")])
        start = head - right.index(b"\x93NUMPY")
        array[start : start + 14] = b"(9, 9, 99, 99)"
        archive.writestr("image.npy", bytes(array))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples, most of them bad."""
    folder = tmp_path_factory.mktemp("samples")
    spoil(folder)
    return folder


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, good: Path, folder: Path) -> Iterator[Faulty]:
    """One daemon with a model that has them, two whose samples change while it runs, and a sound one."""
    place = tmp_path_factory.mktemp("ward")
    for name in ("live", "gone"):
        (place / name).mkdir()
        for number in range(8):
            put(place / name, f"{number}.npz")
    models = {
        "spoilt": watched(good, samples=folder, memory=400, compare_outputs=True),
        "live": watched(good, samples=place / "live", compare_outputs=True),
        "gone": watched(good, samples=place / "gone"),
    }
    with faulty(place, {**models, SOUND: watched(good)}) as sick:
        yield sick
        assert sick.failures(SOUND) == {}
        wait_until(lambda: not sick.zombies(), "zombies are reaped")


def test_each_bad_file_is_named_and_the_others_are_replayed(ward: Faulty) -> None:
    """Reason and sentence for each, once; nothing waits for a pipe, nothing unpacks a bomb, no check fails."""
    ward.daemon.wait_checks("spoilt")
    lines = ward.daemon.told("sample_rejected", "spoilt")
    assert {line["file"]: (line["reason"], line["detail"]) for line in lines} == REJECTED
    assert len(lines) == len(REJECTED)
    for reason in ("unreadable", "name", "dtype", "shape", "too_large"):
        expected = sum(why == reason for why, _ in REJECTED.values())
        assert ward.daemon.metric("samples_rejected_total", model="spoilt", reason=reason) == expected
    assert ward.daemon.metric("samples", model="spoilt") == 4
    assert ward.failures("spoilt") == {}


def test_samples_of_nan_are_replayed_and_blamed_on_nobody(ward: Faulty) -> None:
    """What goes in as NaN or Inf may come out so: the accelerator is held against the CPU on the same input."""
    ward.daemon.wait_checks("spoilt")
    assert ward.daemon.metric("verdict", model="spoilt", state="healthy") == 1
    error = ward.daemon.metric("output_error_ratio", model="spoilt")
    assert error is not None
    assert error < 0.1


@contextmanager
def capture(folder: Path) -> Iterator[list[int]]:
    """A tool that replaces samples all the time, oldest first; the list is how many it has written."""
    over = threading.Event()
    written = [0]

    def work() -> None:
        names = sorted(file.name for file in folder.glob("*.npz"))
        while not over.wait(0.005):
            (folder / names.pop(0)).unlink()
            names.append(f"new-{written[0]:06}.npz")
            put(folder, names[-1], RIGHT * np.float32(written[0] % 7 / 7))
            written[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield written
    finally:
        over.set()
        thread.join()


def test_samples_that_are_replaced_all_the_time_fail_no_check(ward: Faulty) -> None:
    """Files come and go between listing, checking and loading, a hundred a second; each check replays what is there."""
    live, before = ward.temporary.parent / "live", ward.at_rest()
    with capture(live) as written:
        ward.daemon.wait_checks("live", more=2)
        ward.commit("live", "killed")  # so that study, session, audit and comparison are made in the midst of it
        ward.event("check_recovered", "live")
        ward.daemon.wait_checks("live", more=2)
    assert written[0] > 100
    assert ward.failures("live") == {"probe_crashed": 1.0}
    assert ward.daemon.metric("verdict", model="live", state="healthy") == 1
    assert not ward.daemon.told("sample_rejected", "live")
    ward.is_as(before)


def test_samples_that_are_all_gone_are_one_failed_check(ward: Faulty) -> None:
    """The folder and what to do are told once; when samples are back, so is the model."""
    folder = ward.temporary.parent / "gone"
    for file in folder.glob("*.npz"):
        file.unlink()
    (folder / "half.npz").write_bytes(b"PK\x03\x04")
    failed = ward.event("check_failed", "gone")
    assert failed["error"]["reason"] == "input_unusable"
    assert failed["error"]["mend"] == SAMPLES
    assert failed["error"]["detail"] in (
        f"{folder}: no .npz file of 1 fits the model; half.npz: File is not a zip file",
        f"{folder}: it holds no .npz file",  # as it was for a moment
    )
    put(folder, "half.npz")
    assert ward.event("check_recovered", "gone")["id"] == failed["id"]
    wait_until(lambda: ward.daemon.metric("samples", model="gone") == 1, "the new count")
    assert len(ward.daemon.told("check_failed", "gone")) == 1
