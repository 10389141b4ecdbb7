"""Writes ``grafana/dashboards/*.json``; ``python -m grafana.dashboards --check`` says whether they are in step.

Dashboards edited by hand drift apart: a gate that is dashed here and solid there, a query mended in one place of three.
Here each idea is said once: ``fleet.py`` and ``board.py`` are the two dashboards, ``parts.py`` and ``promql.py`` what
they share.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana.board import board
from grafana.fleet import fleet

HERE = Path(__file__).resolve().parent


def documents() -> dict[Path, str]:
    """File -> its text."""
    made = {"fleet.json": fleet(), "board.json": board()}
    return {
        HERE / "dashboards" / name: json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for name, document in made.items()
    }


def main() -> int:
    """Write the dashboards, or compare them with what is there. 1: they differ."""
    parser = argparse.ArgumentParser(description="Write grafana/dashboards/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the files are in step")
    check = parser.parse_args().check
    status = 0
    for path, text in documents().items():
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            print(f"{path}: not in step with dashboards.py, which writes it", file=sys.stderr)
            status = 1
        elif not check:
            path.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
