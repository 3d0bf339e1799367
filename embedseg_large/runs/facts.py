"""The facts of a run, their token, and the differences between two sets of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

Facts = dict[str, Any]
"""Values that JSON can hold."""


def token(facts: Facts) -> str:
    """Hash of facts: equal for equal runs."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences between two sets of facts, in words; empty if there are none.

    A missing fact equals an empty one: older versions did not record all of them.
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


def without_secrets(url: str) -> str:
    """A path or URL without user, password, query and fragment, which may be credentials."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
