"""Folders of images, and which images of two folders belong together.

An image is identified by its *stem*, the file name without the suffix::

    images/embryo1.ome.zarr  ┐
    masks/embryo1.tif        ┘  stem embryo1: a pair
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

from embedseg_large.errors import UsageError

SUFFIXES = (".ome.zarr", ".ome.tiff", ".ome.tif", ".zarr", ".tiff", ".tif", ".png")
"""Suffixes of images, in upper or lower case; the rest of the name is the stem."""

EXAMPLES = 3
"""Maximum number of files listed in a message."""

_ZARR_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is a path or a URL, not an array or another object."""
    return isinstance(source, str | os.PathLike)


def is_folder_of_images(source: Any) -> bool:
    """Whether a source is a folder that is not itself an image."""
    if not is_path(source) or not Path(source).is_dir():
        return False
    return not any(Path(source, name).exists() for name in _ZARR_DOCUMENTS)


def stem(path: str | os.PathLike[str]) -> str:
    """Return the last part of a path or URL without the suffix of an image, if it has one."""
    name = os.fspath(path).rstrip("/").rpartition("/")[2]
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def name_of(source: Any, index: int) -> str:
    """Return the name of one of many sources: the stem of a path, or the number of an array."""
    return stem(source) if is_path(source) else f"image {index}"


def images_by_stem(folder: str | os.PathLike[str], pattern: str | None = None) -> dict[str, Path]:
    """Find the images in a folder, in the order of their names.

    Hidden files and files with other suffixes are ignored; subfolders are images only if they have
    such a suffix.

    Parameters
    ----------
    folder
        The folder.
    pattern
        Wildcards that the names of files must match, such as ``"*_dapi.tif"``; default: all.

    Raises
    ------
    UsageError
        If there are no images, or two with the same stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        known_as = stem(path)
        if path.name.startswith(".") or known_as == path.name:
            continue
        if pattern is not None and not fnmatchcase(path.name, pattern):
            continue
        if known_as in found:
            raise UsageError(
                f"{found[known_as]} and {path.name} have the same stem; keep one of them"
            )
        found[known_as] = path
    if not found:
        named = "" if pattern is None else f" are named {pattern}"
        raise UsageError(
            f"{folder}: no images in this folder{named}; supported suffixes are "
            f"{', '.join(SUFFIXES)}"
        )
    return found


def pair_by_stem(
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    kinds: tuple[str, str] = ("image", "mask"),
) -> list[tuple[str, Path, Path]]:
    """Pair the images of two folders.

    Parameters
    ----------
    left, right
        The folders.
    kinds
        Names of the images of each folder in messages.

    Returns
    -------
    Stem, path on the left and path on the right of every image, in the order of the stems.

    Raises
    ------
    UsageError
        If an image has no partner, or a folder has no images or two with the same stem.
    """
    ours, theirs = images_by_stem(left), images_by_stem(right)
    lonely = [
        *_lonely(left, sorted(ours.keys() - theirs.keys()), ours, kinds[1]),
        *_lonely(right, sorted(theirs.keys() - ours.keys()), theirs, kinds[0]),
    ]
    if lonely:
        raise UsageError(
            f"{'; '.join(lonely)}; give both files of a pair the same name, or remove what has "
            "no partner"
        )
    return [(known_as, ours[known_as], theirs[known_as]) for known_as in sorted(ours)]


def _lonely(
    folder: str | os.PathLike[str], stems: Sequence[str], paths: dict[str, Path], missing: str
) -> list[str]:
    """List the images of a folder without a partner; empty if all have one."""
    if not stems:
        return []
    names = [paths[known_as].name for known_as in stems[:EXAMPLES]]
    more = f" and {len(stems) - EXAMPLES} more" if len(stems) > EXAMPLES else ""
    return [f"{os.fspath(folder)}: no {missing} for {', '.join(names)}{more}"]
