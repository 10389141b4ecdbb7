"""What all commands have in common: the configuration, an error as one line, JSON, and whether to use colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from monitor.errors import EXIT_USAGE, NpumonError, UsageError

if TYPE_CHECKING:
    from monitor.config import Config, Model

_Result = TypeVar("_Result")

CONFIG_OPTION = click.option(
    "-c", "--config", "file", required=True, type=click.Path(path_type=Path), help="The configuration file (TOML)."
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def load(file: Path) -> Config:
    """The configuration; one line and exit code 2 if it cannot be used."""
    from monitor.config import load

    return guard(lambda: load(file))


def chosen(config: Config, file: Path, only: str | None) -> list[Model]:
    """The configured models, or the one of the name ``only``; raises :class:`UsageError` if there is none."""
    models = [model for model in config.models if only in (None, model.name)]
    if not models:
        names = ", ".join(model.name for model in config.models)
        raise UsageError(f"{file}: --model {only}: no model has this name; there are {names}")
    return models


def guard(call: Callable[[], _Result]) -> _Result:
    """``call()``, with npumon's errors as one line on stderr and their exit code."""
    try:
        return call()
    except NpumonError as error:
        fail(str(error), error.exit_code)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """End the command with one line on stderr."""
    click.echo(message, err=True)
    sys.exit(code)


def print_json(document: Any) -> None:
    """One indented document on stdout."""
    import json

    click.echo(json.dumps(document, indent=2))


def colour() -> bool:
    """Whether stdout is a terminal whose user wants colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
