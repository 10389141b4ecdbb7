"""Every metric name that exists, for tests of what queries them: what the code exports, and what the rules record."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "outputs" / "golden"

# Exported, and not yet in docs/metrics.md or in a golden exposition. A name goes from here once it is.
UNDOCUMENTED = frozenset({"npumon_check_stale", "npumon_interval_seconds"})


def exported() -> frozenset[str]:
    """The names of npumon's series, with ``_bucket``, ``_sum`` and ``_count``: the documented and the golden ones.

    ``tests/test_docs.py`` compares the documented ones with the code.
    """
    documented = re.findall(
        r"^\| `(npumon_\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    golden = "\n".join(path.read_text(encoding="utf-8") for path in sorted(GOLDEN.glob("*.prom")))
    return frozenset([*documented, *re.findall(r"^(npumon_\w+)", golden, re.MULTILINE)]) | UNDOCUMENTED


def recorded() -> frozenset[str]:
    """The names that the recording rules give."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "grafana" / "rules").glob("*.yml"))]
    return frozenset(re.findall(r"^\s*- record: (\S+)$", "\n".join(texts), re.MULTILINE))


def used(expr: str) -> frozenset[str]:
    """Npumon's names in an expression, recorded ones included."""
    return frozenset(re.findall(r"(?<![\w:\"])(?:\w+:)?npumon_\w+(?::\w+)?(?=[\s{\[(),]|$)", expr))
