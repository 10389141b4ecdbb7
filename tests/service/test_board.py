"""The board's state, from trees that follow published listings of real boards, and from the machine of the test."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.records import BoardReading, Clock, Zone
from monitor.service import board
from monitor.service.readings import distress, read_state

BOARDS = Path(__file__).with_name("boards")
NAMES = sorted(path.parent.name for path in BOARDS.glob("*/tree.txt"))
NOBODY = 65534


def unpacked(name: str, root: Path) -> Path:
    """The tree of a board as files below ``root``."""
    for line in (BOARDS / name / "tree.txt").read_text(encoding="utf-8").splitlines():
        path, _, content = line.partition(": ")
        if line.endswith("/"):
            (root / line).mkdir(parents=True)
        elif line and not line.startswith("#"):
            put(root / path, content.replace("\\n", "\n"))
    return root


def put(path: Path, content: str) -> None:
    """One file as the kernel has it, with a line break at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n", encoding="utf-8")


def zone(root: Path, number: int, kind: str, milli: object, **trips: object) -> None:
    """One thermal zone; ``trips`` are kinds and temperatures in order."""
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    put(folder / "type", kind)
    put(folder / "temp", str(milli))
    for trip, (name, temperature) in enumerate(trips.items()):
        put(folder / f"trip_point_{trip}_type", name.rstrip("0123456789"))
        put(folder / f"trip_point_{trip}_temp", str(temperature))


@contextmanager
def refused(*paths: Path) -> Iterator[None]:
    """Nobody but root may open ``paths``, and root asks in the name of a user who may not."""
    for path in paths:
        path.chmod(0)
    root = os.getuid() == 0
    if root:
        os.setresuid(NOBODY, -1, -1)  # access(2) asks for the real user
    try:
        yield
    finally:
        if root:
            os.setresuid(0, -1, -1)


def test_a_hot_board(tmp_path: Path) -> None:
    """On the RB3 Gen 2's tree, zones are found by type, limits are passive trips, and units are SI's."""
    began = time.monotonic()
    reading = read_state(unpacked("qcs6490-rb3gen2", tmp_path))
    assert began <= reading.uptime <= time.monotonic()
    assert reading.zones == {"cpu": Zone(91.7, 90.0), "npu": Zone(100.4, 100.0)}
    assert reading.cpu_clocks == {
        "policy0": Clock(1958.4e6, 1958.4e6, 1958.4e6),
        "policy4": Clock(2.4e9, 2.4e9, 2.4e9),
        "policy7": Clock(1651.2e6, 1651.2e6, 2707.2e6),
    }
    assert reading.device_clocks == {"3d00000.gpu": Clock(315e6, 812e6, 812e6)}
    assert reading.stalled == {"cpu": 734.112345, "io": 95.412007, "memory": 0.0}
    assert reading.remoteprocs == {"cdsp": "running"}
    assert reading.nodes == dict.fromkeys(
        ("/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp-secure", "/dev/dma_heap/system", "/dev/dma_heap/qcom,system"), True
    )


def test_trip_points_that_slow_nothing_down_are_no_limits(tmp_path: Path) -> None:
    """Without a passive trip point there is no limit; sensors that are off or fail are left out."""
    reading = read_state(unpacked("sm8650-hdk", tmp_path))
    assert reading.zones == {"cpu": Zone(52.3, None), "npu": Zone(47.2, None)}
    assert reading.cpu_clocks["policy7"] == Clock(None, 3302.4e6, 3302.4e6)
    assert reading.device_clocks == {"3d00000.gpu": Clock(680e6, 834e6, 834e6)}
    assert reading.remoteprocs == {"cdsp": "crashed"}
    assert reading.nodes == {"/dev/dma_heap/system": True}


def test_two_compute_dsps(tmp_path: Path) -> None:
    """Each compute DSP is there with the kernel's word for its state; other DSPs are not, nor is what is missing."""
    reading = read_state(unpacked("qcs9075-evk", tmp_path))
    assert reading.remoteprocs == {"cdsp": "running", "cdsp1": "offline"}
    assert list(reading.nodes) == ["/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp1", "/dev/dma_heap/system"]
    assert reading.zones["npu"] == Zone(66.6, 105.0)
    assert reading.device_clocks == {}
    assert reading.stalled == {}


def test_a_vendor_kernel(tmp_path: Path) -> None:
    """One sensor's zones are one, a daemon's alarm clocks are no limits, and bandwidths are no clocks."""
    reading = read_state(unpacked("sm8250-android", tmp_path))
    assert reading.zones == {"cpu": Zone(34.7, 110.0), "npu": Zone(28.3, 95.0)}
    assert reading.device_clocks == {
        "3d00000.qcom,kgsl-3d0": Clock(305e6, 587e6, 587e6),
        "soc:qcom,cpu0-cpu-l3-lat": Clock(300e6, 1612.8e6, 1612.8e6),
    }
    assert set(reading.nodes) == {"/dev/adsprpc-smd", "/dev/adsprpc-smd-secure", "/dev/dma_heap/system"}


