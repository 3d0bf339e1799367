"""Damage to files, as disks, other programs and attackers do it: by byte, and by value of JSON.

Everything is a function of a random generator, so that a mutation is reproducible from its seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np

Rng = np.random.Generator
Path = tuple[str | int, ...]
"""Keys and indices from the root of a document to a value."""

_DEEP: Any = []
for _ in range(60):
    _DEEP = [_DEEP]

VALUES: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *(255, 256, 65536, 2**31, 2**32, 10**12, 10**15, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63)),
    *("", " ", "0", "1.5", "0,5", "abc", "x" * 300, "\ud800", "\0", "\x1b[2J", "[/bold]", "ü€"),
    *("../../other.zarr", "/etc/passwd", ".", "..", "a/b/../..", "C:\\x", "zarr.json", "0/0"),
    *("|O", "<U8", ">u2", "<f8", "uint16", "complex128", "pickle", "blosc", "zlib", "zstd"),
    *("s3://key:geheim@bucket/x", "tcp://user:geheim@host:8786", "micrometer", "scale", "image"),
    *([], {}, [[]], [None], [0], [1, 1, 1], [-1, 8, 8], [0, 0, 0], [10**15] * 3, ["z", "y", "x"]),
    *([1] * 40, _DEEP, {"a": 1}, {"id": "pickle"}, {"name": "transpose"}, {"": ""}, {"path": ".."}),
)
"""What a value becomes."""

BYTES: Sequence[bytes] = (
    *(b"", b"\0", b"\xff", b"\0" * 16, b"\xff" * 8, b"\x7f" * 4, b"{", b"}", b"[", b'"', b"\n"),
    *(
        b"II*\0",
        b"MM\0*",
        b"\x89PNG\r\n\x1a\n",
        b"PK\3\4",
        b"\x80\2",
        b"NaN",
        b"1e999",
        b"\xed\xa0",
    ),
)
"""What is put into a file."""


def mutated(rng: Rng, data: bytes) -> bytes:
    """Damage a file: one to four times, by byte, or if it is JSON mostly by value."""
    for _ in range(1 + rng.geometric(0.7) % 4):
        data = _mutated_once(rng, data)
    return data


def _mutated_once(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.85 and data[:1] == b"[" and b"\n[" in data:
        return _mutated_lines(rng, data)
    if rng.random() < 0.85 and data[:1] in (b"{", b"["):
        try:
            return json.dumps(mutated_document(rng, json.loads(data))).encode()
        except (ValueError, RecursionError):
            pass
    return mutated_bytes(rng, data)


def _mutated_lines(rng: Rng, data: bytes) -> bytes:
    """Damage a file with one JSON document per line: a value, or the set and order of lines."""
    lines = data.splitlines()
    at, other = (int(i) for i in rng.integers(len(lines), size=2))
    match rng.choice(["value", "value", "value", "drop", "repeat", "swap", "cut"]):
        case "drop":
            del lines[at]
        case "repeat":
            lines.insert(other, lines[at])
        case "swap":
            lines[at], lines[other] = lines[other], lines[at]
        case "cut":
            lines[-1] = lines[-1][: int(rng.integers(len(lines[-1])))]
        case _:
            try:
                lines[at] = json.dumps(mutated_document(rng, json.loads(lines[at]))).encode()
            except (ValueError, RecursionError):
                lines[at] = mutated_bytes(rng, lines[at])
    return b"\n".join(lines) + b"\n"


def mutated_document(rng: Rng, document: Any) -> Any:
    """Replace, remove, add or exchange a value of a JSON document, wherever in it; in place."""
    paths = list(_paths(document))
    if not paths:
        return _value(rng)
    path = paths[rng.integers(len(paths))]
    parent = _at(document, path[:-1])
    action = rng.choice(["replace", "replace", "replace", "remove", "add", "exchange", "scale"])
    match action:
        case "remove":
            del parent[path[-1]]
        case "add" if isinstance(parent, list):
            parent.insert(int(rng.integers(len(parent) + 1)), _value(rng))
        case "add":
            parent[str(_value(rng))[:300]] = _value(rng)
        case "exchange":
            parent[path[-1]] = _at(document, paths[rng.integers(len(paths))][:-1])
            document = json.loads(json.dumps(document, default=str)) if _is_tree(document) else None
        case "scale" if isinstance(parent[path[-1]], int | float):
            parent[path[-1]] *= [-1, 0, 2, 1000, 10**9, 0.5][rng.integers(6)]
        case _:
            parent[path[-1]] = _value(rng)
    return document


def _value(rng: Rng) -> Any:
    return deepcopy(VALUES[int(rng.integers(len(VALUES)))])


def _paths(value: Any, root: Path = ()) -> Iterator[Path]:
    """Every place of a document but its root."""
    if len(root) > 40:
        return
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, below in inside:
        yield (*root, key)
        yield from _paths(below, (*root, key))


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _is_tree(value: Any) -> bool:
    """Whether no value holds itself."""
    try:
        json.dumps(value)
    except (ValueError, RecursionError):
        return False
    return True


def mutated_bytes(rng: Rng, data: bytes) -> bytes:
    """Change, remove, add or repeat bytes; most of the time near the beginning."""
    action: Callable[[Rng, bytes, int], bytes] = _ACTIONS[rng.integers(len(_ACTIONS))]
    most = len(data) if rng.random() < 0.4 else min(len(data), 400)
    return action(rng, data, int(rng.integers(most + 1)))


def _flip(rng: Rng, data: bytes, at: int) -> bytes:
    return data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]


_NUMBERS = (0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 10**9, 10**11)
_LAYOUTS: Sequence[tuple[int, Literal["little", "big"]]] = (
    *((2, "little"), (4, "little"), (8, "little")),
    *((4, "big"), (8, "big")),
)


def _number(rng: Rng, data: bytes, at: int) -> bytes:
    """A number in place of one, of either byte order."""
    value = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    size, order = _LAYOUTS[int(rng.integers(len(_LAYOUTS)))]
    packed = int(value % (1 << 8 * size)).to_bytes(size, order)
    return data[:at] + packed + data[at + size :]


def _cut(_: Rng, data: bytes, at: int) -> bytes:
    return data[:at]


def _remove(rng: Rng, data: bytes, at: int) -> bytes:
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _insert(rng: Rng, data: bytes, at: int) -> bytes:
    return data[:at] + BYTES[int(rng.integers(len(BYTES)))] * int(rng.integers(1, 8)) + data[at:]


def _overwrite(rng: Rng, data: bytes, at: int) -> bytes:
    new: bytes = rng.bytes(int(rng.integers(1, 16)))
    return data[:at] + new + data[at + len(new) :]


def _repeat(rng: Rng, data: bytes, at: int) -> bytes:
    end = at + int(rng.integers(1, 200))
    return data[:end] + data[at:end] * int(rng.integers(1, 4)) + data[end:]


_ACTIONS = (_flip, _flip, _number, _number, _cut, _remove, _insert, _overwrite, _repeat)
