"""Results of a comparison: values that are stored as JSON, one file per training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedseg_large.training.tuning.thresholds import IOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The labels of one way to cut an image into tiles, against those of the whole."""

    tile: tuple[int, ...]
    """Core of a tile, in voxels."""
    tiles: int
    """Number of tiles."""
    same: int
    """Objects identical, voxel by voxel, to those of the whole image."""
    extra: int
    """Objects of the tiles that are not identical."""
    repaired: int
    """Objects on which tiles agreed only with a larger halo."""
    joined: int
    """Objects on which tiles never agreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileCheck:
    """Whether the labels of a method depend on the tiles."""

    image: str
    shape: tuple[int, ...]
    halo: tuple[int, ...]
    """Initial halo of a tile, in voxels."""
    promise: str
    """Promise of the seam report for the labels, see `embedseg_large.methods.protocol.Promise`."""
    objects: int
    """Objects of the whole image."""
    cuts: tuple[Cut, ...]
    predict_rate: float | None
    """Voxels per second of the network with its default augmentation; None: there is none."""
    decode_rate: float
    """Voxels per second from predictions, or from the image, to labels."""

    @property
    def is_equal(self) -> bool:
        """Whether every cut gave the labels of the whole image."""
        return all(cut.same == self.objects and cut.extra == 0 for cut in self.cuts)

    @property
    def sees_all(self) -> bool:
        """Whether every tile of every cut sees the whole image, so that equality proves little."""
        sizes = [zip(cut.tile, self.halo, self.shape, strict=True) for cut in self.cuts]
        return all(tile + halo >= length for cut in sizes for tile, halo, length in cut)

    @property
    def changed(self) -> int:
        """Maximum number of objects of the whole image that a cut did not reproduce."""
        return max((self.objects - cut.same for cut in self.cuts), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training of a method, and its scores."""

    method: str
    seed: int
    steps: int | None
    """Number of optimiser steps; None if not applicable."""
    fit_seconds: float
    """Time to learn, without validation and tuning."""
    tune_seconds: float
    """Time to choose thresholds on the validation part."""
    knobs: dict[str, float]
    """Thresholds that were chosen on the validation part."""
    scores: list[dict[str, float]]
    """On the held-out part, one dict per IoU threshold, see `embedseg_large.Score`."""
    boundary: dict[str, float]
    """The same of boundaries, at IoU 0.5."""
    errors: dict[str, int]
    """Objects of each kind, see `embedseg_large.evaluation.errors`."""
    seconds: float
    """Time to segment the held-out part."""
    voxels: int
    """Voxels of the held-out part."""
    bytes_per_voxel: float
    """Peak memory of a tile per voxel, estimated."""
    model: str | None = None
    """File of the model, in the folder of the comparison; None: there is none."""
    tiles: TileCheck | None = None
    """Tile check; only for the first seed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Additional settings needed to use it."""

    @property
    def ap(self) -> float:
        """Mean AP over `IOUS`, which ranks methods, as in training."""
        return float(np.mean([s["ap"] for s in self.scores if s["threshold"] in IOUS]))

    def at(self, threshold: float) -> dict[str, float]:
        """Return the score at an IoU threshold."""
        return next(s for s in self.scores if s["threshold"] == threshold)

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Restore from `as_dict`."""
        tiles = values["tiles"]
        if tiles is not None:
            cuts = tuple(Cut(**cut | {"tile": tuple(cut["tile"])}) for cut in tiles["cuts"])
            places = {name: tuple(tiles[name]) for name in ("shape", "halo")}
            tiles = TileCheck(**{**tiles, **places, "cuts": cuts})
        return cls(**{**values, "tiles": tiles})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A method: all its trainings."""

    method: str
    trials: tuple[Trial, ...]

    @property
    def ap(self) -> float:
        """Mean over seeds of the mean AP."""
        return float(np.mean([trial.ap for trial in self.trials]))

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1); None: there is only one."""
        return deviation([trial.ap for trial in self.trials])

    @property
    def best(self) -> Trial:
        """The best training."""
        return max(self.trials, key=lambda trial: trial.ap)

    @property
    def tiles(self) -> TileCheck | None:
        """Whether its labels depend on tiles."""
        return next((t.tiles for t in self.trials if t.tiles is not None), None)

    def mean(self, threshold: float, name: str) -> float:
        """Return the mean over seeds of a score."""
        return float(np.mean([trial.at(threshold)[name] for trial in self.trials]))


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation (n - 1) of two values or more."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of `compare`."""

    path: str
    """The page."""
    standings: tuple[Standing, ...]
    """Methods, best first."""
    skipped: dict[str, str]
    """Methods that could not take part, and why."""
    failed: dict[str, str]
    """Methods whose training or segmentation failed, and why."""
    division: dict[str, list[str]]
    """Images of each part."""
    settings: dict[str, Any]
    """Settings common to all methods."""
    folder: str
    """Folder of models and intermediate results."""

    @property
    def winner(self) -> Standing:
        """The method with the highest mean AP on the held-out part."""
        return self.standings[0]

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        methods = [
            {
                "method": standing.method,
                "ap": standing.ap,
                "spread": standing.spread,
                "trials": [trial.as_dict() for trial in standing.trials],
            }
            for standing in self.standings
        ]
        return {
            "winner": self.winner.method,
            "methods": methods,
            "skipped": self.skipped,
            "failed": self.failed,
            "division": self.division,
            "settings": self.settings,
            "folder": self.folder,
            "page": self.path,
        }
