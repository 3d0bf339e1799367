"""Reading OME-Zarr: which arrays an image has, and what their axes and scales are.

Metadata of NGFF 0.1 to 0.3 are first brought into the form of 0.4, those of 0.6 into that of 0.5;
then the pydantic models of ``ome-zarr-models`` check them. Only the multiscale is checked, so that
an unusual rendering setting (``omero``) does not block an image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from embedseg_large.errors import (
    MetadataError,
    UnreachableError,
    VolumeError,
    VolumeNotFoundError,
    foreign,
)
from embedseg_large.storage.arrays import open_array, open_group
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.axes import letter
from embedseg_large.volumes.coordinate_systems import flattened, has_coordinate_systems
from embedseg_large.volumes.header import Header, Level, array_header, is_inside, pick_level
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

logger = logging.getLogger(__name__)

VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")

# NGFF 0.1 and 0.2 do not name the axes: they are always these.
_UNNAMED_AXES = ("t", "c", "z", "y", "x")
_KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def open_image(path: str, level: int) -> tuple[Header, StoredArray]:
    """Open one level of an OME-Zarr image or label group, or a plain zarr array.

    Parameters
    ----------
    path
        Absolute path or URL of the zarr group or array.
    level
        Index of the level in the metadata.

    Raises
    ------
    VolumeNotFoundError
        If nothing exists at that path, or there is no such level.
    MetadataError
        If the group is not an image, or its metadata are not usable.
    VolumeError
        If there is no zarr store at that path, or it cannot be opened.
    UnreachableError
        If there is no such server or bucket, or it gives no proper response.
    """
    import zarr

    node, where = _open_node(path), shown(path)
    if isinstance(node, zarr.Array):
        header = array_header(node.shape, node.metadata)
        pick_level(header.levels, level, where)
        return header, _described(node, path)
    header = read_header(node, where)
    if 0 <= level < len(header.levels) and is_inside(header.levels[level].path):
        place = joined(path, header.levels[level].path)
        with suppress(FileNotFoundError, zarr.errors.NodeTypeValidationError):
            return header, _described(open_array(place), place)
    pick_level(header.levels, level, where)
    raise MetadataError(f"{where}: level {level} is not an array; restore it")


def _described(array: Any, path: str) -> StoredArray:
    opener = partial(open_array, path, zarr_format=array.metadata.zarr_format)
    return wrap_array(array, opener, shown(path))


def _open_node(path: str) -> Any:
    import zarr

    where = shown(path)
    folder_at(path).check_reachable()
    try:
        try:
            return open_array(path)
        except (FileNotFoundError, zarr.errors.NodeTypeValidationError):  # perhaps a group
            return open_group(path)
    except FileNotFoundError as error:
        if is_remote(path):
            _refuse_denied(path)
            raise VolumeNotFoundError(f"{where}: there is no zarr store") from error
        raise VolumeError(f"{where}: neither a zarr store nor a TIFF{_other(path)}") from error
    except zarr.errors.NodeTypeValidationError as error:
        raise MetadataError(f"{where}: neither a zarr array nor a group; restore it") from error


def _refuse_denied(path: str) -> None:
    """Report missing permission, if that is why nothing was found."""
    folder = folder_at(path)
    for name in ("zarr.json", ".zgroup", ".zarray"):
        with suppress(FileNotFoundError):
            folder.read(name)


def _other(path: str) -> str:
    """Describe what a local folder is instead, and how to use it."""
    folder = Path(path)
    if (folder / "attributes.json").is_file():
        return (
            "; it is N5, which is not supported: convert it to OME-Zarr, for example with Fiji "
            "(N5 plugin) or "
            "`n5-utils`"
        )
    count = sum(1 for file in folder.iterdir() if file.suffix.lower() in (".tif", ".tiff"))
    if count:
        return (
            f"; it is a folder of {count:,} TIFFs: combine them into one image with "
            f"embedseg-large convert {path} OUT.ome.zarr --stack z"
        )
    return ""


def read_header(group: Any, path: str) -> Header:
    """Read the first multiscale of a zarr group.

    Parameters
    ----------
    group
        An open ``zarr.Group``.
    path
        Where it is, for error messages.

    Raises
    ------
    MetadataError
        If the group is not an image (the message says what it is), or its multiscale is not valid
        (the message names the field).
    """
    todo = "restore the metadata or write the image again"
    with foreign(path, "its metadata are not OME-Zarr", todo=todo, kind=MetadataError):
        return _header(group, path)


def _header(group: Any, path: str) -> Header:
    attributes = group.attrs.asdict()
    ome = attributes.get("ome") or attributes  # 0.5 put everything under "ome"
    if not isinstance(ome, dict):
        raise MetadataError(f"{path}: its attribute ome is not a JSON object; restore it")
    multiscales = ome.get("multiscales")
    if not multiscales:
        raise MetadataError(f"{path}: {_what_else(group, ome, path)}")
    if not isinstance(multiscales, list) or not isinstance(multiscales[0], dict):
        raise MetadataError(f"{path}: multiscales is not a list of objects")
    stored = multiscales[0]
    version = _version(ome, stored, "ome" in attributes, path)
    if has_coordinate_systems(version):
        stored = flattened(stored, path)
    multiscale = _validated(upgrade(stored, version), version, path)
    scaled = _has_scales(stored)
    return Header(
        axes="".join(letter(axis.name, axis.type) for axis in multiscale.axes),
        units=tuple(_text(axis.unit) for axis in multiscale.axes),
        levels=tuple(_level(group, path, multiscale, d, scaled) for d in multiscale.datasets),
        ngff_version=version,
        is_labels="image-label" in ome,
        channels=_channel_names(ome.get("omero")),
    )


def _channel_names(omero: Any) -> tuple[str, ...]:
    """List the names of channels, if each has one; other settings are ignored."""
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    names = [c.get("label") if isinstance(c, dict) else None for c in channels]
    return tuple(str(n) for n in names) if all(names) else ()


def upgrade(multiscale: dict[str, Any], version: str) -> dict[str, Any]:
    """Convert a multiscale of any version to the form of NGFF 0.4.

    Names the axes of 0.1 and 0.2, gives the axes of 0.3 their types, and adds an identity scale if
    a dataset has none.

    Parameters
    ----------
    multiscale
        One element of the ``multiscales`` list, as stored.
    version
        Its NGFF version.
    """
    new = {key: value for key, value in multiscale.items() if key != "version"}
    if version in ("0.1", "0.2"):
        new["axes"] = list(_UNNAMED_AXES)
    if not isinstance(new.get("axes"), list) or not isinstance(new.get("datasets"), list):
        return new  # for the validation to name what is missing
    new["axes"] = [_upgrade_axis(axis) for axis in new["axes"]]
    identity = [{"type": "scale", "scale": [1.0] * len(new["axes"])}]
    new["datasets"] = [
        {"coordinateTransformations": identity, **dataset} if isinstance(dataset, dict) else dataset
        for dataset in new["datasets"]
    ]
    return new


def _upgrade_axis(axis: Any) -> Any:
    axis = {"name": axis} if isinstance(axis, str) else axis
    if not isinstance(axis, dict) or axis.get("type") is not None:
        return axis
    kind = _KINDS.get(letter(axis.get("name")))
    return axis if kind is None else {**axis, "type": kind}


def _has_scales(multiscale: dict[str, Any]) -> bool:
    return all("coordinateTransformations" in dataset for dataset in multiscale["datasets"])


def _version(ome: dict[str, Any], multiscale: dict[str, Any], nested: bool, path: str) -> str:
    """Read the NGFF version, or infer it from the form of the metadata."""
    axes = multiscale.get("axes")
    named = bool(axes) and isinstance(axes, list) and isinstance(axes[0], str)
    new = "0.6" if "coordinateSystems" in multiscale else "0.5"
    likely = new if nested else "0.1" if not axes else "0.3" if named else "0.4"
    version = str((ome if nested else multiscale).get("version", likely))
    if version not in VERSIONS and not has_coordinate_systems(version):
        raise MetadataError(f"{path}: NGFF version {version!r} is not one of {', '.join(VERSIONS)}")
    return version


def _validated(multiscale: dict[str, Any], version: str, path: str) -> Any:
    """Parse a multiscale of the form of 0.4 or 0.5."""
    from ome_zarr_models.v04 import multiscales as v04
    from ome_zarr_models.v05 import multiscales as v05
    from pydantic import ValidationError

    is_new = version == "0.5" or has_coordinate_systems(version)
    model = v05.Multiscale if is_new else v04.Multiscale
    try:
        return model.model_validate(multiscale)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])
        raise MetadataError(
            f"{path}: multiscales[0]{field} is not valid NGFF {version} ({_flat(first['msg'])})"
            f"{_array_instead(multiscale, path)}"
        ) from error
    except LookupError as error:  # the models compare scales before they compare their lengths
        raise MetadataError(
            f"{path}: multiscales[0].datasets have scales of different lengths"
        ) from error


def _array_instead(multiscale: dict[str, Any], path: str) -> str:
    """Advice for opening an array of an image with unusable metadata."""
    match multiscale.get("datasets"):
        case [{"path": str(first)}, *_] if is_inside(first):
            return (
                f"; correct the metadata, or open one of its arrays and pass its axes: "
                f"{joined(path, first)} with --axes"
            )
    return ""


def _level(group: Any, where: str, multiscale: Any, dataset: Any, scaled: bool) -> Level:
    """Compose a dataset's transformations with those that hold for all datasets."""
    n = len(multiscale.axes)
    scale, shift = _transform(dataset.coordinateTransformations, n, where)
    factor, offset = _transform(multiscale.coordinateTransformations or (), n, where)
    moved = [s * f + o for s, f, o in zip(shift, factor, offset, strict=True)]
    sizes = [s * f for s, f in zip(scale, factor, strict=True)]
    if scaled and not all(isfinite(size) and size != 0 for size in sizes):
        logger.warning(
            "%s: ignoring scale %s of %s, which is not a voxel size", where, sizes, dataset.path
        )
        scaled = False
    return Level(
        path=dataset.path,
        shape=_shape(group, dataset.path),
        scale=tuple(sizes) if scaled else None,
        translation=tuple(moved) if scaled and any(moved) and all(map(isfinite, moved)) else None,
    )


