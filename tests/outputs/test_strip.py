"""The drawn audit: bounded, self-contained, escaped, and true to the cells it is made of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import UsageError
from monitor.outputs import strip as drawing
from monitor.records import Cell, Lane, Strip
from monitor.service.report import Drawing
from tests.outputs.specimens import AWKWARD, CPU_ONLY, FAILED, FALLBACK, HEALTHY

LANES: list[Lane] = ["accelerator", "cpu", "edge", "unattributed"]
VOID = {"meta", "br", "link", "img", "input"}

cells = st.builds(
    Cell,
    st.text(max_size=20),
    st.sampled_from(["Conv", "Relu", AWKWARD]),
    st.sampled_from(LANES),
    st.integers(0, 3),
    st.none() | st.sampled_from([0, 0, 1, 10**3, 10**9]),
    st.none() | st.floats(0, 1),
    st.text(max_size=20),
)


class Page(HTMLParser):
    """Reads a page, checks that its elements nest, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost one, which must be it."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is read, styles apart."""
        if "style" not in self._open:
            self.text += data


def alternating(count: int) -> tuple[Cell, ...]:
    """A graph whose ops change sides at every step: the worst to draw."""
    return tuple(
        Cell(f"node{n}", "Conv", LANES[n % 2], (n // 2 + 1) * (n % 2 == 0), 1 + n % 7, None, "why " * 30 * (n % 2))
        for n in range(count)
    )


@given(st.lists(cells, max_size=60))
def test_segments_tile_the_strip(drawn: list[Cell]) -> None:
    """Side by side, in order, without gap or overlap, every op in exactly one, and each as wide as its ops together."""
    weights = [cell.flops or 0 for cell in drawn]
    pieces = drawing.segments(drawn, weights, sum(weights))
    if not sum(weights):
        assert pieces == ()
        return
    assert sum(piece.width for piece in pieces) == pytest.approx(100)
    position = 0.0
    for piece in pieces:
        assert piece.start == pytest.approx(position)
        assert piece.width > 0
        position += piece.width
    even = drawing.segments(drawn, [1] * len(drawn), sum(weights))
    assert sum(len(piece.lines) + piece.rest for piece in even) == len(drawn)


def test_wide_ops_keep_their_own_segment_and_colour() -> None:
    """What can be seen is not merged, and what costs nothing between two of them does not widen anything."""
    drawn = [
        Cell("a", "Conv", "accelerator", 1, 60),
        Cell("cast", "Cast", "cpu", 0, 0, None, "refused"),
        Cell("b", "Selu", "cpu", 0, 10, 0.1, "no such op"),
        Cell("c", "Conv", "accelerator", 2, 30),
    ]
    pieces = drawing.segments(drawn, [60, 0, 10, 30], 100)
    assert [(piece.lane, round(piece.width)) for piece in pieces] == [
        ("accelerator", 60),
        ("cpu", 10),
        ("accelerator", 30),
    ]
    assert pieces[1].lines[0] == drawing.Line("b", "Selu", "10.0 %", "no such op")
    assert pieces[1].title == "CPU: 2 ops, 10.0 % of FLOPs"
    assert [mark.label for mark in drawing.brackets(drawn)] == ["P1", "CPU", "P2"]


def test_a_huge_graph_gives_a_small_file() -> None:
    """10,000 ops that alternate: at most two segments a pixel, under 3 MB, and the rest is counted."""
    drawn = alternating(10_000)
    weights = [cell.flops or 0 for cell in drawn]
    for pieces in (drawing.segments(drawn, weights, sum(weights)), drawing.segments(drawn, [1] * 10_000, sum(weights))):
        assert len(pieces) <= 2 * drawing.PIXELS
    text = drawing.render(FALLBACK, Strip(drawn, "session", 1, 1))
    assert len(text) < 3_000_000
    assert "and 8500 ops more" in Page(text).text


def test_the_file_needs_nothing_else() -> None:
    """No script, no link, no image, no import, nothing fetched; the browser is told to refuse whatever would be."""
    text = drawing.render(FALLBACK, Strip(alternating(50), "session", 1, 1))
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    attributes = [(name, value) for _, named in page.tags for name, value in named.items()]
    assert not [
        pair for pair in attributes if pair[0] in ("src", "href", "srcset", "action") or pair[0].startswith("on")
    ]
    assert not re.search(r"url\(|@import|https?:", text)
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    assert ("meta", policy) in page.tags


def test_names_and_reasons_are_escaped() -> None:
    """A model whose names are markup changes nothing but the text."""
    evil = '</span><script>alert(1)</script>" onmouseover="x'
    cell = Cell(evil, evil, "cpu", 0, 5, 0.5, evil)
    result = msgspec.structs.replace(FALLBACK, model=evil, reason=evil, notes=(evil,))
    page = Page(drawing.render(result, Strip((cell,), "study")))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, named in page.tags for name in named if name.startswith("on")]
    assert page.text.count("alert(1)") >= 5
    assert "\x1b" not in drawing.render(result, Strip((Cell(AWKWARD, "Op", "cpu", 0, 1),), "study"))


def test_processors_are_told_in_words_too() -> None:
    """Legend, segments and list name the processor, the picture has a description, colours come as patterns."""
    drawn = tuple(Cell(lane, "Op", lane, int(lane == "accelerator"), 25, None, "why") for lane in LANES)
    text = drawing.render(HEALTHY, Strip(drawn, "session", 1, 1))
    page = Page(text)
    for label in drawing.LANES.values():
        assert page.text.count(f"{label}: 25.0 % of FLOPs, 1 op") == 1
        assert page.text.count(label) >= 4
    assert sum(named.get("role") == "img" and bool(named.get("aria-label")) for _, named in page.tags) == 2
    assert all(re.search(rf"\.{lane} {{ background: [a-z-]+gradient", text) for lane in ("cpu", "edge", "unattributed"))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_what_was_not_measured_is_not_drawn() -> None:
    """A failed check says why; without FLOPs only the steps are drawn, and no share is made up."""
    failed = Page(drawing.render(FAILED, None))
    assert "Nothing was measured" in failed.text
    assert "i" not in {tag for tag, _ in failed.tags}
    steps = (Cell("partition 1", "partition", "accelerator", 1), Cell("x", "Selu", "cpu", reason="why"))
    unknown = Page(drawing.render(CPU_ONLY, Strip(steps, "session")))
    assert "nothing can be drawn by FLOPs" in unknown.text
    assert [tag for tag, _ in unknown.tags].count("i") == 2
    assert "% of FLOPs" not in unknown.text


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The path, what is wrong, what to do."""
    with pytest.raises(UsageError, match=r"^--html .*/none/x\.html: No such file or directory; name a file that"):
        Drawing(tmp_path / "none" / "x.html").write(HEALTHY)
