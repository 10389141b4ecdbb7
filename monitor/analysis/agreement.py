"""Whether the accelerator's numbers can be trusted: from differences to one ratio and, at need, one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from monitor.records import Agreement, Comparison, OutputAgreement

NOISE = 0.5
"""An output whose error from one CPU run to the next is more than this share of its error is not deterministic."""

GROSS = 0.5
"""The least difference that counts with synthesized inputs: half of an output's size."""


def conclude(comparison: Comparison) -> Agreement:
    """The worst error of the outputs that can be judged, and what could not be."""
    errors = [error for output in _judged(comparison.outputs) if (error := error_of(output)) is not None]
    notes = tuple(_notes(comparison.outputs))
    return Agreement(max(errors, default=None), comparison.outputs, comparison.samples, notes)


def output_limit(gate: float, source: Literal["files", "synthetic"]) -> float:
    """What an output may differ by. With made-up inputs only a gross difference tells.

    They may drive an output to where it has no size in production: a speech detector gives 0.01 for noise, of which
    fp16's 0.003 is a quarter.
    """
    return gate if source == "files" else max(gate, GROSS)


def disagreement(agreement: Agreement, limit: float) -> str | None:
    """One sentence if an output differs by more than ``limit``, or is not finite where the CPU's is; else ``None``."""
    for output in _judged(agreement.outputs):
        if _not_finite(output):
            mine, theirs = _count(output.nan, output.inf), _count(output.cpu_nan, output.cpu_inf)
            return f"output {_name(output)} holds {mine} on the accelerator, {theirs} on the CPU"
    worst = worst_of(agreement)
    error = error_of(worst) if worst else None
    if worst is None or error is None or error <= limit:
        return None
    if worst.kind == "discrete":
        return f"{error:.1%} of output {_name(worst)} is not what the CPU computes, the gate is {limit:.1%}"
    angle = f", cosine {worst.cosine:.4f}" if worst.cosine is not None else ""
    return f"output {_name(worst)} differs from the CPU's by {error:.1%} (2-norm{angle}), the gate is {limit:.1%}"


def worst_of(agreement: Agreement) -> OutputAgreement | None:
    """The output with the largest error among those that can be judged."""
    known = [output for output in _judged(agreement.outputs) if error_of(output) is not None]
    return max(known, key=lambda output: error_of(output) or 0.0, default=None)


def error_of(output: OutputAgreement) -> float | None:
    """The one figure of an output: its relative error, or, if it holds no quantities, the share that differs."""
    return output.unequal_ratio if output.kind == "discrete" else output.relative_error


def random(output: OutputAgreement) -> bool:
    """Whether the CPU differs from itself about as much as the accelerator differs from it."""
    noise, error = output.noise_ratio, error_of(output)
    return noise is not None and noise > 0 and noise >= NOISE * (error or 0.0)


def _judged(outputs: Iterable[OutputAgreement]) -> Iterator[OutputAgreement]:
    return (output for output in outputs if not output.skipped and not random(output))


def _not_finite(output: OutputAgreement) -> bool:
    return output.nan + output.inf > output.cpu_nan + output.cpu_inf


def _notes(outputs: Iterable[OutputAgreement]) -> Iterator[str]:
    for output in outputs:
        name = _name(output)
        if output.skipped:
            yield f"output {name} was not compared: {output.skipped}"
        elif random(output):
            noise = f"the CPU differs from itself by {output.noise_ratio:.1%} from run to run"
            yield f"output {name} was not compared: not deterministic, {noise}"
        elif output.compared < output.elements:
            yield f"output {name} was compared in {output.compared} of {output.elements} elements, an even subset"
        if error_of(output) is None and output.max_abs_error:
            yield f"output {name} is too small to compare with these inputs: {output.max_abs_error:.2g} apart at most"


def _name(output: OutputAgreement) -> str:
    name = output.name if len(output.name) <= 60 else output.name[:59] + "…"
    return f"`{name}`"


def _count(nan: int, inf: int) -> str:
    said = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (inf, "Inf")) if count]
    return " and ".join(said) or "none"
