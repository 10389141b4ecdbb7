"""Type-checks the dashboards against Grafana's own schema, the current one and that of Grafana 10.

Grafana ignores what it does not know, so that a misspelt option is a setting that silently does nothing. TypeScript
refuses it if the JSON is handed to it as literals, which is done here: panel by panel, with the options of its kind.

``python -m tools.dashboards.check_types`` needs node and npm.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.dashboards import npm

HERE = Path(__file__).resolve().parent
DASHBOARDS = HERE.parent.parent / "grafana" / "dashboards"

# A panel's type -> the name of its file in the schema's package.
KINDS = {
    "heatmap": "HeatmapPanelCfg",
    "stat": "StatPanelCfg",
    "state-timeline": "StateTimelinePanelCfg",
    "table": "TablePanelCfg",
    "timeseries": "TimeSeriesPanelCfg",
}
_RAW = "@grafana/schema/dist/esm/raw/composable/{0}/panelcfg/x/{1}_types.gen"
_OPTIONS = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]


def program(dashboards: dict[str, dict[str, Any]]) -> str:
    """The dashboards as a TypeScript program that compiles if they fit the schema."""
    lines = [
        "import type { Dashboard, FieldConfig, Panel, VariableModel } from '@grafana/schema';",
        "import type { Annotation, Grafana10, Plain, PrometheusQuery } from './plain';",
    ]
    for kind, file in KINDS.items():
        lines.append(f"import type * as {_name(kind)} from '{_RAW.format(_name(kind), file)}';")
    for name, dashboard in dashboards.items():
        lines += _checks(name, dashboard)
    return "\n".join(lines) + "\n"


def _name(kind: str) -> str:
    return kind.replace("-", "")


def _checks(name: str, dashboard: dict[str, Any]) -> Iterator[str]:
    annotations = dashboard["annotations"]["list"]
    # What the Prometheus plugin adds to annotations is no part of the whole's type: they are checked one by one.
    whole = dashboard | {"annotations": {"list": []}}
    yield _constant(f"{name}", "Plain<Dashboard>", whole)
    # Not as a literal: Grafana 10 may find options that it does not know yet, but none that it knows otherwise.
    # Grafana writes null for the first threshold, which is -Infinity; the type of Grafana 10 forgot that.
    text = json.dumps(whole).replace('"value": null', '"value": 0')
    yield f"const {name}_json = {text} as const;"
    yield f"const {name}_in_grafana_10: (known: Plain<typeof {name}_json>) => Plain<Grafana10> = (known) => known;"
    for number, one in enumerate(annotations):
        yield _constant(f"{name}_annotation_{number}", "Annotation", one)
    for one in dashboard["templating"]["list"]:
        yield _constant(f"{name}_variable_{one['name']}", "Plain<VariableModel>", one)
    for one in dashboard["panels"]:
        if one["type"] != "row":
            yield from _panel(f"{name}_{one['id']}", one)


def _panel(name: str, panel: dict[str, Any]) -> Iterator[str]:
    kind = _name(panel["type"])
    # The stat panel has no field options of its own.
    own = "{}" if kind == "stat" else f"Partial<Plain<{kind}.FieldConfig>>"
    defaults = panel["fieldConfig"]["defaults"]
    yield _constant(name, "Plain<Panel>", panel)
    yield _constant(f"{name}_options", f"Plain<{kind}.Options>", panel["options"])
    yield _constant(f"{name}_custom", own, defaults.get("custom", {}))
    for number, override in enumerate(panel["fieldConfig"]["overrides"]):
        values = {one["id"]: one["value"] for one in override["properties"]}
        custom = {key.removeprefix("custom."): value for key, value in values.items() if key.startswith("custom.")}
        standard = {key: value for key, value in values.items() if not key.startswith("custom.")}
        yield _constant(f"{name}_override_{number}", "Plain<FieldConfig>", standard)
        yield _constant(f"{name}_override_custom_{number}", own, custom)
    yield _constant(f"{name}_queries", "PrometheusQuery[]", panel["targets"])


def _constant(name: str, kind: str, value: object) -> str:
    return f"const {name}: {kind} = {json.dumps(value)};"


def check(dashboards: dict[str, dict[str, Any]]) -> str:
    """What the compiler complains of, a line each; empty if the dashboards fit."""
    home = npm.install(HERE / "package.json", "dashboards")
    shutil.copy(HERE / "plain.ts", home)
    (home / "dashboards.ts").write_text(program(dashboards), encoding="utf-8")
    compiler = ["npx", "--no-install", "tsc", *_OPTIONS, "--moduleResolution", "bundler", "dashboards.ts"]
    done = subprocess.run(compiler, cwd=home, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode and not done.stdout:
        raise RuntimeError(f"the compiler did not run: {done.stderr}")
    return done.stdout


def main() -> int:
    """Check the dashboards of this checkout. 1: they do not fit."""
    files = sorted(DASHBOARDS.glob("*.json"))
    complaints = check({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files})
    print(complaints or f"{len(files)} dashboards fit the schemas of Grafana 10 and 13", end="" if complaints else "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
