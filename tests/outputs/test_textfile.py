"""The textfile: whole or not at all, readable for node_exporter, gone at the end, and never a reason to stop."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from structlog.testing import capture_logs

from monitor.errors import UsageError
from monitor.outputs.metrics import Exposition
from monitor.outputs.textfile import Textfile
from tests.grafana.prometheus_server import free_port, program
from tests.outputs.specimens import (
    BOARD,
    CPU_ONLY,
    FAILED,
    FALLBACK,
    HEALTHY,
    NOW,
    SLOW,
    SLOW_STANDING,
    WORST_STANDING,
    worst_case,
)


def everything() -> bytes:
    """An exposition with models of every kind, one of which has nothing yet and one of which is as bad as can be."""
    made = Exposition(["never_checked", 'a "quoted"\\name\nof two lines'], BOARD, "0.1.0", NOW)
    made.expect(60.0, {})
    for result in (FALLBACK, HEALTHY, SLOW, FAILED, CPU_ONLY):
        made.record(result, SLOW_STANDING if result is SLOW else None)
    results, events = worst_case("worst")
    for result in results:
        made.record(result, WORST_STANDING)
    for event in events:
        made.count_event(event)
    return made.text()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where node_exporter would look."""
    return tmp_path / "npumon.prom"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "npumon.txt",
            "node_exporter reads files that end in .prom only; write --textfile {folder}/npumon.txt.prom",
        ),
        (
            "gone/npumon.prom",
            "there is no folder {folder}/gone; create it, or name the one that node_exporter reads",
        ),
        ("folder.prom", "is a folder; name a file in it, as in --textfile {folder}/folder.prom/npumon.prom"),
    ],
)
def test_a_path_that_cannot_be(name: str, message: str, tmp_path: Path) -> None:
    """A path that node_exporter would not read is refused with its mend."""
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(UsageError) as told:
        Textfile(tmp_path / name)
    assert str(told.value) == f"--textfile {tmp_path / name}: {message.format(folder=tmp_path)}"


def test_the_file_is_the_text_and_nothing_lies_beside_it(path: Path) -> None:
    """Each write leaves the one file with all of the new text and none of the old, readable for other users."""
    file, umask = Textfile(path), os.umask(0o077)
    try:
        file.write(b"npumon_models 1.0\n" * 1000)
        file.write(b"npumon_models 2.0\n")
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"npumon_models 2.0\n"
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_reader_never_sees_half_of_it(path: Path) -> None:
    """Whoever reads while it is written gets the whole of one version, and sees no other name that ends in .prom."""
    file = Textfile(path)
    texts = [bytes([letter]) * 200_000 for letter in b"ab"]
    file.write(texts[0])
    over = threading.Event()

    def write() -> None:
        for turn in range(300):
            file.write(texts[turn % 2])
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        assert path.read_bytes() in texts
        assert [name for name in os.listdir(path.parent) if name.endswith(".prom")] == [path.name]
    writer.join()


def test_a_symbolic_link_in_the_temporary_files_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Where others may write in the folder, nobody can have another file overwritten."""
    precious = tmp_path / "precious"
    precious.write_text("keep")
    path.with_name(path.name + ".tmp").symlink_to(precious)
    with capture_logs():
        Textfile(path).write(b"npumon_models 1.0\n")
    assert precious.read_text() == "keep"


def test_a_failure_is_told_once_and_so_is_its_end(path: Path) -> None:
    """A folder that goes is one line however long it is gone, its return another one with the count; nothing raises."""
    file = Textfile(path)
    with capture_logs() as lines:
        file.write(b"npumon_models 1.0\n")
        path.unlink()
        path.parent.rmdir()
        for _ in range(3):
            file.write(b"npumon_models 2.0\n")
        path.parent.mkdir()
        for _ in range(2):
            file.write(b"npumon_models 3.0\n")
        path.unlink()
        path.mkdir()
        file.write(b"npumon_models 4.0\n")
    gone = {"event": "textfile_not_written", "log_level": "error", "file": str(path)}
    assert lines == [
        gone | {"error": "No such file or directory"},
        {"event": "textfile_written", "log_level": "info", "file": str(path), "failures": 3},
        gone | {"error": "Is a directory"},
    ]
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_is_full_leaves_the_old_text(path: Path) -> None:
    """What cannot be written whole does not replace what is there, and its beginning does not stay behind."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from monitor.outputs.textfile import Textfile\n"
        "file = Textfile(Path(sys.argv[1])); file.write(b'npumon_models 1.0\\n')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "file.write(b'npumon_models 2.0\\n' * 100)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert path.read_bytes() == b"npumon_models 1.0\n"
    assert os.listdir(path.parent) == [path.name]


