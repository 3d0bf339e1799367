"""Train a 2D model from scratch, and judge it on an image it has not seen.

``python examples/train_2d.py`` draws round cells that touch. With ``--images FOLDER --masks
FOLDER`` it trains on yours and validates on 15 % of them.
"""

from __future__ import annotations

import argparse

import embedseg_large as es
from embedseg_large.testing.synthetic import render, synthetic_embryo


def main(arguments: list[str] | None = None) -> float:
    """Train, and return the AP at IoU 0.5 on the unseen image."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--masks", help="folder of masks, matched by file name")
    parser.add_argument("--out", default="cells-2d.safetensors", help="the model to write")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="edge of the drawn images")
    options = parser.parse_args(arguments)

    cells = [
        synthetic_embryo((options.size,) * 2, diameter=20, density=0.5, seed=n) for n in range(5)
    ]
    drawn = [render(labels, seed=n) for n, labels in enumerate(cells)]
    model = es.train(
        options.images or drawn[:4],
        options.masks or cells[:4],
        out=options.out,
        ndim=2,
        epochs=options.epochs,
        accumulate=1,  # a step after each batch: right for few images
        crop=None if options.images else (96, 96),
        batch=4,
    )
    seed, margin = model.thresholds_of(True)  # of the test-time augmentation, on by default
    embedding = model.predict(es.normalise(drawn[4]))
    found = es.cluster(embedding, model.min_object_size, seed=seed, margin=margin)
    (score,) = es.evaluate(found, cells[4], thresholds=(0.5,))
    print(f"{found.max()} cells found of {cells[4].max()}, AP at IoU 0.5: {score.ap:.2f}")
    return score.ap


if __name__ == "__main__":
    main()
