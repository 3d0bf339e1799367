"""The command that reproduces the labels, from the record of their run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from embedseg_large.network.settings import EMBEDSEG
from embedseg_large.options import in_digits
from embedseg_large.segmentation.request.scale_choice import stated_of

_SIZES = ("tile", "context", "cluster_tile", "halo", "max_halo")
_WIDTH = 80
_NETWORK = ("tta", "augment_above", "device", "dtype")
_THRESHOLDS = ("foreground", "seed", "margin")


def command(made: Mapping[str, Any], model: str, method: str | None = None) -> str:
    """Return the command, in lines that fit a terminal; empty if no command can express the run.

    Parameters
    ----------
    made
        The record of a run of `segment`.
    model
        Name or path of the model.
    method
        Its method, for records that do not name it; None: EmbedSeg.
    """
    volume = made.get("volume", {})
    if made.get("segmenter") or not volume.get("path") or "settings" not in made:
        return ""
    if volume.get("channel", 0) is None:  # all channels: a keyword of es.segment only
        return ""
    made = {"method": method or EMBEDSEG, **made}
    lines = [f"embedseg-large segment {shlex.quote(str(volume['path']))}"]
    for name, value in _options(made, model):
        is_negative = value.startswith("-")  # after a space it might be taken for an option
        option = f"{name}{'=' if is_negative else ' '}{shlex.quote(value)}" if value else name
        if len(lines) > 1 and len(lines[-1]) + len(option) < _WIDTH:
            lines[-1] += f" {option}"
        else:
            lines.append(option)
    return " \\\n    ".join(lines)


def _options(made: Mapping[str, Any], model: str) -> Iterator[tuple[str, str]]:
    """Names and values; a flag has an empty one."""
    yield "--model", model
    yield from _place(made)
    yield from _opening(made["volume"])
    yield from _part(made["volume"], made.get("region"))
    yield from _foreground(made.get("foreground", {}))
    yield from _intensity(made)
    yield from _scale(made)
    yield from _smallest(made)
    settings = made["settings"]
    values = (*_NETWORK, *(_THRESHOLDS if made["method"] == EMBEDSEG else ()))
    yield from ((_flag(name), str(settings[name])) for name in values if name in settings)
    yield from ((_flag(n), ",".join(map(str, settings[n]))) for n in _SIZES if n in settings)
    for name in ("keep_largest_piece", "fill_holes"):
        if name in settings:
            yield _flag(name if settings[name] else f"no_{name}"), ""
    if settings.get("strict"):
        yield "--strict", ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _place(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    store, inside, name = str(made.get("labels", "")).rpartition("/labels/")
    if inside:
        yield "--labels", name
    if inside and store != made["volume"]["path"]:
        yield "--output", store


def _opening(volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was stated about the image because its file does not say it."""
    said = volume.get("opening") or {}
    for name in ("axes", "series"):
        if said.get(name) is not None:
            yield _flag(name), str(said[name])
    if said.get("voxel_size"):
        yield "--voxel-size", ",".join(map(in_digits, said["voxel_size"]))
    if said.get("allow_missing"):
        yield "--allow-missing", ""
    if volume.get("nodata", "auto") != "auto":
        yield "--nodata", str(volume["nodata"])


def _part(volume: Mapping[str, Any], region: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """The part of the image: channel, level, timepoints, region."""
    for name in ("channel", "level"):
        if volume.get(name) is not None:
            yield _flag(name), str(volume[name])
    if volume.get("timepoints"):
        yield "--timepoint", ",".join(map(str, volume["timepoints"]))
    elif volume.get("timepoint") is not None:
        yield "--timepoint", str(volume["timepoint"])
    if region is not None:
        ranges = zip(region["start"], region["stop"], strict=True)
        yield "--region", ",".join(f"{a}:{b}" for a, b in ranges)


def _foreground(where: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("mask", "dark_below"):
        if where.get(name) is not None:
            yield _flag(name), str(where[name])


def _intensity(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The range, if it was given: a list per channel, or per timepoint of a series."""
    found = made.get("intensity") or [None]
    if isinstance(found[0], list):
        yield "--intensity-per-timepoint", ""
    elif isinstance(found[0], Mapping) and found[0].get("percentiles") is None:
        yield "--intensity-range", ",".join(in_digits(found[0][name]) for name in ("low", "high"))
    elif isinstance(found[0], Mapping) and found[0].get("sampled") is not None:
        yield "--intensity-sample", str(found[0]["sampled"])
    if "intensity_field" in made:
        yield "--intensity-field", str(made["intensity_field"]["mode"])


def _scale(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The stated size of objects, or the one found automatically, if tiles were resampled.

    Earlier versions recorded the model's size only, in voxels of the volume.
    """
    volume, scale = made["volume"], made.get("scale", {})
    diameter = scale.get("stated", scale.get("model_diameter"))
    if "object_diameter" in made:
        diameter = stated_of(made["object_diameter"])
    if diameter is not None and volume.get("grid") != volume.get("shape"):
        yield "--object-diameter", str(diameter)


def _smallest(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The minimum size of an object, in voxels of the volume; the record has those of the grid.

    A size that no number of the volume's voxels gives was the model's own.
    """
    least, volume = made["settings"].get("min_object_size"), made["volume"]
    if least is None:
        return
    grid, shape = volume.get("grid"), volume.get("shape")
    times = prod(grid) / prod(shape) if grid and shape and all((*grid, *shape)) else 1
    stated = round(least / times)
    if round(stated * times) == least:
        yield "--min-object-size", str(stated)