def test_only_its_own_file_is_removed(path: Path) -> None:
    """A daemon that has never written, because its address is taken, leaves the file of the one that has."""
    path.write_text("of another daemon")
    Textfile(path).remove()
    assert path.read_text() == "of another daemon"
    file = Textfile(path)
    file.write(b"npumon_models 1.0\n")
    file.remove()
    assert os.listdir(path.parent) == []


def test_a_file_that_cannot_be_removed_is_told(path: Path) -> None:
    """If the file stays behind, the log says so."""
    file = Textfile(path)
    file.write(b"npumon_models 1.0\n")
    path.unlink()
    path.mkdir()
    with capture_logs() as lines:
        file.remove()
    told = {"event": "textfile_not_removed", "log_level": "error", "file": str(path), "error": "Is a directory"}
    assert lines == [told]


# ---------------------------------------------------------------------------------- what node_exporter accepts


def test_node_exporters_rules() -> None:
    """No timestamp, each family once and with its help, no series twice, and nothing that is not npumon's."""
    text = everything().decode()
    families = list(parse(text))
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.timestamp is None for sample in samples)
    assert text.endswith("\n")
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(set(heads)) == len(heads) == len(families)
    assert all(family.documentation for family in families)
    series = [(sample.name, frozenset(sample.labels.items())) for sample in samples]
    assert len(set(series)) == len(series)
    assert {sample.name.partition("_")[0] for sample in samples} == {"npumon"}
    assert not {label for sample in samples for label in sample.labels} & {"job", "instance", "file"}


def test_promtool_accepts_it(path: Path) -> None:
    """Prometheus' own check finds nothing to complain of."""
    Textfile(path).write(everything())
    with path.open("rb") as text:
        done = subprocess.run([program("promtool"), "check", "metrics"], stdin=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@contextlib.contextmanager
def node_exporter(folder: Path) -> Iterator[str]:
    """The address of a real node_exporter that reads ``folder``, with the collector and nothing else of the machine."""
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus-node-exporter"), f"--web.listen-address={address}"]
    command += ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if address.encode() in line:
                break
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            yield f"http://{address}/metrics"
        finally:
            process.terminate()
            drain.join()


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """Each series; an empty label is none, and a bucket's bound has one way to be written."""
    return {
        (sample.name, frozenset(_label(*label) for label in sample.labels.items() if label[1])): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def _label(name: str, value: str) -> tuple[str, str]:
    return name, str(float(value)) if name == "le" else value


def scraped(url: str) -> Series:
    """Each series of a scrape."""
    with urllib.request.urlopen(url, timeout=20) as response:
        return series(response.read().decode())


def test_node_exporter_adds_every_series_to_its_own(path: Path) -> None:
    """A real node_exporter gives each series with its value, beside its own, and reports no error."""
    Textfile(path).write(everything())
    path.with_name("npumon.prom.tmp").write_text("half of a li")
    with node_exporter(path.parent) as url:
        found = scraped(url)
    assert found[("node_textfile_scrape_error", frozenset())] == 0
    assert {key: value for key, value in found.items() if key[0].startswith("npumon_")} == series(everything().decode())
    assert ("node_textfile_mtime_seconds", frozenset({("file", str(path))})) in found


def test_node_exporter_would_refuse_what_is_wrong(path: Path) -> None:
    """The test above can fail: a timestamp costs the whole file, and is reported."""
    Textfile(path).write(b"# HELP npumon_models Models.\n# TYPE npumon_models gauge\nnpumon_models 1.0 1700000000000\n")
    with node_exporter(path.parent) as url:
        found = scraped(url)
    assert found[("node_textfile_scrape_error", frozenset())] == 1
    assert not [name for name, _ in found if name.startswith("npumon_")]
