"""What the board's state says about a latency: the right kind, the numbers that were read, and nothing from nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.circumstances import circumstances
from monitor.records import BoardReading, Circumstance, Clock, Latency, Zone

KINDS = ["accelerator_down", "hot", "throttled", "contended", "cold"]
IDLE = BoardReading(
    uptime=100.0,
    zones={"cpu": Zone(45.0, 90.0), "npu": Zone(50.0, 100.0)},
    cpu_clocks={"policy0": Clock(0.3e9, 1.9584e9, 1.9584e9), "policy4": Clock(0.7e9, 2.8416e9, 2.8416e9)},
    device_clocks={"3d00000.gpu": Clock(315e6, 812e6, 812e6)},
    stalled={"cpu": 10.0, "io": 1.0, "memory": 0.0},
    remoteprocs={"cdsp": "running"},
    nodes={"/dev/fastrpc-cdsp": True, "/dev/dma_heap/system": True},
)


def reading(uptime: float = 101.0, **fields: object) -> BoardReading:
    """The idle board a second later, but for ``fields``."""
    kept = {name: getattr(IDLE, name) for name in IDLE.__struct_fields__}
    return BoardReading(**{**kept, "uptime": uptime, **fields})


def latency(first: float = 0.012, disturbed: tuple[int, ...] = (), replays: int = 20) -> Latency:
    """Replays of 10 ms after a first inference of ``first`` seconds."""
    return Latency(0.010, 0.02, (0.010,) * replays, (first, 0.010), disturbed=disturbed)


def texts(after: BoardReading | None, before: BoardReading | None = IDLE, of: Latency | None = None) -> list[str]:
    """The sentences alone."""
    return [found.text for found in circumstances(before, after, of or latency())]


def kinds(found: tuple[Circumstance, ...]) -> list[str]:
    """The kinds alone."""
    return [circumstance.kind for circumstance in found]


def test_an_idle_board_explains_nothing() -> None:
    """A board that is cool, free and up, and a first inference like the others, give no circumstance."""
    assert circumstances(IDLE, reading(), latency()) == ()


def test_everything_at_once_is_told_worst_first() -> None:
    """Each kind is told once, in the order of how much it explains."""
    after = reading(
        zones={"npu": Zone(101.24, 100.0)},
        cpu_clocks={"policy4": Clock(1.4e9, 1.4e9, 2.8e9)},
        stalled={"cpu": 10.34},
        remoteprocs={"cdsp": "crashed"},
        nodes={"/dev/fastrpc-cdsp": False, "/dev/fastrpc-cdsp-secure": False},
    )
    assert circumstances(IDLE, after, latency(0.041, (1, 4, 5, 6, 9))) == (
        Circumstance("accelerator_down", "the compute DSP cdsp is crashed"),
        Circumstance("accelerator_down", "npumon may not open /dev/fastrpc-cdsp or /dev/fastrpc-cdsp-secure"),
        Circumstance("hot", "the NPU reached 101.2 °C; it is slowed down from 100 °C on"),
        Circumstance("throttled", "the clock of policy4 is capped at 1.4 of 2.8 GHz"),
        Circumstance("contended", "tasks waited for a CPU 34 % of the time"),
        Circumstance("contended", "the kernel took the CPU away from the probe during 5 of 20 replays"),
        Circumstance("cold", "the first inference took 4.1 times the median"),
    )


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        (Zone(98.9, 100.0), None),
        (Zone(99.0, 100.0), "the NPU reached 99.0 °C; it is slowed down from 100 °C on"),
        (Zone(94.9), None),
        (Zone(95.0), "the NPU reached 95.0 °C; the kernel names no limit"),
        (Zone(96.0, 105.0), None),
    ],
)
def test_hot_is_what_the_kernel_calls_hot(zone: Zone, told: str | None) -> None:
    """Within a kelvin of its limit a zone is hot; without a limit from 95 degrees on, which is said."""
    assert texts(reading(zones={"npu": zone})) == ([told] if told else [])


def test_heat_before_the_replays_counts_too() -> None:
    """The hotter of the two readings is told, the NPU before the CPU."""
    before = reading(100.0, zones={"cpu": Zone(93.0, 90.0), "npu": Zone(102.0, 100.0)})
    assert texts(reading(zones={"cpu": Zone(89.5, 90.0), "npu": Zone(80.0, 100.0)}), before) == [
        "the NPU reached 102.0 °C; it is slowed down from 100 °C on",
        "the CPU reached 93.0 °C; it is slowed down from 90 °C on",
    ]


@pytest.mark.parametrize(
    ("clocks", "told"),
    [
        ({"policy0": Clock(0.3e9, 1.95e9, 1.9584e9)}, None),
        ({"policy0": Clock(0.3e9, 2.78e9, 2.8416e9)}, "the clock of policy0 is capped at 2.78 of 2.84 GHz"),
        ({"policy0": Clock(0.3e9, 3e8, 9.5e8)}, "the clock of policy0 is capped at 300 of 950 MHz"),
        ({"policy0": Clock(0.3e9, None, 2e9), "policy4": Clock(0.3e9, 1e9, None)}, None),
        (
            {"policy0": Clock(None, 1.5e9, 2e9), "policy4": Clock(None, 1e9, 2e9), "policy7": Clock(None, 2e9, 2e9)},
            "the clock of policy4 is capped at 1.0 of 2.0 GHz, and 1 more",
        ),
    ],
)
def test_a_capped_clock(clocks: dict[str, Clock], told: str | None) -> None:
    """The clock that is capped most is told; rounding and unknown bounds are no cap."""
    assert texts(reading(cpu_clocks=clocks)) == ([told] if told else [])


def test_devices_that_are_capped() -> None:
    """A capped memory clock slows an NPU down, a capped GPU does not."""
    assert texts(reading(device_clocks={"3d00000.gpu": Clock(3e8, 3e8, 8e8)})) == []
    assert texts(reading(device_clocks={"soc:qcom,l3": Clock(3e8, 8e8, 1.6e9)})) == [
        "the clock of soc:qcom,l3 is capped at 0.8 of 1.6 GHz"
    ]


@pytest.mark.parametrize(
    ("states", "before", "told"),
    [
        ({"cdsp": "offline"}, {}, ["the compute DSP cdsp is offline"]),
        ({"cdsp": "attached"}, {}, []),
        ({"cdsp": "running", "cdsp1": "offline"}, {}, []),
        ({"cdsp": "running", "cdsp1": "crashed"}, {}, ["the compute DSP cdsp1 is crashed"]),
        ({"cdsp": "running"}, {"cdsp": "crashed"}, ["the compute DSP cdsp was crashed"]),
        ({"cdsp": "offline"}, {"cdsp": "crashed"}, ["the compute DSP cdsp was crashed"]),
    ],
)
def test_a_dsp_that_is_down(states: dict[str, str], before: dict[str, str], told: list[str]) -> None:
    """A crash is always told; a DSP that is off only if no other one runs."""
    assert texts(reading(remoteprocs=states), reading(100.0, remoteprocs=before)) == told


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ({"/dev/fastrpc-cdsp": True, "/dev/fastrpc-cdsp-secure": False}, []),
        (
            {"/dev/fastrpc-cdsp": True, "/dev/dma_heap/system": False},
            ["npumon may not open /dev/dma_heap/system"],
        ),
        ({"/dev/dma_heap/system": True, "/dev/dma_heap/qcom,system": False}, []),
    ],
)
def test_device_nodes(nodes: dict[str, bool], told: list[str]) -> None:
    """Refused nodes are told where none of their kind may be opened."""
    assert texts(reading(nodes=nodes)) == told


@pytest.mark.parametrize(
    ("waited", "elapsed", "told"),
    [
        (0.099, 1.0, []),
        (0.101, 1.0, ["tasks waited for a CPU 10 % of the time"]),
        (1.2, 1.0, ["tasks waited for a CPU 100 % of the time"]),
        (-5.0, 1.0, []),
        (0.5, 0.0, []),
        (0.5, -1.0, []),
    ],
)
def test_waiting_for_a_cpu(waited: float, elapsed: float, told: list[str]) -> None:
    """A tenth of the time between the readings is contention; a counter or clock that went backwards is not."""
    assert texts(reading(100.0 + elapsed, stalled={"cpu": 10.0 + waited})) == told


def test_a_quarter_of_the_replays_is_contention() -> None:
    """Fewer disturbed replays than a quarter are an exception."""
    assert kinds(circumstances(None, None, latency(disturbed=(0, 1, 2, 3)))) == []
    assert kinds(circumstances(None, None, latency(disturbed=(0, 1, 2, 3, 4)))) == ["contended"]


def test_a_cold_start() -> None:
    """Three times the median is a cold start, and only the first inference is asked."""
    assert texts(None, None, latency(0.0299)) == []
    assert texts(None, None, latency(0.0301)) == ["the first inference took 3.0 times the median"]
    assert texts(None, None, Latency(0.010, 0.02, (0.01, 0.01), ())) == []


numbers = st.floats(0, 1e10)
clocks = st.dictionaries(
    st.sampled_from(["policy0", "npu", "gpu"]),
    st.builds(Clock, *[st.none() | numbers] * 3),
)
readings = st.builds(
    BoardReading,
    uptime=numbers,
    zones=st.dictionaries(st.sampled_from(["cpu", "npu"]), st.builds(Zone, numbers, st.none() | numbers)),
    cpu_clocks=clocks,
    device_clocks=clocks,
    stalled=st.dictionaries(st.sampled_from(["cpu", "io"]), numbers),
    remoteprocs=st.dictionaries(st.text(max_size=5), st.sampled_from(["running", "crashed", "offline"])),
    nodes=st.dictionaries(st.text(max_size=5), st.booleans()),
)
latencies = st.builds(
    Latency,
    st.floats(0, 10),
    numbers,
    st.lists(st.floats(0, 10), max_size=4).map(tuple),
    st.lists(st.floats(0, 10), max_size=2).map(tuple),
    disturbed=st.lists(st.integers(0, 3), max_size=4).map(tuple),
)


@given(before=st.none() | readings, after=st.none() | readings, of=st.none() | latencies)
def test_any_board_gives_short_clauses_in_order(
    before: BoardReading | None, after: BoardReading | None, of: Latency | None
) -> None:
    """Whatever was read, the circumstances are few, in their order, and one clause each; what is unknown gives none."""
    found = circumstances(before, after, of)
    assert len(found) <= 15
    assert kinds(found) == sorted(kinds(found), key=KINDS.index)
    assert all(found.text and "None" not in found.text and "nan" not in found.text for found in found)
    assert circumstances(None, None, None) == ()


@given(after=readings, more=st.floats(0.1, 50))
def test_a_hotter_board_has_no_fewer_circumstances(after: BoardReading, more: float) -> None:
    """Heating a board up never takes away what explains it."""
    hotter = BoardReading(
        **{
            **{name: getattr(after, name) for name in after.__struct_fields__},
            "zones": {kind: Zone(zone.celsius + more, zone.limit) for kind, zone in after.zones.items()},
        }
    )
    assert set(kinds(circumstances(None, after, None))) <= set(kinds(circumstances(None, hotter, None)))
