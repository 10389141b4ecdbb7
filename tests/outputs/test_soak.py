"""What a soak writes: its file, its page, and the tests that a pipeline shows."""

from __future__ import annotations

import re
import sqlite3
import struct
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.errors import UsageError
from monitor.outputs import soak, soak_file, soak_rows
from monitor.outputs.axes import LEFT, RIGHT
from monitor.outputs.junit import Case, junit
from monitor.outputs.soak_charts import bars, timeline
from monitor.outputs.soak_page import render
from monitor.records.soak import Histogram, Subject
from monitor.service.soak_report import Report, read
from tests.soak import night
from tests.soak.night import HOUR, Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of two models, with everything that a report can show."""
    folder = tmp_path_factory.mktemp("soak")
    models = [Model("a<b>", 0.008, 1, drift=0.2, fails=(HOUR,)), Model("moves", 0.02, 2, moves=1.2 * HOUR)]
    night.write(folder, models, hours=2, cut=HOUR)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    """What is in it."""
    return read(folder)


class Page(HTMLParser):
    """Checks that elements are closed in the order they were opened, and collects what a page loads."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it, and whatever it refers to."""
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        assert tag not in ("script", "link", "img", "iframe")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of a drawing that closes itself."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must be the one that was opened last."""
        assert self.open.pop() == tag


def test_what_is_kept_comes_back(folder: Path) -> None:
    """Every check comes back whole: its replays to the last bit, its placement, its board."""
    with soak_file.existing(folder) as file:
        kept = list(file.kept("moves"))
    assert len(kept) == 120
    assert [one.elapsed for one in kept] == sorted(one.elapsed for one in kept)
    latency = kept[0].result.latency
    assert latency is not None
    assert len(latency.replays_seconds) == 30
    again = Model("moves", 0.02, 2, moves=1.2 * HOUR).check(60.0, 2 * HOUR, 58.0, True)[0]
    assert again.latency is not None
    assert latency.replays_seconds == again.latency.replays_seconds
    assert kept[0].result.placement == again.placement
    assert kept[0].result.after is not None
    assert kept[0].result.after.zones.keys() == {"cpu", "npu"}


def test_the_file_can_be_read_without_npumon(folder: Path) -> None:
    """As docs/soak.md says: plain tables, JSON, and replays as little-endian doubles."""
    with closing(sqlite3.connect(folder / "soak.db")) as connection:
        rows = connection.execute(
            "SELECT json_extract(record, '$.latency.median_seconds'), replays FROM checks WHERE model = 'moves'"
        ).fetchall()
        shares = connection.execute(
            "SELECT DISTINCT json_extract(record, '$.placement.npu_flops_ratio') FROM contents ORDER BY 1"
        ).fetchall()
    median, blob = rows[0]
    replays = struct.unpack(f"<{len(blob) // 8}d", blob)
    assert sorted(replays)[14] <= median <= sorted(replays)[15]
    assert [share for (share,) in shares if share] == [0.822, 1.0]


def test_what_checks_share_is_kept_once(folder: Path) -> None:
    """240 checks have three contents: of the one that failed, and of two placements."""
    with closing(sqlite3.connect(folder / "soak.db")) as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (3,)
    assert (folder / "soak.db").stat().st_size < 240 * 3000


@given(st.lists(st.floats(allow_nan=False), max_size=40))
def test_replays_are_packed_without_loss(seconds: list[float]) -> None:
    """Packing is little-endian doubles, and unpacking its reverse."""
    assert soak_rows.pack(seconds) == struct.pack(f"<{len(seconds)}d", *seconds)
    assert soak_rows.unpack(soak_rows.pack(seconds)) == tuple(seconds)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"onnxruntime": "1.33.0"}, "onnxruntime was 1.32.0, is 1.33.0"),
        ({"pace_seconds": 5.0}, "pace was 60.0, is 5.0"),
        ({"models": {"x": {}}}, "models were a<b>, moves, are x"),
    ],
)
def test_another_subject_is_refused(folder: Path, change: dict[str, object], told: str) -> None:
    """What would mix two things in one soak is refused by the first difference, and nothing is written."""
    with soak_file.existing(folder) as file:
        subject, wanted = file.subject, file.wanted
    other = replace(subject, **change)
    before = (folder / "soak.db").stat().st_size
    with pytest.raises(UsageError) as caught:
        soak_file.begun(folder, other, 99.0)
    assert str(caught.value) == f"{folder}: --out: a soak of another configuration: {told}; name another folder"
    assert (folder / "soak.db").stat().st_size == before
    with soak_file.existing(folder) as file:
        assert file.wanted == wanted


