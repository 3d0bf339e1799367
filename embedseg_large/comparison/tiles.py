"""Whether the result of a method depends on tiles: an image is segmented whole, and in tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from embedseg_large.comparison.contender import Fitted
from embedseg_large.comparison.division import middle_of
from embedseg_large.comparison.result import Cut, TileCheck
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores
from embedseg_large.network.model import Model
from embedseg_large.segmentation.report import SegmentResult
from embedseg_large.segmentation.segment import segment
from embedseg_large.training.data.sources import Pair

MOST_VOXELS = 2**22
"""Maximum size; of a larger image only the centre is segmented."""
PARTS = (2, 3, 4)
"""Tiles along an axis, one cut for each."""
SMALLEST = 4
"""Edge of a tile, in voxels."""


def check_tiles(fitted: Fitted, pair: Pair, folder: Path) -> TileCheck:
    """Segment an image as a whole and in several cuts, and compare the labels.

    Parameters
    ----------
    fitted
        The method. Its network predicts once, so that only the clustering tiles differ.
    pair
        The image.
    folder
        Folder in which a temporary one may be created.
    """
    seen = middle_of(pair, MOST_VOXELS)
    with TemporaryDirectory(dir=folder) as place, _quiet():
        store = Path(place, "labels.ome.zarr")

        # as it was scored, on the device that was chosen
        engine = fitted.engine
        where: dict[str, Any] = (
            {"device": engine.device, "dtype": engine.dtype} if isinstance(engine, Model) else {}
        )

        def run(name: str, tile: tuple[int, ...], **options: Any) -> SegmentResult:
            return segment(
                seen.image, engine, name, output=store, cluster_tile=tile, **where, **options
            )

        whole = run("whole", seen.shape, keep_predictions=fitted.predicts)
        kept = {"from_predictions": whole.summary["predictions"]} if fitted.predicts else {}
        wanted = whole.labels.compute()
        cuts = []
        for number, tile in enumerate(_cuts(seen.shape)):
            found = run(f"cut-{number}", tile, **kept)
            cuts.append(_cut(tile, found, found.labels.compute(), wanted))
        stages = {str(name): stage for name, stage in whole.summary["stages"].items()}
        return TileCheck(
            image=seen.name,
            shape=seen.shape,
            halo=tuple(whole.summary["settings"]["halo"]),
            promise=whole.seams.promise,
            objects=whole.n_instances,
            cuts=tuple(cuts),
            predict_rate=stages["predict"]["voxels_per_second"] if fitted.predicts else None,
            decode_rate=stages["cluster"]["voxels_per_second"],
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of runs about sizes and intensities, which are irrelevant here."""
    logger = logging.getLogger("embedseg_large.segmentation")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _cuts(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Cores of tiles; those of a cut differ in size if the shape is not a multiple."""
    for parts in PARTS:
        yield tuple(max(min(n, SMALLEST), ceil(n / parts)) for n in shape)


def _cut(
    tile: tuple[int, ...], found: SegmentResult, labels: NDArray[Any], wanted: NDArray[Any]
) -> Cut:
    same = scores(Contingency.of(labels, wanted), (1.0,))[0]
    seams = found.seams
    return Cut(
        tile=tile,
        tiles=seams.tiles,
        same=same.tp,
        extra=same.fp,
        repaired=seams.repaired,
        joined=seams.joined,
    )
