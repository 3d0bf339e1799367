"""Train on images in which only some objects are annotated.

What nobody looked at must not count as background. Give it the ignore label: -1, or any value you
name. Here an annotator outlined a third of the cells, and painted the background only near them.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

import embedseg_large as es
from embedseg_large.testing.synthetic import render, synthetic_embryo

NOT_ANNOTATED = -1


def sparse(labels: NDArray[np.uint32], fraction: float, seed: int) -> NDArray[np.int32]:
    """Keep a fraction of the objects, and the background within 6 voxels of them."""
    ids = np.arange(1, labels.max() + 1)
    kept = np.random.default_rng(seed).permutation(ids)[: max(1, round(fraction * len(ids)))]
    annotated = np.isin(labels, kept)
    seen = annotated | (binary_dilation(annotated, iterations=6) & (labels == 0))
    return np.where(seen, labels.astype(np.int32) * annotated, NOT_ANNOTATED)


def main(arguments: list[str] | None = None) -> float:
    """Train on sparse labels, and return the AP on an image with all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fraction", type=float, default=0.33, help="of the objects annotated")
    parser.add_argument("--out", default="sparse.safetensors")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="edge of the drawn images")
    options = parser.parse_args(arguments)

    cells = [
        synthetic_embryo((options.size,) * 2, diameter=20, density=0.5, seed=n) for n in range(5)
    ]
    images = [render(labels, seed=n) for n, labels in enumerate(cells)]
    masks = [sparse(labels, options.fraction, seed=n) for n, labels in enumerate(cells[:4])]
    model = es.train(
        images[:4],
        masks,
        out=options.out,
        epochs=options.epochs,
        accumulate=1,
        crop=(96, 96),
        batch=4,
    )
    seed, margin = model.thresholds_of(True)  # of the test-time augmentation, on by default
    embedding = model.predict(es.normalise(images[4]))
    found = es.cluster(embedding, model.min_object_size, seed=seed, margin=margin)
    (score,) = es.evaluate(found, cells[4], thresholds=(0.5,))
    kept = sum(len(np.unique(m[m > 0])) for m in masks)
    print(f"trained on {kept} cells; {found.max()} found of {cells[4].max()}, AP {score.ap:.2f}")
    return score.ap


if __name__ == "__main__":
    main()