def _transform(transforms: Sequence[Any], n: int, where: str) -> tuple[list[float], list[float]]:
    """Scale and translation of a list of transformations."""
    vectors = {"scale": [1.0] * n, "translation": [0.0] * n}
    for transform in transforms:
        values = getattr(transform, transform.type, None)
        if not isinstance(values, list):
            raise MetadataError(
                f"{where}: a {transform.type} that is stored in a separate file is not supported"
            )
        vectors[transform.type] = values
    return vectors["scale"], vectors["translation"]


def _shape(group: Any, path: str) -> tuple[int, ...] | None:
    """Shape of one of a group's arrays; None if it is missing or unusable."""
    if not is_inside(path):
        return None
    try:
        return tuple(int(n) for n in group[path].shape)
    except UnreachableError:
        raise
    except Exception:  # of a level that may never be requested
        return None


def described_group(path: str, wanted: str) -> str:
    """Description of a group, for a message about something missing in it.

    Parameters
    ----------
    path
        The group.
    wanted
        Path of what is missing, to which no hint should lead.
    """
    with suppress(VolumeError, OSError):
        group = open_group(path)
        attributes = group.attrs.asdict()
        ome = attributes.get("ome") or attributes
        if isinstance(ome, dict) and not ome.get("multiscales"):
            told = _what_else(group, ome, path)
            return f"; {path} exists" + ("" if told.endswith(f" {wanted}") else f": {told}")
    return ""


