"""The facts of a run, their token, and the differences between two sets of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

Facts = dict[str, Any]
"""Values that JSON can hold."""


def token(facts: Facts) -> str:
    """Hash of facts: equal for equal runs."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def without_secrets(url: str) -> str:
    """A path or URL without user, password, query and fragment, which may be credentials."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
