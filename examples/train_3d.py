"""Train a 3D model from scratch, and judge it on a volume it has not seen.

``python examples/train_3d.py`` draws embryos of packed nuclei. With ``--images FOLDER --masks
FOLDER`` it trains on yours and validates on 15 % of them.
"""

from __future__ import annotations

import argparse

import embedseg_large as es
from embedseg_large.testing.synthetic import render, synthetic_embryo


def main(arguments: list[str] | None = None) -> float:
    """Train, and return the AP at IoU 0.5 on the unseen volume."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--masks", help="folder of masks, matched by file name")
    parser.add_argument("--out", default="nuclei-mine.safetensors", help="the model to write")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=80, help="edge of the drawn volumes")
    options = parser.parse_args(arguments)

    shape = (options.size // 2, options.size, options.size)
    truth = [synthetic_embryo(shape, diameter=14, density=0.5, seed=n) for n in range(4)]
    drawn = [render(labels, seed=n) for n, labels in enumerate(truth)]
    model = es.train(
        options.images or drawn[:3],
        options.masks or truth[:3],
        out=options.out,
        ndim=3,
        epochs=options.epochs,
        accumulate=1,  # a step after each batch: right for few volumes
        crop=None if options.images else (24, 40, 40),
    )
    # a volume that fits into memory; for larger ones es.segment(path, model)
    seed, margin = model.thresholds_of(True)  # of the test-time augmentation, on by default
    embedding = model.predict(es.normalise(drawn[3]))
    found = es.cluster(embedding, model.min_object_size, seed=seed, margin=margin)
    (score,) = es.evaluate(found, truth[3], thresholds=(0.5,))
    print(f"{found.max()} nuclei found of {truth[3].max()}, AP at IoU 0.5: {score.ap:.2f}")
    return score.ap


if __name__ == "__main__":
    main()
