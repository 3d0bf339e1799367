"""Whether two runs are of the same thing: facts, their token, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from embedseg_large.runs.facts import Facts, token, without_secrets
from embedseg_large.runs.run_folder import Run
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.request.foreground import Foreground
from embedseg_large.segmentation.request.request import Request
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume

FORMATS = {"predictions": 2, "scratch": 2}
"""Of what a run leaves behind: predictions (`packing`), which may outlive it; and all else in its
scratch folder (`scratch`, `journal`). Raise one with any change to these files: a run that an older
program has begun is refused then, not misread.
"""

_LIBRARIES = ("embedseg-large", "numpy", "numba", "torch", "zarr")
_FACTS_OF_NETWORK = ("model", "volume", "intensity", "foreground")
_PARTS_OF_NETWORK = ("device", "dtype", "tta", "augment_above", "tile", "context")


def facts_of(request: Request) -> Facts:
    """All that decides the labels of a run."""
    series = {"timepoints": list(request.timepoints)} if request.is_series else {}
    return _facts(request, _volume(request.volume, request.shape) | series)


def _facts(request: Request, volume: Facts) -> Facts:
    given, field = request.intensity.given, request.intensity.field
    return {
        "settings": request.settings.as_dict(),
        "model": request.segmenter.fingerprint,
        "volume": volume,
        "intensity": {
            "range": None if given is None else [asdict(r) for r in given],
            "sample": request.intensity.sample,
            "per_timepoint": request.intensity.per_timepoint,
            **({} if field == "none" else {"field": field}),
        },
        "foreground": _foreground(request.foreground),
        "formats": dict(FORMATS),
        "versions": {name: version(name) for name in _LIBRARIES},
        **_region(request),
        **({} if request.scale is None else {"object_diameter": dict(request.scale)}),
    }


def facts_of_predictions(request: Request, volume: Volume) -> Facts:
    """All that decides what the network predicts, whatever is made of it.

    Parameters
    ----------
    request
        The run.
    volume
        That of the request, at one timepoint.
    """
    facts = _facts(request, _volume(volume, request.shape))
    settings = {name: facts["settings"][name] for name in _PARTS_OF_NETWORK}
    formats = {"predictions": FORMATS["predictions"]}
    return {n: facts[n] for n in _FACTS_OF_NETWORK} | {"settings": settings, "formats": formats}


def _volume(volume: Volume, grid: Sequence[int]) -> Facts:
    about = ("level", "channel", "timepoint")
    path = None if volume.path is None else without_secrets(volume.path)
    return {name: getattr(volume, name) for name in about} | {
        "path": path,
        "shape": list(volume.spatial_shape),
        "grid": list(grid),
        "dtype": str(volume.dtype),
        "nodata": str(volume.nodata),
        **({"image": volume.image} if volume.image else {}),
        "content": content_of(volume),
        "files": volume.storage.digest,
        **({"opening": said} if (said := volume.opening.said()) else {}),
    }


def _region(request: Request) -> Facts:
    """The part of the volume, if it is not all of it: first voxels, and those past the last."""
    if request.region is None:
        return {}
    return {"region": {"start": list(request.region.start), "stop": list(request.region.stop)}}


def _foreground(where: Foreground) -> Facts:
    mask = where.mask
    return {
        "mask": None if mask is None else without_secrets(mask.path or ""),
        "mask content": None if mask is None else content_of(mask),
        "dark_below": None if where.coarse is None else where.dark,
    }


def content_of(volume: Volume) -> str:
    """What changes when the image does: voxels in memory, else what the file says of itself."""
    from dask.base import tokenize

    if volume.path is None:
        return str(tokenize(volume.storage.array))
    parts = [volume.axes, volume.chunks, volume.shards, volume.zarr_format, str(volume.fill_value)]
    return str(tokenize(parts))


def provenance(
    run: Run,
    intensity: Sequence[Sequence[IntensityRange]],
    fields: Sequence[Sequence[IntensityField]],
) -> Facts:
    """All that decides the labels, as values that JSON can hold, and its token.

    Parameters
    ----------
    run
        Knows its facts.
    intensity
        What became 0 and 1, of each timepoint for each channel.
    fields
        What evened them out before, likewise.
    """
    found = [[asdict(r) for r in channels] for channels in intensity]
    ranges = found if run.facts["intensity"]["per_timepoint"] else found[0]
    evened = [[one.as_dict() for one in channels] for channels in fields]
    light: Facts = {}
    if evened and evened[0]:
        mode = run.facts["intensity"]["field"]
        same = not run.facts["intensity"]["per_timepoint"]
        light = {"intensity_field": {"mode": mode, "channels": evened[0] if same else evened}}
    return run.facts | light | {"intensity": ranges, "token": token(run.facts)}
