"""Arrays: what an application may feed is copied as it is, what cannot be kept is refused before it costs anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from monitor.capture.arrays import acceptable, copied, save, shape_of

MANY = 10**6
NUMBERS = st.one_of(
    npst.boolean_dtypes(), npst.integer_dtypes(), npst.unsigned_integer_dtypes(), npst.floating_dtypes()
)


class Tensor:
    """Has what a tensor of torch has, which is too large to come along for a test."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.shape = array.shape

    def numpy(self) -> npt.NDArray[Any]:
        """The array itself, sharing its memory."""
        return self._array


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (X, X),
        (X.T, X.T),
        (X.tolist(), X.astype(np.float64)),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (np.float16(0.5), np.array(0.5, np.float16)),
        (7, np.array(7)),
        (True, np.array(True)),
        (ort.OrtValue.ortvalue_from_numpy(X), X),
        (Tensor(X), X),
        (np.zeros((0, 3), np.int8), np.zeros((0, 3), np.int8)),
    ],
    ids=["array", "transposed", "lists", "integers", "scalar", "int", "bool", "OrtValue", "tensor", "empty"],
)
def test_what_runtimes_take_is_copied(value: Any, expected: npt.NDArray[Any]) -> None:
    """Arrays, lists, scalars, OrtValues and tensors have their shape, and become arrays of their values."""
    assert shape_of(value) == expected.shape
    copy = copied({"x": value}, MANY)["x"]
    assert copy.dtype == expected.dtype
    assert np.array_equal(copy, expected)
    assert type(copy) is np.ndarray
    assert copy.flags.c_contiguous


class Untouched:
    """May not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_list_is_not_gone_through_for_its_shape() -> None:
    """The first element of each list tells, since going through all takes as long as the copy that a call is spared."""
    assert shape_of([[1.0, 2.0], Untouched(), Untouched()]) == (3, 2)
    assert shape_of(([np.zeros((4, 5))], Untouched())) == (2, 1, 4, 5)
    assert shape_of([]) == (0,)
    assert shape_of([[], Untouched()]) == (2, 0)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="lists in lists"):
        shape_of(loop)


@pytest.mark.parametrize("wrapped", [lambda x: x, Tensor, ort.OrtValue.ortvalue_from_numpy])
def test_a_copy_shares_nothing(wrapped: Any) -> None:
    """Who writes into his buffer after the call does not write into the sample."""
    buffer = X.copy()
    copy = copied({"x": wrapped(buffer)}, MANY)["x"]
    buffer[:] = -1
    assert np.array_equal(copy, X)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array(["a"], object), "object"),
        (["a", "b"], "<U1"),
        (np.array([b"a"]), "|S1"),
        (np.zeros(2, complex), "complex128"),
        (np.zeros(2, "M8[s]"), "datetime64[s]"),
        ({"a": "mapping"}, "object"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, dtype: str) -> None:
    """Text and objects could only be kept as pickles, which nobody should load; the message names the input."""
    with pytest.raises(TypeError) as caught:
        copied({"fine": X, "words": value}, MANY)
    assert str(caught.value) == f"words holds {dtype}; only numbers and flags are kept"


def test_what_is_too_large_is_refused_before_it_is_copied() -> None:
    """The inputs of a call count together, and one that has no room costs no time: here 8 TB without a page."""
    huge = np.broadcast_to(np.float64(0), (10**12,))
    with pytest.raises(
        ValueError, match=r"^it has 8000000000000 bytes, and may have an eighth of most_bytes, 1000000$"
    ):
        copied({"x": huge}, MANY)
    with pytest.raises(ValueError, match="bytes"):
        acceptable({"x": np.zeros(600), "y": np.zeros(600)}, 9000)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
        npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, min_side=0, max_side=4)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_saved_is_what_is_loaded(feeds: dict[str, npt.NDArray[Any]]) -> None:
    """What numpy loads has every name, dtype, shape and value, of scalars and empty arrays too, and no pickles."""
    stream = io.BytesIO()
    save(feeds, stream)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as loaded:
        assert set(loaded.files) == set(feeds)
        for name, array in feeds.items():
            assert loaded[name].dtype == array.dtype
            assert loaded[name].shape == array.shape
            assert loaded[name].tobytes() == array.tobytes()


def test_an_input_may_have_the_name_of_a_parameter(tmp_path: Path) -> None:
    """A model's input may be called file or args, which numpy.savez would take for its own."""
    with (tmp_path / "x.npz").open("wb") as stream:
        save({"file": X, "args": X, "a/b": X}, stream)
    with np.load(tmp_path / "x.npz") as loaded:
        assert sorted(loaded.files) == ["a/b", "args", "file"]
