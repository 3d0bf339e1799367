"""Compare ``--object-diameter auto`` with the best of its scales.

::

    python benchmarks/auto_scale.py --data DATA [--model FILE] [--json FILE] [--volumes 6]

Every image is segmented at each width that `auto` compares, and scored; then `auto` chooses, from
its own sample. Printed are the AP at IoU 0.5 of each width, of the image as it is, of the chosen
width, and of the choice with its depth, which the widths do not bound. Sets that choose the
criterion (``design``) and others (``eval``) are apart. DATA holds the images of training and
evaluation; without it only synthetic volumes are used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.geometry import Box
from embedseg_large.segmentation.request.auto_scale import FACTORS, choose_scale
from embedseg_large.segmentation.request.scale import resampling_for
from embedseg_large.synthesis import SynthesisSettings, draw_volume
from embedseg_large.tiling.resampling import Resampling

Pair = tuple[NDArray[Any], NDArray[Any]]
DESIGN = {"Emb02_t501": 1.0, "Emb04_t301": 0.6, "Emb05_t401": 1.7, "Emb03_t501": 2.4}
EVALUATE = {"Emb07_t501": 1.0, "Emb08_t401": 1.0, "Emb07_t401": 2.0, "Emb08_t301": 0.7}
"""Volumes of BBBC050, and by how much they are magnified."""
LARGEST = {2: (384, 384), 3: (64, 128, 128)}
"""Part of an image that is used, from its middle."""
CLEAR = 0.25
"""Images whose best scale has a lower AP say nothing about scales."""


def synthetic(ndim: int, count: int) -> Iterator[tuple[str, Pair]]:
    """Half of the drawn volumes choose, half judge."""
    settings = SynthesisSettings(ndim=ndim)
    for index in range(count):
        drawn = draw_volume(settings, 7, index)
        side = "design" if index % 2 else "eval"
        yield f"{side} synthetic {index}", (drawn.image, drawn.labels)


def embryos(data: Path) -> Iterator[tuple[str, Pair]]:
    """Real embryos, resampled."""
    import tifffile

    folder = data / "bbbc050_mouse_embryo" / "train"
    for side, names in (("design", DESIGN), ("eval", EVALUATE)):
        for name, zoom in names.items():
            pair = [tifffile.imread(folder / of / f"{name}.tif") for of in ("images", "masks")]
            yield f"{side} {name} x{zoom:g}", magnified(pair[0], pair[1], zoom)


def nuclei_2d(data: Path) -> Iterator[tuple[str, Pair]]:
    """The validation images of ``nuclei-2d``, resampled, and a sample of StarDist."""
    import tifffile

    from embedseg_large.training.data.mixed import split
    from embedseg_large.training.data.sources import find_pairs

    folder = data / "dsb2018" / "train"
    held = split(find_pairs(folder / "images", folder / "masks", ndim=2), 0.15, 0)[1]
    for number, zoom in ((2, 1.0), (12, 1.0), (25, 0.5), (33, 2.0), (41, 1.0), (60, 0.6)):
        one = held[number]
        pair = magnified(np.asarray(one.image.data), np.asarray(one.mask.data), zoom)
        yield f"eval dsb {number} x{zoom:g}", pair
    sample = data / "stardist_samples"
    pair = [tifffile.imread(sample / f"{of}2d.tif") for of in ("img", "mask")]
    yield "eval stardist", (pair[0], pair[1])


def magnified(image: NDArray[Any], labels: NDArray[Any], zoom: float) -> Pair:
    """Resample an image and its labels."""
    grid = Resampling.by(image.shape, (zoom,) * image.ndim)
    whole = Box.whole(grid.target)
    return grid.image(image[None].astype(np.float32), whole)[0], grid.back.labels(labels, whole)


def middle(image: NDArray[Any]) -> NDArray[Any]:
    """The part of an image that is used."""
    sizes = [min(n, m) for n, m in zip(image.shape, LARGEST[image.ndim], strict=True)]
    starts = [(n - m) // 2 for n, m in zip(image.shape, sizes, strict=True)]
    return image[tuple(slice(a, a + m) for a, m in zip(starts, sizes, strict=True))]


def score(
    model: es.Model, image: NDArray[Any], truth: NDArray[Any], zoom: tuple[float, ...]
) -> float:
    """AP at IoU 0.5 of one scale, one pass."""
    grid = Resampling.by(image.shape, zoom)
    seen = grid.image(es.normalise(image)[None], Box.whole(grid.target))[0]
    seed, margin = model.thresholds_of("none")
    emb = model.predict(seen, tta=False)
    found = es.cluster(emb, model.min_object_size, seed=seed, margin=margin)
    labels = grid.labels(found, Box.whole(image.shape))
    return es.evaluate(labels, truth.astype(np.uint32), (0.5,))[0].ap


def compared(model: es.Model, name: str, pair: Pair) -> dict[str, Any]:
    """Scores of all scales of an image, and of the one that was chosen."""
    image, truth = (middle(side) for side in pair)
    found = [score(model, image, truth, (1 / factor,) * image.ndim) for factor in FACTORS]
    volume = es.open_volume(np.ascontiguousarray(image), axes="zyx"[-image.ndim :])
    choice = choose_scale(volume, model)
    zoom = resampling_for(volume, model, choice.stated).zoom
    assert model.object_diameter is not None
    width = choice.diameter or model.object_diameter
    chosen = int(np.argmin(np.abs(np.log(np.array(FACTORS) * model.object_diameter / width))))
    return {
        "set": name,
        "ap": [round(ap, 3) for ap in found],
        "as_it_is": round(found[FACTORS.index(1.0)], 3),
        "width": round(found[chosen], 3),
        "auto": round(score(model, image, truth, zoom), 3),
        "stated": choice.stated,
        "scores": [round(t.score, 3) for t in choice.trials],
    }


def sets(ndim: int, data: Path | None, volumes: int) -> Iterator[tuple[str, Pair]]:
    """All images of a number of axes."""
    if ndim == 3:
        yield from synthetic(ndim, volumes)
    if data is not None:
        yield from embryos(data) if ndim == 3 else nuclei_2d(data)


def main() -> None:
    """Compare, and print a row per image and a mean per side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="nuclei-3d")
    parser.add_argument("--volumes", type=int, default=6, help="synthetic ones")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = es.load_model(args.model)
    rows = []
    for name, pair in sets(model.ndim, args.data, args.volumes):
        rows.append(compared(model, name, pair))
        print(json.dumps(rows[-1]), flush=True)
    for side in ("design", "eval"):
        some = [r for r in rows if r["set"].startswith(side) and max(r["ap"]) >= CLEAR]
        for way in ("as_it_is", "width", "auto"):
            if some:
                ratio = np.mean([r[way] / max(r["ap"]) for r in some])
                print(f"{side}: {way} reaches {ratio:.3f} of the best width, {len(some)} images")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