def test_two_soaks_do_not_share_a_folder(tmp_path: Path) -> None:
    """While one runs, another is refused in one line; once it is over, the folder is free."""
    subject = Subject("qnn", "1", "2", 0.0, {"m": {}})
    with (
        soak_file.begun(tmp_path, subject, 10.0),
        pytest.raises(UsageError, match="another npumon soak runs here; end it or name another folder"),
    ):
        soak_file.begun(tmp_path, subject, 10.0)
    with soak_file.begun(tmp_path, subject, 20.0) as file:
        assert file.wanted == 20.0


def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    """One document: well-formed, self-contained, names escaped, every model, event and interruption in it."""
    text = render(report.result, {name: course.moments for name, course in report.courses.items()})
    page = Page()
    page.feed(text)
    assert page.open == []
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert "a<b>" not in text
    assert "a&lt;b&gt;" in text
    for word in ("fallback_detected", "check_failed", "LayerNormalization", "the board was started anew", "drift +"):
        assert word in text
    assert not re.search(r"(?i)\b(nan|inf)\b[,\"]", text)


def test_a_median_that_fell_did_not_stay(tmp_path: Path) -> None:
    """A fall is no finding, and the question whether the median stayed is not answered with yes."""
    night.write(tmp_path, [Model("m", 0.008, 1, drift=-0.2)], hours=2)
    report = read(tmp_path)
    assert report.result.models[0].findings == ()
    text = render(report.result, {name: course.moments for name, course in report.courses.items()})
    (answer,) = re.findall(r'<div class="(\w+)"><dt>Did the median stay\?</dt><dd>(.*?)</dd>', text)
    assert answer[0] == "told"
    assert re.match(r"it fell: −1\d\.\d", answer[1])  # noqa: RUF001


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.04, "0s"),
        (42.51, "42.5s"),
        (45.1, "45.1s"),
        (59.97, "1m"),
        (90.4, "1m30s"),
        (5400.0, "1h30m"),
        (5431, "1h31m"),
    ],
)
def test_a_length_is_told_as_people_say_it(seconds: float, told: str) -> None:
    """Tenths of a second, then seconds, then minutes: as much as matters."""
    assert soak.length(seconds) == told


def test_an_early_end_is_seen_at_the_top(report: Report) -> None:
    """A soak that is not complete says so beside its verdict, where nobody can take it for a pass."""
    moments = {name: course.moments for name, course in report.courses.items()}
    assert ">incomplete<" not in render(report.result, moments)
    assert ">incomplete<" in render(replace(report.result, wanted_seconds=9 * HOUR), moments)


@pytest.mark.parametrize("checks", [1, 2, 7])
def test_a_short_soak_has_a_report(tmp_path: Path, checks: int) -> None:
    """From the first check on there is a report, in which what takes more of them cannot be told."""
    night.write(
        tmp_path,
        [Model("m", 0.008, 1), Model("fails", 0.008, 2, fails=(60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 420.0))],
        hours=checks / 60,
    )
    report = read(tmp_path)
    measured, failed = report.result.models
    assert (measured.verdict, failed.verdict) == ("healthy", "unknown")
    assert measured.drift.why == (
        "1 check is too few to tell" if checks == 1 else f"{checks} checks are too few to tell"
    )
    page = Page()
    page.feed(render(report.result, {name: course.moments for name, course in report.courses.items()}))
    assert page.open == []
    outcomes = {
        (case.get("classname"), case.get("name")): [part.tag for part in case]
        for case in ElementTree.fromstring(soak.cases(report.result)).iter("testcase")
    }
    assert outcomes["m", "drift"] == ["skipped"]
    assert outcomes["fails", "drift"] == ["error"]
    assert "cannot be told" in soak.table(report.result, colour=False)


