"""Whether two runs are of the same thing: facts, their token, and what differs."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

from embedseg_large.runs.facts import Facts, without_secrets
from embedseg_large.segmentation.request.foreground import Foreground
from embedseg_large.volumes.volume import Volume

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.request import Order

FORMATS = {"predictions": 2, "scratch": 2}
"""Of what a run leaves behind: predictions (`packing`), which may outlive it; and all else in its
scratch folder (`scratch`, `journal`). Raise one with any change to these files: a run that an older
program has begun is refused then, not misread.
"""

_LIBRARIES = ("embedseg-large", "numpy", "numba", "torch", "zarr")
_FACTS_OF_NETWORK = ("model", "volume", "intensity", "foreground")
_PARTS_OF_NETWORK = ("device", "dtype", "tta", "tile", "context")


def facts_of(order: Order) -> Facts:
    """All that decides the labels of a run."""
    given = order.intensity
    return {
        "settings": order.settings.as_dict(),
        "model": order.network.fingerprint,
        "volume": _volume(order),
        "intensity": {
            "range": None if given is None else [asdict(r) for r in given],
            "sample": order.intensity_sample,
            "per_timepoint": order.intensity_per_timepoint,
            **({} if order.intensity_field == "none" else {"field": order.intensity_field}),
        },
        "foreground": _foreground(order.foreground),
        "formats": dict(FORMATS),
        "versions": {name: version(name) for name in _LIBRARIES},
        **_region(order),
        **({} if order.scale is None else {"object_diameter": dict(order.scale)}),
    }


def facts_of_predictions(order: Order) -> Facts:
    """All that decides what the network predicts, whatever is made of it."""
    facts = facts_of(order)
    settings = {name: facts["settings"][name] for name in _PARTS_OF_NETWORK}
    formats = {"predictions": FORMATS["predictions"]}
    return {n: facts[n] for n in _FACTS_OF_NETWORK} | {"settings": settings, "formats": formats}


def _volume(order: Order) -> Facts:
    volume = order.volume
    about = ("level", "channel", "timepoint")
    path = None if volume.path is None else without_secrets(volume.path)
    return {name: getattr(volume, name) for name in about} | {
        "path": path,
        "shape": list(volume.spatial_shape),
        "grid": list(order.shape),
        "dtype": str(volume.dtype),
        "nodata": str(volume.nodata),
        **({"image": volume.image} if volume.image else {}),
        "content": content_of(volume),
        "files": volume.storage.digest,
        **({"opening": said} if (said := volume.opening.as_dict()) else {}),
        **({"timepoints": list(order.timepoints)} if order.is_series else {}),
    }


def _region(order: Order) -> Facts:
    """The part of the volume, if it is not all of it: first voxels, and those past the last."""
    if order.region is None:
        return {}
    return {"region": {"start": list(order.region.start), "stop": list(order.region.stop)}}


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
