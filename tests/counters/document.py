"""``docs/counters.md``, written from what both counters say here and now, so that the page cannot say anything else.

``python -m tests.counters.document`` renews the part on onnx-tool, and the part on torch where torch is installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from tests.counters.conventions import CONVENTIONS, explain
from tests.counters.tally import MAC_OPS, Line, Tally, tally
from tests.counters.zoo import ZOO
from tests.published import NAMES, published

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"
ONNX_TOOL, TORCH = "## onnx-tool", "## torch.utils.flop_counter"

_HEAD = """\
# Our FLOPs against other counters

Generated; renew it with `python -m tests.counters.document`. How npumon counts is said in [flops.md](flops.md).

What is compared are multiply-accumulates: FLOPs / 2 of the nodes that multiply and accumulate, in one inference. Both
are joined node by node, and wherever they differ at all one of the conventions below gives the other counter's number
to the last multiply-accumulate; `tests/counters` asserts that, and that this page is what it finds.
"""

_MODELS = """\
Free dimensions are those that npumon assumes for synthesized inputs. *Shapes* says whose: onnx-tool's own inference
over the whole graph (functions inlined), or, where that stops, the ones (and the numbers of executions) that the
study recorded.

| model | nodes | npumon, MACs | onnx-tool, MACs | difference | shapes | explained by |
|---|---:|---:|---:|---:|---|---|
"""

_CONVENTIONS = """
### Conventions

| difference | onnx-tool | npumon | because | nodes here |
|---|---|---|---|---:|
"""

_STOPPED = """
### What stops onnx-tool's shape inference

| model | error |
|---|---|
"""

_OTHERS = f"""
### Arithmetic without multiply-accumulates

onnx-tool adds its "MACs" of these ops to the same total, weighed by the instructions that they take (an addition 1, a
division 4, an exponential 32); npumon counts 1 FLOP a primitive. The sums are over all models above, without the ops
that the first table compares: {", ".join(sorted(MAC_OPS))}.

| op | npumon, FLOPs | onnx-tool, "MACs" |
|---|---:|---:|
"""


def published_models() -> list[Tally]:
    """Both counts of every published model."""
    return [tally(name, published(name)) for name in NAMES]


def zoo_models(folder: Path) -> list[Tally]:
    """Both counts of every model of the zoo, whose files go into ``folder``."""
    tallies = []
    for name, build in ZOO.items():
        path = folder / f"{name}.onnx"
        onnx.save(build(), str(path))
        tallies.append(tally(name, path))
    return tallies


def onnx_tool_part(tallies: Sequence[Tally]) -> str:
    """The part of the page on onnx-tool."""
    rows = [
        f"| {one.name} | {len(one.mac_lines)} | {one.ours():,.10g} | {one.theirs():,} | {_difference(one)} "
        f"| {'study' if one.stopped else 'its own'} | {', '.join(explained(one))} |"
        for one in tallies
    ]
    found = [name for one in tallies for name in map(explain, differing(one))]
    conventions = [f"| {c.name} | {c.theirs} | {c.ours} | {c.because} | {found.count(c.name)} |" for c in CONVENTIONS]
    stopped = [f"| {one.name} | {one.stopped} |" for one in tallies if one.stopped]
    sections = (_MODELS, rows), (_CONVENTIONS, conventions), (_STOPPED, stopped), (_OTHERS, list(_other_rows(tallies)))
    return f"{ONNX_TOOL}\n\n" + "".join(head + "\n".join(lines) + "\n" for head, lines in sections)


def differing(one: Tally) -> list[Line]:
    """The lines on which the counters do not agree to the last multiply-accumulate."""
    return [line for line in one.mac_lines if line.macs != line.theirs]


def explained(one: Tally) -> list[str]:
    """The conventions at work in one model, as the page names them."""
    return sorted({explain(line) or "NOTHING" for line in differing(one)})


def _difference(one: Tally) -> str:
    if not one.theirs():
        return "not counted"
    return f"{one.ours() / one.theirs() - 1:+.2%}" if one.ours() != one.theirs() else "0"


def _other_rows(tallies: Iterable[Tally]) -> Iterable[str]:
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for line in (line for one in tallies for line in one.lines if line.node.op_type not in MAC_OPS):
        ours, theirs = sums[line.node.op_type]
        sums[line.node.op_type] = ours + line.ours * line.executions, theirs + line.theirs * line.executions
    return (f"| {op} | {ours:,} | {theirs:,} |" for op, (ours, theirs) in sorted(sums.items()))


def parts() -> dict[str, str]:
    """The generated parts of the page by heading."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    _, _, rest = text.partition(ONNX_TOOL)
    first, _, second = rest.partition(TORCH)
    return {ONNX_TOOL: f"{ONNX_TOOL}{first.rstrip()}\n", TORCH: f"{TORCH}{second.rstrip()}\n"}


def main() -> None:
    """Renew what can be renewed here."""
    current = parts()
    with tempfile.TemporaryDirectory(prefix="npumon-counters-") as folder:
        current[ONNX_TOOL] = onnx_tool_part([*published_models(), *zoo_models(Path(folder))])
        if importlib.util.find_spec("torch") is not None:
            from tests.counters import exported

            current[TORCH] = exported.part(exported.exports(Path(folder)))
    PAGE.write_text("\n".join((_HEAD, *current.values())), encoding="utf-8")


if __name__ == "__main__":
    main()
