"""Fine-tune a bundled model on a part of one image, and judge it on another part.

The demo embryo is from another microscope than the embryos that ``nuclei-3d`` learned from. Its
front half tunes the model, its back half judges it before and after; between them lies a gap, so
that no nucleus is in both.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import embedseg_large as es
from embedseg_large.data import load_demo

THRESHOLDS = (0.3, 0.5, 0.7)


def judge(model: es.Model, image: Any, truth: Any) -> str:
    """AP at each threshold, as text."""
    found = es.cluster(model.predict(es.normalise(image), tta=False), model.min_object_size)
    scores = es.evaluate(found, truth, thresholds=THRESHOLDS)
    return "  ".join(f"AP at IoU {s.threshold}: {s.ap:.3f}" for s in scores)


def main(arguments: list[str] | None = None) -> None:
    """Tune and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--out", default="tuned.safetensors")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epoch-crops", type=int, default=20, help="crops of an epoch")
    parser.add_argument("--gap", type=int, default=20, help="planes between the halves")
    parser.add_argument("--freeze-encoder", action="store_true", help="tune the decoders only")
    options = parser.parse_args(arguments)

    demo = load_demo()
    middle = demo.image.shape[0] // 2
    front = slice(0, middle - options.gap // 2)
    back = slice(middle + options.gap // 2, None)
    before = es.load_model(options.model)
    after = es.train(
        [np.ascontiguousarray(demo.image[front])],
        [np.ascontiguousarray(demo.truth[front])],
        out=options.out,
        start=before,
        epochs=options.epochs,
        epoch_crops=options.epoch_crops,
        accumulate=1,
        learning_rate=2e-4,
        freeze_encoder=options.freeze_encoder,
        validation=0,
    )
    print("before  ", judge(before, demo.image[back], demo.truth[back]))
    print("after   ", judge(after, demo.image[back], demo.truth[back]))


if __name__ == "__main__":
    main()
