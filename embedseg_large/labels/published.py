"""Locations of labels and of their image."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from embedseg_large.errors import MetadataError, UnreachableError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.labels.folder import PROVENANCE as PROVENANCE
from embedseg_large.labels.folder import is_label_name, provenance_in
from embedseg_large.labels.provenance import usable
from embedseg_large.storage.connection import is_same_place, joined, shown
from embedseg_large.storage.failures import is_denied
from embedseg_large.storage.group import ZarrGroup, ngff_content
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.folders import stem
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

_KEPT = re.compile(r"\.bak\d*$")
_OPENING = ("axes", "voxel_size", "series", "allow_missing")
"""Recorded options with which an image was opened."""


def place_of_labels(
    source: str, name: str | None, choose: str = "choose with labels= (--labels)"
) -> str:
    """Path or URL of labels.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr image with labels inside, or of the labels themselves.
    name
        Name of the labels in the image; None: the only ones.
    choose
        How the user can name one of several labels.

    Returns
    -------
    str
        ``STORE/labels/NAME``, or the source itself if it has no labels inside.

    Raises
    ------
    UsageError
        If there are several to choose from.
    """
    if name is not None:
        if not is_label_name(name):
            raise UsageError(f"{name[:80]!r} cannot name labels; pass one of {label_names(source)}")
        return joined(source, f"labels/{name}")
    names = label_names(source)
    current = without_kept(names)
    if len(current) > 1:
        raise UsageError(f"{shown(source)} has several labels; {choose}: {', '.join(names)}")
    return joined(source, f"labels/{current[0]}") if current else source


def without_kept(names: Sequence[str]) -> list[str]:
    """Drop names of older labels that an overwriting run kept: NAME.bak, beside NAME."""
    return [n for n in names if not ((old := _KEPT.search(n)) and n[: old.start()] in names)]


def split_place(path: str) -> tuple[str, str] | None:
    """Split ``STORE/labels/NAME`` into the store and the name.

    Parameters
    ----------
    path
        Path or URL of anything; need not exist.

    Returns
    -------
    (store, name) or None
        None if that is no label group: an image may lie in an ordinary folder named ``labels``.
    """
    path = path.rstrip("/")
    store, inside, name = path.rpartition("/labels/")
    if not inside or not is_label_name(name):
        return None
    if _is_group(joined(store, "labels")) or _is_group(store):
        return store, name
    is_image = stem(name) != name or label_names(path)  # some stores have no group documents
    return None if is_image else (store, name)


def _is_group(path: str) -> bool:
    try:
        return ZarrGroup.at(path).zarr_format() is not None
    except UnreachableError as error:
        if is_denied(error):  # a bucket without list permission says so of missing objects
            return False
        raise
    except MetadataError:  # damaged, but a group: it is reported where it is opened
        return True


def other_labels(place: str) -> str:
    """List the labels that exist instead of those at a path; empty if it is not in a store."""
    store, name = split_place(place) or ("", "")
    names = label_names(store) if store else []
    return "" if not names or name in names else f"; existing labels: {', '.join(names)}"


def place_of_image(labels: str, made: Mapping[str, Any], axes: str | None = None) -> str | None:
    """Path or URL of the image around labels, or of the one recorded by their run.

    Parameters
    ----------
    labels
        Path or URL of their group, or of a file.
    made
        The record of the run; empty for labels of other programs.
    axes
        Letters of the axes of an image that does not name them.

    Returns
    -------
    str or None
        None if neither can be opened.
    """
    own = split_place(labels)
    around = None if own is None else own[0]
    for path in (around, made.get("volume", {}).get("path")):
        if path:
            with suppress(VolumeError, UsageError):  # axes may belong to the other one
                open_volume(path, channel=None, **_said(made, path, axes))
                return str(path)
    return None


def image_options(labels: Any, image: Any, axes: str | None = None) -> dict[str, Any]:
    """Return how to open an image: with the options of the labels' run, if it is the same image.

    Parameters
    ----------
    labels
        Path or URL of the group of labels; for anything else nothing is known.
    image
        Path or URL.
    axes
        Letters of its axes, which override those of the run.

    Returns
    -------
    Keywords of `open_volume`.
    """
    if not isinstance(labels, str | os.PathLike) or not isinstance(image, str | os.PathLike):
        return {} if axes is None else {"axes": axes}
    return _said(provenance_of(os.fspath(labels)), os.fspath(image), axes)


def _said(made: Mapping[str, Any], image: str, axes: str | None) -> dict[str, Any]:
    about = made.get("volume", {})
    recorded, said = about.get("path"), about.get("opening")
    known: dict[str, Any] = {}
    if isinstance(said, dict) and isinstance(recorded, str) and is_same_place(recorded, image):
        known = {name: value for name, value in said.items() if name in _OPENING}
    if about.get("level"):
        known.pop("voxel_size", None)  # that of another level
    return known if axes is None else known | {"axes": axes}


def labelled_part(labels: Volume) -> Box | None:
    """The part of the volume with labels, if `segment` was limited to a region.

    Raises
    ------
    UsageError
        If it refers to another level.
    """
    if labels.path is None or not labels.is_labels:
        return None
    asked = provenance_of(labels.path).get("region")
    if asked is not None and labels.level:
        raise UsageError(
            f"{labels.name}: labels of a region are compared and measured at level 0; open that one"
        )
    if asked is None:
        return None
    part = Box(tuple(asked["start"]), tuple(asked["stop"]))
    if part.ndim != labels.ndim or not Box.whole(labels.spatial_shape).contains(part):
        logger.warning(
            "%s: ignoring the recorded region %s, which is outside of the labels", labels.name, part
        )
        return None
    return part


def label_names(store: str) -> list[str]:
    """Names of the labels listed in a store, sorted; empty if it is not an OME-Zarr image.

    Parameters
    ----------
    store
        Path or URL of the image. The store is not listed, so it may be on a web server.

    Raises
    ------
    MetadataError
        If the list is not readable JSON.
    UnreachableError
        If a server gives no proper response.
    """
    folder_at(store).check_reachable()  # often the first thing that is asked of a server
    try:
        about = ZarrGroup.at(joined(store, "labels")).attributes()
    except UnreachableError as error:
        if is_denied(error):  # a bucket without list permission says so of missing objects
            return []
        raise
    listed = ngff_content(about).get("labels", [])
    if not isinstance(listed, list):
        return []
    return sorted(name for name in listed if is_label_name(name))  # not ../../other.zarr


def provenance_of(labels: str) -> dict[str, Any]:
    """Return the provenance of labels; empty if another program wrote them.

    Invalid parts are left out, with a warning.

    Parameters
    ----------
    labels
        Path or URL of their group.

    Raises
    ------
    MetadataError, UnreachableError
        As for `label_names`.
    """
    return usable(provenance_in(ZarrGroup.at(labels).attributes()), shown(labels))


def level_of_shape(image: Volume, labels: Volume, axes: str, todo: str) -> int:
    """Return the level of an image that has the shape of its labels.

    Parameters
    ----------
    image, labels
        At any level.
    axes
        Letters of the axes of the image along which its shape is compared.
    todo
        What the user can do if there is none.

    Raises
    ------
    VolumeError
        If no level has that shape.
    """
    at = [image.stored_axes.index(axis) for axis in axes]
    shapes = [level.shape and tuple(level.shape[i] for i in at) for level in image.levels]
    if labels.spatial_shape not in shapes:
        known = ", ".join(str(shape) for shape in shapes if shape)
        raise VolumeError(
            f"{labels.name} has shape {labels.spatial_shape}, {image.name} {known}; {todo}"
        )
    return shapes.index(labels.spatial_shape)
