"""What the fuzzer found stays mended, and a short run of mutations goes with every test run (``make fuzz`` goes on)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = {"database": 10}
SEEDS = {name: target.seeds() for name, target in TARGETS.items()}


def read(target: Target, data: bytes, folder: Path) -> None:
    """Have the target read ``data``, and leave its folder empty."""
    try:
        target.read(data, folder)
    finally:
        for left in folder.iterdir():
            left.unlink()


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}")
def test_a_finding_stays_mended(file: Path, tmp_path: Path) -> None:
    """Bytes that once raised what no reader may raise are refused as its contract says."""
    read(TARGETS[file.parent.name], file.read_bytes(), tmp_path)


def test_every_finding_is_small() -> None:
    """What is kept in the repository is what a finding needs, and belongs to a target that exists."""
    files = list(CORPUS.glob("*/*"))
    assert {file.parent.name for file in files} <= TARGETS.keys()
    assert max(file.stat().st_size for file in files) < 8192


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    """Mutations begin at files as they should be, which every reader takes."""
    for seed in SEEDS[name]:
        read(TARGETS[name], seed, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_give_what_is_documented_and_nothing_else(name: str, tmp_path: Path) -> None:
    """Bytes changed, taken out, doubled and put in from elsewhere, as the fuzzer does it, without its guidance."""

    @settings(max_examples=EXAMPLES.get(name, 100), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def mutate(data: st.DataObject) -> None:
        content = bytearray(data.draw(st.sampled_from(SEEDS[name])))
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(start, min(len(content), start + 30)))
            piece = data.draw(
                st.binary(max_size=8) | st.sampled_from([b"", bytes(content[start:end]) * 2, b"\xff" * 8])
            )
            content[start:end] = piece
        read(TARGETS[name], bytes(content), tmp_path)

    mutate()
