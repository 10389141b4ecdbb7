"""The inputs that are replayed: real ones from ``.npz`` files, or synthesized ones, which is always said.

A sample file holds one array per model input. Files are checked against the signature by their headers, so that a
folder of thousands costs no memory; arrays are loaded when drawn. The folder is alive: an application may add, replace
and remove files at any moment, also between two lines of this module, and no inference fails of that.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import nsmallest
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from monitor.errors import MeasureError
from monitor.probe import npz
from monitor.probe.npz import DTYPES, Feeds, Stamp, Unfit
from monitor.records import Failure, RejectedSample, Samples, Shape, Tensor

MOST_FILES: Final = 10_000
MOST_LOADED: Final = 256 * 2**20
"""Bytes of arrays after which one draw repeats what it has, instead of loading more."""
VERIFIED: Final = 64 * 2**20
"""Bytes that one look at the folder reads to the end; beyond these, contents are known when they are drawn."""
MOST_SHAPES: Final = 64
SYNTHETIC: Final = 4  # distinct synthesized samples
_MEND: Final = "correct models.samples, or remove it to replay synthesized inputs"

# Sizes tried for a free dimension when nothing is known: typical of tokens and small images, then of audio.
_SIZES = (64, 32, 224, 16_000, 128, 320, 512, 640, 1_024, 16, 8, 2, 1)
_MOST_ATTEMPTS = 48


class _File(NamedTuple):
    """A sample file that fits."""

    path: Path
    stamp: Stamp
    shapes: str


class Corpus:
    """The samples of one model, dealt like cards: every one is drawn before any is drawn again.

    A sample has a number, which no other one gets as long as the corpus lives; a file that is replaced is another
    sample. ``assumed`` fixes free dimensions of synthesized inputs, by dimension name or ``input[axis]``.
    Raises :class:`MeasureError` (``input_unusable``) if nothing can be fed.
    """

    def __init__(
        self, folder: Path | None, signature: Sequence[Tensor], assumed: dict[str, int], seed: int = 0
    ) -> None:
        self._folder = folder
        self._signature = signature
        self._assumed = assumed
        self._random = np.random.default_rng(seed)
        self._deck: list[int] = []
        self._next = 0
        self._files: dict[int, _File] = {}
        self._rejected: dict[str, tuple[Stamp | None, RejectedSample]] = {}
        if folder is None:
            synthesize(signature, assumed, 0)
        else:
            self.look()

    def __len__(self) -> int:
        return SYNTHETIC if self._folder is None else len(self._files)

    @property
    def facts(self) -> Samples:
        """What there is, as of the last look at the folder."""
        if self._folder is None:
            return Samples("synthetic", 0)
        files = self._files.values()
        return Samples(
            "files",
            len(files),
            tuple(rejection for _, rejection in self._rejected.values()),
            tuple(shapes for shapes, _ in Counter(file.shapes for file in files).most_common(MOST_SHAPES)),
            statistics.median(file.stamp[0] / 1e9 for file in files) if files else None,
        )

    def look(self) -> None:
        """See what has come and gone in the folder; only what is new or changed is opened.

        All files are asked for their stamps, 3 ms for a thousand: the folder's own time does not tell of a file that
        is written to, nor of two changes within one tick of the kernel's clock. Raises :class:`MeasureError` if
        nothing is left.
        """
        if self._folder is None:
            return
        present = _stamps(self._folder)
        self._keep({n: file for n, file in self._files.items() if present.get(file.path.name) == file.stamp})
        known = {file.path.name for file in self._files.values()}
        # in the folder's order, so that the first rejection told is the same each time
        before, self._rejected = self._rejected, {}
        unread = VERIFIED
        for name, stamp in present.items():
            if name in known:
                continue
            if stamp is not None and name in before and before[name][0] == stamp:
                self._rejected[name] = before[name]
            else:
                unread -= self._take(self._folder / name, unread)
        if not self._files:
            raise self._nothing()

    def deal(self, count: int) -> list[tuple[int, Feeds]]:
        """The next ``count`` samples in random order, each with its number; those dealt twice share their arrays.

        One that cannot be loaded any more is left out, and another one drawn. Raises :class:`MeasureError` if none is
        left.
        """
        self.look()
        dealt: list[tuple[int, Feeds]] = []
        loaded: dict[int, Feeds] = {}
        size = 0
        while len(dealt) < count:
            if size >= MOST_LOADED:
                dealt.append(dealt[len(dealt) - len(loaded)])
                continue
            number = self._draw()
            if number not in loaded:
                feeds = self._loaded(number)
                if feeds is None:
                    continue
                loaded[number] = feeds
                size += sum(array.nbytes for array in feeds.values())
            dealt.append((number, loaded[number]))
        return dealt

    def first(self, count: int) -> Iterator[tuple[int, Feeds]]:
        """Up to ``count`` distinct samples in order, loaded one by one; at least one.

        Raises :class:`MeasureError` if none can be loaded.
        """
        given = 0
        while not given:
            self.look()
            for number in self.numbers():
                if given == count:
                    return
                if (feeds := self._loaded(number)) is not None:
                    given += 1
                    yield number, feeds

    def numbers(self) -> list[int]:
        """The numbers of all samples that are known, in order."""
        return list(range(SYNTHETIC)) if self._folder is None else list(self._files)

    def load(self, number: int) -> Feeds:
        """The arrays of one sample. Raises :class:`MeasureError` if the file has gone or is another by now."""
        if self._folder is None:
            return synthesize(self._signature, self._assumed, number)
        file = self._files[number].path
        try:
            return npz.load(file, self._signature)
        except Unfit as error:
            mend = "remove the file; write samples to a temporary name and rename them"
            raise MeasureError(Failure("input_unusable", f"{self._folder}: {error}", mend)) from error

    def _loaded(self, number: int) -> Feeds | None:
        """As :meth:`load`; what cannot be loaded is no sample from now on."""
        try:
            return self.load(number)
        except MeasureError as error:
            unfit = error.__cause__
            if not isinstance(unfit, Unfit):
                raise
            file = self._files[number]
            self._keep({n: file for n, file in self._files.items() if n != number})
            self._rejected[file.path.name] = unfit.stamp or file.stamp, unfit.rejection
            return None

    def _draw(self) -> int:
        if not self._deck:
            if not len(self):
                self.look()
            self._deck = [int(number) for number in self._random.permutation(self.numbers())]
        return self._deck.pop()

    def _take(self, file: Path, unread: int) -> int:
        """Check a file that is new; the bytes that were read to the end."""
        try:
            checked = npz.check(file, self._signature, unread)
        except Unfit as error:
            if not isinstance(error.__cause__, FileNotFoundError) or file.is_symlink():
                self._rejected[file.name] = error.stamp, error.rejection
            return 0
        number, self._next = self._next, self._next + 1
        self._files[number] = _File(file, checked.stamp, checked.shapes)
        if self._deck:  # it has its turn in the round that is under way
            self._deck.insert(int(self._random.integers(len(self._deck) + 1)), number)
        return checked.size if checked.size <= unread else 0

    def _keep(self, files: dict[int, _File]) -> None:
        """Forget all others."""
        self._files = files
        self._deck = [number for number in self._deck if number in files]

    def _nothing(self) -> MeasureError:
        bad = tuple(rejection for _, rejection in self._rejected.values())
        if bad:
            files = f"no .npz file of {len(bad)} fits the model"
            why = f"{files}; {bad[0].file}: {bad[0].detail}"
        else:
            why = "it holds no .npz file"
        return MeasureError(Failure("input_unusable", f"{self._folder}: {why}", _MEND), bad)


def synthesize(signature: Sequence[Tensor], assumed: dict[str, int], seed: int) -> Feeds:
    """Inputs made from the signature alone, the same for the same seed.

    Floats are uniform in [0, 1) (valid for roots and logarithms), integers 0 or 1 (valid as indices, masks, flags).
    """
    random = np.random.default_rng(seed)
    feeds: Feeds = {}
    for tensor in signature:
        dtype = DTYPES.get(tensor.dtype)
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


def _stamps(folder: Path) -> dict[str, Stamp | None]:
    """The ``.npz`` files by name, in order; ``None`` for one that cannot be asked, as a link that leads nowhere."""
    try:
        with os.scandir(folder) as entries:
            # not sorted as a whole: there may be millions
            chosen = nsmallest(MOST_FILES, (entry.name for entry in entries if entry.name.endswith(".npz")))
    except OSError as error:
        raise MeasureError(Failure("input_unusable", f"{folder}: {error.strerror}", _MEND)) from error
    stamps: dict[str, Stamp | None] = dict.fromkeys(chosen)
    for name in chosen:
        with suppress(OSError):
            stamps[name] = npz.stamp_of(os.stat(folder / name))
    return stamps
