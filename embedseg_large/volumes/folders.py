"""Folders of images, and which images of two folders belong together.

An image is known by its *stem*, the name of its file without the ending::

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
"""Endings of images, in any case; what is before them is the stem."""

EXAMPLES = 3
"""Files that a message lists."""

_ZARR_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is a path or a URL, not an array or another object."""
    return isinstance(source, str | os.PathLike)


def is_folder_of_images(source: Any) -> bool:
    """Whether a source is a folder, and not one that is an image itself."""
    if not is_path(source) or not Path(source).is_dir():
        return False
    return not any(Path(source, name).exists() for name in _ZARR_DOCUMENTS)


def stem(path: str | os.PathLike[str]) -> str:
    """Return the last name of a path or URL without the ending of an image, if it has one."""
    name = os.fspath(path).rstrip("/").rpartition("/")[2]
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def name_of(source: Any, index: int) -> str:
    """Return what to call one of many sources: the stem of a path, or the number of an array."""
    return stem(source) if is_path(source) else f"image {index}"


def images_by_stem(folder: str | os.PathLike[str], pattern: str | None = None) -> dict[str, Path]:
    """Find the images in a folder, in the order of their names.

    Hidden files and files with other endings do not count; folders inside are images only if they
    end like one.

    Parameters
    ----------
    folder
        The folder.
    pattern
        Wildcards that the names of files must match, such as ``"*_dapi.tif"``; default: all.

    Raises
    ------
    UsageError
        There are no images, or two of the same stem.
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
            f"{folder}: no images in this folder{named}; they end in {', '.join(SUFFIXES)}"
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
        What messages call an image of either.

    Returns
    -------
    Stem, path on the left and path on the right of every image, in the order of the stems.

    Raises
    ------
    UsageError
        An image has no partner, or a folder no images or two of the same stem.
    """
    ours, theirs = images_by_stem(left), images_by_stem(right)
    lonely = [
        *_lonely(left, sorted(ours.keys() - theirs.keys()), ours, kinds[1]),
        *_lonely(right, sorted(theirs.keys() - ours.keys()), theirs, kinds[0]),
    ]
    if lonely:
        raise UsageError(
            f"{'; '.join(lonely)}; give both files of a pair the same name, or move away what has "
            "no partner"
        )
    return [(known_as, ours[known_as], theirs[known_as]) for known_as in sorted(ours)]


def _lonely(
    folder: str | os.PathLike[str], stems: Sequence[str], paths: dict[str, Path], missing: str
) -> list[str]:
    """Say which images of a folder have no partner; nothing if all have one."""
    if not stems:
        return []
    names = [paths[known_as].name for known_as in stems[:EXAMPLES]]
    more = f" and {len(stems) - EXAMPLES} more" if len(stems) > EXAMPLES else ""
    return [f"{os.fspath(folder)}: no {missing} for {', '.join(names)}{more}"]
