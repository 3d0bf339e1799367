"""Where labels come from: recorded with them, and hashed into the token of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

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
    about = ("path", "level", "channel", "timepoint")
    return {name: getattr(volume, name) for name in about} | {
        "shape": list(volume.spatial_shape),
        "dtype": str(volume.dtype),
    }
