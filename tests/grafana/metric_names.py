"""Every metric name that exists, for tests of what queries them: what the code exports, and what the rules record."""

from __future__ import annotations

import re
from pathlib import Path

from tools import reference

ROOT = Path(__file__).resolve().parents[2]


def exported() -> frozenset[str]:
    """The names of npumon's series; a histogram's with ``_bucket``, ``_sum`` and ``_count``."""
    metrics = reference.metrics()
    parts = {metric.name + suffix for metric in metrics if metric.type == "histogram" for suffix in _PARTS}
    return frozenset(metric.name for metric in metrics) | parts


def recorded() -> frozenset[str]:
    """The names that the recording rules give."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "grafana" / "rules").glob("*.yml"))]
    return frozenset(re.findall(r"^\s*- record: (\S+)$", "\n".join(texts), re.MULTILINE))


def used(expr: str) -> frozenset[str]:
    """Npumon's names in an expression, recorded ones included."""
    return frozenset(re.findall(r"(?<![\w:\"])(?:\w+:)?npumon_\w+(?::\w+)?(?=[\s{\[(),]|$)", expr))


_PARTS = ("_bucket", "_sum", "_count")
