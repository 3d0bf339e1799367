"""Tracks and their parents, from links.

::

    timepoint    0     1     2     3
                 a ─── b ─┬─ c ─── e        tracks: 1 = a b    2 = c e    3 = d
                          └─ d              parents: 2 and 3 of 1

A track is one instance over time: it ends where the instance divides, and its daughters begin new
tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedseg_large.tracking.linking import Links


@dataclass(frozen=True, slots=True)
class Lineage:
    """The tracks of all instances."""

    track: NDArray[np.int64]
    """Track of each instance, from 1, numbered in the order in which they begin."""
    parent: NDArray[np.int64]
    """Parent of the track of each instance; 0 if there is none."""

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return int(self.track.max(initial=0))

    @property
    def n_divisions(self) -> int:
        """Number of tracks that have two daughters."""
        _, begins = np.unique(self.track, return_index=True)
        parents, counts = np.unique(self.parent[begins], return_counts=True)
        return int(np.count_nonzero((parents > 0) & (counts > 1)))


def lineage_of(time: NDArray[np.int64], links: Links, *, across_gaps: bool = True) -> Lineage:
    """Number the tracks.

    Parameters
    ----------
    time
        Timepoint of each instance, ascending.
    links
        As returned by `embedseg_large.tracking.linking.link`.
    across_gaps
        Whether a track continues after timepoints without the instance. Otherwise a new track
        begins, whose parent is the first, as in the Cell Tracking Challenge.
    """
    before = np.full(len(time), -1)
    before[links[:, 1]] = links[:, 0]
    followers = np.bincount(links[:, 0], minlength=len(time))
    goes_on = (before >= 0) & (followers[before] == 1)
    if not across_gaps:
        goes_on &= time - time[before] == 1
    begins = ~goes_on
    track = np.zeros(len(time), np.int64)
    track[begins] = np.arange(1, np.count_nonzero(begins) + 1)
    parent = np.zeros_like(track)
    for t in np.unique(time):
        now = slice(*np.searchsorted(time, (t, t + 1)))
        at, continues = before[now], goes_on[now]
        track[now] = np.where(continues, track[at], track[now])
        parent[now] = np.where(continues, parent[at], np.where(at >= 0, track[at], 0))
    return Lineage(track, parent)


def rows_of(time: NDArray[np.int64], lineage: Lineage) -> NDArray[np.int64]:
    """One row per track: its number, first and last timepoint, and parent; ascending."""
    tracks, begins = np.unique(lineage.track, return_index=True)
    last = np.zeros(lineage.n_tracks + 1, np.int64)
    np.maximum.at(last, lineage.track, time)
    return np.stack([tracks, time[begins], last[tracks], lineage.parent[begins]], axis=1)
