"""SIGHUP: the configuration is taken anew, whole or not at all, and nothing that it leaves alone is disturbed."""

from __future__ import annotations

import itertools
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from monitor.outputs.state import State
from tests.e2e.running import (
    COMMAND,
    INSIDE_PROBES,
    Running,
    environment,
    exists,
    free_port,
    running,
    wait_until,
    write_config,
)

ABSENT: dict[str, Any] = {"path": "absent.onnx"}
"""A model whose check fails at once, for what does not need a probe."""
GATE = {"npu_flops": 0.99, "cv": 50.0, "median": "100s"}


def listen(config: Path) -> str:
    """Where the daemon of this configuration listens."""
    return config.read_text().split('"')[1]


def edit(config: Path, old: str, new: str) -> None:
    """Replace the one ``old`` in the file."""
    text = config.read_text()
    assert text.count(old) == 1
    config.write_text(text.replace(old, new))


def fallbacks(daemon: Running) -> list[dict[str, Any]]:
    """What the log told of fallbacks."""
    return [line for line in daemon.lines if line["event"].startswith("fallback_")]


def test_another_soc_model_under_a_running_daemon(tmp_path: Path, selu: Path) -> None:
    """60 to 58 and back on the Selu model: told with op, reason and remedy, cleared by the same id, restarts or not."""
    model = {"path": selu, "options": {"soc_model": "60"}, "gate": GATE}
    config = write_config(tmp_path, {"m": model}, "1s", options={})
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m")
        edit(config, '"60"', '"58"')
        assert daemon.reload()["changed"] == ["m"]
        raised = daemon.wait("fallback_detected", "m")
        assert raised["runtime"]["options"]["soc_model"] == "58"
        (op,) = raised["ops"]
        assert (op["node"], op["op_type"], op["reason"]) == ("selu", "Selu", "Selu: failed to create ELU node.")
        assert op["remedy"]
        assert daemon.stop() == 0
        assert fallbacks(daemon) == [raised]
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m", more=2)
        assert daemon.metric("verdict", model="m", state="fallback") == 1
        edit(config, '"58"', '"60"')
        daemon.reload()
        cleared = daemon.wait("fallback_cleared", "m")
        assert cleared["id"] == raised["id"]
        assert daemon.metric("verdict", model="m", state="healthy") == 1
        assert daemon.stop() == 0
        assert fallbacks(daemon) == [cleared]
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m", more=2)
        assert fallbacks(daemon) == []
    state = State.open(tmp_path / "state", config)
    kept = [(event.event, event.id) for event in state.events() if event.event.startswith("fallback_")]
    state.close()
    assert kept == [("fallback_detected", raised["id"]), ("fallback_cleared", raised["id"])]


def test_what_is_not_changed_keeps_its_probe(tmp_path: Path, good: Path) -> None:
    """While others change, leave and come, or only times change, a model's session and its counters go on."""
    config = write_config(tmp_path, {"kept": {"path": good}, "other": {"path": good}})
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("kept", "other")
        both = daemon.children()
        assert len(both) == 2
        write_config(tmp_path, {"other": {"path": good, "replays": 6}, "kept": {"path": good}}, listen=listen(config))
        told = daemon.reload()
        assert (told["changed"], told["unchanged"], told["level"]) == (["other"], ["kept"], "info")
        daemon.wait_checks("other", "kept")
        (kept,) = both & daemon.children()
        assert len(daemon.children()) == 2
        checks = daemon.checks("kept")

        write_config(tmp_path, {"kept": {"path": good}, "new": ABSENT}, "3s", listen=listen(config))
        told = daemon.reload()
        assert (told["added"], told["removed"], told["unchanged"]) == (["new"], ["other"], ["kept"])
        assert daemon.checks("kept") >= checks
        assert daemon.metric("models") == 2
        assert daemon.metric("verdict", model="new", state="unknown") == 1
        assert 'model="other"' not in daemon.get("/metrics")[1]
        assert ">other<" not in daemon.get("/")[1]
        start = time.monotonic()
        daemon.wait("check_failed", "new")
        assert time.monotonic() - start < 12
        wait_until(lambda: daemon.children() == {kept}, "the probe of the removed model leaves")
        daemon.wait_checks("kept", more=2)
        assert daemon.children() == {kept}

        edit(config, 'interval = "3s"', 'interval = "1s"\naudit_interval = "1s"')
        assert daemon.reload()["unchanged"] == ["kept", "new"]
        wait_until(lambda: kept not in daemon.children(), "the probe is renewed by the audit interval now in force")


