"""A panel: several sets of annotated images that a training is judged by, each counted on its own.

::

    embryos=held/images,held/masks                                a folder of images, one of masks
    blastocyst=a.ome.zarr,labels=nuclei,channel=1                 labels inside of the images
    wide=light/images,light/masks,object_diameter=30,most=4       resampled; the first four

or a YAML or JSON file, ``embryos: {images: ..., masks: ..., object_diameter: ...}``. The criterion
is the mean over the sets, so that a large one does not outweigh the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from embedseg_large.errors import UsageError
from embedseg_large.network.model import Model
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges

Stated = Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | None
"""Sets by name, the short forms of several, `PanelSet` values, or a file; None: no panel."""

_FILES = (".yaml", ".yml", ".json")
_NUMBERS: Mapping[str, Any] = {"object_diameter": float, "channel": int, "level": int, "most": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSet:
    """One set of images of a panel.

    Raises
    ------
    UsageError
        There are no masks, or a number is not possible.
    """

    name: str
    """What it is called in the log and the model's card."""
    images: Any
    """As for `embedseg_large.training.data.sources.find_pairs`."""
    masks: Any = None
    """The same."""
    labels: str | None = None
    """Instead of masks: name of the labels inside of each OME-Zarr image."""
    object_diameter: float | None = None
    """Width of its objects in voxels, if images are to be resampled to the model's scale."""
    channel: int | None = 0
    """Channel of the images."""
    level: int = 0
    """Pyramid level of images and masks."""
    axes: str | None = None
    """Letters of the images' axes, where the files do not name them."""
    most: int | None = None
    """Number of images that are taken, from the first on; None: all."""

    def __post_init__(self) -> None:
        if (self.masks is None) == (self.labels is None):
            raise UsageError(f"panel set {self.name}: pass masks or labels, and only one of them")
        for name in ("object_diameter", "most"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"panel set {self.name}: {name} is {value}; it must be positive")

    def pairs(self, ndim: int) -> list[Pair]:
        """Open the images, without reading voxels.

        Raises
        ------
        UsageError, VolumeError
            The images cannot be used; the set and the file are named.
        """
        options = {n: getattr(self, n) for n in ("labels", "channel", "level", "axes")}
        found = find_pairs(self.images, self.masks, ndim=ndim, **options)[: self.most]
        for pair in found:
            pair.check_mask()
        return found

    def examples(self, pairs: Sequence[Pair]) -> list[Example]:
        """Measure the intensities of the images."""
        return [
            Example.whole(
                pair, intensity_ranges(pair.image), set=self.name, diameter=self.object_diameter
            )
            for pair in pairs
        ]


def read_panel(stated: Stated) -> tuple[PanelSet, ...]:
    """Read the sets of a panel; see the top of this file for their forms.

    Raises
    ------
    UsageError
        There is no such file, a set has no such setting, or a name stands twice.
    """
    if stated is None:
        return ()
    if isinstance(stated, str | os.PathLike):
        stated = [stated]
    if isinstance(stated, Mapping):
        found = [_set(str(name), values) for name, values in stated.items()]
    else:
        found = [each for item in stated for each in _sets(item)]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sets of the panel are called {name!r}; give each its own name")
    return tuple(found)


def check_panel(panel: Sequence[PanelSet], model: Model | None) -> None:
    """Refuse a stated diameter for a model that does not know its own."""
    for each in panel:
        if each.object_diameter and model is not None and model.object_diameter is None:
            raise UsageError(
                f"panel set {each.name}: the model does not know the diameter of its training "
                "objects, so object_diameter has no meaning; leave it out"
            )


def _sets(item: Any) -> list[PanelSet]:
    """Read one item of a list."""
    if isinstance(item, PanelSet):
        return [item]
    text = os.fspath(item)
    if text.endswith(_FILES):
        return list(read_panel(_file(Path(text))))
    name, equals, rest = text.partition("=")
    if not equals or not name:
        raise UsageError(
            f"panel {text!r} is neither NAME=IMAGES,MASKS nor a file that ends in .yaml or .json"
        )
    places = [word for word in rest.split(",") if "=" not in word]
    values: dict[str, Any] = dict(zip(("images", "masks"), places, strict=False))
    if not places or len(places) > 2:
        raise UsageError(f"panel set {name}: {rest!r} is not like IMAGES,MASKS,object_diameter=30")
    values |= dict(word.split("=", 1) for word in rest.split(",") if "=" in word)
    return [_set(name, values)]


def _file(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; pass another file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: neither YAML nor JSON; write NAME: {{images: ...}}") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UsageError(f"{path}: no panel; write NAME: {{images: ..., masks: ...}} per set")
    return content


def _set(name: str, values: Mapping[str, Any]) -> PanelSet:
    known = [field.name for field in fields(PanelSet) if field.name != "name"]
    for key in values:
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise UsageError(f"panel set {name}: no setting {key!r}{hint}")
    if "images" not in values:
        raise UsageError(f"panel set {name}: no images; pass a folder or a file")
    read = dict(values)
    for key in values.keys() & _NUMBERS.keys():
        try:
            read[key] = None if values[key] is None else _NUMBERS[key](values[key])
        except (TypeError, ValueError):
            raise UsageError(f"panel set {name}: {key} {values[key]!r} is no number") from None
    return PanelSet(name=name, **read)
