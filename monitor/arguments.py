"""What the commands about one MODEL have in common: the options that describe it, read into one record.

A mistake is a :class:`UsageError` that says what to write instead, as in a configuration file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitor.errors import UsageError

if TYPE_CHECKING:
    from monitor.config import Model

_Command = Callable[..., Any]

PROVIDER_OPTION = click.option(
    "--provider", default="qnn", show_default=True, help="The execution provider's package, without prefix."
)
EP_OPTION = click.option(
    "-o", "--option", "options", multiple=True, metavar="K=V", help="An option of the execution provider."
)
_DESCRIPTION = (
    click.argument("model", type=click.Path(path_type=Path)),
    click.option(
        "--dim", "dims", multiple=True, metavar="NAME=N", help="Fix a free dimension, as the application does."
    ),
    click.option("-s", "--session", "settings", multiple=True, metavar="K=V", help="A session option or config entry."),
    click.option("--source", type=click.Path(path_type=Path), help="The model that a precompiled MODEL was made from."),
    click.option(
        "--samples", type=click.Path(path_type=Path), help="A folder of .npz inputs; without, they are made up."
    ),
    click.option("--timeout", default=60.0, show_default=True, help="Seconds the model may take for a step."),
)


def described(command: _Command) -> _Command:
    """Give ``command`` the argument MODEL and the options that :func:`subject` reads."""
    for decorate in reversed(_DESCRIPTION):
        command = decorate(command)
    return command


def subject(
    model: Path,
    dims: tuple[str, ...],
    settings: tuple[str, ...],
    source: Path | None,
    samples: Path | None,
    timeout: float,
    options: tuple[str, ...] = (),
) -> Model:
    """The model that a command line describes; raises :class:`UsageError`."""
    from monitor.config import Model

    return Model(
        name=model.stem,
        path=model,
        source=source,
        samples=samples,
        dims=_dims(dims),
        options=_pairs("-o", options),
        session={key: _setting(key, value) for key, value in _pairs("-s", settings).items()},
        timeout=_seconds(timeout),
    )


def listed(flag: str, text: str) -> list[str]:
    """The distinct values of a list with commas; raises :class:`UsageError` if there is none."""
    values = list(dict.fromkeys(value for part in text.split(",") if (value := part.strip())))
    if not values or not all(value.isprintable() for value in values):
        raise UsageError(f"{flag} {text!r}: expected values with commas between them; write {flag} 57,58,60")
    return values


def _pairs(flag: str, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageError(f"{flag} {text}: expected KEY=VALUE; write {flag} {key or 'KEY'}=VALUE")
        pairs[key] = value
    return pairs


def _dims(values: tuple[str, ...]) -> dict[str, int]:
    dims = {}
    for name, size in _pairs("--dim", values).items():
        if not re.fullmatch(r"[0-9]{1,18}", size) or int(size) < 1:
            raise UsageError(f"--dim {name}={size}: expected a whole number of at least 1; write --dim {name}=1")
        dims[name] = int(size)
    return dims


def _setting(key: str, value: str) -> str | int | bool:
    """``value`` as TOML would type it for an attribute; a config entry, which has a dot in its name, is text."""
    if "." in key or not re.fullmatch(r"-?[0-9]{1,18}|true|false", value):
        return value
    return value == "true" if value in ("true", "false") else int(value)


def _seconds(timeout: float) -> float:
    from monitor.config import LONGEST

    if not 0 < timeout <= LONGEST:
        raise UsageError(f"--timeout {timeout:g}: expected seconds above 0 and up to {LONGEST:.0f}; write --timeout 60")
    return timeout
