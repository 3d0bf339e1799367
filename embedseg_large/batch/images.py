"""The images of a batch: those of a folder, a plate, a well, a converted file, or a list."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any, cast

from embedseg_large.errors import EmbedSegError, UsageError, VolumeError
from embedseg_large.storage.connection import is_remote, shown
from embedseg_large.volumes.containers import Container, chosen_images, container_at
from embedseg_large.volumes.folders import (
    EXAMPLES,
    images_by_stem,
    is_folder_of_images,
    is_path,
    stem,
)
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, a container, an image, or a list of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of the images to use; None: all."""

    pattern: str | None = None
    """Wildcards that file names in a folder must match."""
    wells: tuple[str, ...] | None = None
    """Names of wells of a plate, with wildcards."""
    fields: tuple[str, ...] | None = None
    """Fields of view, by their name in the well."""
    series: int | None = None
    """Image of a converted file, or of each TIFF."""

    @property
    def is_of_container(self) -> bool:
        """Whether it selects parts that only a plate or a well has."""
        return self.wells is not None or self.fields is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchImage:
    """One image of a batch."""

    name: str
    """Name, unique in the batch; the mask has the same name."""
    path: str
    """Path or URL."""
    series: int | None = None
    """Which image of the file, of a TIFF that may hold several."""
    problem: str = ""
    """Why it cannot be opened; usually empty."""
    is_contained: bool = False
    """Whether it is one of the images of a plate, a well or a converted file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedImage:
    """An image, opened, or the reason why that failed."""

    image: BatchImage
    volume: Volume | None
    problem: str = ""


def is_many(source: Any) -> bool:
    """Whether a source is a folder of images, a plate, a well or a converted file."""
    if not is_path(source):
        return False
    return is_folder_of_images(source) or container_of(source) is not None


def container_of(source: str | os.PathLike[str]) -> Container | None:
    """The container at a path or URL; None if there is none."""
    text = os.fspath(source)
    if not is_remote(text) and not Path(text).is_dir():
        return None
    return container_at(text if is_remote(text) else str(Path(text).absolute()))


def list_images(source: Source, selection: Selection) -> list[BatchImage]:
    """Find the images of a batch, in the order of their names or of the container's list.

    Parameters
    ----------
    source
        Folder, plate, well, converted file, single image, or a list of images.
    selection
        Which of the images to use.

    Raises
    ------
    UsageError
        If there are none, two would have the same name, or the selection does not fit the source.
    MetadataError
        If a container cannot be used.
    """
    if not is_path(source):
        paths = cast(Sequence[str | os.PathLike[str]], source)
        found = [one for path in paths for one in _of_path(os.fspath(path), selection, True)]
    elif is_folder_of_images(source):
        files = images_by_stem(source, selection.pattern).values()
        found = [one for path in files for one in _of_path(str(path), selection, True)]
    else:
        found = list(_of_path(os.fspath(source), selection, False))
    if selection.pattern is not None and not is_folder_of_images(source):
        raise UsageError("a pattern chooses files of a folder; leave out --pattern")
    if not found:
        raise UsageError("there are no images; pass a folder, a plate or a list with images")
    if selection.is_of_container and not any(image.is_contained for image in found):
        raise UsageError("there is no plate among the images; leave out --wells and --field")
    _check_names(found)
    return found


def open_images(images: Sequence[BatchImage], where: str, **options: Any) -> list[OpenedImage]:
    """Open all images; refuse a batch of which none can be opened, or whose axes differ.

    Files that belong to an earlier image of several files are left out.

    Parameters
    ----------
    images
        The images of a batch.
    where
        Name of the batch in messages.
    **options
        Of `open_volume`.

    Raises
    ------
    UsageError
        If axes differ.
    VolumeError
        If no image can be opened.
    """
    opened = _without_members([_opened(image, options) for image in images])
    if all(one.volume is None for one in opened):
        count = f"{where}: none of the {len(opened)} images can be opened. The first: "
        raise VolumeError(f"{count if len(opened) > 1 else ''}{opened[0].problem}")
    by_axes: dict[str, list[str]] = defaultdict(list)
    for one in opened:
        if one.volume is not None:
            by_axes[one.volume.axes].append(one.image.name)
    if len(by_axes) > 1:
        groups = sorted(by_axes.items(), key=lambda group: -len(group[1]))
        told = "; ".join(f"{axes}: {_some(names)}" for axes, names in groups)
        raise UsageError(
            f"{where}: the images have different axes ({told}); choose those of one kind with "
            "--pattern, or state the axes with --axes"
        )
    return opened


def _of_path(path: str, selection: Selection, is_one_of_many: bool) -> Iterator[BatchImage]:
    """The image at a path, or those of the container there."""
    container = container_of(path)
    known_as = stem(path)
    if container is None:
        if selection.is_of_container and not is_one_of_many:
            raise UsageError(f"{shown(path)} is not a plate; leave out --wells and --field")
        yield BatchImage(name=known_as, path=path, series=selection.series)
        return
    parts = chosen_images(
        container, wells=selection.wells, fields=selection.fields, series=selection.series
    )
    alone = not is_one_of_many and container.kind == "plate"
    for part in parts:
        name = part.name if alone else f"{known_as}_{part.name}"
        yield BatchImage(name=name, path=part.path, problem=part.missing, is_contained=True)


def _check_names(images: Sequence[BatchImage]) -> None:
    """Refuse images whose masks would have the same name, even on a case-insensitive disk."""
    names = Counter(image.name.casefold() for image in images)
    for name, times in names.items():
        if times > 1:
            paths = [shown(i.path) for i in images if i.name.casefold() == name]
            raise UsageError(
                f"{' and '.join(paths[:EXAMPLES])}: their masks would have the same name; rename "
                "one of them, or segment them in separate batches"
            )


def _opened(image: BatchImage, options: dict[str, Any]) -> OpenedImage:
    if image.problem:
        return OpenedImage(image=image, volume=None, problem=image.problem)
    try:
        volume = open_volume(image.path, series=image.series, **options)
    except EmbedSegError as error:
        return OpenedImage(image=image, volume=None, problem=str(error))
    return OpenedImage(image=image, volume=volume)


def _without_members(opened: Sequence[OpenedImage]) -> list[OpenedImage]:
    """Leave out files whose voxels an earlier image has already: each opens as the whole set."""
    kept, known = list[OpenedImage](), set[str]()
    for one in opened:
        if realpath(one.image.path) in known:
            logger.info("%s: a file of an earlier image", one.image.path)
            continue
        kept.append(one)
        if one.volume is not None:
            known.update(realpath(member) for member in one.volume.storage.members)
    return kept


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more
