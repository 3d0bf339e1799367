"""Table 1 of the paper with the methods of this package, each at the same cost.

::

    OMP_NUM_THREADS=1 python benchmarks/table1.py --data DATA --out table1 --minutes 12

DATA holds a folder for each of `DATA_SETS`, with ``train/images`` and ``train/masks``. Images are
divided by the seed: to learn from, to tune thresholds on, and to score on. Every method trains from
nothing for the same processor time. All is stored: killed at any time and started again, the script
goes on from the last validation. After each training the table is written anew (``table1.csv`` and
``table1.md``), from the kept labels.

Worms overlap. EmbedSeg learns from their masks as they are. The other methods cannot; they learn
from flattened masks, in which the later worm covers the earlier. All are scored against the masks
as they are.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from embedseg_large.comparison.division import Division
from embedseg_large.comparison.networks import NetworkContender
from embedseg_large.comparison.options import CompareOptions
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.evaluate import pooled
from embedseg_large.evaluation.scores import Score, scores
from embedseg_large.files import whole
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.volumes.volume import open_volume

IOUS = (0.5, 0.75, 0.9)
"""The thresholds of the paper's table."""
COLUMNS = (
    "data set",
    "method",
    *(f"AP {iou}" for iou in IOUS),
    "found",
    "true",
    "steps",
    "training min",
    "prediction s",
    "trained on",
)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Annotated images, and how crops are cut from them."""

    name: str
    folder: str
    crop: tuple[int, int]
    batch: int
    scored: float = 0.15
    """Share of the images that are scored: the paper's validation share for DSB2018."""
    tuned: float = 0.08
    """Share of the images on which thresholds are chosen."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the paper's table."""

    name: str
    method: str
    backbone: str = "erfnet"
    tta: bool = True
    recipe: Mapping[str, Any] = field(default_factory=dict)


DATA_SETS = (
    DataSet(name="DSB2018", folder="dsb2018", crop=(128, 128), batch=2),
    DataSet(name="Usiigaci", folder="usiigaci", crop=(256, 256), batch=1, tuned=0.1),
    DataSet(name="BBBC010", folder="bbbc010_worms", crop=(192, 192), batch=1, tuned=0.1),
)
ENTRIES = (
    Entry(name="EmbedSeg", method="embedseg"),
    Entry(name="3-class U-Net", method="three-class", backbone="unet"),
    Entry(name="StarDist", method="stardist"),
    Entry(name="flows (Cellpose)", method="flows"),
    Entry(name="Neven et al.", method="embedseg", tta=False, recipe={"center": "centroid"}),
    Entry(name="affinities", method="affinities"),
)
LEARNING_RATE = 1e-3
"""Twice the paper's: a short training has few steps."""
RECIPE = {"warmup": 100, "average_steps": 200}
"""Shorter than usual, for the same reason."""


def divided(pairs: Sequence[Pair], data: DataSet, seed: int) -> Division:
    """Divide the images of a data set by a seed."""
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    scored, tuned = (max(1, round(share * len(pairs))) for share in (data.scored, data.tuned))
    ends = (order[:scored], order[scored : scored + tuned], order[scored + tuned :])
    held, validation, train = ([pairs[i] for i in sorted(part)] for part in ends)
    return Division(train=train, validation=validation, held_out=held, whole=held)


def flattened(pair: Pair) -> Pair:
    """Return a pair whose objects do not overlap: of several, the last has the voxel."""
    if not pair.stacked:
        return pair
    return replace(pair, mask=open_volume(pair.flat_labels(), channel=None, axes="yx"))


def learnt_from(division: Division, entry: Entry) -> Division:
    """Return the division as the method can learn from it."""
    if entry.method == "embedseg":
        return division
    parts = {name: getattr(division, name) for name in ("train", "validation")}
    flat = {name: [flattened(pair) for pair in pairs] for name, pairs in parts.items()}
    return replace(division, **flat)


