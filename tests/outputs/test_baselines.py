"""What `npumon baseline show` prints: what counts, what is learned, what waits, and what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outputs import baselines
from monitor.outputs.baselines import Holding
from monitor.records import Baseline, BaselineRequest, Identity, ModelState, Shifted, Unstable
from tests.outputs import strategies
from tests.outputs.recorded import LEARNING, OLDER, PRESENT, WAITING, WAITING_STATE

LEARNS = Holding(ModelState("learner", baselines=(LEARNING,)), 10)
NEW = Holding(ModelState("new"), 10)

names, numbers = strategies.names, st.floats(1e-6, 1e4)
identities = st.builds(
    Identity,
    names,
    strategies.texts,
    strategies.maybe(strategies.texts),
    st.dictionaries(names, strategies.texts, max_size=3),
    strategies.maybe(st.sampled_from(["files", "synthetic"])),
)
records = st.builds(
    Baseline,
    names,
    identities,
    strategies.times,
    st.lists(numbers, max_size=10).map(tuple),
    strategies.maybe(numbers),
    strategies.maybe(strategies.times),
    strategies.maybe(strategies.ratios),
    st.lists(names, max_size=3).map(tuple),
    comparison=strategies.texts,
)
holdings = st.builds(
    Holding,
    st.builds(
        ModelState,
        names,
        unstable=strategies.maybe(st.builds(Unstable, names, strategies.times, ratio=strategies.ratios)),
        shifted=strategies.maybe(st.builds(Shifted, names, strategies.times, level_seconds=numbers)),
        baselines=st.lists(records, max_size=3).map(tuple),
    ),
    st.integers(1, 99),
    strategies.maybe(names),
    st.lists(
        st.builds(BaselineRequest, names, st.sampled_from(["accept", "forget"]), strategies.maybe(names)), max_size=3
    ).map(tuple),
)


def test_table_golden(golden: Callable[[str, str], None]) -> None:
    """A baseline that waits beside the older one that counts, one that is learned, and a model without one."""
    golden("baselines.txt", baselines.table([WAITING, LEARNS, NEW]) + "\n")


@given(st.lists(holdings, min_size=1, max_size=3))
def test_table_fits_100_columns(several: list[Holding]) -> None:
    """Whatever the state holds, no line is wider than 100 columns or has control characters."""
    lines = baselines.table(several).split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)


def test_document() -> None:
    """The document has the record's own values, and nothing for what is not known."""
    document = baselines.document(WAITING)
    assert document["model"] == "detector"
    waiting, older = document["baselines"]
    assert (waiting["id"], waiting["present"], waiting["counts"], waiting["state"]) == (
        PRESENT.id,
        True,
        False,
        "waiting",
    )
    assert (older["id"], older["present"], older["counts"], older["state"]) == (OLDER.id, False, True, "accepted")
    assert "accepted" not in waiting
    assert older["accepted"] == "2025-10-24T16:30:00.000Z"
    assert older["median_seconds"] == OLDER.median_seconds
    assert older["learned_medians_seconds"] == list(OLDER.medians)
    assert older["identity"] == msgspec.to_builtins(OLDER.identity)
    assert [incident["id"] for incident in document["incidents"]] == [
        "detector-unstable-6921f004",
        "detector-shifted-6921f100",
    ]
    assert document["requests"] == [{"action": "accept"}]
    (learning,) = baselines.document(LEARNS)["baselines"]
    assert (learning["state"], len(learning["learned_medians_seconds"]), learning["learning_checks"]) == (
        "learning",
        3,
        10,
    )
    assert baselines.document(NEW) == {"model": "new", "baselines": [], "incidents": [], "requests": []}


@given(holdings)
def test_documents_are_strict_json_without_null(holding: Holding) -> None:
    """What is not known is left out at any depth, and what is no number never gets in."""

    def assert_no_null(value: Any) -> None:
        assert value is not None
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            assert_no_null(item)

    assert_no_null(json.loads(json.dumps(baselines.document(holding), allow_nan=False)))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (BaselineRequest("m", "accept"), "accept the present level"),
        (BaselineRequest("m", "accept", "ab"), "accept the level of baseline ab"),
        (BaselineRequest("m", "forget"), "forget all baselines"),
        (BaselineRequest("m", "forget", "ab"), "forget baseline ab"),
    ],
)
def test_a_request_in_words(request_: BaselineRequest, words: str) -> None:
    """What was asked says whether it concerns one baseline, all, or the present level."""
    assert baselines.asked(request_) == words


def test_a_spread_beyond_its_gate_is_not_told_as_a_slow_mode() -> None:
    """An instability without a band has no share of slow replays to tell."""
    state = msgspec.structs.replace(WAITING_STATE, unstable=Unstable("u", 0.0, ratio=0.5), shifted=None)
    table = baselines.table([Holding(state, 10)])
    assert "u, since 1970-01-01T00:00:00Z: the spread is beyond its gate" in table
