"""Where labels come from: recorded with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from embedseg_large.engine.identity import Facts, facts_of, token
from embedseg_large.engine.order import Order
from embedseg_large.io.intensity import IntensityRange


def provenance(order: Order, intensity: Sequence[IntensityRange]) -> Facts:
    """All that decides the labels, as values that JSON can hold, and its token."""
    facts = facts_of(order)
    return facts | {"intensity": [asdict(r) for r in intensity], "token": token(facts)}
