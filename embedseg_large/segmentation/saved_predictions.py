"""Predictions that outlive their run: cluster again, with other thresholds, without the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedseg_large.documents import difference, parse_json
from embedseg_large.errors import UsageError, foreign
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.request.facts import facts_of_predictions
from embedseg_large.segmentation.stages.predict import KEPT_SEED
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at
from embedseg_large.tiling.grid import Grid
from embedseg_large.volumes.intensity import IntensityRange

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.request import Order

PREDICTIONS_FILE = "predictions.json"
_VERSIONS = "versions.npy"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptPredictions:
    """Predictions of a finished run."""

    folder: Folder
    versions: NDArray[np.uint32]
    """Of each prediction tile."""
    intensity: tuple[IntensityRange, ...]
    """What became 0 and 1 in each channel."""
    fields: tuple[IntensityField, ...] = ()
    """What evened out each channel before."""


def is_kept(folder: Folder) -> bool:
    """Whether a folder holds the predictions of a finished run."""
    return folder.exists(PREDICTIONS_FILE)


def keep(
    folder: Folder,
    order: Order,
    versions: NDArray[np.uint32],
    intensity: Sequence[IntensityRange],
    fields: Sequence[IntensityField] = (),
) -> None:
    """Describe the predictions in a folder, so that `open_kept` finds them."""
    buffer = BytesIO()
    np.save(buffer, versions)
    folder.write(_VERSIONS, buffer.getvalue(), durable=True)
    about = {
        "facts": facts_of_predictions(order),
        "intensity": [asdict(r) for r in intensity],
        "fields": [one.as_dict() for one in fields],
        "object_diameter": order.scale,
        "least_foreground": min(KEPT_SEED, order.settings.foreground),
    }
    # last: it says that all is there
    folder.write(PREDICTIONS_FILE, json.dumps(about, indent=1).encode(), durable=True)


def open_kept(path: str, order: Order) -> KeptPredictions:
    """Open the predictions in a folder.

    Raises
    ------
    UsageError
        When there are none, or they were made from something else than what is ordered.
    """
    folder = folder_at(path)
    what, todo = "the predictions there cannot be used", "predict again"
    try:
        with foreign(folder.path, what, todo=todo, kind=UsageError, unless=(FileNotFoundError,)):
            about = parse_json(folder.read(PREDICTIONS_FILE))
            different = difference(about["facts"], facts_of_predictions(order))
            least = float(about["least_foreground"])
            found = KeptPredictions(
                folder=folder,
                versions=_versions(folder, order),
                intensity=tuple(IntensityRange(**values) for values in about["intensity"]),
                fields=tuple(IntensityField.from_dict(one) for one in about.get("fields", ())),
            )
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder.path}: no predictions of a finished run; make some with --keep-predictions"
        ) from error
    if different:
        raise UsageError(f"{folder.path}: these predictions had {different}; run the network again")
    if order.settings.foreground < least:
        raise UsageError(
            f"foreground is {order.settings.foreground}, but {folder.path} keeps predictions of "
            f"voxels above {least} only; choose a higher value, or run the network again"
        )
    return found


def _versions(folder: Folder, order: Order) -> NDArray[np.uint32]:
    """Version of each prediction tile."""
    versions: NDArray[np.uint32]
    versions = np.load(BytesIO(folder.read(_VERSIONS)), allow_pickle=False)
    counts = Grid(order.shape, order.settings.tile, order.settings.context, padded=True).counts
    if versions.dtype != np.uint32 or versions.shape != counts:
        raise ValueError(f"{versions.dtype} {versions.shape} for tiles {counts}")
    return versions
