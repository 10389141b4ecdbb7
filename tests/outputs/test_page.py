"""The status page: what it says, that it is one calm static document, and that no name can break out of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.outputs import page
from monitor.records import CheckResult, Incident, ModelState, Shifted, Unstable
from tests.outputs import strategies
from tests.outputs.specimens import (
    AWKWARD,
    BOARD,
    CPU_ONLY,
    FAILED,
    FALLBACK,
    HEALTHY,
    NOW,
    SIMULATOR,
    SLOW,
    SLOW_STANDING,
)

ALL = (FALLBACK, HEALTHY, FAILED, CPU_ONLY)
VOID = {"meta", "br"}


class Document(HTMLParser):
    """A strict reader: every element closes in order; collects tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open ``tag``."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close ``tag``, which must be the innermost."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text outside the style sheet."""
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def show(*results: CheckResult, models: Sequence[str] | None = None, **states: ModelState) -> Document:
    """The page of ``results``, read."""
    names = [result.model for result in results] if models is None else models
    return Document(page.render({result.model: result for result in results}, BOARD, NOW, names, states))


def test_it_says_what_an_engineer_needs() -> None:
    """Which model, which op, since when, why, what to do; and the three signals, the board and the runtime."""
    since = ModelState("swift_f0", fallback=Incident("i", NOW - 7300))
    text = show(FALLBACK, swift_f0=since).text
    for words in (
        *("board-17", "QCS6490", "QNNExecutionProvider 2.7.0, backend v2.51.0, onnxruntime 1.32.0"),
        *("swift_f0 fallback dynamic_shape began 2 h ago", "1 fallback"),
        *("median 8.24 ms", "CV 3.1 %", "NPU FLOPs 3.9 %"),
        *("Conv × 18", "90.9 % of FLOPs", "Dynamic shape is not supported yet"),  # noqa: RUF001
        *("What to do: fix the dimension `samples`", "last check 42 s ago", "took 1.84 s"),
        *("simulator (a prediction, not hardware)", "synthetic (made from the signature, not real data)"),
    ):
        assert words in text


def test_no_check_yet() -> None:
    """Before the first check each model is there, unknown, and says so."""
    text = show(models=["a", "b"]).text
    assert "2 unknown" in text
    assert "a unknown no check yet b unknown no check yet" in text


def test_no_model() -> None:
    """With nothing to watch the page says that."""
    assert "No model is configured." in show().text


def test_a_failed_check_shows_no_figures() -> None:
    """A failed check says why and what mends it; no signal and no op of before is shown."""
    text = show(msgspec.structs.replace(FALLBACK, error=FAILED.error)).text
    assert "Nothing was measured ( probe_timeout ): the probe did not answer" in text
    assert "What to do: raise models.timeout" in text
    assert "swift_f0 unknown" in text
    assert "8.24 ms" not in text
    assert "Conv" not in text


def test_unmeasured_is_a_dash() -> None:
    """Shares and latencies that were not measured are dashes, not zeros."""
    text = show(CPU_ONLY).text
    assert "median – CV – NPU FLOPs –" in text  # noqa: RUF001


def test_worst_verdict_heads_the_page() -> None:
    """The badge counts verdicts, worst first, and has the worst one's colour."""
    html = page.render({result.model: result for result in ALL}, BOARD, NOW, [result.model for result in ALL])
    assert '<span class="badge fallback">2 fallback, 1 unknown, 1 healthy</span>' in html


def test_since_when_only_while_something_is_wrong() -> None:
    """A healthy model shows no incident; of several open ones the oldest counts."""
    state = ModelState("m", fallback=Incident("i", NOW - 600), failure=Incident("j", NOW - 1200))
    assert "began 20 min ago" in show(msgspec.structs.replace(FALLBACK, model="m"), m=state).text
    assert "began" not in show(msgspec.structs.replace(HEALTHY, model="m"), m=state).text


