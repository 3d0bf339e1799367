"""Small files that anyone may have written: settings, metadata, lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import yaml

MOST = 1 << 28
"""Bytes of a document."""
_DEEPEST = 64
"""Values inside of values in a document of JSON."""


def read_document(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """Read a regular file of limited size.

    Parameters
    ----------
    path
        The file.
    most
        Maximum number of bytes.

    Raises
    ------
    ValueError
        If it is a device, a pipe or a folder, or larger.
    OSError
        If it does not exist, or cannot be read.
    """
    about = Path(path).stat()
    if not S_ISREG(about.st_mode):
        raise ValueError("a folder" if S_ISDIR(about.st_mode) else "neither a file nor a folder")
    if about.st_size > most:
        raise ValueError(f"{about.st_size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB")
    return Path(path).read_bytes()


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the differences between two sets of facts; empty if there are none.

    A missing fact and an empty one are equal, because older versions did not record all of them.
    """
    before, after = dict(_flat(then)), dict(_flat(now))
    names = [n for n in sorted(before.keys() | after.keys()) if before.get(n) != after.get(n)]
    return ", ".join(f"{n} {_short(before.get(n))} (now {_short(after.get(n))})" for n in names)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        elif value not in (None, ""):
            yield prefix.removeprefix("settings ") + name, value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def parse_json(data: bytes | str) -> Any:
    """Parse JSON, refusing extreme nesting, which would exhaust the stack.

    Raises
    ------
    ValueError
        If it is not JSON, or nested too deeply.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [below for value in level for below in _inside(value)]
    if level:
        raise ValueError(f"nested more than {_DEEPEST} times")
    return found


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a file of plain YAML or JSON.

    Raises
    ------
    ValueError
        If it is neither, or no file of a document's size.
    OSError
        If it does not exist, or cannot be read.
    """
    try:
        return yaml.safe_load(read_document(path).decode())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("neither YAML nor JSON") from error


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
