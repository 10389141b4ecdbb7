"""Samples: what is replayed fits the model, is never a pickle, and over time is all that there is."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.errors import MeasureError
from monitor.probe import npz, samples
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
    monkeypatch.setattr(npz, "LARGEST_SAMPLE", 2**20)
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


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A folder with five samples."""
    for number in range(5):
        np.savez(tmp_path / f"{number}.npz", image=GOOD["image"], scale=np.array(number))
    return tmp_path


def put(folder: Path, name: str, scale: int) -> None:
    """A sample, in one step as others see it."""
    with (folder / f".{name}").open("wb") as stream:
        np.savez(stream, image=GOOD["image"], scale=np.array(scale))
    (folder / f".{name}").rename(folder / name)


def scales(dealt: list[tuple[int, npz.Feeds]]) -> list[int]:
    """What tells the samples apart."""
    return [int(feeds["scale"]) for _, feeds in dealt]


def test_a_folder_s_files_come_and_go(five: Path) -> None:
    """Each draw knows what is there now: new files have their turn in the round under way, and numbers stay."""
    corpus = Corpus(five, SIGNATURE, {})
    before = dict(zip(scales(first := corpus.deal(2)), (number for number, _ in first), strict=True))
    (five / f"{next(iter(before))}.npz").unlink()
    put(five, "5.npz", 5)
    put(five, "4.npz", 44)
    rest = corpus.deal(4 + (4 in before))
    assert sorted(scales(rest)) == sorted({0, 1, 2, 3, 5, 44} - before.keys())
    assert corpus.facts.accepted == 5
    numbers = {number for number, _ in (*first, *rest)}
    assert len(numbers) == len(first) + len(rest)
    again = dict(zip(scales(round_ := corpus.deal(5)), (number for number, _ in round_), strict=True))
    assert all(again[scale] == number for scale, number in before.items() if scale in again)


def test_only_what_is_new_or_changed_is_opened(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a folder that rests opens no file, whether it fits or not; one that changed is checked again."""
    (five / "half.npz").write_bytes(b"PK")
    corpus = Corpus(five, SIGNATURE, {})
    opened: list[str] = []
    check = npz.check

    def noted(file: Path, signature: Any, verify: int) -> npz.Checked:
        opened.append(file.name)
        return check(file, signature, verify)

    monkeypatch.setattr(npz, "check", noted)
    corpus.look()
    assert opened == []
    (reason,) = corpus.facts.rejected
    assert reason.file == "half.npz"
    put(five, "half.npz", 7)
    np.savez(five / "0.npz", image=GOOD["image"], scale=np.array(100))  # in place, as careless tools write
    corpus.look()
    assert sorted(opened) == ["0.npz", "half.npz"]
    assert (corpus.facts.accepted, corpus.facts.rejected) == (6, ())


def test_files_that_vanish_before_they_are_loaded_are_left_out(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes, or is damaged, between listing and loading costs nothing but itself, in any way of asking."""
    ways: list[Callable[[Corpus], list[tuple[int, npz.Feeds]]]]
    ways = [lambda corpus: corpus.deal(10), lambda corpus: list(corpus.first(5))]
    for ask in ways:
        corpus = Corpus(five, SIGNATURE, {})
        load = npz.load

        def vanish(file: Path, signature: Any, load: Any = load) -> Any:
            (five / "3.npz").unlink(missing_ok=True)
            (five / "1.npz").write_bytes(b"PK")
            return load(file, signature)

        monkeypatch.setattr(npz, "load", vanish)
        dealt = ask(corpus)
        monkeypatch.setattr(npz, "load", load)
        assert {0, 2, 4} <= set(scales(dealt)) <= {0, 1, 2, 3, 4}
        assert corpus.facts.accepted <= 5
        corpus.look()
        assert corpus.facts.accepted == 3
        for number in (1, 3):
            put(five, f"{number}.npz", number)


def test_when_the_last_file_goes_the_folder_is_named(five: Path) -> None:
    """Only when none is left nothing can be fed; a file that comes is taken by the same corpus."""
    corpus = Corpus(five, SIGNATURE, {})
    for file in five.iterdir():
        file.unlink()
    ways: list[Callable[[], list[tuple[int, npz.Feeds]]]] = [lambda: corpus.deal(1), lambda: list(corpus.first(1))]
    for ask in ways:
        with pytest.raises(MeasureError) as caught:
            ask()
        assert caught.value.failure == Failure("input_unusable", f"{five}: it holds no .npz file", MEND)
    put(five, "new.npz", 9)
    assert scales(corpus.deal(2)) == [9, 9]


def test_a_file_that_is_damaged_inside_is_rejected(tmp_path: Path) -> None:
    """Contents are read to the end once, since a power cut leaves files of the right size and the wrong bytes."""
    np.savez(tmp_path / "good.npz", **GOOD)
    content = bytearray((tmp_path / "good.npz").read_bytes())
    content[200] ^= 1  # within the image's values
    (tmp_path / "bad.npz").write_bytes(content)
    detail = "Bad CRC-32 for file 'image.npy'"
    assert Corpus(tmp_path, SIGNATURE, {}).facts.rejected == (RejectedSample("bad.npz", "unreadable", detail),)


def test_beyond_what_is_read_to_the_end_damage_is_found_when_it_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of many gigabytes is not read as a whole; a damaged file among them is still never replayed."""
    monkeypatch.setattr(samples, "VERIFIED", 100)
    np.savez(tmp_path / "good.npz", image=np.ones((2, 3, 9999), np.float32), scale=np.array(7))
    content = bytearray((tmp_path / "good.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.npz").write_bytes(content)
    corpus = Corpus(tmp_path, SIGNATURE, {})
    assert (corpus.facts.accepted, corpus.facts.rejected) == (2, ())
    assert scales(corpus.deal(4)) == [7, 7, 7, 7]
    (rejection,) = corpus.facts.rejected
    assert rejection == RejectedSample("bad.npz", "unreadable", "Bad CRC-32 for file 'image.npy'")


def test_large_samples_are_repeated_rather_than_held(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw holds no more than its bound and one sample; what it leaves out has its turn in the next."""
    size = sum(np.asarray(array).nbytes for array in GOOD.values())
    monkeypatch.setattr(samples, "MOST_LOADED", 2 * size)
    corpus = Corpus(five, SIGNATURE, {})
    draws = [scales(corpus.deal(6)) for _ in range(2)]
    assert [len(set(drawn)) for drawn in draws] == [2, 2]
    assert not set(draws[0]) & set(draws[1])
    assert draws[0] == draws[0][:2] * 3


def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    """Pipes, devices, folders and links that lead nowhere are rejected at once, and leave no descriptor open."""
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "device.npz").symlink_to("/dev/zero")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    (tmp_path / "nowhere.npz").symlink_to("nothing")
    np.savez(tmp_path / "good.npz", **GOOD)
    before = len(os.listdir("/proc/self/fd"))
    corpus = Corpus(tmp_path, SIGNATURE, {})
    for _ in range(3):
        corpus.look()
    assert len(os.listdir("/proc/self/fd")) == before
    assert {rejection.file: rejection.detail for rejection in corpus.facts.rejected} == {
        "pipe.npz": "not a regular file",
        "folder.npz": "Is a directory",
        "device.npz": "not a regular file",
        "loop.npz": "Too many levels of symbolic links",
        "nowhere.npz": "No such file or directory",
    }


