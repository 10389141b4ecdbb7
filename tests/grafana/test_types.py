"""The dashboards against Grafana's own TypeScript schema."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import pytest

from tests.grafana.queries import DASHBOARDS
from tools.dashboards.check_types import check

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _npm() -> None:
    if shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing: apt-get install --no-install-recommends nodejs npm")
        pytest.skip("no npm on this machine")


def _panel(dashboards: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in dashboards["fleet"]["panels"] if one["type"] == kind)
    return found


def test_dashboards_fit_the_schema() -> None:
    """Every panel, option, field setting, variable and annotation is one that Grafana 10 and 13 know."""
    assert check(DASHBOARDS) == ""


def test_what_grafana_would_ignore_is_noticed() -> None:
    """The check can fail: a misspelt option, a wrong value, and an unknown property of an override are each told."""
    wrong = copy.deepcopy(DASHBOARDS)
    _panel(wrong, "timeseries")["options"]["legend"]["placment"] = "bottom"
    _panel(wrong, "stat")["options"]["colorMode"] = "backgruond"
    _panel(wrong, "table")["fieldConfig"]["overrides"][0]["properties"].append({"id": "custom.aling", "value": "left"})
    complaints = check(wrong)
    assert "placment" in complaints
    assert "backgruond" in complaints
    assert "aling" in complaints
    assert complaints.count("error TS") == 3
