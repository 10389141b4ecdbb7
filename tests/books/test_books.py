"""The books balance on random graphs: each FLOP lands once, on the processor whose profile shows it.

The profile is the independent witness: with the optimizations limited to the basic level it names the very nodes that
were placed, so the arithmetic nodes that it saw on the CPU must be those that the value cover put there.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.analysis.cover import cover, strip_token
from monitor.analysis.flops import kind
from monitor.analysis.placement import placement
from monitor.errors import MeasureError
from monitor.records import Profile, SessionFacts, Study
from monitor.service.handle import ProbeHandle
from monitor.wire import Audit, MakeStudy, Open
from tests import probing
from tests.books.random_graphs import random_model

BASIC = {"graph_optimization_level": "ORT_ENABLE_BASIC"}
SIMULATOR = {"soc_model": "60"}
CPU_ONLY = {"backend_path": "/no/such/backend.so"}


class Books(NamedTuple):
    """What one graph left behind."""

    study: Study
    facts: SessionFacts
    profile: Profile


def opened(path: Path, options: dict[str, str]) -> Books | None:
    """Study, session and profile of one graph; nothing if this target cannot create the session."""
    spec = probing.spec(path, options=options, session=BASIC)
    maker, probe = ProbeHandle(), ProbeHandle()
    try:
        study = maker.request(MakeStudy(spec, 3), probing.TIMEOUT)
        try:
            facts = probe.request(Open(spec, 1), probing.TIMEOUT)
        except MeasureError as error:
            if error.failure.reason != "session_failed" or "\n" in str(error):
                raise
            return None
        return Books(study, facts, probe.request(Audit(1, 5.0), probing.TIMEOUT))
    finally:
        maker.close()
        probe.close()


def check(books: Books) -> None:
    """Nothing unattributed, nothing without a reason, the self-check silent, and the profile agrees."""
    study, facts, profile = books
    concluded = placement(facts, study, profile)
    assert concluded.unattributed_flops_ratio == pytest.approx(0)
    assert not [note for note in concluded.notes if note.startswith("self-check")]
    share = concluded.npu_flops_ratio
    assert share is not None
    assert share + sum(concluded.fallback_flops.values()) == pytest.approx(1)
    if not any(fault.kind == "accelerator_unavailable" for fault in facts.faults):
        assert not [op for op in concluded.ops if op.flops_ratio and "no reason" in op.reason]
    seen = {
        strip_token(span.name)
        for span in profile.runs[0]
        if span.processor == "cpu" and kind(span.op_type) == "arithmetic"
    }
    covers = cover(study, facts.placement)
    executed = {execution.node for execution in study.runs[0]}
    said = {
        name
        for index in executed
        if covers[index].processor == "cpu" and kind(study.nodes[index].op_type) == "arithmetic"
        for name in covers[index].via
    }
    known = {node.name for node in study.partitioned if kind(node.op_type) == "arithmetic" and node.name}
    assert seen & known == said & known


def audit_random_graph(folder: pytest.TempPathFactory, options: dict[str, str], seed: int, steps: int) -> None:
    """One example of the property."""
    path = folder.mktemp("books") / "random.onnx"
    onnx.save(random_model(seed, steps), str(path))
    books = opened(path, options)
    if books is not None:
        check(books)


TARGETS = pytest.mark.parametrize("options", [SIMULATOR, CPU_ONLY], ids=["simulator", "cpu"])
RELAXED = list(HealthCheck)  # an example starts two processes


def test_a_dropped_product_before_an_op_that_was_taken_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The CPU's graph expands the HardSwish behind it, the accelerator does not: it is dropped, not lost."""
    audit_random_graph(tmp_path_factory, SIMULATOR, 752846233, 7)


@TARGETS
@settings(max_examples=5, suppress_health_check=RELAXED, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(2, 14))
def test_the_books_balance_on_random_graphs(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, str], seed: int, steps: int
) -> None:
    """Accelerator, CPU and nothing else make up the total, and the profile saw the same nodes on the CPU."""
    audit_random_graph(tmp_path_factory, options, seed, steps)


@pytest.mark.slow
@TARGETS
@settings(max_examples=100, suppress_health_check=RELAXED)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(2, 14))
def test_the_books_balance_on_many_random_graphs(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, str], seed: int, steps: int
) -> None:
    """The same, on other graphs at every run."""
    audit_random_graph(tmp_path_factory, options, seed, steps)
