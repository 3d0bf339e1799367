"""Predictions that outlive their run, to be clustered with other thresholds without the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from embedseg_large.documents import difference, parse_json
from embedseg_large.errors import UsageError, foreign
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.request.request import (
    Request,
    SavedPredictions,
    Timepoint,
    facts_of_predictions,
)
from embedseg_large.segmentation.stages.predict import KEPT_SEED
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at
from embedseg_large.tiling.grid import Grid
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume

PREDICTIONS_FILE = "predictions.json"
_VERSIONS = "versions.npy"


def is_saved(folder: Folder) -> bool:
    """Whether a folder holds the predictions of a finished run."""
    return folder.exists(PREDICTIONS_FILE)


def save(
    request: Request,
    at: Timepoint,
    versions: NDArray[np.uint32],
    intensity: Sequence[IntensityRange],
    fields: Sequence[IntensityField] = (),
) -> None:
    """Describe the predictions of a timepoint, so that `open_saved` finds them."""
    folder = at.scratch.predictions
    buffer = BytesIO()
    np.save(buffer, versions)
    folder.write(_VERSIONS, buffer.getvalue(), durable=True)
    about = {
        "facts": facts_of_predictions(request, at.volume),
        "intensity": [asdict(r) for r in intensity],
        "fields": [one.as_dict() for one in fields],
        "object_diameter": request.scale,
        "least_foreground": min(KEPT_SEED, request.settings.foreground),
    }
    # last: it marks the predictions as complete
    folder.write(PREDICTIONS_FILE, json.dumps(about, indent=1).encode(), durable=True)


def open_saved(path: str, request: Request, volume: Volume) -> SavedPredictions:
    """Open the predictions in a folder.

    Parameters
    ----------
    path
        Path or URL of the folder.
    request
        The run that uses them.
    volume
        The request's volume, at one timepoint.

    Raises
    ------
    UsageError
        If there are none, or they were computed from a different image or with different settings.
    """
    folder = folder_at(path)
    what, todo = "the predictions there cannot be used", "predict again"
    try:
        with foreign(folder.path, what, todo=todo, kind=UsageError, unless=(FileNotFoundError,)):
            about = parse_json(folder.read(PREDICTIONS_FILE))
            different = difference(about["facts"], facts_of_predictions(request, volume))
            least = float(about["least_foreground"])
            found = SavedPredictions(
                folder=folder,
                versions=_versions(folder, request),
                intensity=tuple(IntensityRange(**values) for values in about["intensity"]),
                fields=tuple(IntensityField.from_dict(one) for one in about.get("fields", ())),
            )
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder.path}: no predictions of a finished run; make some with --keep-predictions"
        ) from error
    if different:
        raise UsageError(f"{folder.path}: these predictions had {different}; run the network again")
    if request.settings.foreground < least:
        raise UsageError(
            f"foreground is {request.settings.foreground}, but {folder.path} keeps predictions of "
            f"voxels above {least} only; choose a higher value, or run the network again"
        )
    return found


def _versions(folder: Folder, request: Request) -> NDArray[np.uint32]:
    """Version of each prediction tile."""
    versions: NDArray[np.uint32]
    versions = np.load(BytesIO(folder.read(_VERSIONS)), allow_pickle=False)
    counts = Grid(
        request.shape, request.settings.tile, request.settings.context, padded=True
    ).counts
    if versions.dtype != np.uint32 or versions.shape != counts:
        raise ValueError(f"{versions.dtype} {versions.shape} for tiles {counts}")
    return versions
