"""What a reload changes, told from two configurations, and which removed models it lets go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.config import Config, Gate, Model, load
from monitor.service.recorder import REMEMBERED, forgettable
from monitor.service.reload import Changes, Watch, changes

ONE = Model("one", Path("one.onnx"), session={"session.intra_op.allow_spinning": 1})


def config(*models: Model, **settings: Any) -> Config:
    """A configuration of ``models``."""
    given = {
        "listen": ("127.0.0.1", 1),
        "interval": 60.0,
        "audit_interval": 3600.0,
        "max_duty": 0.02,
        "provider": "qnn",
        **settings,
    }
    return Config(file=Path("npumon.toml"), digest=None, state=Path("state"), models=models, **given)


@given(
    st.lists(st.sampled_from("abcde"), unique=True),
    st.lists(st.sampled_from("abcde"), unique=True),
    st.sets(st.sampled_from("abcde")),
)
def test_every_model_is_one_of_four(before: list[str], after: list[str], edited: set[str]) -> None:
    """Whatever is added, removed, edited or moved in the file: each model is named once, in the file's order."""
    old = config(*(Model(name, Path("m.onnx")) for name in before))
    new = config(*(Model(name, Path("m.onnx"), replays=2 if name in edited else 30) for name in after))
    found = changes(old, new)
    assert found.added == tuple(name for name in after if name not in before)
    assert found.removed == tuple(name for name in before if name not in after)
    assert found.changed == tuple(name for name in after if name in before and name in edited)
    assert found.unchanged == tuple(name for name in after if name in before and name not in edited)


@pytest.mark.parametrize(
    "other",
    [
        Model("one", Path("other.onnx"), session=ONE.session),
        Model("one", ONE.path, session=ONE.session, gate=Gate(cv=0.2)),
        Model("one", ONE.path, session={"session.intra_op.allow_spinning": True}),
        Model("one", ONE.path, session={"session.intra_op.allow_spinning": 1.0}),
    ],
)
def test_any_setting_of_a_model_changes_it(other: Model) -> None:
    """A gate does, and so does a value that Python takes for equal and onnxruntime does not."""
    assert changes(config(ONE), config(other)) == Changes((), (), ("one",), ())


def test_the_monitor_table_changes_no_model() -> None:
    """Probes outlive another address or interval, but not another provider."""
    moved = config(ONE, listen=("::1", 2), interval=1.0, audit_interval=2.0)
    assert changes(config(ONE), moved) == Changes((), (), (), ("one",))
    assert changes(config(ONE), config(ONE, provider="cpu")) == Changes((), (), ("one",), ())


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_removed_models_are_remembered_up_to_a_number(count: int, watched: set[int]) -> None:
    """None that is watched is forgotten, and of the others only those checked longest ago."""
    checked = [(float(number), f"m{number}") for number in range(count)]
    dropped = forgettable(checked, {f"m{number}" for number in watched})
    unwatched = [number for number in range(count) if number not in watched]
    assert sorted(dropped) == sorted(f"m{number}" for number in unwatched[: max(0, len(unwatched) - REMEMBERED)])


def test_a_content_counts_once_it_rests(tmp_path: Path) -> None:
    """Neither a touched file nor one that is still being written is a change; a content is tried once."""
    file = tmp_path / "npumon.toml"
    file.write_text('[[models]]\nname = "m"\npath = "m.onnx"\n')
    text, watch = file.read_text(), Watch(load(file))
    assert not watch.changed()
    file.touch()
    assert not watch.changed()
    for piece in ("replays", "replays = 6", "replays = 60\n"):
        file.write_text(text + piece)
        assert not watch.changed()
    assert watch.changed()
    watch.tried()
    assert not watch.changed()
    file.write_text(text)
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_file_that_goes_away_is_a_change(tmp_path: Path) -> None:
    """It is tried once, which tells of it; an editor that replaces the file takes it away for a moment only."""
    file = tmp_path / "npumon.toml"
    file.write_text('[[models]]\nname = "m"\npath = "m.onnx"\n')
    text, watch = file.read_text(), Watch(load(file))
    file.unlink()
    assert not watch.changed()
    file.write_text(text)
    assert [watch.changed(), watch.changed()] == [False, False]
    file.unlink()
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.tried()
    assert not watch.changed()


def test_a_configuration_of_no_file_never_changes(tmp_path: Path) -> None:
    """The demo's has no file that anybody could edit."""
    watch = Watch(config(ONE))
    assert [watch.changed(), watch.changed()] == [False, False]
