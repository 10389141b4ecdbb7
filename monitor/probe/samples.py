"""The inputs that are replayed: real ones from ``.npz`` files, or synthesized ones, which is always said.

A sample file holds one array per model input. Files are checked against the signature once, by their headers alone, so
that a folder of thousands costs no memory; arrays are loaded when drawn. Pickles are never loaded.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from monitor.errors import MeasureError
from monitor.probe.provider import one_line
from monitor.records import Failure, RejectedSample, Samples, Shape, Tensor

Feeds = dict[str, "np.ndarray[Any, Any]"]

LARGEST_SAMPLE = 256 * 2**20  # bytes, uncompressed: a zip bomb is refused by its header
MOST_FILES = 10_000
SYNTHETIC = 4  # distinct synthesized samples

_DTYPES: dict[str, Any] = {
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
# Sizes tried for a free dimension when nothing is known: typical of tokens and small images, then of audio.
_SIZES = (64, 32, 224, 16_000, 128, 320, 512, 640, 1_024, 16, 8, 2, 1)
_MOST_ATTEMPTS = 48


class Corpus:
    """The samples of one model, dealt like cards: every one is drawn before any is drawn again.

    ``assumed`` fixes free dimensions of synthesized inputs, by dimension name or ``input[axis]``.
    Raises :class:`MeasureError` (``input_unusable``) if nothing can be fed.
    """

    def __init__(
        self, folder: Path | None, signature: Sequence[Tensor], assumed: dict[str, int], seed: int = 0
    ) -> None:
        self._signature = signature
        self._assumed = assumed
        self._random = np.random.default_rng(seed)
        self._deck: list[int] = []
        self._files: list[Path] = []
        if folder is None:
            self.facts = Samples("synthetic", 0)
            synthesize(signature, assumed, 0)
        else:
            self._files, rejected = _sort_out(folder, signature)
            self.facts = Samples("files", len(self._files), rejected)

    def __len__(self) -> int:
        return len(self._files) or SYNTHETIC

    def draw(self, count: int) -> list[int]:
        """Indices of the next ``count`` samples, in random order."""
        while len(self._deck) < count:
            self._deck = [int(i) for i in self._random.permutation(len(self))] + self._deck
        drawn, self._deck = self._deck[-count:], self._deck[:-count]
        return drawn[::-1]

    def load(self, index: int) -> Feeds:
        """The arrays of one sample. Raises :class:`MeasureError` if the file has gone or changed since its check."""
        if not self._files:
            return synthesize(self._signature, self._assumed, index)
        path = self._files[index]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {t.name: np.asarray(arrays[t.name], order="C") for t in self._signature}
        except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise what they like
            mend = "remove the file; write samples to a temporary name and rename them"
            raise MeasureError(Failure("input_unusable", f"{path}: {one_line(error)}", mend)) from error


def synthesize(signature: Sequence[Tensor], assumed: dict[str, int], seed: int) -> Feeds:
    """Inputs made from the signature alone, the same for the same seed.

    Floats are uniform in [0, 1) (valid for roots and logarithms), integers 0 or 1 (valid as indices, masks, flags).
    """
    random = np.random.default_rng(seed)
    feeds: Feeds = {}
    for tensor in signature:
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None:
            detail = f"input {tensor.name}: a {tensor.dtype} cannot be synthesized"
            raise MeasureError(Failure("input_unusable", detail, "give samples (models.samples)"))
        shape = _sizes(tensor, assumed)
        if np.issubdtype(dtype, np.floating):
            feeds[tensor.name] = np.asarray(random.random(shape), dtype=dtype)
        else:
            feeds[tensor.name] = np.asarray(random.integers(0, 2, shape), dtype=dtype)
    return feeds


def assumptions(signature: Sequence[Tensor]) -> Iterator[dict[str, int]]:
    """Sizes worth trying for the free dimensions of synthesized inputs, most plausible first.

    A leading dimension is a batch of 1; the others share one size; then unnamed ones are also tried at 1.
    """
    free = [(key(t, axis), axis) for t in signature for axis, d in enumerate(t.shape) if not isinstance(d, int)]
    keys = dict(sorted(free, key=lambda item: -item[1]))  # one that leads anywhere leads
    if not keys:
        yield {}
        return
    seen: set[tuple[int, ...]] = set()
    inner = [k for k, axis in keys.items() if axis > 0]
    for ones in (set(), *({k} for k in inner)):
        for size in _SIZES:
            attempt = {k: 1 if axis == 0 or k in ones else size for k, axis in keys.items()}
            fingerprint = tuple(attempt.values())
            if fingerprint not in seen:
                seen.add(fingerprint)
                yield attempt
            if len(seen) >= _MOST_ATTEMPTS:
                return


def key(tensor: Tensor, axis: int) -> str:
    """What a free dimension is called in ``assumed``."""
    dimension = tensor.shape[axis]
    return dimension if isinstance(dimension, str) else f"{tensor.name}[{axis}]"


def _sizes(tensor: Tensor, assumed: dict[str, int]) -> Shape:
    return tuple(d if isinstance(d, int) else assumed.get(key(tensor, axis), 1) for axis, d in enumerate(tensor.shape))


def _sort_out(folder: Path, signature: Sequence[Tensor]) -> tuple[list[Path], tuple[RejectedSample, ...]]:
    mend = "correct models.samples, or remove it to replay synthesized inputs"
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix == ".npz")[:MOST_FILES]
    except OSError as error:
        raise MeasureError(Failure("input_unusable", f"{folder}: {error.strerror}", mend)) from error
    good: list[Path] = []
    bad: list[RejectedSample] = []
    for file in files:
        rejection = _check(file, signature)
        if rejection is None:
            good.append(file)
        else:
            bad.append(rejection)
    if not good:
        why = f"no .npz file of {len(files)} fits the model" if files else "it holds no .npz file"
        if bad:
            why += f"; {bad[0].file}: {bad[0].detail}"
        raise MeasureError(Failure("input_unusable", f"{folder}: {why}", mend), tuple(bad))
    return good, tuple(bad)


def _check(file: Path, signature: Sequence[Tensor]) -> RejectedSample | None:
    """Why ``file`` does not fit, from its headers alone; ``None`` if it does."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > LARGEST_SAMPLE:
                return RejectedSample(file.name, "too_large", f"more than {LARGEST_SAMPLE >> 20} MiB uncompressed")
            headers = {n.removesuffix(".npy"): _header(archive, n) for n in archive.namelist() if n.endswith(".npy")}
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise what they like
        return RejectedSample(file.name, "unreadable", one_line(error))
    wanted = {tensor.name for tensor in signature}
    if wanted != set(headers):
        missing, extra = sorted(wanted - set(headers)), sorted(set(headers) - wanted)
        detail = "; ".join(
            [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has no input called {', '.join(extra)}"] * bool(extra)
        )
        return RejectedSample(file.name, "name", one_line(detail))
    for tensor in signature:
        shape, dtype = headers[tensor.name]
        expected = _DTYPES.get(tensor.dtype)
        if expected is None or dtype != np.dtype(expected):
            return RejectedSample(file.name, "dtype", f"{tensor.name} is {dtype}, the model takes {tensor.dtype}")
        if len(shape) != len(tensor.shape) or any(
            isinstance(want, int) and want != have for want, have in zip(tensor.shape, shape, strict=True)
        ):
            want = [d if d is not None else "?" for d in tensor.shape]
            return RejectedSample(file.name, "shape", f"{tensor.name} is {list(shape)}, the model takes {want}")
    return None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[Shape, Any]:
    with archive.open(name) as member:
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(member)
        if dtype.hasobject:
            raise ValueError("holds pickled objects, which are never loaded")
        promised = member.tell() + math.prod(shape) * dtype.itemsize
    if promised != archive.getinfo(name).file_size:
        raise ValueError(f"{name} is cut or damaged: its size is not that of its shape")
    return tuple(int(d) for d in shape), dtype
