"""From differences of outputs to one ratio, one sentence and one verdict: what counts, what does not, what is said."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.agreement import conclude, disagreement, output_limit
from monitor.records import Agreement, Comparison, OutputAgreement

GOOD = OutputAgreement("scores", "float", 0.01, 0.9999, 0.02, elements=300, compared=300)
WRONG = OutputAgreement("boxes", "float", 0.86, 0.91, 4e5, elements=48, compared=48, noise_ratio=0.0)
RANDOM = msgspec.structs.replace(WRONG, noise_ratio=0.8)
INFINITE = msgspec.structs.replace(GOOD, name="mask", nan=3, inf=12, cpu_inf=2)
CLASSES = OutputAgreement("classes", "discrete", unequal_ratio=0.25, elements=8, compared=8, noise_ratio=0.0)
SEQUENCE = OutputAgreement("list", "other", skipped="a sequence or map")

ratios = st.none() | st.floats(0, 1e6)
outputs = st.builds(
    OutputAgreement,
    name=st.text(max_size=80),
    kind=st.sampled_from(["float", "quantized", "discrete"]),
    relative_error=ratios,
    cosine=st.none() | st.floats(-1, 1),
    max_abs_error=ratios,
    unequal_ratio=st.none() | st.floats(0, 1),
    noise_ratio=ratios,
    nan=st.integers(0, 3),
    inf=st.integers(0, 3),
    cpu_nan=st.integers(0, 3),
    cpu_inf=st.integers(0, 3),
    elements=st.just(10),
    compared=st.integers(0, 10),
    skipped=st.sampled_from(["", "a sequence or map"]),
)


def concluded(*found: OutputAgreement) -> Agreement:
    """What three samples amount to."""
    return conclude(Comparison(3, found))


def test_the_ratio_is_the_worst_outputs() -> None:
    """One wrong output among good ones decides, also one of indices; without a comparison there is no ratio."""
    assert concluded(GOOD).error_ratio == 0.01
    assert concluded(GOOD, WRONG, CLASSES).error_ratio == 0.86
    assert concluded(GOOD, CLASSES).error_ratio == 0.25
    assert concluded(SEQUENCE).error_ratio is None


def test_a_wrong_output_is_named_with_its_numbers() -> None:
    """The sentence names the worst output, its error and the gate."""
    sentence = "output `boxes` differs from the CPU's by 86.0% (2-norm, cosine 0.9100), the gate is 10.0%"
    assert disagreement(concluded(GOOD, WRONG, CLASSES), 0.1) == sentence
    assert disagreement(concluded(GOOD, CLASSES), 0.1) == (
        "25.0% of output `classes` is not what the CPU computes, the gate is 10.0%"
    )
    assert disagreement(concluded(GOOD), 0.1) is None


def test_values_that_are_finite_on_the_cpu_only_are_never_accepted() -> None:
    """NaN and Inf on the accelerator are a disagreement however wide the gate; those that the CPU has too are none."""
    sentence = "output `mask` holds 3 NaN and 12 Inf on the accelerator, 2 Inf on the CPU"
    assert disagreement(concluded(GOOD, INFINITE), 100.0) == sentence
    shared = msgspec.structs.replace(INFINITE, cpu_nan=3, cpu_inf=12)
    assert disagreement(concluded(shared), 0.1) is None


def test_an_output_that_is_random_is_not_judged_but_told() -> None:
    """Where the CPU differs from itself as much, nothing is concluded, and the note says why."""
    found = concluded(RANDOM, msgspec.structs.replace(INFINITE, name="noise", noise_ratio=0.9))
    assert found.error_ratio is None
    assert disagreement(found, 0.1) is None
    assert found.notes == (
        "output `boxes` was not compared: not deterministic, the CPU differs from itself by 80.0% from run to run",
        "output `noise` was not compared: not deterministic, the CPU differs from itself by 90.0% from run to run",
    )


def test_what_was_not_compared_in_full_is_told() -> None:
    """Skipped outputs, subsets and outputs that are all but 0 have a note each."""
    part = msgspec.structs.replace(GOOD, compared=30)
    tiny = OutputAgreement("tiny", "float", None, None, 2e-5, elements=9, compared=9)
    assert concluded(SEQUENCE, part, tiny).notes == (
        "output `list` was not compared: a sequence or map",
        "output `scores` was compared in 30 of 300 elements, an even subset",
        "output `tiny` is too small to compare with these inputs: 2e-05 apart at most",
    )


def test_made_up_inputs_need_a_gross_difference() -> None:
    """The gate holds for real samples; synthesized ones widen it to half of an output's size, never narrow it."""
    assert output_limit(0.1, "files") == 0.1
    assert output_limit(0.1, "synthetic") == 0.5
    assert output_limit(2.0, "synthetic") == 2.0


@given(st.lists(outputs, max_size=5), st.floats(1e-3, 10))
def test_ratio_and_sentence_agree(found: list[OutputAgreement], limit: float) -> None:
    """Whatever is measured, a ratio above the limit has a sentence, and one within it has none but of NaN and Inf."""
    agreement = concluded(*found)
    sentence = disagreement(agreement, limit)
    if agreement.error_ratio is not None and agreement.error_ratio > limit:
        assert sentence is not None
    elif sentence is not None:
        assert "holds" in sentence
    assert sentence is None or "\n" not in sentence.replace("\n", "", sum("\n" in output.name for output in found) * 80)
