"""Reads one sample file, an ``.npz`` that anybody may have written, cut or replaced a moment ago.

It is opened once, and what is read is what was checked: a name may lead to another file at any time. Nothing in it is
believed before its size is bounded, pickles are never loaded, and what is no regular file is never waited for.
"""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from monitor.bins import shapes_of
from monitor.probe.provider import one_line
from monitor.records import RejectedSample, Shape, Tensor

Feeds = dict[str, "np.ndarray[Any, Any]"]
Stamp = tuple[int, int, int]

LARGEST_SAMPLE: Final = 256 * 2**20
"""Bytes, uncompressed: a zip bomb is refused by its header."""
LARGEST_DIRECTORY: Final = 2**20
"""Bytes of a zip's table of contents, which Python reads whole and makes forty times as many of."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy's; others claim memory by their headers
_READERS: Final[dict[Any, Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
    (3, 0): npy.read_array_header_2_0,
}
_BLOCK: Final = 2**20

DTYPES: Final[dict[str, Any]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


class Unfit(Exception):
    """A file that does not fit the model; ``rejection`` says why, ``stamp`` which file, if it could be opened."""

    def __init__(self, file: Path, reason: Reason, detail: str, stamp: Stamp | None = None) -> None:
        self.rejection = RejectedSample(shown(file), reason, one_line(_printable(detail)))
        self.stamp = stamp
        super().__init__(f"{shown(file)}: {self.rejection.detail}")


Reason = Literal["unreadable", "name", "dtype", "shape", "too_large"]


class _Misfit(Exception):
    """As :class:`Unfit`, before it is known of which file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason: Reason = reason
        super().__init__(detail)


class Checked(NamedTuple):
    """What a file holds: its stamp, the bytes of its arrays, and their shapes (:func:`monitor.bins.shapes_of`)."""

    stamp: Stamp
    size: int
    shapes: str


def shown(file: Path) -> str:
    """The file's name as text; bytes that are no UTF-8 are escaped, since records are UTF-8."""
    return one_line(_printable(os.fsencode(file.name).decode("utf-8", "backslashreplace")))


def _printable(text: str) -> str:
    """``text`` with what would not print escaped: it comes from a file and goes to logs and terminals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def stamp_of(facts: os.stat_result) -> Stamp:
    """Changes when the file is replaced or written to."""
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def check(file: Path, signature: Sequence[Tensor], verify: int = 0) -> Checked:
    """See whether ``file`` fits, from its headers alone; if it has at most ``verify`` bytes, its contents too.

    Raises :class:`Unfit`.
    """
    with _opened(file) as (archive, stamp):
        size, shapes = _fit(archive, signature)
        for tensor in signature if size <= verify else ():
            with archive.open(f"{tensor.name}.npy") as member:
                while member.read(_BLOCK):
                    pass
    return Checked(stamp, size, shapes)


def load(file: Path, signature: Sequence[Tensor]) -> Feeds:
    """The arrays of ``file``, in C order. Raises :class:`Unfit`."""
    feeds: Feeds = {}
    with _opened(file) as (archive, _):
        _fit(archive, signature)
        for tensor in signature:
            with archive.open(f"{tensor.name}.npy") as member:
                feeds[tensor.name] = np.asarray(npy.read_array(member, allow_pickle=False), order="C")
    return feeds


class _Bounded(io.BufferedReader):
    """A file of which no more than ``most`` bytes are read at once."""

    most: float = LARGEST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise _Misfit("too_large", f"more than {LARGEST_DIRECTORY >> 20} MiB of names")
        return super().read(size)


def _without_waiting(path: str, flags: int) -> int:
    """As ``os.open``; a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[zipfile.ZipFile, Stamp]]:
    """The archive, and the stamp of the file that was opened. Whatever goes wrong with it is :class:`Unfit`."""
    stamp: Stamp | None = None
    try:
        with _Bounded(io.FileIO(file, opener=_without_waiting)) as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise _Misfit("unreadable", "not a regular file")
            stamp = stamp_of(facts)
            with zipfile.ZipFile(stream) as archive:
                stream.most = math.inf
                yield archive, stamp
    except _Misfit as error:
        raise Unfit(file, error.reason, str(error), stamp) from error
    except OSError as error:
        raise Unfit(file, "unreadable", error.strerror or str(error), stamp) from error
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise what they like
        raise Unfit(file, "unreadable", str(error) or type(error).__name__, stamp) from error


def _fit(archive: zipfile.ZipFile, signature: Sequence[Tensor]) -> tuple[int, str]:
    """The arrays' bytes and shapes, if the model takes them; raises :class:`_Misfit` or what it likes."""
    size = sum(info.file_size for info in archive.infolist())
    if size > LARGEST_SAMPLE:
        raise _Misfit("too_large", f"more than {LARGEST_SAMPLE >> 20} MiB uncompressed")
    present = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    wanted = {tensor.name for tensor in signature}
    if wanted != present:
        missing, extra = sorted(wanted - present), sorted(present - wanted)
        lacks = [f"lacks {', '.join(missing)}"] * bool(missing)
        raise _Misfit("name", "; ".join(lacks + [f"has no input called {', '.join(extra)}"] * bool(extra)))
    shapes: dict[str, Shape] = {}
    for tensor in signature:
        shape, dtype = _header(archive, f"{tensor.name}.npy")
        expected = DTYPES.get(tensor.dtype)
        if expected is None or dtype != np.dtype(expected):
            raise _Misfit("dtype", f"{tensor.name} is {dtype}, the model takes {tensor.dtype}")
        if len(shape) != len(tensor.shape) or any(
            isinstance(want, int) and want != have for want, have in zip(tensor.shape, shape, strict=True)
        ):
            want = [d if d is not None else "?" for d in tensor.shape]
            raise _Misfit("shape", f"{tensor.name} is {list(shape)}, the model takes {want}")
        shapes[tensor.name] = shape
    return size, shapes_of(shapes.items())


def _header(archive: zipfile.ZipFile, name: str) -> tuple[Shape, Any]:
    info = archive.getinfo(name)
    if info.compress_type not in _METHODS:
        raise ValueError(f"{name} is compressed in another way than numpy does it")
    with archive.open(info) as member:
        read = _READERS.get(npy.read_magic(member))
        if read is None:
            raise ValueError(f"{name} is of a version of the format that is not known")
        shape, _, dtype = read(member)
        if dtype.hasobject:
            raise ValueError("holds pickled objects, which are never loaded")
        promised = member.tell() + math.prod(shape) * dtype.itemsize
    if promised != info.file_size or any(d < 0 for d in shape):
        raise ValueError(f"{name} is cut or damaged: its size is not that of its shape")
    return tuple(int(d) for d in shape), dtype