@pytest.mark.parametrize("name", ["nothing", "no such tree"])
def test_a_machine_that_tells_nothing(name: str, tmp_path: Path) -> None:
    """Where there is nothing to read, nothing is in the reading but the time."""
    root = unpacked(name, tmp_path) if name in NAMES else tmp_path / name
    reading = read_state(root)
    assert reading == BoardReading(uptime=reading.uptime)


def test_this_machine() -> None:
    """Here, too, the reading is what the kernel says, whatever that is; stalls are those of the kernel's own lines."""
    earlier, reading, later = read_state(), read_state(), _stalls()
    assert reading.stalled.keys() == later.keys()
    assert all(earlier.stalled[name] <= seconds <= later[name] for name, seconds in reading.stalled.items())
    assert set(reading.cpu_clocks) <= {path.name for path in Path("/sys/devices/system/cpu/cpufreq").glob("policy*")}


def _stalls() -> dict[str, float]:
    """Seconds of the pressure files that this machine has, told another way."""
    found = {}
    for name in ("cpu", "io", "memory"):
        with suppress(OSError):
            found[name] = int(Path("/proc/pressure", name).read_text().splitlines()[0].split("=")[-1]) / 1e6
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_is_read_from_the_same_trees(name: str, tmp_path: Path) -> None:
    """The SoC is told as family, machine and id, or not at all."""
    soc = board.read(unpacked(name, tmp_path) / "sys/devices/soc0").soc
    assert (
        soc
        == {
            "qcs6490-rb3gen2": "Snapdragon QCS6490 498",
            "sm8650-hdk": "Snapdragon SM8650 557",
            "qcs9075-evk": "Snapdragon QCS9075 676",
            "sm8250-android": "Snapdragon SM8250 356",
            "nothing": None,
        }[name]
    )


def test_a_node_that_may_not_be_opened(tmp_path: Path) -> None:
    """A device node that is there and refused is told as such, and nothing is opened to find out."""
    root = unpacked("qcs6490-rb3gen2", tmp_path)
    with refused(root / "dev/fastrpc-cdsp", root / "dev/fastrpc-cdsp-secure"):
        nodes = read_state(root).nodes
    assert (nodes["/dev/fastrpc-cdsp"], nodes["/dev/fastrpc-cdsp-secure"]) == (False, False)


@pytest.mark.parametrize("milli", ["-40000", "-274000", "0", "200001", "9" * 30, "", "n/a", "31.5", "\u0663"])
def test_implausible_temperatures(milli: str, tmp_path: Path) -> None:
    """What no running chip has, and what is no number, is no temperature and no limit."""
    zone(tmp_path, 0, "nsp0-thermal", milli)
    zone(tmp_path, 1, "cpu0-thermal", 50_000, passive=milli)
    assert read_state(tmp_path).zones == {"cpu": Zone(50.0, None)}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "cpu",
            "cpu0-thermal cpu-0-0-0-thermal cpu0-0-top-thermal cpuss1-thermal cpuss-0-usr cpu-thermal cpu_thermal "
            "cluster0-thermal apc1-cpu0-usr apc-0-max-step kryo-l3-0-usr x86_pkg_temp",
        ),
        (
            "npu",
            "nsp0-thermal nsp-0-0-0-thermal nspss0-thermal nspss-0 nsphvx0-thermal nsphvx-0 nsphmx3-thermal "
            "npu-thermal q6-hvx-thermal q6hvx-thermal cdsp-hvx-thermal cdsp-thermal compute-thermal compute-hvx-usr "
            "hvx-0",
        ),
        (
            "",
            "aoss0-thermal gpuss0-thermal ddr-thermal pm8150-thermal camera0-thermal modem0-thermal video-thermal "
            "battery soc skin-therm-usr cpu-0-0-lowf npu-lowf mem-thermal acpitz wlan-usr",
        ),
    ],
)
def test_zones_by_the_names_of_published_device_trees(kind: str, names: str, tmp_path: Path) -> None:
    """Every name for a CPU or NPU sensor counts as one, and neighbours do not."""
    for number, name in enumerate(names.split()):
        root = tmp_path / str(number)
        zone(root, number, name, 41_000, passive=95_000)
        assert read_state(root).zones == ({kind: Zone(41.0, 95.0)} if kind else {}), name


