"""Axes of a chart: round values on them, and where a value stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

LEFT: Final = 66.0
RIGHT: Final = 988.0
"""Where the axis of time begins and ends, in a drawing that is 1000 wide."""
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


class Tick(Struct, frozen=True):
    """A place on an axis, and what stands there."""

    at: float
    label: str


def axis(whole: float) -> Callable[[float], float]:
    """Where a moment of ``whole`` seconds stands between :data:`LEFT` and :data:`RIGHT`."""
    return lambda elapsed: LEFT + min(max(elapsed / whole if whole else 0.0, 0.0), 1.0) * (RIGHT - LEFT)


def scaled(
    low: float, high: float, top: float, height: float, form: str
) -> tuple[tuple[Tick, ...], Callable[[float], float]]:
    """Ticks at round values, and where a value stands; what is beyond the scale stands at its edge."""
    span = high - low or 1.0

    def level(value: float) -> float:
        return top + height - min(max((value - low) / span, 0.0), 1.0) * height

    count = 5 if height > 100 else 3
    return tuple(Tick(level(value), form.format(value)) for value in nice(low, high, count)), level


def nice(low: float, high: float, count: int) -> list[float]:
    """Round values from ``low`` to ``high``, about ``count`` of them."""
    rough = (high - low) / count
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def times(whole: float, place: Callable[[float], float]) -> Iterator[Tick]:
    """Ticks of the time axis, in the unit that suits the whole."""
    size, unit = next(((size, unit) for size, unit in _UNITS if whole >= 2 * size), _UNITS[-1])
    for value in nice(0.0, whole / size, 8):
        yield Tick(place(value * size), f"{value:g} {unit}")


def unit_of(seconds: float) -> tuple[float, str]:
    """The unit that suits a duration: its size in seconds, and its name."""
    if seconds < 1e-3:
        return 1e-6, "µs"
    return (1e-3, "ms") if seconds < 1 else (1.0, "s")