def test_a_slow_model_and_what_it_is_measured_against() -> None:
    """Baseline and gates stand under the figures, the slow mode under the CV, and each open incident has its ID."""
    state = ModelState(
        "detector",
        unstable=Unstable("detector-unstable-6921f004", NOW - 1300),
        shifted=Shifted("detector-shifted-6921f100", NOW - 600),
    )
    html = page.render({"detector": SLOW}, BOARD, NOW, ["detector"], {"detector": state}, {"detector": SLOW_STANDING})
    text = Document(html).text
    for words in (
        "median 12.1 ms normal 12.1 ms, gate 15.1 ms CV 41.0 % 10.0 % slow, 3 times NPU FLOPs > 99.9 % gate 95.0 %",
        "detector degraded slow_accelerator began 22 min ago",
        "incident detector-unstable-6921f004 , 22 min ago",
        "incident detector-shifted-6921f100 , 10 min ago",
    ):
        assert words in text
    young = msgspec.structs.replace(SLOW_STANDING, baseline_seconds=None, gate_median_seconds=None)
    html = page.render({"detector": SLOW}, BOARD, NOW, ["detector"], {}, {"detector": young})
    assert "median 12.1 ms CV 41.0 %" in Document(html).text


def test_stale_results_are_called_so() -> None:
    """A model that is not checked any more is marked, with or without a result; who is not told so is not."""
    names = ["qdq_net", "swift_f0", "never"]
    results = {"qdq_net": HEALTHY, "swift_f0": FALLBACK}
    text = Document(page.render(results, BOARD, NOW, names, stale={"qdq_net", "never"})).text
    assert "qdq_net healthy stale No check has ended for too long: this is from 5 s ago. See /healthz" in text
    assert "never unknown stale No check has ended for too long. See /healthz and the log. no check yet" in text
    assert text.count("stale") == 2


def test_simulator_notice_only_on_a_simulator() -> None:
    """The notice about the simulator stands on its pages and on no board's."""
    hexagon = msgspec.structs.replace(HEALTHY, runtime=msgspec.structs.replace(SIMULATOR, target="hexagon"))
    assert "This runs on a simulator" in show(HEALTHY).text
    assert "This runs on a simulator" not in show(hexagon).text


def test_static_and_self_contained() -> None:
    """No script, no handler, nothing fetched from anywhere; readable on a phone, and in the dark."""
    html = page.render({result.model: result for result in ALL}, BOARD, NOW, [result.model for result in ALL])
    document = Document(html)
    assert not {"script", "link", "img", "iframe", "form"} & document.tags
    assert not [name for name in document.attributes if name.startswith("on") or name == "src"]
    assert not re.search(r"https?://|@import|url\(", html)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "prefers-color-scheme: dark" in html
    assert '<html lang="en">' in html


def test_names_are_escaped() -> None:
    """Markup in names and reasons is shown, not interpreted."""
    attack = "<script>alert(1)</script>"
    op = msgspec.structs.replace(FALLBACK.placement.ops[0], node=attack, reason=attack, remedy=attack)  # type: ignore[union-attr]
    placement = msgspec.structs.replace(FALLBACK.placement, ops=(op,))  # type: ignore[type-var]
    document = show(msgspec.structs.replace(FALLBACK, model=attack + AWKWARD, reason=attack, placement=placement))
    assert "script" not in document.tags
    assert document.text.count(attack) >= 5


@given(st.lists(strategies.results, max_size=3), strategies.boards)
@settings(max_examples=50)
def test_any_result_is_a_well_formed_page(results: list[CheckResult], board: object) -> None:
    """Whatever a result holds, the page is well-formed and can be sent."""
    names = [result.model for result in results]
    html = page.render({result.model: result for result in results}, board, NOW, names)  # type: ignore[arg-type]
    assert Document(html).tags >= {"html", "head", "body", "main"}
    assert html.encode("utf-8", "replace")


def test_text_is_readable_on_its_ground() -> None:
    """Every text colour has at least WCAG's contrast of 4.5 on each ground it stands on, by day and by night."""
    html = page.render({}, BOARD, NOW, [])
    themes = re.findall(r":root \{([^}]*)\}", html)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", theme))
        pairs = [(text, ground) for text in ("text", "soft") for ground in ("page", "card")]
        pairs += [(verdict, f"{verdict}-bg") for verdict in ("healthy", "degraded", "fallback", "unknown")]
        for text, ground in pairs:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two ``#rgb`` or ``#rrggbb`` colours."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance, 0-1."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("module", ["monitor.outputs.page", "monitor.outputs.web"])
def test_jinja_is_not_imported_until_someone_looks(module: str) -> None:
    """A daemon whose page nobody opens does not pay for the template engine."""
    program = f"import sys, {module}; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
