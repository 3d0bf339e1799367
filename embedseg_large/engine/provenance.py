"""Where labels come from: recorded with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from embedseg_large.engine.identity import Facts, facts_of, token
from embedseg_large.engine.order import Order
from embedseg_large.io.intensity import IntensityRange


def provenance(order: Order, intensity: Sequence[Sequence[IntensityRange]]) -> Facts:
    """All that decides the labels, as values that JSON can hold, and its token.

    Parameters
    ----------
    order
        What was asked for.
    intensity
        What became 0 and 1, of each timepoint for each channel.
    """
    facts = facts_of(order)
    found = [[asdict(r) for r in channels] for channels in intensity]
    ranges = found if order.intensity_per_timepoint else found[0]
    return facts | {"intensity": ranges, "token": token(facts)}
