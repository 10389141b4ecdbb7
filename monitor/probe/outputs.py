"""What the audit's inferences gave, kept on disk until a process of its own has repeated them on the CPU.

The accelerator's session stays in the resident probe and is not made a second time for the comparison. The scratch
folder may lie in memory (a board's /tmp), so what is kept is bounded: beyond that a subset of the elements, chosen
alike on both sides. NaN and Inf are counted over all elements, before any is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from monitor.probe.npz import Feeds

Array = npt.NDArray[Any]

KEPT_BYTES: Final = 32 * 2**20
"""Most bytes of outputs that one audit leaves, over all its inferences."""
_GOLDEN: Final = (5**0.5 - 1) / 2


class Kept(Struct, frozen=True):
    """One output of one inference. ``count`` elements of it were asked for, see :func:`positions`.

    ``skipped`` says why it cannot be compared; then nothing of it is kept.
    """

    name: str
    size: int = 0
    count: int = 0
    nan: int = 0
    inf: int = 0
    skipped: str = ""


class Run(Struct, frozen=True):
    """One inference: the digest of its inputs, and its outputs in the model's order."""

    inputs: str
    outputs: tuple[Kept, ...]


def keep(folder: Path, index: int, runs: int, feeds: Feeds, names: Sequence[str], outputs: Sequence[Any]) -> None:
    """Keep the outputs of inference ``index`` of ``runs`` in ``folder``. Raises ``OSError`` if the disk is full."""
    plain = [not _why_not(output) for output in outputs]
    sizes = [output.nbytes if whole else 0 for output, whole in zip(outputs, plain, strict=True)]
    kept, arrays = [], {}
    shares = _shares(sizes, KEPT_BYTES // runs)
    for number, (name, output, room) in enumerate(zip(names, outputs, shares, strict=True)):
        if not plain[number]:
            kept.append(Kept(name, skipped=_why_not(output)))
            continue
        count = room // output.itemsize
        arrays[str(number)] = output.reshape(-1)[positions(output.size, count)]
        kept.append(Kept(name, output.size, count, *nonfinite(output)))
    np.savez(folder / f"{index}.npz", **arrays)
    (folder / f"{index}.json").write_bytes(msgspec.json.encode(Run(digest(feeds), tuple(kept))))


def kept(folder: Path) -> Iterator[tuple[int, Run, dict[str, Array]]]:
    """Index, facts and arrays (by output name) of each inference that was kept in full."""
    for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem)):
        run = msgspec.json.decode(path.read_bytes(), type=Run)
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            yield int(path.stem), run, {run.outputs[int(number)].name: arrays[number] for number in arrays}


def positions(size: int, count: int) -> Any:
    """What to take of ``size`` elements for about ``count`` of them: the same on every call, spread evenly, in order.

    Multiples of the golden ratio meet no stride of a tensor's layout, as equal steps would.
    """
    if count >= size:
        return slice(None)
    chosen = np.zeros(size, np.bool_)  # numpy's unique takes seconds for what this does in milliseconds
    chosen[(np.arange(count) * _GOLDEN % 1 * size).astype(np.int64)] = True
    return np.flatnonzero(chosen)


def nonfinite(output: Array) -> tuple[int, int]:
    """How many elements are NaN, and how many are infinite."""
    if output.dtype.kind != "f":
        return 0, 0
    return int(np.count_nonzero(np.isnan(output))), int(np.count_nonzero(np.isinf(output)))


def digest(feeds: Feeds) -> str:
    """Tells whether two inferences had the same inputs."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, array in sorted(feeds.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def _why_not(output: Any) -> str:
    if output is None:
        return "an optional value that is absent"
    if not isinstance(output, np.ndarray):
        return "a sequence or map"
    return "" if output.dtype.kind in "fiub" else f"of type {'text' if output.dtype.kind in 'OUS' else output.dtype}"


def _shares(sizes: Sequence[int], room: int) -> list[int]:
    """``room`` bytes dealt to outputs of these sizes: small ones whole, large ones alike."""
    shares = [0] * len(sizes)
    for left, index in zip(range(len(sizes), 0, -1), sorted(range(len(sizes)), key=lambda i: sizes[i]), strict=True):
        shares[index] = min(sizes[index], room // left)
        room -= shares[index]
    return shares
