"""Named sets of annotated images: for validation, and additional ones for training.

::

    embryos=held/images,held/masks                      a folder of images, one of masks
    blastocyst=a.ome.zarr,labels=nuclei,channel=1       labels inside of the images
    wide=light/images,light/masks,most=4                the first four

or a YAML or JSON file, ``embryos: {images: ..., masks: ..., channel: 1}``. Other settings of a set
depend on its purpose: see `embedseg_large.training.data.panel.PanelSet` and `TrainingSet`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from embedseg_large.documents import read_yaml
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.options import StatedSets

RESERVED = ("annotated", "synthetic", "held out")
"""Names of the sources and sets that every training has."""

_FILES = (".yaml", ".yml", ".json")
_NUMBERS: Mapping[str, Any] = {
    "channel": lambda said: int(said) if str(said).isdigit() else str(said),
    "level": int,
    "most": int,
    "object_diameter": float,
    "share": float,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A named set of images with masks.

    Raises
    ------
    UsageError
        If there are no masks, or a number is not possible.
    """

    role: ClassVar[str] = "set"
    """Name of such a set in messages."""

    name: str
    """Name of the set in the log and the model card."""
    images: Any
    """As for `embedseg_large.training.data.sources.find_pairs`."""
    masks: Any = None
    """The same."""
    labels: str | None = None
    """Instead of masks: name of the labels inside each OME-Zarr image."""
    channel: int | str | None = 0
    """Channel of the images, by number or name."""
    level: int = 0
    """Pyramid level of images and masks."""
    axes: str | None = None
    """Letters of the images' axes, where the files do not name them."""
    most: int | None = None
    """Number of images to use, starting from the first; None: all."""

    def __post_init__(self) -> None:
        if (self.masks is None) == (self.labels is None):
            raise UsageError(f"{self.called}: pass masks or labels, and only one of them")
        self.require_positive("most")

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"{self.role} {self.name}"

    def require_positive(self, name: str) -> None:
        """Refuse a stated number that is not positive."""
        value = getattr(self, name)
        if value is not None and not 0 < value < inf:
            raise UsageError(f"{self.called}: {name} is {value}; it must be positive")

    def pairs(self, ndim: int | None) -> list[Pair]:
        """Open the images, without reading voxels.

        Raises
        ------
        UsageError, VolumeError
            If the images cannot be used; the message names the set and the file.
        """
        options = {n: getattr(self, n) for n in ("labels", "channel", "level", "axes")}
        try:
            return find_pairs(self.images, self.masks, ndim=ndim, **options)[: self.most]
        except (UsageError, VolumeError) as error:
            raise type(error)(f"{self.called}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet(ImageSet):
    """An additional training set, with its share of the crops."""

    role: ClassVar[str] = "training set"

    share: float | None = None
    """Fraction of the crops from annotated images; None: an equal part of what the other sets
    leave."""

    def __post_init__(self) -> None:
        ImageSet.__post_init__(self)
        if self.name in RESERVED:
            raise UsageError(f"{self.called}: this name is taken; choose another one")
        if self.share is not None and not 0 < self.share < 1:
            raise UsageError(
                f"{self.called}: share is {self.share}; pass a fraction between 0 and 1"
            )


Kind = TypeVar("Kind", bound=ImageSet)


def read_sets(stated: StatedSets, kind: type[Kind]) -> tuple[Kind, ...]:
    """Read named sets; their forms are described at the top of this file.

    Raises
    ------
    UsageError
        If there is no such file, a set has no such setting, or two sets have the same name.
    """
    if stated is None:
        return ()
    if isinstance(stated, str | os.PathLike | ImageSet):
        stated = [stated]
    if isinstance(stated, Mapping):
        found = [_set(str(name), values, kind) for name, values in stated.items()]
    else:
        found = [each for item in stated for each in _sets(item, kind)]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two {kind.role}s are called {name!r}; use different names")
    return tuple(found)


def shares_of(sets: Sequence[TrainingSet]) -> tuple[float, ...]:
    """Return the fraction of the annotated crops of the unnamed first set, then of each named one.

    Raises
    ------
    UsageError
        If the stated shares leave nothing for the sets without one.
    """
    stated = [None, *(each.share for each in sets)]
    left = 1 - sum(share for share in stated if share is not None)
    if left <= 0:
        raise UsageError(
            f"the shares of the training sets add up to {1 - left:g}; they must leave some crops "
            "for the images without a share"
        )
    each = left / stated.count(None)
    return tuple(each if share is None else share for share in stated)


def _sets(item: Any, kind: type[Kind]) -> list[Kind]:
    """Read one item of a list."""
    if isinstance(item, kind):
        return [item]
    text = os.fspath(item)
    if text.endswith(_FILES):
        return list(read_sets(_file(Path(text), kind), kind))
    name, equals, rest = text.partition("=")
    if not equals or not name:
        raise UsageError(
            f"{kind.role} {text!r} is neither NAME=IMAGES,MASKS nor a .yaml or .json file"
        )
    places = [word for word in rest.split(",") if "=" not in word]
    values: dict[str, Any] = dict(zip(("images", "masks"), places, strict=False))
    if not places or len(places) > 2:
        raise UsageError(f"{kind.role} {name}: {rest!r} is not like IMAGES,MASKS,channel=1")
    values |= dict(word.split("=", 1) for word in rest.split(",") if "=" in word)
    return [_set(name, values, kind)]


def _file(path: Path, kind: type[ImageSet]) -> Mapping[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; pass another file") from error
    except ValueError as error:
        raise UsageError(f"{path}: neither YAML nor JSON; write NAME: {{images: ...}}") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UsageError(
            f"{path}: no {kind.role}s; write NAME: {{images: ..., masks: ...}} per set"
        )
    return content


def _set(name: str, values: Mapping[str, Any], kind: type[Kind]) -> Kind:
    known = [field.name for field in fields(kind) if field.name != "name"]
    for key in values:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise UsageError(f"{kind.role} {name}: no setting {key!r}{hint}")
    if "images" not in values:
        raise UsageError(f"{kind.role} {name}: no images; pass a folder or a file")
    read = dict(values)
    for key in values.keys() & _NUMBERS.keys():
        try:
            read[key] = None if values[key] is None else _NUMBERS[key](values[key])
        except (TypeError, ValueError):
            raise UsageError(f"{kind.role} {name}: {key} {values[key]!r} is not a number") from None
    return kind(name=name, **read)
