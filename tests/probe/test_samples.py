"""Samples: what is replayed fits the model, is never a pickle, and over time is all that there is."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.errors import MeasureError
from monitor.probe import samples
from monitor.probe.samples import Corpus, assumptions, synthesize
from monitor.records import Failure, RejectedSample, Samples, Tensor

SIGNATURE = (
    Tensor("image", "tensor(float)", ("batch", 3, None)),
    Tensor("scale", "tensor(int64)", ()),
)
GOOD: dict[str, Any] = {"image": np.ones((2, 3, 4), np.float32), "scale": np.array(7)}
MEND = "correct models.samples, or remove it to replay synthesized inputs"


def failure_of(folder: Path | None, signature: tuple[Tensor, ...] = SIGNATURE) -> Failure:
    """Why nothing can be fed."""
    with pytest.raises(MeasureError) as caught:
        Corpus(folder, signature, {})
    assert "\n" not in str(caught.value)
    return caught.value.failure


def rejected(folder: Path, arrays: dict[str, Any]) -> RejectedSample:
    """How a file with these arrays is rejected, beside a good one."""
    np.savez(folder / "good.npz", **GOOD)
    np.savez(folder / "bad.npz", **arrays)
    facts = Corpus(folder, SIGNATURE, {}).facts
    assert (facts.source, facts.accepted) == ("files", 1)
    (rejection,) = facts.rejected
    return rejection


@pytest.mark.parametrize(
    ("arrays", "reason", "detail"),
    [
        ({"image": GOOD["image"]}, "name", "lacks scale"),
        ({**GOOD, "mask": np.ones(1)}, "name", "has no input called mask"),
        ({"img": GOOD["image"], "scale": 1}, "name", "lacks image; has no input called img"),
        ({**GOOD, "image": np.ones((2, 3, 4))}, "dtype", "image is float64, the model takes tensor(float)"),
        ({**GOOD, "image": np.ones((2, 3, 4), ">f4")}, "dtype", "image is >f4, the model takes tensor(float)"),
        (
            {**GOOD, "image": np.ones((2, 4, 4), np.float32)},
            "shape",
            "image is [2, 4, 4], the model takes ['batch', 3, '?']",
        ),
        (
            {**GOOD, "image": np.ones((3, 4), np.float32)},
            "shape",
            "image is [3, 4], the model takes ['batch', 3, '?']",
        ),
        ({**GOOD, "scale": np.array([7])}, "shape", "scale is [1], the model takes []"),
        ({**GOOD, "scale": {"a": "pickle"}}, "unreadable", "holds pickled objects, which are never loaded"),
    ],
)
def test_a_file_that_does_not_fit_is_rejected(arrays: dict[str, Any], reason: str, detail: str, tmp_path: Path) -> None:
    """Each misfit has its bounded reason and a sentence that says what to change."""
    assert rejected(tmp_path, arrays) == RejectedSample("bad.npz", reason, detail)  # type: ignore[arg-type]


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """A file whose array would run code when unpickled is rejected without running it."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    assert rejected(tmp_path, {**GOOD, "scale": np.array(Trap(), dtype=object)}).reason == "unreadable"
    assert not (tmp_path / "sprung").exists()


