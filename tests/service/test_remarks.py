"""Remarks are made once, come again with what they are about, and do not pile up."""

from __future__ import annotations

from monitor.records import RejectedSample, Samples
from monitor.service.remarks import MOST, Remarks
from tests.analysis.evidence import result


def rejecting(*files: str) -> Samples:
    """Samples of which these files do not fit."""
    return Samples("files", 1, tuple(RejectedSample(file, "shape", "it is another") for file in files))


def test_what_stays_is_said_once() -> None:
    """A note and a bad file of every check are a line each, of the first one."""
    remarks, one = Remarks(), result(notes=("n",), samples=rejecting("a.npz"))
    assert [name for name, _ in remarks.of(one)] == ["check_note", "sample_rejected"]
    assert list(remarks.of(one)) == []
    assert remarks.first("check_postponed", "m", "duty")
    assert not remarks.first("check_postponed", "m", "duty")


def test_files_that_come_and_go_do_not_pile_up() -> None:
    """A thousand new names are told one by one, and only those that are there are remembered."""
    remarks = Remarks()
    for number in range(1000):
        assert len(list(remarks.of(result(samples=rejecting(f"{number}.npz"), notes=("n",))))) == 1 + (number == 0)
        assert len(remarks) == 2


def test_a_model_that_is_gone_is_forgotten() -> None:
    """When it comes back, it is told again."""
    remarks, one = Remarks(), result(notes=("n",))
    assert len(list(remarks.of(one))) == 1
    remarks.keep([])
    assert len(list(remarks.of(one))) == 1


def test_thousands_of_files_do_not_drown_the_log() -> None:
    """A hundred are named, the others counted in one line, at this check and at none that finds the same."""
    remarks, one = Remarks(), result(samples=rejecting(*(f"{number:04}.npz" for number in range(5000))))
    said = list(remarks.of(one))
    assert [name for name, _ in said] == ["sample_rejected"] * MOST + ["check_note"]
    assert said[-1][1] == {"detail": "4900 more files do not fit the model"}
    assert list(remarks.of(one)) == []
