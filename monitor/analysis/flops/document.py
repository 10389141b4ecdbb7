"""``docs/flops.md``, written from the tables that count, so that the page cannot say anything else.

``python -m monitor.analysis.flops.document > docs/flops.md`` renews it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from monitor.analysis.flops import contrib, elementwise, standard
from monitor.analysis.flops.rule import Rule

_HEAD = """\
# How FLOPs are counted

Generated from `monitor/analysis/flops`; renew it with `python -m monitor.analysis.flops.document > docs/flops.md`.

1 MAC is 2 FLOPs; a bias costs 1 FLOP per output element. Any other arithmetic op counts what its ONNX function body
does per element; data movement, casts and (de)quantization count 0. Taps on padding and masked attention scores count.
Where a shape that the rule needs is missing, or the op has no rule, the count is *unknown*: reported apart, never
guessed.

Sources: *function body*: the body in the op's ONNX schema, checked by `tests/analysis/test_flops.py`. *documented
formula*: the equation in the op's documentation (ONNX operators, or ONNX Runtime contrib operators). *as the float op*:
a quantized form costs what it approximates. *convention*: ours, for want of one.
"""


def page() -> str:
    """The whole page."""
    sections = [
        _HEAD,
        f"Primitives, 1 FLOP per output element each: {', '.join(sorted(elementwise.PRIMITIVES))}.\n",
        _section("ai.onnx", standard.STANDARD, standard.UNKNOWN),
        _section("Layouts that ORT rewrites into (com.ms.internal.nhwc, com.microsoft.nchwc)", standard.LAYOUT, {}),
        _section("com.microsoft", contrib.CONTRIB, contrib.UNKNOWN),
        _section("ai.onnx.ml", standard.ML, standard.ML_UNKNOWN),
    ]
    return "\n".join(sections)


def _section(title: str, table: Mapping[str, Rule], unknown: Mapping[str, str]) -> str:
    rows = sorted((rule.convention, rule.source, name) for name, rule in table.items() if rule.source != "primitive")
    lines = [f"## {title}\n", "| ops | FLOPs | source |", "|---|---|---|"]
    grouped = [
        (", ".join(name for *_, name in same), convention, source)
        for (convention, source), same in groupby(rows, key=lambda row: row[:2])
    ]
    lines += [f"| {names} | {convention} | {source} |" for names, convention, source in sorted(grouped)]
    reasons = sorted((why, name) for name, why in unknown.items())
    for why, same in groupby(reasons, key=lambda reason: reason[0]):
        lines.append(f"| {', '.join(name for _, name in same)} | unknown: {why} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