def test_names_and_words_that_do_not_print_are_escaped(tmp_path: Path) -> None:
    """File names are bytes, and member names are anybody's: neither breaks a record nor reaches a terminal."""
    odd: dict[str, Any] = {"\x1b[31m\u202e": np.ones(1)}
    np.savez(tmp_path / "bad.npz", **odd)
    os.rename(tmp_path / "bad.npz", os.path.join(os.fsencode(tmp_path), b"\xff\x1b.npz"))
    np.savez(tmp_path / "good.npz", **GOOD)
    (rejection,) = Corpus(tmp_path, SIGNATURE, {}).facts.rejected
    assert rejection.file == r"\xff\x1b.npz"
    assert rejection.detail == r"lacks image, scale; has no input called \x1b[31m\u202e"


def test_a_folder_of_thousands_is_looked_at_in_no_time(tmp_path: Path) -> None:
    """Two thousand files are checked in seconds, once, and asked for their stamps in milliseconds from then on."""
    np.savez(tmp_path / "0.npz", **GOOD)
    for number in range(1, 2000):
        os.link(tmp_path / "0.npz", tmp_path / f"{number}.npz")
    corpus = Corpus(tmp_path, SIGNATURE, {})
    assert corpus.facts.accepted == 2000
    start = time.monotonic()
    corpus.deal(1)
    assert time.monotonic() - start < 1


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=12), seed=st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_samples_are_drawn_before_one_is_drawn_again(five: Path, counts: list[int], seed: int) -> None:
    """However checks are cut, each run of five consecutive draws holds every sample."""
    corpus = Corpus(five, SIGNATURE, {}, seed)
    drawn = [number for count in counts for number, _ in corpus.deal(count)]
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]


def test_the_order_differs_between_probes(five: Path) -> None:
    """Two lives of a probe do not replay the same few samples first."""
    orders = {tuple(n for n, _ in Corpus(five, SIGNATURE, {}, seed).deal(5)) for seed in range(20)}
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
