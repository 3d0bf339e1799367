"""Where the labels of an image go, in which format and at which levels; every reason to refuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from embedseg_large.errors import MetadataError, UsageError, foreign
from embedseg_large.labels.folder import LONGEST_NAME, LabelFolder, is_label_name
from embedseg_large.labels.folder import PROVENANCE as PROVENANCE
from embedseg_large.labels.pending import LabelTarget, label_folder
from embedseg_large.storage.connection import is_same_place, joined, refuse_web
from embedseg_large.storage.group import ngff_content, ngff_version
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.axes import SPATIAL, voxel_size_um
from embedseg_large.volumes.coordinate_systems import VERSION, CoordinateFrame, frame_of
from embedseg_large.volumes.header import Level
from embedseg_large.volumes.multiscale import (
    ZARR_FORMATS,
    LevelSpec,
    check_store_name,
    check_version,
)
from embedseg_large.volumes.pyramid import coarser_shape, halvings
from embedseg_large.volumes.volume import Volume

_LABEL_AXES = "tzyx"


def label_target(
    volume: Volume,
    name: str,
    *,
    output: str | os.PathLike[str] | None = None,
    ngff_version: str | None = None,
    overwrite: bool = False,
    unfinished: Callable[[str], str | None] | None = None,
) -> LabelTarget:
    """Find the location for an image's labels, and every reason why they could not be written.

    Labels go into the image's own store if that can be written to and is NGFF 0.4, 0.5 or 0.6, else
    into ``OUTPUT/labels/NAME``. They have as many levels as the image in that store, as NGFF
    requires: the segmented level, the coarser ones of the image, and further halvings if needed.

    Parameters
    ----------
    volume
        The level to segment.
    name
        Name of the labels: no slashes, no leading dot.
    output
        Folder or URL of another store, which is created if it does not exist.
    ngff_version
        ``"0.6"``, ``"0.5"`` or ``"0.4"`` for a new store; default 0.6 if the image is 0.6, else
        0.5. An existing store keeps its version.
    overwrite
        Whether labels of that name may be replaced.
    unfinished
        Returns the name of an unfinished run that writes such labels into a store: labels that this
        run has already published do not block it.

    Returns
    -------
    LabelTarget
        Nothing has been written, except that labels whose publication was interrupted are moved
        back to their name.

    Raises
    ------
    LabelsExistError
        If the name is taken and `overwrite` is false.
    UsageError
        If the name or version cannot be used, or the store cannot hold labels.
    OutputError
        If it is not writable.
    """
    if not is_label_name(name):
        raise UsageError(
            f"{name[:80]!r} cannot name labels; use at most {LONGEST_NAME} letters and digits, "
            "no slashes and no leading dot"
        )
    folder, version = _place(volume, output, ngff_version)
    run = None if unfinished is None else unfinished(folder.store)
    folder.check(name, version, overwrite=overwrite, run=run)
    axes = "".join(a for a in _LABEL_AXES if a in volume.stored_axes)
    return LabelTarget(
        store=folder.store,
        name=name,
        ngff_version=version,
        axes=axes,
        units=label_units(volume, axes),
        levels=label_levels(volume, axes, _image_levels(folder)),
        overwrite=overwrite,
        in_image=volume.path is not None and is_same_place(folder.store, volume.path),
        is_flat=volume.is_flat,
        frame=_frame(volume, folder, version, axes),
    )


def _place(
    volume: Volume, output: str | os.PathLike[str] | None, version: str | None
) -> tuple[LabelFolder, str]:
    """Find the store and its NGFF version."""
    if version is not None:
        check_version(version)
    folder, found = _own_store(volume) if output is None else _output_store(os.fspath(output))
    if version is not None and found not in (None, version):
        raise UsageError(f"{folder.store} is NGFF {found}, so labels in it cannot be {version}")
    return folder, found or version or (VERSION if volume.ngff_version == VERSION else "0.5")


def _own_store(volume: Volume) -> tuple[LabelFolder, str]:
    if volume.path is None:
        raise UsageError(
            "the image is an array in memory; choose a store for the labels with --output"
        )
    folder = _writable(volume.path)
    if volume.ngff_version is None:
        raise UsageError(
            f"{folder.store} is not an OME-Zarr image; choose a store for the labels with --output"
        )
    return folder, _writable_version(folder, volume.ngff_version)


def _output_store(output: str) -> tuple[LabelFolder, str | None]:
    check_store_name(output)
    folder = _writable(output)
    folder_at(output).check_reachable()
    image, zarr_format = ngff_version(folder.attributes()), folder.zarr_format()
    if image is not None:
        return folder, _writable_version(folder, image)
    if zarr_format is not None:
        return folder, "0.4" if zarr_format == 2 else _version_of_labels(folder)
    if folder.holds_something_else():
        raise UsageError(f"{folder.store} exists and is not a zarr group; choose another output")
    return folder, None


def _version_of_labels(folder: LabelFolder) -> str:
    """NGFF version of the labels that a zarr 3 group holds, which new labels share."""
    listed = ngff_content(label_folder(joined(folder.store, "labels")).attributes())
    return VERSION if listed.get("version") == VERSION else "0.5"


def _writable(store: str) -> LabelFolder:
    refuse_web(store, "choose a store for the labels with --output")
    return label_folder(store)


def _writable_version(folder: LabelFolder, version: str) -> str:
    zarr_format = folder.zarr_format()
    if version not in ZARR_FORMATS or ZARR_FORMATS[version] != zarr_format:
        raise UsageError(
            f"{folder.store} is NGFF {version} in zarr {zarr_format}; labels can only be added to "
            "0.4 (zarr 2), 0.5 and 0.6 (zarr 3); choose another store with --output"
        )
    return version


def _image_levels(folder: LabelFolder) -> int | None:
    """Number of levels of the image in a store; None if there is no image."""
    multiscales = ngff_content(folder.attributes()).get("multiscales")
    return len(multiscales[0]["datasets"]) if multiscales else None


def _frame(volume: Volume, folder: LabelFolder, version: str, axes: str) -> CoordinateFrame | None:
    """Coordinate systems of the image that hold for its labels, too."""
    is_own = volume.path is not None and is_same_place(folder.store, volume.path)
    if not (is_own and version == VERSION and _is_as_stored(volume)):
        return None
    kept = [volume.stored_axes.index(a) for a in axes]
    with foreign(volume.name, "its coordinate systems cannot be read", kind=MetadataError):
        return frame_of(ngff_content(folder.attributes())["multiscales"][0], kept, volume.name)


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
