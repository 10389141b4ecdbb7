"""The configuration loader against a corpus of bad files, the contract's example and the manual.

A bad file's first line is the exact message it must give, so that a changed sentence shows up as a changed file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from monitor import wire
from monitor.access import Web
from monitor.config import Config, Gate, Model, load
from monitor.document import SIZE_LIMIT
from monitor.errors import UsageError

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.toml"))
CONTRACT = HERE / "good" / "contract.toml"
DOCS = HERE.parent.parent / "docs" / "configuration.md"
MODEL = '[[models]]\nname = "a"\npath = "a.onnx"\n'


def refusal(file: Path) -> str:
    """What ``load`` says against ``file``."""
    with pytest.raises(UsageError) as caught:
        load(file)
    return str(caught.value)


def written(folder: Path, content: str | bytes) -> Path:
    """``content`` as a configuration file."""
    file = folder / "npumon.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


# ------------------------------------------------------------------------------------------------------- the corpus


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_each_bad_file_gives_exactly_the_message_it_carries(file: Path) -> None:
    """A bad file is refused with the sentence in its first line, and nothing but that one line."""
    first = file.read_bytes().split(b"\n", 1)[0].decode()
    expected = first.removeprefix("# expects: ").replace("{file}", str(file))
    message = refusal(file)
    assert message == expected
    assert message.splitlines() == [message]


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_the_named_line_does_not_depend_on_how_lines_end(file: Path, tmp_path: Path) -> None:
    """A bad file with CRLF line ends and a byte order mark, as some editors write them, gives the same message."""
    copy = written(tmp_path, b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert refusal(copy).replace(str(copy), "") == refusal(file).replace(str(file), "")


def test_the_contracts_example_loads_to_exactly_these_values() -> None:
    """Every key of the contract's example arrives: units in seconds, options merged, paths as they are."""
    model = Model(
        name="ppocr_det",
        path=Path("/opt/models/ppocr_det.onnx"),
        source=Path("/opt/models/src/ppocr_det.onnx"),
        samples=Path("/var/lib/npumon/samples/ppocr_det"),
        dims={"p2o.DynamicDimension.0": 1},
        options={"htp_performance_mode": "burst", "soc_model": "60"},
        session={"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0"},
        replays=30,
        resident=True,
        timeout=30.0,
        second_look="deep",
        gate=Gate(npu_flops=0.95, cv=0.15, median=0.012),
    )
    assert load(CONTRACT) == Config(
        file=CONTRACT,
        digest=sha256(CONTRACT.read_bytes()).hexdigest(),
        listen=("127.0.0.1", 10877),
        state=Path("/var/lib/npumon"),
        interval=60.0,
        audit_interval=21600.0,
        max_duty=0.02,
        provider="qnn",
        models=(model,),
    )


def test_a_name_and_a_path_are_enough() -> None:
    """The smallest file has one model; everything else has the contract's default, and there is no median gate."""
    file = HERE / "good" / "minimal.toml"
    assert load(file) == Config(
        file=file,
        digest=sha256(file.read_bytes()).hexdigest(),
        listen=("127.0.0.1", 10877),
        state=Path("/var/lib/npumon"),
        interval=60.0,
        audit_interval=21600.0,
        max_duty=0.02,
        provider="qnn",
        models=(Model(name="detector", path=file.parent / "detector.onnx", gate=Gate(0.95, 0.15, None)),),
    )


def test_every_way_of_writing_toml_means_the_same() -> None:
    """Dotted keys, inline tables, inline arrays of tables, quoted keys and long strings load like plain ones."""
    file = HERE / "good" / "unusual.toml"
    config = load(file)
    assert (config.listen, config.interval, config.provider) == (("::1", 9100), 90.0, "cpu")
    first, second = config.models
    assert first == Model(
        name="a",
        path=file.parent / "../models/a.onnx",
        dims={"a.b": 1, 'c"d': 2},
        gate=Gate(median=0.0005),
    )
    assert second == Model(
        name="b-2_c.d",
        path=Path("/opt/b.onnx"),
        session={"x[[y]]": True, "f": 1.5, "n": -1, "s": ""},
        replays=2,
        resident=False,
        timeout=86400.0,
        compare_outputs=False,
        gate=Gate(output_error=2.0),
    )


# ------------------------------------------------------------------------------------------------ rules of their own


def test_relative_paths_start_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the file's folder, wherever the daemon was started and however the file was named."""
    written(tmp_path, f'monitor.state = "state"\n{MODEL}samples = "samples/a"\n')
    monkeypatch.chdir(tmp_path)
    config = load(Path("npumon.toml"))
    assert config.file == tmp_path / "npumon.toml"
    assert config.state == tmp_path / "state"
    assert config.models[0].path == tmp_path / "a.onnx"
    assert config.models[0].samples == tmp_path / "samples" / "a"


def test_a_models_options_win_over_the_runtimes(tmp_path: Path) -> None:
    """Options of [runtime.options] reach every model, and each model's own options replace them by name."""
    runtime = '[runtime.options]\nmode = "burst"\nsoc = "57"\n'
    second = MODEL.replace('"a"', '"b"')
    config = load(written(tmp_path, f'{runtime}{MODEL}options = {{ soc = "60" }}\n{second}'))
    assert [model.options for model in config.models] == [
        {"mode": "burst", "soc": "60"},
        {"mode": "burst", "soc": "57"},
    ]