def _what_else(group: Any, ome: dict[str, Any], path: str) -> str:
    """Describe a group that is not an image, and what to open instead."""
    match ome:
        case {"plate": {"wells": [{"path": well}, *_]}}:
            image = f"{joined(path, well)}/0"
            return (
                f"this is a plate: segment processes all of it; or open an image, such as {image}"
            )
        case {"plate": _}:
            return "this is a plate: segment processes all of it; or open one of its images"
        case {"well": {"images": [{"path": image}, *_]}}:
            return f"this is a well of a plate; open one of its images: {joined(path, image)}"
        case {"bioformats2raw.layout": _}:
            image = joined(path, "0")
            return f"this is a bioformats2raw container; open one of its images: {image}"
        case {"scene": _}:
            return f"this is a scene of several images; open one of them: {_members(group)}"
        case {"labels": [*names]}:
            return (
                f"this is a list of labels; open {joined(path, 'NAME')}, where NAME is one of "
                f"{names}"
            )
    members = _members(group)
    if members == "labels":
        return f"it holds labels only, and no image; open one of {joined(path, 'labels/NAME')}"
    return f"this zarr group is not an OME-Zarr image: no multiscales; it holds {members}"


def _members(group: Any) -> str:
    try:
        names = sorted(group.keys())
    except Exception:  # most web servers do not list, and report so in many ways
        return "contents that the server does not list"
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _flat(error: object) -> str:
    """Return an error of another library in one line."""
    return " ".join(str(error).split())[:300]
