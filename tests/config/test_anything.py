"""The configuration loader against anything at all: it loads, or it refuses in one line that names the right place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from monitor.access import Web
from monitor.config import Config, Gate, Model, load
from monitor.errors import UsageError
from tests.config.layout import Writer

CONTRACT = Path(__file__).parent / "good" / "contract.toml"

# One file is written anew for every example, which is what these tests want of a function-scoped tmp_path.
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

RECORDS = (Config, Web, Model, Gate)
KEYS = ("monitor", "runtime", *(field for record in RECORDS for field in record.__struct_fields__))
STRAYS = st.recursive(
    st.text(max_size=8)
    | st.sampled_from(["60s", "a.onnx", "127.0.0.1:1", "qnn"])
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
LABELS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6)
MODELS = st.fixed_dictionaries(
    {"path": LABELS},
    optional={
        "source": LABELS,
        "dims": st.dictionaries(LABELS, st.integers(1, 2**63 - 1), max_size=3),
        "options": st.dictionaries(LABELS, LABELS, max_size=3),
        "session": st.dictionaries(LABELS, LABELS | st.booleans() | st.floats(-10, 10), max_size=3),
        "gate": st.fixed_dictionaries({}, optional={"cv": st.floats(0.01, 2), "median": st.just("1ms")}),
        "replays": st.integers(2, 10_000),
    },
)


def _named(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree, "models": [{"name": f"m{index}", **model} for index, model in enumerate(tree["models"])]}


VALID = st.fixed_dictionaries(
    {"models": st.lists(MODELS, min_size=1, max_size=3)},
    optional={
        "monitor": st.fixed_dictionaries(
            {}, optional={"state": LABELS, "interval": st.just("1m30s"), "max_duty": st.floats(0.001, 1)}
        ),
        "runtime": st.fixed_dictionaries({}, optional={"options": st.dictionaries(LABELS, LABELS, max_size=3)}),
    },
).map(_named)


def outcome(file: Path) -> Config | str:
    """What ``load`` makes of ``file``; a refusal must be a single printable line that names the file."""
    try:
        return load(file)
    except UsageError as error:
        message = str(error)
        assert message.startswith(f"{file}:")
        assert message.isprintable()
        assert len(message) < 1000
        return message


def written(folder: Path, content: str | bytes) -> Path:
    """``content`` as a configuration file."""
    file = folder / "npumon.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@many
@given(st.data(), VALID)
def test_every_valid_tree_loads_in_every_layout(tmp_path: Path, data: st.DataObject, tree: dict[str, Any]) -> None:
    """Whatever names and texts a valid configuration holds and however it is laid out, they arrive as they are."""
    config = load(written(tmp_path, Writer(data.draw, tree).text))
    shared = tree.get("runtime", {}).get("options", {})
    for model, wanted in zip(config.models, tree["models"], strict=True):
        assert model.path == tmp_path / wanted["path"]
        assert model.dims == wanted.get("dims", {})
        assert model.options == shared | wanted.get("options", {})
        assert model.session == wanted.get("session", {})


@many
@given(st.data(), VALID)
def test_a_planted_mistake_is_named_by_its_own_line_and_key(
    tmp_path: Path, data: st.DataObject, tree: dict[str, Any]
) -> None:
    """In any layout, among comments and strings that look like keys, the one bad key is found where it stands."""
    spots: list[tuple[str | int, ...]] = [(), *((name,) for name in tree if name != "models")]
    for index, model in enumerate(tree["models"]):
        spots += [("models", index), *(("models", index, name) for name in ("gate", "dims") if name in model)]
    spot = data.draw(st.sampled_from(spots))
    table: Any = tree
    for step in spot:
        table = table[step]
    table["zz"] = -1
    writer = Writer(data.draw, tree)
    file = written(tmp_path, writer.text)
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in (*spot, "zz"))[1:]
    assert str(outcome(file)).startswith(f"{file}:{writer.lines[(*spot, 'zz')]}: {dotted}: ")


@many
@given(st.data(), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), STRAYS, max_size=5))
def test_any_tree_loads_or_is_refused_in_one_line(tmp_path: Path, data: st.DataObject, tree: dict[str, Any]) -> None:
    """Values of any kind under any key end in a configuration or in one line, and in nothing else."""
    outcome(written(tmp_path, Writer(data.draw, tree).text))


@many
@given(st.data(), VALID, st.sampled_from(KEYS), STRAYS)
def test_any_value_at_a_known_key_loads_or_is_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, tree: dict[str, Any], key: str, stray: Any
) -> None:
    """One stray value in an otherwise valid file ends in a configuration or in one line."""
    tables = [tree, *(table for table in tree.values() if isinstance(table, dict)), *tree["models"]]
    data.draw(st.sampled_from(tables))[key] = stray
    outcome(written(tmp_path, Writer(data.draw, tree).text))


@many
@given(st.binary(max_size=200) | st.text("[]{}=.,\"'#\\\n a1-", max_size=60).map(str.encode))
@example(b"[")
@example(b'"\\')
@example(b"a = '''")
@example(b"\xff")
def test_any_bytes_load_or_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Random bytes, and random heaps of TOML's own punctuation, are refused in one line."""
    assert isinstance(outcome(written(tmp_path, content)), str)


@many
@given(st.data())
def test_a_damaged_contract_loads_or_is_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    """The contract's example with a piece cut out or put in, as a slip of the hand does it, never ends otherwise."""
    text = CONTRACT.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    insert = data.draw(st.sampled_from(["", '"', "'", "[", "]]", "{", "\n", "=", "1", '"""', "#", ".", "[[models]]\n"]))
    outcome(written(tmp_path, text[:start] + insert + text[end:]))
