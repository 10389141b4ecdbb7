"""What fetches a current Prometheus: it asks nobody for what is there, and says in one line what it could not get."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import prometheus


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs would be, on a machine that has neither them nor apt."""
    monkeypatch.setenv("NPUMON_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "prometheus" / "usr" / "bin"


def test_what_is_there_is_kept(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs that were fetched before are named without a word to apt."""
    cached.mkdir(parents=True)
    assert prometheus.main([]) == 0
    assert capsys.readouterr().out == f"{cached}\n"


@pytest.mark.parametrize("there", [False, True])
def test_without_apt_it_says_so_and_leaves_all_as_it_was(
    cached: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    """Where Debian's tools are missing one line names them, and what was there before stays."""
    if there:
        cached.mkdir(parents=True)
    assert prometheus.main(["--renew"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "prometheus: apt-get: No such file or directory; this needs Debian's apt and dpkg\n"
    assert cached.is_dir() == there
    assert [one for one in cached.parents[2].iterdir() if one.name.startswith(".fetching")] == []
