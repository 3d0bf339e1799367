"""The timepoints of a volume that a command was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from embedseg_large.errors import UsageError
from embedseg_large.options import several
from embedseg_large.volumes.volume import Volume


def chosen_timepoints(volume: Volume, asked: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return timepoints in the order of time, each once.

    Parameters
    ----------
    volume
        Has the timepoint 0 even if it has no time axis.
    asked
        One or several, in any order; None: all.

    Raises
    ------
    UsageError
        If one does not exist, or none is asked for.
    """
    if asked is None:
        return tuple(range(volume.n_timepoints))
    chosen = sorted(set(several(asked)))
    wrong = [t for t in chosen if not 0 <= t < volume.n_timepoints]
    if wrong or not chosen:
        raise UsageError(
            f"{volume.name}: no timepoint {', '.join(map(str, wrong)) or 'is chosen'}; there are "
            f"{volume.n_timepoints}, from 0"
        )
    return tuple(chosen)
