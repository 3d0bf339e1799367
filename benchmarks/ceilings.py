"""What ideal fields give back: the accuracy that no network of a method can exceed.

::

    python benchmarks/ceilings.py --data DATA --every 10

The masks of several data sets are turned into the fields that a perfect network would predict, and
those are decoded with the usual thresholds. What is missing, the method itself has lost. Objects
that overlap are flattened first, as for a training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table1 import flattened

from embedseg_large.clustering.cluster import cluster
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.evaluate import pooled
from embedseg_large.evaluation.scores import scores
from embedseg_large.methods.of_model import method_of
from embedseg_large.methods.registry import FIELD_METHODS
from embedseg_large.network.settings import ModelSettings
from embedseg_large.testing import embedding_of
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.objective import model_settings
from embedseg_large.training.settings import TrainSettings

IOUS = (0.5, 0.75, 0.9)
SETS = {
    "DSB2018": ("dsb2018/train/images", "dsb2018/train/masks"),
    "Usiigaci": ("usiigaci/train/images", "usiigaci/train/masks"),
    "BBBC010": ("bbbc010_worms/train/images", "bbbc010_worms/train/masks"),
    "StarDist's sample (3D)": ("stardist_samples/img3d.tif", "stardist_samples/mask3d.tif"),
}
"""Images and masks of each set, below the folder of the data."""


def decoded(labels: NDArray[Any], settings: ModelSettings) -> NDArray[Any]:
    """Labels from the fields that a perfect network of this method predicts for labels."""
    method = method_of(settings)
    if method is None:
        return cluster(embedding_of(labels), settings.min_object_size, seed=settings.seed)
    raw = method.ideal(method.targets(labels))
    faces = ((False, False),) * labels.ndim
    return method.decode(method.stored(raw), faces, {}).labels


def ceiling(settings: ModelSettings, pairs: Sequence[Pair]) -> list[float]:
    """AP at each IoU, pooled over images."""
    each = []
    for pair in pairs:
        found = decoded(pair.flat_labels().astype(np.int32), settings)
        each.append(scores(Contingency.of_annotated(found, pair.layers()), IOUS))
    return [score.ap for score in pooled(each)]


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "methods", nargs="*", default=["embedseg", *FIELD_METHODS], metavar="METHOD"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--every", type=int, default=1, help="use every n-th image only")
    args = parser.parse_args()
    print("| method | " + " | ".join(SETS) + " |\n|---" + "|---" * len(SETS) + "|")
    opened = {}
    for name, places in SETS.items():
        pairs = find_pairs(*(str(args.data / place) for place in places))[:: args.every]
        flat = [flattened(pair) for pair in pairs]
        opened[name] = flat, measure(flat)
    for name in args.methods:
        cells = []
        for pairs, properties in opened.values():
            settings = model_settings(properties, TrainSettings(method=name), None)
            cells.append(" · ".join(f"{ap:.3f}" for ap in ceiling(settings, pairs)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
