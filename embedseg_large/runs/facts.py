"""The facts of a run, their token, and the differences between two sets of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Facts = dict[str, Any]
"""Values that JSON can hold."""


def token(facts: Facts) -> str:
    """Hash of facts: equal for equal runs."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
