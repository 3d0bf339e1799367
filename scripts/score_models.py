"""Score a bundled model, or one that may become it, on the images it is judged by.

::

    python scripts/score_models.py runs/nuclei-3d.safetensors --data DATA --json runs/scores.json

Whole images, normalised as in a run, predicted, clustered: AP = TP / (TP + FP + FN) at each IoU,
pooled over the objects. In 3D: the validation embryos, with and without test-time augmentation; a
sample of StarDist, also with the size of its nuclei stated; a blastocyst with nuclei twice as wide,
at several pyramid levels and with the size stated; and the same halved along each axis, which is
the demo. In 2D: the validation images; and a sample
of StarDist.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import find_objects
from train_bundled import RECIPES, data_of

import embedseg_large as es
from embedseg_large.data import load_demo
from embedseg_large.training.data.mixed import split
from embedseg_large.training.data.sources import find_pairs

THRESHOLDS = {
    2: (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    3: (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}
Images = list[tuple[np.ndarray, np.ndarray]]


def held_out(ndim: int, data: Path) -> Images:
    """The images that chose the model, with their masks."""
    if ndim == 2:
        folder = data / "dsb2018" / "train"
        pairs = split(find_pairs(folder / "images", folder / "masks", ndim=2), 0.15, 0)[1]
        return [(np.asarray(p.image.data), np.asarray(p.mask.data)) for p in pairs]
    held = data_of("nuclei-3d", data)
    files = zip(held["validation_images"], held["validation_masks"], strict=True)
    return [(tifffile.imread(image), tifffile.imread(mask)) for image, mask in files]


def rows(model: es.Model, images: Images, name: str, modes: Sequence[Any]) -> Iterator[dict]:
    """Score a model on images, once a mode of test-time augmentation."""
    for tta in modes:
        at = model.thresholds_of(tta)._asdict()
        found = [
            es.cluster(model.predict(es.normalise(image), tta=tta), model.min_object_size, **at)
            for image, _ in images
        ]
        yield row(name, found, [truth for _, truth in images], model.tta_mode(tta))


def row(name: str, found: list[np.ndarray], truth: list[np.ndarray], tta: str) -> dict[str, Any]:
    """AP at each threshold, and counts at 0.5."""
    scores = es.evaluate(found, truth, THRESHOLDS[truth[0].ndim])
    half = next(s for s in scores if s.threshold == 0.5)
    line = {
        "data": name,
        "tta": tta,
        "ap": {f"{s.threshold:g}": round(s.ap, 4) for s in scores},
        "true": half.tp + half.fn,
        "found": half.tp + half.fp,
    }
    logging.info(json.dumps(line))
    return line


def blastocyst(model: es.Model, data: Path, modes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Nuclei of another size and microscope: by pyramid level, and by diameter."""
    folder = data / "idr0062_6001240_blastocyst"
    size = (0.5002, 0.3604, 0.3604)
    labels = folder / "6001240_labels_v0.5.zarr" / "labels" / "0"
    truths = {n: np.asarray(es.open_volume(labels, level=n).data) for n in (0, 1)}
    depth, diameter = mean_size(truths[0])
    both = f"{depth:.0f},{diameter:.0f}"
    ways: dict[str, dict[str, Any]] = {
        "level 0": {"level": 0},
        "level 1": {"level": 1},
        f"level 0, object diameter {diameter:.0f}": {"level": 0, "object_diameter": diameter},
        f"level 0, object diameter {both}": {"level": 0, "object_diameter": both},
        "level 0, object diameter auto": {"level": 0, "object_diameter": "auto"},
    }
    for way, options in ways.items():
        scale = 2 ** options["level"]
        volume = es.open_volume(
            folder / "6001240_v0.1.zarr",
            channel=1,
            level=options.pop("level"),
            voxel_size=(size[0], size[1] * scale, size[2] * scale),
        )
        for tta in modes if "object_diameter" in options else modes[:1]:
            found = segmented(volume, model, tta=tta, **options)
            name = f"idr0062 blastocyst, {way}"
            yield row(name, [found], [truths[scale // 2]], model.tta_mode(tta))


def demo(model: es.Model, modes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The blastocyst that ships with the package."""
    volume = load_demo()
    for tta in modes:
        found = segmented(volume.image, model, tta=tta)
        name = "the demo (idr0062, halved along z, y and x)"
        yield row(name, [found], [volume.truth], model.tta_mode(tta))


def mean_size(truth: np.ndarray) -> tuple[float, float]:
    """Mean depth and width of objects in voxels."""
    boxes = [[s.stop - s.start for s in box] for box in find_objects(truth) if box]
    depth, *width = np.mean(boxes, axis=0)
    return float(depth), float(np.mean(width))


def segmented(volume: Any, model: es.Model, **options: Any) -> np.ndarray:
    """The labels of a run."""
    with tempfile.TemporaryDirectory() as out:
        result = es.segment(volume, model, output=Path(out) / "o.zarr", **options)
        return np.asarray(result.labels).squeeze()


def stated_sample(model: es.Model, data: Path, modes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The 3D sample of StarDist, whose nuclei are half as deep as wide, with its size stated."""
    [(image, truth)] = stardist_sample(3, data)
    size = "{:.0f},{:.0f}".format(*mean_size(truth.astype(np.int32)))
    for tta in modes:
        found = segmented(image, model, tta=tta, object_diameter=size)
        name = f"stardist sample, object diameter {size}"
        yield row(name, [found], [truth], model.tta_mode(tta))


def stardist_sample(ndim: int, data: Path) -> Images:
    """One image of StarDist's examples."""
    folder = data / "stardist_samples"
    names = (f"img{ndim}d.tif", f"mask{ndim}d.tif")
    return [tuple(tifffile.imread(folder / name) for name in names)]


def main() -> None:
    """Score one model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help=f"file or bundled name ({', '.join(RECIPES)})")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-tta", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = es.load_model(args.model)
    modes = (False,) if args.no_tta else (False, True)
    found = list(rows(model, held_out(model.ndim, args.data), "validation", modes))
    sample = stardist_sample(model.ndim, args.data)
    found += rows(model, sample, "stardist sample", modes)
    if model.ndim == 3:
        found += stated_sample(model, args.data, modes)
        found += blastocyst(model, args.data, modes)
        found += demo(model, modes if args.no_tta else (False, 8, True))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
