"""Durations as people write them (``60s``, ``12ms``, ``1m30s``), because a bare number in a file has no unit."""

from __future__ import annotations

import re

UNITS = {"d": 86_400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3}
# Digits are bounded: int() refuses beyond 4300 of them, and the total must stay a finite float.
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in UNITS))


def parse_duration(text: str) -> float:
    """Seconds of ``text``: numbers with ``d``, ``h``, ``m``, ``s``, ``ms`` or ``us``, largest first, each at most once.

    Counted in whole nanoseconds, so ``12ms`` is the float nearest to 0.012. Raises :class:`ValueError`.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"not a duration: {text!r}")
    total = 0
    for unit, number in match.groupdict(default="0").items():
        whole, _, fraction = number.partition(".")
        total += int(whole) * UNITS[unit] + int(fraction or "0") * UNITS[unit] // 10 ** len(fraction)
    return total / 10**9


def format_duration(seconds: float) -> str:
    """A text that :func:`parse_duration` turns back into ``seconds`` (finite, not negative), to the nanosecond."""
    left = round(seconds * 10**9)
    text = ""
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if unit == "us" and left:  # the last one takes the rest
            text += f"{count}.{left:03d}".rstrip("0") + unit
        elif count:
            text += f"{count}{unit}"
    return text or "0s"