def test_the_lowest_passive_trip_of_the_hottest_zone_is_the_limit(tmp_path: Path) -> None:
    """Other zones' limits do not count, nor do trips of other kinds that are lower."""
    zone(tmp_path, 0, "nsp0-thermal", 70_000, passive=60_000)
    zone(tmp_path, 1, "nsp1-thermal", 71_000, hot=50_000, passive1=105_000, passive2=95_000, critical=115_000)
    assert read_state(tmp_path).zones == {"npu": Zone(71.0, 95.0)}


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    """However many zones, clocks and DSPs there are, a reading stays small; names are clipped and printable."""
    for number in range(200):
        zone(tmp_path, number, "cpu0-thermal", 40_000 + number)
        put(tmp_path / f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_cur_freq", "1000000")
        put(tmp_path / f"sys/class/devfreq/{number}.gpu{'x' * 90}/cur_freq", "500000000")
        put(tmp_path / f"sys/class/remoteproc/remoteproc{number}/name", f"cdsp{number}")
        put(tmp_path / f"sys/class/remoteproc/remoteproc{number}/state", "running" * 1000)
        put(tmp_path / f"dev/fastrpc-cdsp{number}", "")
    os.mkdir(os.fsencode(tmp_path) + b"/sys/class/devfreq/npu\xff")
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/sys/class/devfreq/npu\xff/cur_freq")), "500000000")
    reading = read_state(tmp_path)
    assert reading.zones["cpu"].celsius == 40.127
    assert list(reading.cpu_clocks) == [f"policy{number}" for number in range(32)]
    assert len(reading.device_clocks) == 64
    assert "npu\ufffd" in reading.device_clocks
    assert len(reading.remoteprocs) == 16
    assert len(reading.nodes) == 8
    names = [*reading.device_clocks, *reading.remoteprocs.values()]
    assert max(len(name.encode()) for name in names) <= 66


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nothing"])
def test_a_reading_is_cheap(name: str, tmp_path: Path) -> None:
    """A reading takes milliseconds at most; the best of many, since the machine is shared."""
    root = unpacked(name, tmp_path)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        read_state(root)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


FILES = (
    *(f"sys/class/thermal/thermal_zone0/{name}" for name in ("type", "temp", "policy", "trip_point_0_type")),
    "sys/class/thermal/thermal_zone0/trip_point_0_temp",
    *(f"sys/devices/system/cpu/cpufreq/policy0/{name}" for name in ("scaling_cur_freq", "scaling_max_freq")),
    *(f"sys/class/devfreq/npu/{name}" for name in ("cur_freq", "max_freq", "available_frequencies")),
    *(f"sys/class/remoteproc/remoteproc0/{name}" for name in ("name", "firmware", "state")),
    *(f"proc/pressure/{name}" for name in ("cpu", "io", "memory")),
)
WORDS = (
    b"cpu0-thermal",
    b"nsp",
    b"passive",
    b"running",
    b"cdsp",
    b"some total=1",
    b"45000",
    b"-1",
    b"1e9",
    b"\xff\x00",
)


@given(contents=st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=40)), min_size=16, max_size=16))
def test_no_content_of_any_file_raises(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the files hold, there is a reading, and its numbers are finite and in range."""
    root = tmp_path_factory.mktemp("tree")
    for path, content in zip(FILES, contents, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    reading = read_state(root)
    for found in reading.zones.values():
        assert -40 < found.celsius <= 200
    for clock in (*reading.cpu_clocks.values(), *reading.device_clocks.values()):
        assert all(value is None or 0 < value < 1e30 for value in (clock.current, clock.allowed, clock.highest))
    assert all(0 <= seconds < 1e12 for seconds in reading.stalled.values())


PRESSURE = "some avg10={} avg60=3.00 avg300=1.00 total=12345\nfull avg10={} avg60=2.00 avg300=1.00 total=2345"


@pytest.mark.parametrize(
    ("some", "full", "found"),
    [
        ("99.00", "9.99", None),
        ("12.00", "10.00", ("memory", "for 10 % of the last 10 s all tasks waited for memory")),
        ("100.00", "100.00", ("memory", "for 100 % of the last 10 s all tasks waited for memory")),
    ],
)
def test_thrashing_is_distress(tmp_path: Path, some: str, full: str, found: object) -> None:
    """All tasks waiting for memory is, some of them waiting is not."""
    put(tmp_path / "proc/pressure/memory", PRESSURE.format(some, full))
    assert distress(tmp_path) == found


def test_a_busy_board_is_not_in_distress(tmp_path: Path) -> None:
    """However long some task waits for a CPU or the disk, that is a board that is made use of."""
    for resource in ("cpu", "io"):
        put(tmp_path / f"proc/pressure/{resource}", PRESSURE.format("99.00", "98.00"))
    put(tmp_path / "proc/pressure/memory", PRESSURE.format("0.00", "0.00"))
    assert distress(tmp_path) is None


@pytest.mark.parametrize(
    ("milli", "found"),
    [(100_000, None), (104_900, None), (105_100, ("heat", "the NPU has 105 degrees C, its limit is 100"))],
)
def test_only_heat_beyond_what_a_governor_allows_is_distress(tmp_path: Path, milli: int, found: object) -> None:
    """A zone at its limit is held there; one that is 5 K beyond is out of hand."""
    zone(tmp_path, 0, "nspss0-thermal", milli, passive0=100_000)
    assert distress(tmp_path) == found


def test_heat_without_a_limit_is_no_distress(tmp_path: Path) -> None:
    """Where the kernel names no limit nobody can say what is too hot."""
    zone(tmp_path, 0, "nspss0-thermal", 120_000)
    assert distress(tmp_path) is None


def test_a_board_that_does_not_tell_is_not_in_distress(tmp_path: Path) -> None:
    """Without pressure stall information and thermal zones, or with nonsense in their place, nothing happens."""
    assert distress(tmp_path) is None
    put(tmp_path / "proc/pressure/memory", "full avg10=many avg60=0.00")
    assert distress(tmp_path) is None
