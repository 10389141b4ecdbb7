"""What an application feeds, as arrays that can be kept: sizes and types are looked at before anything is copied."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy

Feeds = dict[str, "np.ndarray[Any, Any]"]

_DEEPEST: Final = 32
"""Lists in lists that an input may be made of; one that contains itself has no end."""


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array, of anything that arrays are made from, or of an OrtValue, whose ``shape`` is a method.

    Of a list the first element stands for all: to look at each one, as numpy does, takes as long as to copy them.
    Raises ``ValueError`` for one without end, and what a ``shape`` that is called raises.
    """
    lengths: list[int] = []
    while isinstance(value, list | tuple) and value:
        lengths.append(len(value))
        value = value[0]
        if len(lengths) > _DEEPEST:
            raise ValueError(f"lists in lists, more than {_DEEPEST} of them")
    shape = getattr(value, "shape", None)
    if callable(shape):
        shape = shape()
    return (*lengths, *(np.shape(value) if shape is None else shape))


def copied(feeds: Mapping[str, Any], most_bytes: int) -> Feeds:
    """Copies, since their owner may reuse them: of arrays, lists, scalars, and of what has a ``numpy()``.

    That is an OrtValue or a tensor on the CPU. Raises as :func:`acceptable`, and what ``numpy()`` raises.
    """
    arrays = {name: value.numpy() if hasattr(value, "numpy") else value for name, value in feeds.items()}
    return {name: np.array(array, order="C") for name, array in acceptable(arrays, most_bytes).items()}


def acceptable(feeds: Mapping[str, Any], most_bytes: int) -> Feeds:
    """The arrays, not copied. ``TypeError`` if one holds no numbers, ``ValueError`` for over ``most_bytes`` in all."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} holds {array.dtype}; only numbers and flags are kept")
    size = sum(array.nbytes for array in arrays.values())
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, and may have an eighth of most_bytes, {most_bytes}")
    return arrays


def save(feeds: Feeds, stream: BinaryIO) -> None:
    """Write an ``.npz``. Not by ``numpy.savez``, which cannot name an array "file" and copies each once more."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in feeds.items():
            array = np.asarray(array, order="C")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, npy.header_data_from_array_1_0(array))
                member.write(array.reshape(-1).view(np.uint8).data)
