"""What the application itself measured of a model, and how that compares with npumon's replays."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Ledger(Struct, frozen=True):
    """The counts of one process of the application, as ``monitor.capture`` writes them (docs/capture.md).

    ``bins`` are calls by :data:`monitor.bins.EDGES`, ``seconds`` is their sum, ``shapes`` counts a sample of the calls
    by the shapes of their inputs. ``since`` and ``until`` are UTC seconds.
    """

    version: Literal[1]
    since: float
    until: float
    bins: tuple[int, ...]
    seconds: float
    shapes: dict[str, int] = {}
    dropped: int = 0


class Calls(Struct, frozen=True, array_like=True):
    """Calls in some stretch of time: by bin (those that are not empty), their sum, and by bin for each process.

    ``shapes`` counts the last ones by the shapes of their inputs, of as many as are known of, also from before.
    """

    bins: dict[int, int] = {}
    seconds: float = 0.0
    shapes: dict[str, int] = {}
    processes: dict[str, dict[int, int]] = {}


class Production(Struct, frozen=True):
    """The application's calls beside the replays of the same time.

    Of several processes those of the one that is furthest from the replays, if that is further than all together:
    ``process``, the name of its ledger, which has its process id. ``ratio`` is its median by theirs. ``covered_ratio``
    is the share of the calls whose input shapes are among the replayed samples'; ``None`` if these are not known. The
    histograms count by upper bounds in seconds, ``+Inf`` last.
    """

    calls: int
    median_seconds: float
    p95_seconds: float
    ratio: float
    covered_ratio: float | None = None
    histogram: dict[str, int] = {}
    replays_histogram: dict[str, int] = {}
    process: str | None = None
