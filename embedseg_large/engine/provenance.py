"""Where labels come from: recorded with them, and hashed into the token of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from embedseg_large.engine.order import Order
from embedseg_large.io.intensity import IntensityRange

_LIBRARIES = ("embedseg-large", "numpy", "numba", "torch", "zarr")


def provenance(order: Order, intensity: Sequence[IntensityRange]) -> dict[str, Any]:
    """All that decides the labels, as values that JSON can hold, and its token."""
    facts = {
        "settings": order.settings.as_dict(),
        "intensity": [asdict(r) for r in intensity],
        "model": order.network.fingerprint,
        "volume": _volume(order),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    return facts | {"token": token(facts)}


def token(facts: dict[str, Any]) -> str:
    """Hash of facts: equal for equal runs."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _volume(order: Order) -> dict[str, Any]:
    volume = order.volume
    about = ("level", "channel", "timepoint")
    path = None if volume.path is None else without_secrets(volume.path)
    return {name: getattr(volume, name) for name in about} | {
        "path": path,
        "shape": list(volume.spatial_shape),
        "grid": list(order.shape),
        "dtype": str(volume.dtype),
    }


def without_secrets(url: str) -> str:
    """A path or URL without user, password, query and fragment, which may be credentials."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
