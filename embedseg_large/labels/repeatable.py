"""Whether older labels can be discarded because a run would write them again."""

from __future__ import annotations

from embedseg_large.errors import VolumeError
from embedseg_large.labels.folder import is_of_a_run
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.volumes.volume import Volume, open_volume


def repeatable(labels: ZarrGroup) -> Volume | None:
    """Open labels that a run has written as a whole.

    Returns
    -------
    Volume or None
        None for labels of other programs, for a series, because new labels may lack timepoints of
        it, and for labels that cannot be opened, of which nobody knows what is left.
    """
    try:
        if not is_of_a_run(labels.attributes()):
            return None
        volume = open_volume(labels.folder.path)
    except VolumeError:
        return None
    return volume if volume.n_timepoints == 1 else None
