"""The board's gauges: what was read around the last check, by whatever the board calls it.

Names of clocks, processors and nodes come from the kernel, so that their number is bounded here. What the board does
not have has no family.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from monitor.records import RUNNING, BoardReading, Clock

MOST = 32
"""Series of one family at most, clocks apart, which have up to three each."""

_LONGEST = 64

Value = TypeVar("Value")
Rows = Iterable[tuple[tuple[str, ...], float | None]]


def families(reading: BoardReading) -> Iterator[Metric]:
    """The families of one reading. Empty ones are left out; so are values that are no numbers."""
    zones = _clipped(reading.zones)
    gauges: tuple[tuple[str, str, tuple[str, ...], Rows], ...] = (
        (
            "temperature_celsius",
            "Hottest thermal zone of its kind.",
            ("zone",),
            (((kind,), zone.celsius) for kind, zone in zones.items()),
        ),
        (
            "temperature_limit_celsius",
            "Where the kernel begins to slow down what the hottest zone measures.",
            ("zone",),
            (((kind,), zone.limit) for kind, zone in zones.items()),
        ),
        (
            "clock_hertz",
            "Clocks of CPUs and devices: what they run at, may run at now, and are made for.",
            ("clock", "bound"),
            _bounds(_clipped({**reading.cpu_clocks, **reading.device_clocks})),
        ),
        (
            "remoteproc_running",
            "Whether a compute DSP's firmware runs.",
            ("name",),
            (((name,), int(state in RUNNING)) for name, state in _clipped(reading.remoteprocs).items()),
        ),
        (
            "device_node_accessible",
            "Whether npumon's user may open a device node of the accelerator.",
            ("node",),
            (((node,), int(granted)) for node, granted in _clipped(reading.nodes).items()),
        ),
    )
    for name, documentation, labels, rows in gauges:
        yield from _filled(GaugeMetricFamily(f"npumon_board_{name}", documentation, labels=labels), rows)
    stalled = CounterMetricFamily(
        "npumon_board_stalled_seconds",
        "Time in which some task waited for a resource, since boot.",
        labels=("resource",),
    )
    yield from _filled(stalled, (((resource,), value) for resource, value in _clipped(reading.stalled).items()))


def _bounds(clocks: dict[str, Clock]) -> Rows:
    for name, clock in clocks.items():
        for bound, value in (("current", clock.current), ("allowed", clock.allowed), ("highest", clock.highest)):
            yield (name, bound), value


def _clipped(named: dict[str, Value]) -> dict[str, Value]:
    """The first of ``named``, with names that are short and, still, each there once."""
    return {name[:_LONGEST]: value for name, value in list(named.items())[:MOST]}


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Iterator[Metric]:
    for labels, value in rows:
        if value is not None and math.isfinite(value):
            family.add_metric(labels, value)
    if family.samples:
        yield family
