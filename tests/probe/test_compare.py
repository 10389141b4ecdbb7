"""How outputs are kept and how their difference is measured: plain arrays, no session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from monitor.probe import outputs
from monitor.probe.compare import FINEST, Distance, distance_of, relative

reals = nps.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**99), 2.0**99, width=32))


def error(given_: Any, expected: Any) -> float | None:
    """The relative error of float arrays."""
    distance = distance_of(np.asarray(given_, np.float32), np.asarray(expected, np.float32), "float")
    return relative([distance], [distance])


@given(reals)
def test_an_array_agrees_with_itself(array: npt.NDArray[np.float32]) -> None:
    """No error, no NaN and no overflow, whatever the values."""
    assert error(array, array) == 0.0


@given(reals, st.floats(-0.5, 0.5))
def test_a_scaled_output_has_the_scale_as_its_error(array: npt.NDArray[np.float32], by: float) -> None:
    """The error is relative: it does not depend on an output's size, as long as fp16 resolves it."""
    exact = array.astype(np.float64)
    assume(np.sqrt(np.mean(exact**2)) >= FINEST)
    distance = distance_of(exact * (1 + by), exact, "float")
    assert relative([distance], [distance]) == pytest.approx(abs(by), rel=1e-6, abs=1e-9)


def test_the_definition() -> None:
    """||a - c|| / ||c||, the cosine and the largest difference, by hand."""
    distance = distance_of(np.array([3.0, 0.0]), np.array([3.0, 4.0]), "float")
    assert relative([distance], [distance]) == pytest.approx(4 / 5)
    assert distance.cosine == pytest.approx(3 / 5)
    assert distance.max_abs_error == 4.0


def test_a_value_that_only_the_cpu_has_finite_is_lost() -> None:
    """An output that overflowed as a whole is 100 % wrong; what the CPU has not finite is not compared."""
    assert error([np.inf, np.nan], [1.0, 2.0]) == pytest.approx(1.0)
    assert error([7.0, 1.0], [np.inf, 1.0]) == 0.0
    assert error([7.0], [np.nan]) is None


def test_what_fp16_cannot_resolve_has_no_relative_error() -> None:
    """Two outputs that are all but 0 are not judged; one that is not where 0 is expected is far off."""
    assert error([0.0], [2e-5]) is None
    assert (error([100.0], [0.0]) or 0) > 1e6


def test_a_sample_whose_output_is_all_but_0_does_not_decide() -> None:
    """The error is measured by the sample with the largest output."""
    faint = distance_of(np.array([0.0]), np.array([0.003]), "float")
    strong = distance_of(np.array([0.6]), np.array([0.6]), "float")
    assert relative([faint, strong], [faint, strong]) == pytest.approx(0.005)


def test_quantized_and_discrete_outputs() -> None:
    """Integers of a quantized output count from their zero point; indices are equal or not."""
    one_off = distance_of(np.array([129, 228], np.uint8), np.array([128, 228], np.uint8), "quantized", 128)
    assert relative([one_off], [one_off]) == pytest.approx(0.01)
    assert distance_of(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9]), "discrete") == Distance(unequal_ratio=0.25)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_subset_is_the_same_every_time_and_within_bounds(size: int, count: int) -> None:
    """Positions ascend without repeats, lie in the array, are about as many as asked for, and come out alike again."""
    taken = np.arange(size)[outputs.positions(size, count)]
    assert np.array_equal(taken, np.arange(size)[outputs.positions(size, count)])
    assert np.all(np.diff(taken) > 0)
    assert min(size, count) * 0.5 <= taken.size <= min(size, count)


def test_a_subset_meets_every_channel() -> None:
    """It does not fall in step with the layout: of 64 interleaved channels each is met about as often."""
    taken = outputs.positions(64 * 1000, 6400)
    met = np.bincount(taken % 64, minlength=64)
    assert met.min() > 60
    assert met.max() < 140


def test_what_is_kept_is_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small output is kept whole beside a large one, NaN and Inf are counted before anything is left out."""
    monkeypatch.setattr(outputs, "KEPT_BYTES", 4096)
    large, small = np.zeros((100, 100), np.float32), np.arange(8)
    large[0, :3], large[1, 1] = np.inf, np.nan
    outputs.keep(tmp_path, 0, 1, {}, ["large", "small", "list"], [large, small, [small]])
    ((index, run, arrays),) = outputs.kept(tmp_path)
    assert index == 0
    assert np.array_equal(arrays["small"], small)
    assert 400 < arrays["large"].size <= 1024
    assert [(kept.nan, kept.inf) for kept in run.outputs] == [(1, 3), (0, 0), (0, 0)]
    assert run.outputs[2].skipped == "a sequence or map"
    assert sum(array.nbytes for array in arrays.values()) <= 4096


def test_inputs_are_told_apart() -> None:
    """A digest depends on names, types, shapes and values, and on nothing else."""
    array = np.zeros((2, 3), np.float32)
    alike = outputs.digest({"a": array, "b": array})
    assert alike == outputs.digest({"b": array.copy(), "a": array})
    others = [{"a": array}, {"a": array, "c": array}, {"a": array + 1, "b": array}, {"a": array.T, "b": array}]
    assert len({alike, *(outputs.digest(dict(feeds)) for feeds in others)}) == 5
