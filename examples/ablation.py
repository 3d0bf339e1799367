"""Table 4 of the paper on your data: medoid or centroid, with or without augmentation at test time.

Trains one model for each way to choose an object's centre, with the same seed, crops and epochs,
and scores each on held-out images with and without test-time augmentation::

    python examples/ablation.py --images train/images --masks train/masks --epochs 10
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import embedseg_large as es
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.mixed import split
from embedseg_large.training.data.sources import Pair, find_pairs

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def pairs_of(images: str | None, masks: str | None) -> list[Pair]:
    """The user's images, or drawn ones."""
    if images is not None:
        return find_pairs(images, masks)
    cells = [synthetic_embryo((160, 160), diameter=20, density=0.5, seed=n) for n in range(6)]
    return find_pairs([render(labels, seed=n) for n, labels in enumerate(cells)], cells)


def score(model: es.Model, held: list[Pair], *, tta: bool) -> list[float]:
    """AP at each threshold, pooled over the objects of the held-out images."""
    seed, margin = model.thresholds_of(tta)
    found = [
        es.cluster(
            model.predict(es.normalise(np.asarray(p.image.data)), tta=tta),
            model.min_object_size,
            seed=seed,
            margin=margin,
        )
        for p in held
    ]
    truth = [np.asarray(p.mask.data) for p in held]
    return [s.ap for s in es.evaluate(found, truth, THRESHOLDS)]


def table(rows: list[tuple[str, str, list[float]]]) -> str:
    """The rows as Markdown."""
    head = "| centre | test-time augmentation | " + " | ".join(f"AP {t}" for t in THRESHOLDS)
    lines = [f"{head} | mean |", "|---|---|" + "---|" * (len(THRESHOLDS) + 1)]
    for center, tta, ap in rows:
        cells = " | ".join(f"{v:.3f}" for v in [*ap, float(np.mean(ap))])
        lines.append(f"| {center} | {tta} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    """Train and score all, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", help="folder of images; default: drawn cells")
    parser.add_argument("--masks", help="folder of masks, matched by file name")
    parser.add_argument("--out", type=Path, default=Path("ablation"), help="folder for the models")
    parser.add_argument("--centers", nargs="+", default=["medoid", "centroid"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epoch-crops", type=int, help="default: every object once")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=lambda t: tuple(map(int, t.split(","))), default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    learnt, held = split(pairs_of(options.images, options.masks), 0.15, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for center in options.centers:
        model = es.train(
            [p.image.path or np.asarray(p.image.data) for p in learnt],
            [p.mask.path or np.asarray(p.mask.data) for p in learnt],
            out=options.out / f"{center}.safetensors",
            center=center,
            epochs=options.epochs,
            epoch_crops=options.epoch_crops,
            batch=options.batch,
            accumulate=1,
            crop=options.crop,
            seed=options.seed,
            validation=0,  # the last model, not the one that the judging images chose
        )
        rows += [
            (center, name, score(model, held, tta=on))
            for name, on in (("no", False), ("yes", True))
        ]
    result = table(rows)
    print(result)
    return result


if __name__ == "__main__":
    main()
