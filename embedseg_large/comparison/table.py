"""The table beside the page: one row per training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.result import Comparison, Trial
from embedseg_large.training.tuning.thresholds import IOUS


def columns_of(found: Comparison) -> dict[str, NDArray[Any]]:
    """Return the columns by name."""
    rows = [_row(trial) for standing in found.standings for trial in standing.trials]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _row(trial: Trial) -> dict[str, Any]:
    tiles = trial.tiles
    return {
        "method": trial.method,
        "seed": trial.seed,
        "steps": trial.steps or 0,
        "fit_seconds": round(trial.fit_seconds, 1),
        "tune_seconds": round(trial.tune_seconds, 1),
        "mean_ap": round(trial.ap, 4),
        **{f"ap_{iou:g}": round(trial.at(iou)["ap"], 4) for iou in IOUS},
        "pq_0.5": round(trial.at(0.5)["pq"], 4),
        "boundary_ap_0.5": round(trial.boundary["ap"], 4),
        **trial.errors,
        "seconds_per_megavoxel": round(1e6 * trial.seconds / trial.voxels, 3),
        "bytes_per_voxel": round(trial.bytes_per_voxel),
        "promise": "" if tiles is None else tiles.promise,
        "tiles_equal": "" if tiles is None else str(tiles.is_equal),
        "model": trial.model or "",
    }