def trained(entry: Entry, data: DataSet, division: Division, folder: Path, minutes: float) -> None:
    """Train a method, segment the images to score, and keep the labels."""
    options = CompareOptions(
        budget=f"{minutes}m",
        backbone=entry.backbone,
        crop=data.crop,
        batch=data.batch,
        learning_rate=LEARNING_RATE,
        device="cpu",
        threads=1,
    )
    contender = NetworkContender(
        name="model",
        method=entry.method,
        options=options,
        recipe={**RECIPE, **entry.recipe},
        tta=entry.tta,
        timer=time.process_time,
    )
    fitted = contender.fit(learnt_from(division, entry), 0, folder, say)
    began = time.process_time()
    labels = {pair.name: fitted.find(pair) for pair in division.held_out}
    facts = {
        "steps": fitted.steps,
        "training_seconds": fitted.seconds,
        "prediction_seconds": time.process_time() - began,
        "knobs": fitted.knobs,
    }
    with whole(folder / "labels.npz") as begun, begun.open("wb") as file:
        np.savez_compressed(file, **labels)
    with whole(folder / "done.json") as begun:
        begun.write_text(json.dumps(facts, indent=1) + "\n")


def scored(division: Division, folder: Path) -> tuple[list[Score], int]:
    """Score the kept labels against the masks as they are, pooled; and count the true objects."""
    with np.load(folder / "labels.npz") as found:
        each = [
            scores(Contingency.of_annotated(found[pair.name], pair.layers()), IOUS)
            for pair in division.held_out
        ]
    total = pooled(each)
    return total, total[0].tp + total[0].fn


def row(entry: Entry, data: DataSet, division: Division, folder: Path) -> dict[str, Any]:
    """Return a row of the table."""
    facts = json.loads((folder / "done.json").read_text())
    total, true = scored(division, folder)
    is_flat = entry.method != "embedseg" and division.held_out[0].stacked
    values = (
        data.name,
        entry.name,
        *(f"{score.ap:.3f}" for score in total),
        total[0].tp + total[0].fp,
        true,
        facts["steps"],
        f"{facts['training_seconds'] / 60:.1f}",
        f"{facts['prediction_seconds']:.0f}",
        "flattened masks" if is_flat else "masks as they are",
    )
    return dict(zip(COLUMNS, values, strict=True))


def write(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the table as CSV and as Markdown."""
    with whole(out / "table1.csv") as begun, begun.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in rows)]
    text = "\n".join("| " + " | ".join(str(v) for v in line) + " |" for line in lines)
    with whole(out / "table1.md") as begun:
        begun.write_text(text + "\n")


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def jobs(methods: str | None, sets: str | None) -> Iterator[tuple[Entry, DataSet]]:
    """Yield all trainings: of each method, one per data set, so that early tables are useful."""
    for entry, data in product(ENTRIES, DATA_SETS):
        if is_wanted(entry.name, methods) and is_wanted(data.folder, sets):
            yield entry, data


def is_wanted(name: str, names: str | None) -> bool:
    """Whether a name is in a list separated by commas; without a list, all are."""
    return names is None or name in names.split(",")


def main() -> None:
    """Train what is not trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--minutes", type=float, default=12, help="processor time of a training")
    parser.add_argument("--sets", help="folders of data sets, separated by commas; default: all")
    parser.add_argument("--methods", help="names in the table, separated by commas; default: all")
    parser.add_argument("--most", type=int, help="use the first images only, for a trial")
    parser.add_argument("--seed", type=int, default=0, help="of the division")
    args = parser.parse_args()
    divisions: dict[str, Division] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry, data in jobs(args.methods, args.sets):
        if data.name not in divisions:
            place = args.data / data.folder / "train"
            pairs = find_pairs(str(place / "images"), str(place / "masks"))[: args.most]
            divisions[data.name] = divided(pairs, data, args.seed)
        division = divisions[data.name]
        folder = args.out / data.folder / entry.name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "done.json").exists():
            say(f"{data.name}, {entry.name}: begins")
            trained(entry, data, division, folder, args.minutes)
        rows[data.name, entry.name] = row(entry, data, division, folder)
        order = [key for key in product(divisions, (e.name for e in ENTRIES)) if key in rows]
        write([rows[key] for key in order], args.out)
        say(" | ".join(str(value) for value in rows[data.name, entry.name].values()))


if __name__ == "__main__":
    main()
