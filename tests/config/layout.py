"""TOML written in any of its many layouts, because the loader must find lines in all of them and tomllib only reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


class Writer:
    """Writes a tree as TOML in one of the many layouts that mean the same, and notes the line of every key."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], tree: dict[str, Any]) -> None:
        self.draw, self.text = draw, ""
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._table((), (), tree)

    def _pick(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def _noise(self) -> None:
        self.text += self._pick("\n", "\n", "\n\n", ' # zz = "[[models]]\n', "\n  # ''' {\n")

    def _mark(self, path: tuple[str | int, ...]) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def _key(self, key: str) -> str:
        return (
            key if re.fullmatch("[A-Za-z0-9_-]+", key) and self._pick("bare", "quoted") == "bare" else self._string(key)
        )

    def _string(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

    def _table(self, path: tuple[str | int, ...], header: tuple[str, ...], tree: dict[str, Any]) -> None:
        later = []
        for key, value in tree.items():
            tables = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
            style = self._pick("inline", "header") if isinstance(value, dict) or tables else "inline"
            if style == "header":
                later.append((key, value))
                continue
            self._mark((*path, key))
            if isinstance(value, dict) and len(value) == 1 and self._pick("dotted", "inline") == "dotted":
                ((last, value),) = value.items()
                self._mark((*path, key, last))
                self.text += f"{self._key(key)}. {self._key(last)} = "
                self._value((*path, key, last), value)
            else:
                self.text += f"{self._key(key)} = "
                self._value((*path, key), value)
            self._noise()
        for key, value in later:
            name = " . ".join(self._string(part) for part in (*header, key))
            for index, one in enumerate(value if isinstance(value, list) else [value]):
                here = (*path, key, index) if isinstance(value, list) else (*path, key)
                self._mark(here)
                self.text += f"[[ {name} ]]" if isinstance(value, list) else f"[{name}]"
                self._noise()
                self._table(here, (*header, key), one)

    def _value(self, path: tuple[str | int, ...], value: Any) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for index, (key, inner) in enumerate(value.items()):
                self.text += ", " if index else ""
                self._mark((*path, key))
                self.text += f"{self._key(key)} = "
                self._value((*path, key), inner)
            self.text += " }"
        elif isinstance(value, list):
            self.text += "["
            for index, inner in enumerate(value):
                self._noise()
                self._value((*path, index), inner)
                self.text += ","
            self.text += "]"
        elif isinstance(value, str):
            opening = self._pick('"', '"""', '"""\n')
            closing = opening.strip()
            self.text += opening + self._string(value)[1:-1] + closing
        elif isinstance(value, bool):
            self.text += str(value).lower()
        elif isinstance(value, int | float):
            self.text += repr(value)
        else:
            self.text += value.isoformat()
