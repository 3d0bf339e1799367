"""OME-Zarr stores of several images: plates, wells, and files converted with their series.

::

    plate.ome.zarr/          plate           PLATE/B/03/0    named B03_0
        B/03/                well            one image per field of view
            0/ 1/            images
    scan.ome.zarr/           bioformats2raw.layout
        OME/                 lists the series, if present
        0/ 1/                images          named 0, 1

Only the metadata documents of groups are read, and nothing is listed, so a container may be on a
web server. Documents are untrusted: paths that leave the container are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any, Literal

from embedseg_large.errors import MetadataError, UnreachableError, UsageError
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.group import Document, ZarrGroup, ngff_content
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.header import is_inside

Kind = Literal["plate", "well", "series"]

_LAYOUT = "bioformats2raw.layout"
_ODD = re.compile(r"[^\w.+-]")
_SHOWN = 8
"""Maximum number of names listed in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainedImage:
    """One image of a container."""

    name: str
    """Unique in the container: ``B03_0`` in a plate, else the path of the image."""
    path: str
    """Path or URL of its group."""
    well: str = ""
    """Row and column, such as ``B03``; empty outside of plates."""
    field: str = ""
    """Field of view within its well; empty for series."""
    missing: str = ""
    """Why it cannot be opened although the container lists it; usually empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A store of several images."""

    path: str
    kind: Kind
    """Kind of container: a plate, a single well, or the series of a converted file."""
    images: tuple[ContainedImage, ...]
    """The images, in the container's order."""

    @property
    def missing(self) -> tuple[ContainedImage, ...]:
        """Images that the container lists but that do not exist."""
        return tuple(image for image in self.images if image.missing)


def container_at(path: str) -> Container | None:
    """Find the images of a plate, a well or a converted file.

    Parameters
    ----------
    path
        Path or URL of a folder.

    Returns
    -------
    Container or None
        None if it is none of these.

    Raises
    ------
    MetadataError
        If its list of images is unusable.
    UnreachableError
        If a server gives no proper response.
    """
    folder_at(path).check_reachable()  # often the first thing that is asked of a server
    content = _content(path)
    if isinstance(content.get("plate"), dict):
        return Container(path=path, kind="plate", images=tuple(_of_plate(path, content["plate"])))
    if isinstance(content.get("well"), dict):
        fields = _fields(path, content["well"])
        return Container(path=path, kind="well", images=tuple(_of_fields_in(path, fields)))
    if _LAYOUT in content and not content.get("multiscales"):
        return Container(path=path, kind="series", images=tuple(_series(path)))
    return None


def chosen_images(
    container: Container,
    *,
    wells: Sequence[str] | None = None,
    fields: Sequence[str] | None = None,
    series: int | None = None,
) -> tuple[ContainedImage, ...]:
    """Choose some of the images of a container.

    Parameters
    ----------
    container
        The container.
    wells
        Names of wells, with wildcards: ``B03``, ``B3``, ``C*``; None: all.
    fields
        Fields of view, by their name in the well; None: all.
    series
        Indices of series, from 0; None: all.

    Raises
    ------
    UsageError
        If something requested does not exist, or there are no wells, fields or series.
    """
    where = shown(container.path)
    if container.kind != "plate" and wells is not None:
        raise UsageError(f"{where} is not a plate and has no wells; leave out --wells")
    if container.kind == "series" and fields is not None:
        raise UsageError(f"{where} has series, not fields; choose one with --series")
    if container.kind != "series" and series is not None:
        raise UsageError(f"{where} has fields, not series; choose with --wells and --field")
    images = container.images
    if wells is not None:
        images = _of_wells(images, wells, where)
    if fields is not None:
        images = _of_fields(images, fields, where)
    if series is not None:
        if not 0 <= series < len(images):
            raise UsageError(f"{where}: no series {series}, there are {len(images)}, from 0")
        images = (images[series],)
    return images


def _content(path: str) -> Document:
    """Return the metadata of a group; empty if there is no group, or its metadata are unusable.

    Opening the location as an image then reports the problem.
    """
    try:
        return ngff_content(ZarrGroup.at(path).attributes())
    except UnreachableError:
        raise
    except (MetadataError, TypeError, ValueError):
        return {}


def _of_plate(path: str, plate: Document) -> Iterator[ContainedImage]:
    """Yield the images of all wells."""
    rows, columns = (_names(plate, part, path) for part in ("rows", "columns"))
    for well in _listed(plate, "wells", path):
        inside = _path(well, f"{shown(path)}: plate.wells")
        row, column = (
            _at(names, well.get(index), part)
            for names, index, part in (
                (rows, "rowIndex", inside.split("/")[0]),
                (columns, "columnIndex", inside.split("/")[-1]),
            )
        )
        yield from _of_well(joined(path, inside), f"{row}{column}", inside)


