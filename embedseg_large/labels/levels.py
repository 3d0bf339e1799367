"""The levels and units of labels, from those of the image that is segmented."""

from __future__ import annotations

from collections.abc import Sequence

from embedseg_large.volumes.axes import SPATIAL, voxel_size_um
from embedseg_large.volumes.header import Level
from embedseg_large.volumes.multiscale import LevelSpec
from embedseg_large.volumes.pyramid import coarser_shape, halvings
from embedseg_large.volumes.volume import Volume


def label_levels(volume: Volume, axes: str, count: int | None = None) -> tuple[LevelSpec, ...]:
    """Plan the levels of a volume's labels.

    Parameters
    ----------
    volume
        The level to segment.
    axes
        Axes of the labels.
    count
        Number of levels; None: as many as the volume has or, if its format has no levels, the
        halvings of `pyramid.halvings`.
    """
    levels = [_stored_level(volume, axes, k) for k in range(volume.level, len(volume.levels))]
    specs = [spec for spec in levels if spec is not None]
    ndim = volume.ndim
    if volume.ngff_version is None and len(volume.levels) == 1:
        for factors in halvings(specs[0].shape[-ndim:]):
            specs.append(_halved(specs[-1], factors))
    while count is not None and len(specs) < count:
        specs.append(_halved(specs[-1], tuple(2 if n > 1 else 1 for n in specs[-1].shape[-ndim:])))
    return tuple(specs[:count])


def _stored_level(volume: Volume, axes: str, index: int) -> LevelSpec | None:
    """Describe level `index` of the image over the labels' axes; None if its array is missing."""
    level, base = volume.levels[index], volume.levels[volume.level]
    shape = volume.stored_shape if index == volume.level else level.shape
    if shape is None:
        return None
    pick = [volume.stored_axes.index(a) for a in axes]
    unit = _unit_sizes(volume, axes, base)
    scale = level.scale or _relative_scale(volume.stored_shape, shape, base.scale)
    shift = level.translation
    return LevelSpec(
        shape=tuple(shape[i] for i in pick),
        scale=tuple(scale[i] * u for i, u in zip(pick, unit, strict=True)),
        translation=shift and tuple(shift[i] * u for i, u in zip(pick, unit, strict=True)),
    )


def _relative_scale(
    base_shape: Sequence[int], shape: Sequence[int], base_scale: Sequence[float] | None
) -> tuple[float, ...]:
    steps = base_scale or (1.0,) * len(shape)
    return tuple(s * a / b for s, a, b in zip(steps, base_shape, shape, strict=True))


def _is_as_stored(volume: Volume) -> bool:
    """Whether the voxel size is that of the image's metadata, or unknown."""
    stored = volume.levels[volume.level].scale
    said = voxel_size_um(volume.stored_axes, stored, volume.units)
    return volume.voxel_size is None or (said or ())[-volume.ndim :] == volume.voxel_size


def _unit_sizes(volume: Volume, axes: str, base: Level) -> tuple[float, ...]:
    """Convert one stored unit per axis to the labels' unit: micrometres for a given size."""
    if volume.voxel_size is None or _is_as_stored(volume):
        return (1.0,) * len(axes)
    known = dict(zip(volume.spatial_axes, volume.voxel_size, strict=True))
    steps = base.scale or (1.0,) * len(volume.stored_axes)
    stored = dict(zip(volume.stored_axes, steps, strict=True))
    return tuple(known[a] / abs(stored[a]) if a in known and stored[a] else 1.0 for a in axes)


def label_units(volume: Volume, axes: str) -> tuple[str | None, ...]:
    """Return the unit of each axis of the labels: the stored one, or micrometres for a given size.

    This aligns labels with their image in viewers that only read the scale.
    """
    stored = dict(zip(volume.stored_axes, volume.units, strict=True))
    if not _is_as_stored(volume):
        stored |= dict.fromkeys(SPATIAL, "micrometer")
    return tuple(stored[a] for a in axes)


def _halved(level: LevelSpec, factors: Sequence[int]) -> LevelSpec:
    every = (1,) * (len(level.shape) - len(factors)) + tuple(factors)
    scale = tuple(s * f for s, f in zip(level.scale, every, strict=True))
    return LevelSpec(coarser_shape(level.shape, every), scale, level.translation)