def test_everything_is_drawn_inside_of_its_frame(report: Report) -> None:
    """No line, box or mark leaves the drawing, and panels do not overlap."""
    for model in report.result.models:
        moments = report.courses[model.model].moments
        chart = timeline(moments, model.spans, report.result.gaps, model.events, model.drift, 2 * HOUR)
        for above, below in zip(chart.panels, chart.panels[1:], strict=False):
            assert above.bottom < below.top
        assert len(chart.panels) == 6
        flag, title = 17.0, 7.0 + 12.0  # below the one, and over the panel above the other, is nothing but space
        assert chart.panels[0].top - title > flag
        for panel in chart.panels:
            for line in (*panel.lines, *panel.bands):
                for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", line.path):
                    assert LEFT - 0.1 <= float(x) <= RIGHT + 0.1
                    assert panel.top - 0.1 <= float(y) <= panel.bottom + 0.1
            for box in panel.boxes:
                assert box.x + box.width <= RIGHT + 0.1
                assert box.width >= 0
        assert all(LEFT <= mark.at <= RIGHT for mark in chart.marks)


def test_a_histogram_counts_all(report: Report) -> None:
    """Both quarters are shares that sum to 1, over the same edges; the drawing has a step for each bin."""
    histogram = report.result.models[0].histogram
    assert histogram is not None
    for shares in (histogram.first, histogram.last):
        assert sum(shares) == pytest.approx(1)
        assert len(shares) == len(histogram.edges) - 1
    drawn = bars(Histogram((1.0, 2.0, 3.0), (0.5, 0.5), (0.0, 1.0)))
    assert drawn.first.count("L") == 5
    assert drawn.last.count("L") == 5


def test_the_summary_has_every_answer(report: Report) -> None:
    """Verdict, intervals, spans and gaps are there under their documented keys; what was not measured is not."""
    found = soak.document(report.result)
    assert found["format"] == 1
    assert found["complete"]
    first, second = found["models"]
    assert first["drift"].keys() >= {"ratio", "low", "high", "effective", "found"}
    assert first["failures"] == {"probe_crashed": 1}
    assert [span["npu_flops_ratio"] for span in second["spans"]] == [1.0, 0.822]
    assert len(found["gaps"]) == 1
    assert "null" not in soak.summary(report.result).replace('"null"', "")


def test_a_pipeline_sees_what_failed(report: Report) -> None:
    """Each question of each model is a test, and those with a finding have failed."""
    root = ElementTree.fromstring(soak.cases(report.result))
    failed = {
        f"{one.get('classname')}: {one.get('name')}" for one in root.iter("testcase") if one.find("failure") is not None
    }
    assert failed == {"a<b>: drift", "a<b>: failures", "moves: placement", "moves: verdict"}
    assert len(list(root.iter("testcase"))) == 2 * 5 + 1
    cut = replace(report.result, measured_seconds=10.0)
    root = ElementTree.fromstring(soak.cases(cut))
    assert [one.get("name") for one in root.iter("testcase") if one.find("error") is not None] == ["duration"]


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["passed", "failed", "error", "skipped"]))
def test_junit_holds_any_text(name: str, message: str, outcome: str) -> None:
    """Whatever characters a name or a reason has, the document can be read, and counts what it has."""
    case = Case("g", name, outcome, message, message)  # type: ignore[arg-type]
    root = ElementTree.fromstring(junit("s", "2026-01-01T00:00:00Z", [case]).encode())
    assert root.get("tests") == "1"
    counted = {"failed": "failures", "error": "errors", "skipped": "skipped"}
    assert {key: root.get(key) for key in counted.values()} == {
        key: str(int(kind == outcome)) for kind, key in counted.items()
    }