def _of_well(path: str, name: str, inside: str) -> Iterator[ContainedImage]:
    about = _content(path).get("well")
    if not isinstance(about, dict):
        why = f"the plate lists the well {inside}, which is not there"
        yield ContainedImage(name=_safe(name), path=path, well=name, missing=why)
        return
    yield from _of_fields_in(path, _fields(path, about), name)


def _of_fields_in(path: str, fields: Sequence[str], well: str = "") -> Iterator[ContainedImage]:
    """Yield the images of a well.

    Missing ones are found on disks only: in a bucket, each would take a request.
    """
    for field in fields:
        place = joined(path, field)
        is_there = is_remote(path) or Path(place).exists()
        yield ContainedImage(
            name=_safe(f"{well}_{field}" if well else field),
            path=place,
            well=well,
            field=field,
            missing="" if is_there else f"the well lists the field {field}, but {place} is missing",
        )


def _fields(path: str, well: Document) -> list[str]:
    """Return the paths of the images of a well."""
    return [_path(i, f"{shown(path)}: well.images") for i in _listed(well, "images", path)]


def _series(path: str) -> Iterator[ContainedImage]:
    """Yield the images of a converted file: the listed ones, or else 0, 1, ... while they exist."""
    listed = _content(joined(path, "OME")).get("series")
    if isinstance(listed, list):
        for name in map(str, listed):
            _check_inside(name, f"{shown(path)}: OME series")
            yield ContainedImage(name=_safe(name), path=joined(path, name))
        return
    for number in count():
        place = joined(path, str(number))
        if not _content(place).get("multiscales"):
            return
        yield ContainedImage(name=str(number), path=place)


def _listed(about: Document, key: str, path: str) -> list[Document]:
    """Return a list of JSON objects."""
    found = about.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise MetadataError(f"{shown(path)}: {key} is not a list of objects; restore the metadata")
    return found


def _names(plate: Document, part: str, path: str) -> list[str]:
    """Return the names of the rows or columns of a plate."""
    return [str(one.get("name", "")) for one in _listed(plate, part, path)]


def _at(names: Sequence[str], index: Any, otherwise: str) -> str:
    """Return the name of a row or column; if the index is invalid, the name in the path."""
    usable = isinstance(index, int) and 0 <= index < len(names) and names[index]
    return names[index] if usable else otherwise


def _path(about: Document, where: str) -> str:
    path = str(about.get("path", ""))
    _check_inside(path, where)
    return path


def _check_inside(path: str, where: str) -> None:
    if not is_inside(path):
        raise MetadataError(f"{where}: {path!r} is not a path inside it; restore the metadata")


def _of_wells(
    images: Sequence[ContainedImage], patterns: Sequence[str], where: str
) -> tuple[ContainedImage, ...]:
    """Select the images of wells that match a pattern; every pattern must match some."""
    for pattern in patterns:
        if not any(_is_well(image.well, pattern) for image in images):
            there = list(dict.fromkeys(image.well for image in images))
            raise UsageError(f"{where}: no well {pattern}; there are {_some(there)}")
    return tuple(i for i in images if any(_is_well(i.well, p) for p in patterns))


def _is_well(well: str, pattern: str) -> bool:
    """Whether a pattern matches a well; B3 and B03 are equivalent."""
    return any(
        fnmatchcase(form, wanted) for form in _forms(well) for wanted in _forms(pattern.strip())
    )


def _forms(well: str) -> set[str]:
    """Return the equivalent spellings of a well's name."""
    upper = well.upper().replace("/", "")
    row = upper.rstrip("0123456789")
    column = upper[len(row) :]
    return {upper, f"{row}{column.lstrip('0') or column}"}


def _of_fields(
    images: Sequence[ContainedImage], fields: Sequence[str], where: str
) -> tuple[ContainedImage, ...]:
    """Select the images of some fields; missing wells are kept, to be reported."""
    there = list(dict.fromkeys(image.field for image in images if image.field))
    wrong = [field for field in fields if field not in there]
    if wrong:
        raise UsageError(f"{where}: no field {', '.join(wrong)}; there are {_some(there)}")
    return tuple(image for image in images if image.field in fields or not image.field)


def _safe(name: str) -> str:
    """Return a name that is safe for files, because metadata are untrusted."""
    return _ODD.sub("_", name).lstrip(".") or "_"


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
