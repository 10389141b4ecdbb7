"""Where the time of the profiled runs went, as the host saw it, joined to the nodes of the partitioned graph.

The CPU's later optimizations rename once more: convolutions in blocked layout are called after the value they make
(``r_nchwc``), with what was fused into them. Their time goes to the node at the start of such a chain.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from monitor.analysis.cover import strip_token
from monitor.records import Node, Profile, Study

_BLOCKED = "_nchwc"


def npu_time(profile: Profile | None) -> float | None:
    """Share of the nodes' time that the accelerator's partitions took; ``None`` unless the profile is whole."""
    if profile is None or profile.partial:
        return None
    spans = [span for run in profile.runs for span in run if not span.nested]
    total = sum(span.seconds for span in spans)
    if total <= 0:
        return None
    return sum(span.seconds for span in spans if span.processor == "accelerator") / total


def node_times(profile: Profile | None, study: Study | None) -> dict[str, float]:
    """Each CPU node's share of the nodes' time, by its name in the partitioned graph; empty without a whole profile."""
    if profile is None or profile.partial:
        return {}
    total = sum(span.seconds for run in profile.runs for span in run if not span.nested)
    times: dict[str, float] = defaultdict(float)
    for run in profile.runs:
        for span in run:
            if span.processor == "cpu" and total > 0:
                times[strip_token(span.name)] += span.seconds / total
    if study is not None:
        producers = {value: node for node in study.partitioned for value in node.outputs}
        for name in [name for name in times if name.endswith(_BLOCKED)]:
            head = _head(name.removesuffix(_BLOCKED), producers, set(times))
            if head is not None:
                times[head] += times.pop(name)
    return dict(times)


def _head(value: str, producers: dict[str, Node], spans: set[str]) -> str | None:
    """The first node of the fused chain that makes ``value``: walk back over nodes without a span of their own."""
    head: str | None = None
    node = producers.get(value)
    while node is not None and node.name not in spans:
        head = node.name
        if node.op_type == "Conv":
            break
        value = next((v for v in node.inputs if v in producers), "")
        node = None if f"{value}{_BLOCKED}" in spans else producers.get(value)
    return head


def handoffs(profile: Profile | None) -> int | None:
    """How often an inference changed between accelerator and CPU, the most of any profiled run; ``None`` without one.

    The steps of one inference are taken in the order they ended, so that for a parallel executor it is an estimate.
    """
    if profile is None or profile.partial or not profile.runs:
        return None
    sides = [[span.processor for span in run if not span.nested] for run in profile.runs]
    return max(sum(one != other for one, other in pairwise(run)) for run in sides)