def test_a_model_file_that_is_missing_is_no_configuration_error(tmp_path: Path) -> None:
    """What can run must run: a missing model is for its own check to report, not a reason to refuse the file."""
    config = load(written(tmp_path, MODEL))
    assert not config.models[0].path.exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: None, "No such file or directory"),
        (lambda file: file.mkdir(), "Is a directory"),
        (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
    ],
    ids=["missing", "directory", "loop"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_systems_reason(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """Missing, a directory, a loop of links: one line with the system's reason."""
    file = tmp_path / "npumon.toml"
    make(file)
    assert refusal(file) == f"{file}: {reason}; name a TOML file that this user may read"


def test_a_file_too_large_to_be_a_configuration_is_not_read_whole(tmp_path: Path) -> None:
    """A model named by mistake, or a device without end, is refused after its first megabyte."""
    mend = "more than 1 MiB, so no configuration; name a TOML file"
    assert refusal(Path("/dev/zero")) == f"/dev/zero: {mend}"
    file = written(tmp_path, b"#" * (SIZE_LIMIT - len(MODEL) - 1) + b"\n" + MODEL.encode())
    assert load(file).models[0].name == "a"
    with file.open("ab") as stream:
        stream.write(b"\n")
    assert refusal(file) == f"{file}: {mend}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a = " + "[" * 100_000, "brackets nested too deep; write two levels at most"),
        ("a = " + "9" * 5000, "not valid TOML, an integer has thousands of digits; shorten it"),
    ],
    ids=["nesting", "digits"],
)
def test_what_exhausts_the_toml_parser_is_a_mistake_like_any_other(tmp_path: Path, content: str, sentence: str) -> None:
    """Nesting and numbers beyond the interpreter's limits end in a sentence, not in its exceptions."""
    file = written(tmp_path, content)
    assert refusal(file) == f"{file}: {sentence}"


@pytest.mark.parametrize(
    "content",
    [
        "a" * 5000,
        f"{'a' * 5000} = 1",
        f"{'a.' * 2000}b = 1 2",
        f'"{" " * 5000}" = 1',
        f'monitor.listen = "{"a" * 5000}"',
    ],
    ids=["syntax", "key", "dots", "quoted", "value"],
)
def test_a_mistake_of_any_length_is_a_sentence_to_read(tmp_path: Path, content: str) -> None:
    """Names and values of thousands of characters are cut, so that the mend stays on the screen."""
    message = refusal(written(tmp_path, content))
    assert len(message) < 500 + len(str(tmp_path))
    assert "…" in message


def test_a_file_name_cannot_break_the_line(tmp_path: Path) -> None:
    """A file whose name holds a newline and a byte that is no UTF-8 is named escaped, on one line."""
    file = tmp_path / "npu\nmon\udcff.toml"
    file.write_text("")
    message = refusal(file)
    assert message.isprintable()
    assert r"npu\nmon\udcff.toml:1: models: missing; write [[models]]" in message


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("localhost:1", ("localhost", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("board-7.lab_2.example:10877", ("board-7.lab_2.example", 10877)),
        ("[::]:9100", ("::", 9100)),
        ("[fe80::1%eth0]:9100", ("fe80::1%eth0", 9100)),
    ],
)
def test_listen_takes_names_and_both_families(tmp_path: Path, listen: str, address: tuple[str, int]) -> None:
    """A host name, an IPv4 address and a bracketed IPv6 address, with or without a zone, are split from the port."""
    assert load(written(tmp_path, f'monitor.listen = "{listen}"\n{MODEL}')).listen == address


def test_the_bounds_themselves_are_allowed(tmp_path: Path) -> None:
    """Limits are inclusive, whole numbers do for ratios, and what loads still fits the pipe to the probe."""
    extremes = (
        f"dims = {{ d = {2**63 - 1} }}\nsession = {{ low = {-(2**63)}, high = {2**63 - 1} }}\n"
        'replays = 10000\ntimeout = "365d"\ngate = { npu_flops = 1, cv = 20, median = "0.001us" }\n'
    )
    (model,) = load(written(tmp_path, MODEL + extremes)).models
    assert model.gate == Gate(npu_flops=1.0, cv=20.0, median=1e-9)
    assert (model.replays, model.timeout) == (10000, 365 * 86400.0)
    spec = wire.Spec(name=model.name, path=str(model.path), provider="cpu", dims=model.dims, session=model.session)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=wire.Spec) == spec


# ---------------------------------------------------------------------------------------------------------- the manual


def test_the_manuals_examples_load(tmp_path: Path) -> None:
    """Every TOML block of the manual is a whole, valid file."""
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert load(written(tmp_path, block)).models


def test_the_manual_describes_every_key() -> None:
    """Each key that the loader knows has a row in the manual, and each row a key that the loader knows."""
    rows = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE))
    settings_ = {"listen", "state", "interval", "audit_interval", "max_duty", "provider", "options"}
    assert rows == settings_ | {*Web.__struct_fields__, *Model.__struct_fields__, *Gate.__struct_fields__} - {"gate"}
