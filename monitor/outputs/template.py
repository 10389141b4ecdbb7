"""The pages' templates, set up alike: everything is escaped, and a name that is not there is a mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """The template of this file name beside this module, with ``filters``. Worth keeping: it is compiled."""
    import jinja2  # at the first page: a board that nobody looks at does not pay for it

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
