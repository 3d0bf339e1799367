"""Fine-tune a bundled model on a part of one image, and judge it on another part.

The demo embryo is from another microscope than the embryos that ``nuclei-3d`` learned from. One
half of it tunes the model, the other half judges it before and after; between them lies a gap, so
that no nucleus is in both. ``--image`` and ``--truth`` do the same with yours.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.data import load_demo

Array = NDArray[Any]
THRESHOLDS = (0.3, 0.5, 0.7)


def judge(model: es.Model, image: Array, truth: Array) -> str:
    """AP at each threshold, as text."""
    seed, margin = model.thresholds_of(False)
    embedding = model.predict(es.normalise(image), tta=False)
    found = es.cluster(embedding, model.min_object_size, seed=seed, margin=margin)
    scores = es.evaluate(found, truth, thresholds=THRESHOLDS)
    return "  ".join(f"AP at IoU {s.threshold}: {s.ap:.3f}" for s in scores)


def main(arguments: list[str] | None = None) -> None:
    """Tune and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--out", default="tuned.safetensors")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epoch-crops", type=int, default=20, help="crops of an epoch")
    parser.add_argument("--image", help="your image; default: the demo embryo")
    parser.add_argument("--truth", help="its labels")
    parser.add_argument("--axis", type=int, default=0, help="axis to cut: 0, 1 or 2")
    parser.add_argument("--gap", type=int, default=20, help="voxels between the halves")
    parser.add_argument("--freeze-encoder", action="store_true", help="tune the decoders only")
    options = parser.parse_args(arguments)

    image, truth = read(options.image, options.truth)
    images, truths = (
        halves(image, options.axis, options.gap),
        halves(truth, options.axis, options.gap),
    )
    before = es.load_model(options.model)
    after = es.train(
        [images[0]],
        [truths[0]],
        out=options.out,
        start=before,
        epochs=options.epochs,
        epoch_crops=options.epoch_crops,
        accumulate=1,
        learning_rate=2e-4,
        freeze_encoder=options.freeze_encoder,
        validation=0,  # the last model: the other half must not choose it
    )
    print(f"tuned on {len(np.unique(truths[0])) - 1} nuclei")
    print("before  ", judge(before, images[1], truths[1]))
    print("after   ", judge(after, images[1], truths[1]))


def read(image: str | None, truth: str | None) -> tuple[Array, Array]:
    """The user's image and labels, or the demo's."""
    if image is None or truth is None:
        demo = load_demo()
        return demo.image, demo.truth
    axes = "zyx" if image.endswith((".tif", ".tiff")) else None
    return tuple(np.asarray(es.open_volume(p, axes=axes).data) for p in (image, truth))


def halves(array: Array, axis: int, gap: int) -> tuple[Array, Array]:
    """Both halves of an array, without the gap between them."""
    middle = array.shape[axis] // 2
    parts = (slice(0, middle - gap // 2), slice(middle + gap // 2, None))
    low, high = (array[(slice(None),) * axis + (part,)] for part in parts)
    return np.ascontiguousarray(low), np.ascontiguousarray(high)


if __name__ == "__main__":
    main()
