"""The part of a volume to segment as a preview."""

from __future__ import annotations

from collections.abc import Sequence

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box

Range = slice | Sequence[int | None]
"""Half-open range of voxels; None: the respective end of the axis."""


def region_of(asked: Sequence[Range] | None, shape: Sequence[int]) -> Box | None:
    """Check that a region is part of the volume.

    Parameters
    ----------
    asked
        A range of voxels for each of (z,) y, x: a slice, or two integers, each of which may be
        None. None: the whole volume.
    shape
        Voxels of the volume along these axes.

    Returns
    -------
    Box or None
        The region; None if it is the whole volume.

    Raises
    ------
    UsageError
        If there is not one range per axis, or a range is not two integers, is empty, or exceeds the
        volume.
    """
    if asked is None:
        return None
    if isinstance(asked, str | int | float):
        raise UsageError(
            f"the region is {asked!r}; pass slices, such as [slice(0, 64), slice(0, 64)]"
        )
    if len(asked) != len(shape):
        raise UsageError(
            f"the region has {len(asked)} ranges, the volume {len(shape)} axes; pass one for each "
            f"of {'zyx'[-len(shape) :]}, such as {_text(shape)}"
        )
    start, stop = zip(*map(_ends, asked, shape), strict=True)
    if any(not 0 <= a < b <= n for a, b, n in zip(start, stop, shape, strict=True)):
        found = ",".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
        raise UsageError(
            f"the region is {found}; choose voxels of {_text(shape)} in each axis, at least one"
        )
    box = Box(start, stop)
    return None if box == Box.whole(shape) else box


def _ends(one: Range, length: int) -> tuple[int, int]:
    """Return the first voxel of a range, and the one after the last."""
    ends = (one.start, one.stop) if isinstance(one, slice) else tuple(one)
    stepped = isinstance(one, slice) and one.step not in (None, 1)
    if len(ends) != 2 or stepped or not all(e is None or _is_integer(e) for e in ends):
        raise UsageError(f"a range of the region is {one}; pass two integers, start and stop")
    start, stop = ends
    return 0 if start is None else int(start), length if stop is None else int(stop)


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _text(shape: Sequence[int]) -> str:
    return ",".join(f"0:{n}" for n in shape)
