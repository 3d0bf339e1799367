"""Volumes in pieces; a shape that no one could process is refused before the first one.

A shape is only a claim of metadata: an array of 10¹² planes may consist of one small file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedseg_large.errors import VolumeError
from embedseg_large.geometry import Box

MOST = 2**24
"""Number of pieces that one command processes: of a statistic, those of 10¹⁵ voxels."""


def pieces(box: Box, shape: Sequence[int], where: str) -> Iterator[Box]:
    """Cut a box on the lattice of multiples of `shape`, in raster order.

    Parameters
    ----------
    box
        Region to cut.
    shape
        Shape of a piece.
    where
        Name of the volume.

    Raises
    ------
    VolumeError
        If there are more than `MOST` pieces; at the call, not at the first piece.
    """
    check_count(box.count(shape), where)
    return box.split(shape)


def check_count(count: int, where: str) -> None:
    """Refuse more than `MOST` pieces.

    Raises
    ------
    VolumeError
        If there are more.
    """
    if count > MOST:
        raise VolumeError(
            f"{where}: by its shape, it is processed in {count:,} pieces, and at most {MOST:,} are "
            "possible; check the shape with info, or choose a coarser --level or a part"
        )
