"""Two tiers of tests: those of ``make test``, and the slow ones of ``make slow``."""

from __future__ import annotations

from typing import Any

import pytest


def slowly(*values: Any) -> list[Any]:
    """Leave some values of a parameter to the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
