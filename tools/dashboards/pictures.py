"""Draws the dashboards' main panels as Grafana would, from what a Prometheus answers: the pictures of the docs.

Grafana itself comes in no package registry that the project builds from, its panel components do: these draw what the
dashboards' JSON says, with Grafana's transformations and field overrides. Heatmaps and state timelines are left out,
because their components belong to Grafana's own plugins.

Needs node, npm and Chromium. ``npm install`` brings 650 MB, once, into the cache outside git.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from grafana.document import laid_out
from tools.dashboards import npm

HERE = Path(__file__).resolve().parent
DRAWING = HERE / "drawing"
DASHBOARDS = HERE.parent.parent / "grafana" / "dashboards"
WIDTH = 1320
_LOADERS = [f"--loader:.{kind}=dataurl" for kind in ("svg", "png", "woff2")] + ["--loader:.ttf=empty"]
_ALIAS = "--alias:react-custom-scrollbars-2=./scrollbars.js"
_BROWSER = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=8000", "--enable-logging=stderr"),
]

Json = dict[str, Any]


def bundle() -> Path:
    """The program that draws, made of Grafana's components."""
    home = npm.install(DRAWING / "package.json", "drawing")
    for source in ("draw.jsx", "scrollbars.js"):
        shutil.copy(DRAWING / source, home)
    define = '--define:process.env.NODE_ENV="production"'
    command = ["npx", "--no-install", "esbuild", "draw.jsx", "--bundle", "--minify", "--outfile=draw.js", define]
    subprocess.run([*command, *_LOADERS, _ALIAS, "--log-level=error"], cwd=home, check=True, timeout=300)
    return home / "draw.js"


class Moment:
    """A Prometheus between two times, as a dashboard with these variables sees it."""

    def __init__(self, url: str, start: float, end: float, chosen: dict[str, str], rate_interval: str) -> None:
        self._url, self.start, self.end = url, start, end
        self._step = max((end - start) / 240, 1)
        macros = {"__interval": f"{self._step:.0f}s", "__rate_interval": rate_interval}
        self._known = chosen | macros | {"__range": f"{end - start:.0f}s"}

    def ask(self, expr: str, instant: bool) -> list[Json]:
        """The series that an expression gives."""
        query = re.sub(r"\$([A-Za-z_]\w*)", lambda match: self._known[match[1]], expr)
        times = {"time": self.end} if instant else {"start": self.start, "end": self.end, "step": self._step}
        parameters = urllib.parse.urlencode({"query": query, **times})
        url = f"{self._url}/api/v1/query{'' if instant else '_range'}?{parameters}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: list[Json] = json.load(answer)["data"]["result"]
        return found

    def regions(self, expr: str) -> list[tuple[float, float]]:
        """From when to when an annotation's query has a series; a gap of more than two steps ends a region."""
        regions: list[tuple[float, float]] = []
        for one in self.ask(expr, instant=False):
            times = [time for time, _ in one["values"]]
            begin = last = times[0]
            for time in [*times[1:], float("inf")]:
                if time - last > 2 * self._step:
                    regions.append((begin, last))
                    begin = time
                last = time
        return regions


def picture(
    name: str,
    panels: list[int],
    moment: Moment,
    subtitle: str,
    annotations: list[str],
    heights: Mapping[int, int] = MappingProxyType({}),
) -> Json:
    """What one picture shows: ``panels`` of the dashboard ``name`` in that order, and its annotations by name.

    ``heights``: of panels that are to be higher than on the dashboard, in its units.
    """
    dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text(encoding="utf-8"))
    by_id = {one["id"]: one for one in dashboard["panels"]}
    for number, height in heights.items():
        by_id[number]["gridPos"]["h"] = height
    shown = laid_out([by_id[number] for number in panels])
    for one in shown:
        for target in one["targets"]:
            target["result"] = moment.ask(target["expr"], target["instant"])
    marks = [
        {"color": one["iconColor"], "regions": moment.regions(one["target"]["expr"])}
        for one in dashboard["annotations"]["list"]
        if one["name"] in annotations
    ]
    times = {"from": moment.start * 1000, "to": moment.end * 1000}
    return {"title": dashboard["title"], "subtitle": subtitle, "panels": shown, "annotations": marks, **times}


def draw(what: Json, program: Path, to: Path) -> None:
    """Write the picture as PNG."""
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in what["panels"]) * 38 + 70
    data = json.dumps({**what, "width": WIDTH - 16}).replace("</", "<\\/")
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "page.html"
        page.write_text(
            '<!doctype html><meta charset="utf-8"><body style="margin:0"><div id="picture"></div>'
            f"<link rel=stylesheet href={json.dumps(program.with_suffix('.css').as_uri())}>"
            f"<script>window.PICTURE = {data}</script><script src={json.dumps(program.as_uri())}></script>",
            encoding="utf-8",
        )
        size = f"--window-size={WIDTH},{height}"
        shot = [f"--user-data-dir={directory}/browser", size, f"--screenshot={to}", page.as_uri()]
        done = subprocess.run(["chromium", *_BROWSER, *shot], check=True, capture_output=True, text=True, timeout=120)
    if "Uncaught" in done.stderr:
        raise RuntimeError(f"{to.name} was not drawn: {done.stderr}")