def test_a_changed_model_is_checked_at_once(tmp_path: Path) -> None:
    """What was measured before is not true any more, however long the interval; another interval holds at once too."""
    config = write_config(tmp_path, {"m": ABSENT}, "1h")
    with running("run", "-c", config) as daemon:
        daemon.wait("check_failed", "m")
        edit(config, "replays = 5", "replays = 6")
        daemon.reload()
        wait_until(lambda: daemon.checks("m") == 2, "a check of the changed model", 5)
        daemon.reload()
        time.sleep(1.0)
        assert daemon.checks("m") == 2
        edit(config, '"1h"', '"1s"')
        assert daemon.reload()["interval_seconds"] == 1
        daemon.wait_checks("m", more=3)


def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    """One line says why, the gauge is 0, and all goes on as it was until a file can be used."""
    config = write_config(tmp_path, {"m": ABSENT}, "1s")
    text, port = config.read_text(), listen(config).rpartition(":")[2]
    with socket.create_server(("127.0.0.1", 0)) as other, running("run", "-c", config) as daemon:
        taken = str(other.getsockname()[1])
        assert daemon.metric("config_last_reload_successful") == 1
        since = daemon.metric("config_last_reload_success_timestamp_seconds")
        assert since == daemon.metric("start_time_seconds")
        for number, (broken, words) in enumerate(
            [
                (text + 'nonsense = "1"\n', "unknown key"),
                (text.replace('name = "m"', 'name = "n"') + "[[[", "not valid TOML"),
                (text.replace('"m"', '"n"').replace('"state"', '"elsewhere"'), "monitor.state: .* takes a restart"),
                (text.replace('"m"', '"n"').replace(port, taken), f"monitor.listen: 127.0.0.1:{taken} is in use"),
                (text.replace('"m"', '"n"').replace(f"127.0.0.1:{port}", f"192.0.2.1:{port}"), "no address of this"),
                (None, "No such file or directory"),
            ]
        ):
            if broken is None:
                config.unlink()
            else:
                config.write_text(broken)
            line = daemon.reload("config_not_reloaded")
            assert line["level"] == "error"
            assert re.match(re.escape(str(config)) + r"(:\d+)?: .*" + words, line["error"])
            assert "\n" not in line["error"]
            assert daemon.metric("config_last_reload_successful") == 0
            assert daemon.metric("config_last_reload_success_timestamp_seconds") == since
            assert daemon.metric("verdict", model="m", state="unknown") == 1
            assert daemon.metric("models") == 1
            assert not daemon.told("config_reloaded"), number
        daemon.wait_checks("m", more=2)
        config.write_text(text)
        assert daemon.reload()["unchanged"] == ["m"]
        assert daemon.metric("config_last_reload_successful") == 1
        assert (daemon.metric("config_last_reload_success_timestamp_seconds") or 0) > (since or 0)


def test_a_changed_file_is_taken_without_a_signal(tmp_path: Path) -> None:
    """An edit holds within seconds, a bad one is told once, and the old text put back is a success again."""
    config = write_config(tmp_path, {"m": ABSENT}, "1s")
    text = config.read_text()
    with running("run", "-c", config) as daemon:
        daemon.wait("check_failed", "m")
        edit(config, "replays = 5", "replays = 6")
        assert daemon.wait("config_reloaded")["changed"] == ["m"]
        config.write_text("[monitor")
        assert "not valid TOML" in daemon.wait("config_not_reloaded")["error"]
        assert daemon.metric("config_last_reload_successful") == 0
        config.write_text(text)
        wait_until(lambda: daemon.metric("config_last_reload_successful") == 1, "the old text is taken")
        assert len(daemon.told("config_not_reloaded")) == 1


