"""Linking with the optional laptrack package: the same two assignments, with dense matrices.

It computes the distances between all instances of two timepoints: 8 bytes per pair, 3 GB for 20,000
instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import psutil

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.tracking.linking import LEFT_OUT, Links, LinkSettings, Points

_BYTES = 16
"""Bytes per pair of instances: its distance, whether it is within reach, and a copy."""


def check_laptrack() -> Any:
    """Import laptrack.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    with extra("track", "--tracker laptrack", instead="use --tracker lap"):
        return import_module("laptrack")


def link(points: Sequence[Points], settings: LinkSettings) -> Links:
    """Link like `embedseg_large.tracking.linking.link`; divisions use the distance to the mother.

    Raises
    ------
    UsageError
        If laptrack is not installed, or needs more memory than is available.
    """
    laptrack = check_laptrack()
    if not any(map(len, points)):
        return np.empty((0, 2), np.int64)
    most = max((len(a) * len(b) for a, b in pairwise(points)), default=0)
    free = psutil.virtual_memory().available
    if most * _BYTES > free:
        raise UsageError(
            f"laptrack needs about {most * _BYTES / 2**30:,.0f} GiB for the distances of "
            f"{round(most**0.5):,} instances, and {free / 2**30:,.0f} GiB are available; use "
            "--tracker lap"
        )
    cost = LEFT_OUT / 2 * settings.reach**2
    tracker = laptrack.LapTrack(
        cutoff=settings.reach**2,
        track_start_cost=cost,
        track_end_cost=cost,
        segment_start_cost=cost,
        segment_end_cost=cost,
        gap_closing_cutoff=settings.reach**2 if settings.gap else False,
        gap_closing_max_frame_count=settings.gap + 1,
        splitting_cutoff=False if settings.division_reach is None else settings.division_reach**2,
    )
    first = np.cumsum([0, *(len(p) for p in points)])
    edges = [(first[t] + i, first[u] + j) for (t, i), (u, j) in tracker.predict(list(points)).edges]
    return np.array(sorted(edges, key=lambda edge: edge[1]), np.int64).reshape(-1, 2)
