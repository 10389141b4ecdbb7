"""The board's gauges: their text, what is absent, and how many series there can be."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from monitor.outputs.board import families
from monitor.records import BoardReading, Clock, Zone
from tests.outputs.strategies import numbers, texts

FULL = BoardReading(
    uptime=100.0,
    zones={"cpu": Zone(91.7, 90.0), "npu": Zone(47.2)},
    cpu_clocks={"policy7": Clock(1.6512e9, 1.6512e9, 2.7072e9)},
    device_clocks={"3d00000.gpu": Clock(3.15e8, None, 8.12e8)},
    stalled={"cpu": 734.112345, "io": 0.0},
    remoteprocs={"cdsp": "running", "cdsp1": "crashed", "cdsp2": "attached"},
    nodes={"/dev/fastrpc-cdsp": False, "/dev/dma_heap/system": True},
)


class _Families(Collector):
    """A reading's families as a registry collects them."""

    def __init__(self, reading: BoardReading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        yield from families(self._reading)


def exposed(reading: BoardReading) -> str:
    """The reading as a scrape sees it."""
    return generate_latest(_Families(reading)).decode()


def test_the_whole_board() -> None:
    """Every fact is a series with its unit in the name, and what is unknown has none."""
    assert [line for line in exposed(FULL).splitlines() if not line.startswith("#")] == [
        'npumon_board_temperature_celsius{zone="cpu"} 91.7',
        'npumon_board_temperature_celsius{zone="npu"} 47.2',
        'npumon_board_temperature_limit_celsius{zone="cpu"} 90.0',
        'npumon_board_clock_hertz{bound="current",clock="policy7"} 1.6512e+09',
        'npumon_board_clock_hertz{bound="allowed",clock="policy7"} 1.6512e+09',
        'npumon_board_clock_hertz{bound="highest",clock="policy7"} 2.7072e+09',
        'npumon_board_clock_hertz{bound="current",clock="3d00000.gpu"} 3.15e+08',
        'npumon_board_clock_hertz{bound="highest",clock="3d00000.gpu"} 8.12e+08',
        'npumon_board_remoteproc_running{name="cdsp"} 1.0',
        'npumon_board_remoteproc_running{name="cdsp1"} 0.0',
        'npumon_board_remoteproc_running{name="cdsp2"} 1.0',
        'npumon_board_device_node_accessible{node="/dev/fastrpc-cdsp"} 0.0',
        'npumon_board_device_node_accessible{node="/dev/dma_heap/system"} 1.0',
        'npumon_board_stalled_seconds_total{resource="cpu"} 734.112345',
        'npumon_board_stalled_seconds_total{resource="io"} 0.0',
    ]


def test_a_board_that_tells_nothing() -> None:
    """Without a fact there is not even a family."""
    assert list(families(BoardReading(uptime=1.0))) == []
    assert exposed(BoardReading(uptime=1.0)) == ""


keys = texts.map(lambda text: text.encode("utf-8", "replace").decode())
clocks = st.dictionaries(keys, st.builds(Clock, *[st.none() | numbers] * 3), max_size=50)


@given(
    reading=st.builds(
        BoardReading,
        uptime=numbers,
        zones=st.dictionaries(keys, st.builds(Zone, numbers, st.none() | numbers), max_size=50),
        cpu_clocks=clocks,
        device_clocks=clocks,
        stalled=st.dictionaries(keys, numbers, max_size=50),
        remoteprocs=st.dictionaries(keys, keys, max_size=50),
        nodes=st.dictionaries(keys, st.booleans(), max_size=50),
    )
)
def test_any_board_gives_a_valid_and_bounded_text(reading: BoardReading) -> None:
    """Whatever the kernel calls its parts, the text parses, no series is there twice, and labels are short and few."""
    for family in parse_text(exposed(reading)):
        series = [tuple(sorted(sample.labels.items())) for sample in family.samples]
        assert len(series) == len(set(series)) <= 32 * 3
        assert all(len(value) <= 64 for labels in series for _, value in labels)
        assert all(abs(sample.value) < float("inf") for sample in family.samples)