def test_a_removed_model_that_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its open incident is not told again, whether the daemon was restarted in between or not."""
    config = write_config(tmp_path, {"m": ABSENT, "other": ABSENT}, "1s")
    both, one = config.read_text(), write_config(tmp_path, {"other": ABSENT}, "1s", listen=listen(config)).read_text()
    config.write_text(both)
    with running("run", "-c", config) as daemon:
        daemon.wait("check_failed", "m")
        for text in (one, both):
            config.write_text(text)
            daemon.reload()
        assert "absent.onnx" in daemon.get("/")[1]
        daemon.wait_checks("m", more=2)
        config.write_text(one)
        daemon.reload()
        assert len(daemon.told("check_failed", "m")) == 1
    with running("run", "-c", config) as daemon:
        config.write_text(both)
        assert daemon.reload()["added"] == ["m"]
        daemon.wait_checks("m", more=2)
        assert not daemon.told("check_failed", "m")


def test_another_address(tmp_path: Path) -> None:
    """The service moves to another port, and on one port to another host and back; the old address is given up."""
    config = write_config(tmp_path, {"m": ABSENT}, "1s")
    with running("run", "-c", config) as daemon:
        old = daemon.address
        port = free_port()
        for address in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"127.0.0.1:{port}"):
            edit(config, listen(config), address)
            assert daemon.reload()["address"] == f"http://{address}"
            daemon.address = f"http://127.0.0.1:{port}"
            daemon.wait_checks("m")
            assert daemon.get("/healthz") == (200, "ok\n")
        daemon.address = old
        with pytest.raises(urllib.error.URLError, match="refused"):
            daemon.get("/healthz")


def test_a_storm_of_reloads(tmp_path: Path, good: Path) -> None:
    """Forty of them within two seconds, with two files in turn: no scrape sees a mixture, and no probe is lost."""
    config = write_config(tmp_path, {"m": {"path": good}}, "1s")
    sets = [{f"{letter}{number}" for number in range(5)} for letter in "ab"]
    texts = []
    for names in sets:
        models = {"m": {"path": good}, **dict.fromkeys(sorted(names), ABSENT)}
        models["c"] = {"path": good, "replays": 5 if "a0" in names else 6}
        texts.append(write_config(tmp_path, models, "1s", listen=listen(config)).read_text())
    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m", "c")
        before = daemon.children()
        seen: set[frozenset[str]] = set()
        over = threading.Event()

        def scrape() -> None:
            while not over.is_set():
                metrics = daemon.get("/metrics")[1]
                models = frozenset(re.findall(r'npumon_verdict{model="(.*?)"', metrics))
                assert f"npumon_models {len(models)}.0\n" in metrics
                seen.add(models)

        scraper = threading.Thread(target=scrape)
        scraper.start()
        for text in itertools.islice(itertools.cycle(texts), 40):
            (tmp_path / "next").write_text(text)
            (tmp_path / "next").replace(config)
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        wait_until(lambda: daemon.metric("checks_total", model="b4") is not None, "the last file is in force")
        over.set()
        scraper.join()
        assert {models - {"m", "c"} for models in seen} == {frozenset(names) for names in sets}
        daemon.wait_checks("m", "c", "b4")
        wait_until(lambda: len(daemon.children()) == 2, "only two probes are left")
        assert len(before & daemon.children()) == 1
        assert daemon.get("/healthz") == (200, "ok\n")
        assert not [line for line in daemon.lines if line.get("model") in ("m", "c")]
        assert not daemon.told("config_not_reloaded")


def test_a_reload_in_the_middle_of_a_check(tmp_path: Path, slow: Path) -> None:
    """The inference ends by itself, the check is given up and begun anew at once, nothing old is told or counted."""
    exits = tmp_path / "exits"
    exits.mkdir()
    config = write_config(tmp_path, {"m": {"path": slow, "replays": 1000, "timeout": "600s"}}, "1h")
    with running("run", "-c", config, PYTHONPATH=INSIDE_PROBES, NPUMON_TEST_EXITS=str(exits)) as daemon:
        wait_until(lambda: bool(daemon.children()), "the first probe")
        time.sleep(5.0)
        pids = daemon.children()
        assert pids
        edit(config, "replays = 1000", "replays = 2")
        daemon.reload()
        wait_until(lambda: daemon.checks("m") == 1, "a check under the new configuration", 45)
        assert daemon.metric("latency_seconds_count", model="m") == 2
        assert not [line for line in daemon.lines if line.get("model")]
        for pid in pids:
            assert not exists(pid)
            assert (exits / str(pid)).read_text() == "0"


def test_systemd_hears_of_a_reload(tmp_path: Path) -> None:
    """RELOADING with its time, then READY, whether the file could be used or not."""
    path = str(tmp_path / "notify")
    config = write_config(tmp_path, {"m": ABSENT}, "1h")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(10)
        with running("run", "-c", config, NOTIFY_SOCKET=path) as daemon:
            assert systemd.recv(4096) == b"READY=1"
            daemon.reload()
            config.write_text("")
            daemon.reload("config_not_reloaded")
            heard: list[str] = []
            while len(heard) < 4:
                text = systemd.recv(4096).decode()
                heard += [text] if not text.startswith("STATUS=") else []
        assert heard[1::2] == ["READY=1", "READY=1"]
        assert all(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", text) for text in heard[::2])


@pytest.mark.parametrize("ignored", [False, True], ids=["plain", "nohup"])
def test_a_terminal_that_closes(tmp_path: Path, ignored: bool) -> None:
    """It ends the daemon that was started from it, unless by nohup; before that, SIGHUP reloads there too."""
    script = f"""if True:
        import fcntl, os, signal, termios
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.{"SIG_IGN" if ignored else "SIG_DFL"})
        os.execv({COMMAND[0]!r}, {[*COMMAND, "run", "-c", str(write_config(tmp_path, {"m": ABSENT}))]!r})
    """
    master, slave = pty.openpty()
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=slave, stdout=out, env=environment(), start_new_session=True
        )
    os.close(slave)
    try:
        wait_until(lambda: '"check_failed"' in log.read_text(), "it runs")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: '"config_reloaded"' in log.read_text(), "it reloads")
        os.close(master)
        if ignored:
            wait_until(lambda: log.read_text().count('"config_reloaded"') == 2, "it reloads once more")
            process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
