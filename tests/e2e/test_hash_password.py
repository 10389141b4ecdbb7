"""The command that makes the lines of [web.users], as people and scripts use it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from monitor import passwords
from monitor.config import load
from tests.e2e.running import COMMAND, environment, write_config


def test_hash_password(tmp_path: Path) -> None:
    """What the command prints is a line of the configuration that lets this password in."""
    done = subprocess.run(
        [*COMMAND, "hash-password", "a b"], input=b"gr\xc3\xbc\xc3\x9fe\n", capture_output=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, b"")
    config = write_config(tmp_path, {"m": {"path": "absent.onnx"}}, head=["[web.users]", done.stdout.decode().strip()])
    ((name, line),) = load(config).web.users.items()
    assert name == "a b"
    assert passwords.parse(line).matches("grüße".encode())


@pytest.mark.parametrize(
    ("arguments", "words", "message"),
    [
        ((), b"\n", "expected a password of 1 to 1024 bytes; give another"),
        ((), b"", "expected a password of 1 to 1024 bytes; give another"),
        ((), b"x" * 2000, "expected a password of 1 to 1024 bytes; give another"),
        (("a:b",), b"x", '"a:b" is no name, which a colon ends; choose another'),
    ],
)
def test_no_password_to_hash(arguments: tuple[str, ...], words: bytes, message: str) -> None:
    """A password or name that could never be used is one line, exit code 2."""
    done = subprocess.run([*COMMAND, "hash-password", *arguments], input=words, capture_output=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"npumon hash-password: {message}\n")


def test_a_password_is_not_shown_at_the_terminal() -> None:
    """It is asked for twice, on stderr, without echo; only the line goes to stdout."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "hash-password"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment(),
        start_new_session=True,
    ) as process:
        os.close(slave)
        shown = b""
        for _ in range(2):
            while not shown.endswith(b": "):
                assert select.select([master], [], [], 30)[0]
                shown += os.read(master, 1000)
            time.sleep(0.3)
            os.write(master, b"hunter2\n")
            shown += b"|"
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        assert process.wait(30) == 0
    with contextlib.suppress(OSError):
        shown += os.read(master, 1000)
    os.close(master)
    assert b"hunter2" not in shown
    assert re.fullmatch(r'prometheus = "scrypt:16384:8:5:[\w-]{22}:[\w-]{43}"\n', printed)