def test_a_zip_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would unpack to more than the limit is refused without unpacking it."""
    monkeypatch.setattr(samples, "LARGEST_SAMPLE", 2**20)
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((1, 3, 2**20), np.float32), scale=np.array(1))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**16
    assert failure_of(tmp_path).detail == (
        f"{tmp_path}: no .npz file of 1 fits the model; bomb.npz: more than 1 MiB uncompressed"
    )


def test_an_array_that_promises_more_than_it_holds_is_rejected(tmp_path: Path) -> None:
    """A header with a huge shape costs no memory: the array's size is compared first."""
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 3, 10**6)}
    np.lib.format.write_array_header_1_0(header, fields)
    np.savez(tmp_path / "good.npz", **GOOD)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue())
        archive.writestr("scale.npy", b"")
    (rejection,) = Corpus(tmp_path, SIGNATURE, {}).facts.rejected
    detail = "image.npy is cut or damaged: its size is not that of its shape"
    assert rejection == RejectedSample("bad.npz", "unreadable", detail)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_rejection(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever happened to a file's bytes, it is rejected, or fits and can be loaded, or loading says why not."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **GOOD)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with suppress(MeasureError):
        corpus = Corpus(tmp_path, SIGNATURE, {})
        assert corpus.load(0)["image"].dtype == np.float32


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The failure names the folder and the key to correct."""
    folder = tmp_path / "gone"
    assert failure_of(folder) == Failure("input_unusable", f"{folder}: No such file or directory", MEND)


def test_a_folder_without_samples(tmp_path: Path) -> None:
    """A folder with no .npz file is told apart from one whose files do not fit."""
    (tmp_path / "readme.txt").write_text("nothing")
    assert failure_of(tmp_path) == Failure("input_unusable", f"{tmp_path}: it holds no .npz file", MEND)


def test_a_folder_in_which_nothing_fits(tmp_path: Path) -> None:
    """The first misfit is told, since it is most likely everybody's."""
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", image=GOOD["image"])
    detail = f"{tmp_path}: no .npz file of 2 fits the model; a.npz: lacks scale"
    assert failure_of(tmp_path) == Failure("input_unusable", detail, MEND)


def test_arrays_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    """Values, dtypes and shapes survive; a scalar stays a scalar, and Fortran order becomes what the runtime takes."""
    image = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.savez(tmp_path / "one.npz", image=image, scale=np.array(7))
    feeds = Corpus(tmp_path, SIGNATURE, {}).load(0)
    np.testing.assert_array_equal(feeds["image"], image)
    assert feeds["image"].flags.c_contiguous
    assert (feeds["scale"].shape, feeds["scale"].dtype, int(feeds["scale"])) == ((), np.int64, 7)


def test_a_file_that_went_away_fails_its_inference(tmp_path: Path) -> None:
    """A sample that is gone when its turn comes is an unusable input, named."""
    np.savez(tmp_path / "one.npz", **GOOD)
    corpus = Corpus(tmp_path, SIGNATURE, {})
    (tmp_path / "one.npz").unlink()
    with pytest.raises(MeasureError, match=r"one\.npz: .*No such file") as caught:
        corpus.load(0)
    assert caught.value.failure.reason == "input_unusable"


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A folder with five samples."""
    for number in range(5):
        np.savez(tmp_path / f"{number}.npz", image=GOOD["image"], scale=np.array(number))
    return tmp_path


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=12), seed=st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_samples_are_drawn_before_one_is_drawn_again(five: Path, counts: list[int], seed: int) -> None:
    """However checks are cut, each run of five consecutive draws holds every sample."""
    corpus = Corpus(five, SIGNATURE, {}, seed)
    drawn = [index for count in counts for index in corpus.draw(count)]
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]


def test_the_order_differs_between_probes(five: Path) -> None:
    """Two lives of a probe do not replay the same few samples first."""
    orders = {tuple(Corpus(five, SIGNATURE, {}, seed).draw(5)) for seed in range(20)}
    assert len(orders) > 5


def test_synthesized_inputs_are_reproducible_and_distinct() -> None:
    """The same seed gives the same values in the assumed sizes; another seed others; scalars stay scalars."""
    first, again, other = (synthesize(SIGNATURE, {"batch": 2, "image[2]": 5}, seed) for seed in (1, 1, 2))
    assert first["image"].shape == (2, 3, 5)
    assert first["image"].dtype == np.float32
    assert (first["scale"].shape, first["scale"].dtype) == ((), np.int64)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()
    assert (first["image"] >= 0).all()
    assert (first["image"] < 1).all()


def test_without_a_folder_inputs_are_synthetic() -> None:
    """Made-up inputs are said to be made up, and there are a few distinct ones."""
    corpus = Corpus(None, SIGNATURE, {"batch": 1, "image[2]": 2})
    assert corpus.facts == Samples("synthetic", 0)
    assert len({corpus.load(i)["image"].tobytes() for i in range(len(corpus))}) == len(corpus) > 1


def test_an_input_that_cannot_be_synthesized() -> None:
    """Text cannot be made up: the failure says so and what to give."""
    failure = failure_of(None, (Tensor("text", "tensor(string)", (1,)),))
    detail = "input text: a tensor(string) cannot be synthesized"
    assert failure == Failure("input_unusable", detail, "give samples (models.samples)")


def test_assumed_sizes_go_from_plausible_to_desperate() -> None:
    """A leading dimension is a batch of one, also where the name stands elsewhere; the rest share one, or are 1."""
    signature = (
        Tensor("a", "tensor(float)", ("batch", "length", None)),
        Tensor("state", "tensor(float)", (2, "batch")),
    )
    ladder = list(assumptions(signature))
    assert ladder[0] == {"batch": 1, "length": 64, "a[2]": 64}
    assert all(attempt["batch"] == 1 for attempt in ladder)
    assert {"batch": 1, "length": 1, "a[2]": 64} in ladder
    assert {"batch": 1, "length": 64, "a[2]": 1} in ladder
    assert len({tuple(attempt.items()) for attempt in ladder}) == len(ladder) <= 48


def test_a_fixed_signature_leaves_nothing_to_assume() -> None:
    """Without free dimensions there is one attempt, and it assumes nothing."""
    assert list(assumptions((Tensor("x", "tensor(float)", (1, 3)),))) == [{}]
