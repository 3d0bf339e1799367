"""Train the bundled models: ``python scripts/train_bundled.py nuclei-3d --data DATA --out FILE``.

DATA is the folder that holds ``bbbc050_mouse_embryo`` (``train``, ``train_more``),
``dsb2018/train``, ``stardist_samples`` and ``idr0062_6001240_blastocyst``. What a model learns from
and what chooses it is fixed here; the rest is the robust recipe. A line per 500 steps is logged;
``--resume`` goes on after the last of them.

nuclei-3d
    55 % of the crops from synthetic volumes, 40 % from BBBC050, embryos 1 to 6 at all times, 5 %
    without objects; the last fifth with larger crops, 60 % annotated ones and half the ranges.
    Chosen by the mean over embryos 7 and 8, a sample of StarDist, and the blastocyst of idr0062.
nuclei-2d
    DSB2018; half of the crops from the images with the largest error, small nuclei twice, single
    nuclei dimmed; the last third with half the ranges. Chosen by a seeded 15 % of its images and a
    sample of StarDist.

Bundling (`scripts/bundle_model.py`) is another step.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import embedseg_large as es
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.intensities import Change
from embedseg_large.training.data.panel import PanelSet

HELD_EMBRYOS = ("Emb07", "Emb08")
SYNTHETIC = 20_000  # distinct volumes; drawn when they are needed

ROBUST = AugmentSettings.robust()
RECIPES: dict[str, dict[str, Any]] = {
    "nuclei-3d": {
        "ndim": 3,
        "batch": 2,
        "crop": (32, 64, 64),
        "center": "approximate-medoid",
        "synthetic": SYNTHETIC,
        # of the 95 % of crops that are not empty: 55 and 40, later 35 and 60
        "synthetic_share": 0.55 / 0.95,
        "late_synthetic_share": 0.35 / 0.95,
        "late_crop": (40, 80, 80),
        "validate_every": 4,
        "augment": ROBUST,
    },
    "nuclei-2d": {
        "ndim": 2,
        "batch": 4,
        "crop": (160, 160),
        "hard_share": 0.5,
        "small_objects": 2.0,
        "empty_share": 0.02,
        "late_share": 1 / 3,
        "validate_every": 4,
        # nuclei of 8 to 100 pixels are in the data already; many that are missed are dim
        "augment": replace(
            ROBUST,
            scale=(0.5, 2.0),
            stretch=1.2,
            intensity=replace(ROBUST.intensity, objects=Change(0.2, 1.0, 0.5)),
        ),
    },
}


def data_of(name: str, data: Path) -> dict[str, Any]:
    """Which images a model learns from and which it is validated on."""
    if name == "nuclei-2d":
        folder = data / "dsb2018" / "train"
        return {"images": folder / "images", "masks": folder / "masks", "validation": 0.15}
    folders = [data / "bbbc050_mouse_embryo" / part for part in ("train", "train_more")]
    files = [path for folder in folders for path in sorted((folder / "images").iterdir())]
    held = [f for f in files if f.name.startswith(HELD_EMBRYOS)]
    learnt = [f for f in files if f not in held]
    return {
        "images": learnt,
        "masks": [_mask(f) for f in learnt],
        "validation_images": held,
        "validation_masks": [_mask(f) for f in held],
    }


def panel_of(name: str, data: Path) -> list[PanelSet]:
    """Which other sets a model is chosen by."""
    ndim = name.removesuffix("d")[-1]
    sample = data / "stardist_samples"
    sets = [
        PanelSet(
            name="stardist sample",
            images=[sample / f"img{ndim}d.tif"],
            masks=[sample / f"mask{ndim}d.tif"],
        )
    ]
    if name == "nuclei-3d":
        folder = data / "idr0062_6001240_blastocyst"
        labels = folder / "6001240_labels_v0.5.zarr" / "labels" / "0"
        sets.append(
            PanelSet(
                name="idr0062 at half resolution",
                images=[folder / "6001240_v0.1.zarr"],
                masks=[labels],
                channel=1,
                level=1,
            )
        )
    return sets


def _mask(image: Path) -> Path:
    return image.parent.parent / "masks" / image.name


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--epoch-steps", type=int, default=500, help="steps per line of the log")
    parser.add_argument("--from", dest="start", help="model to begin with, such as the bundled one")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    es.train(
        **data_of(args.name, args.data),
        **RECIPES[args.name],
        recipe="robust",
        tune_thresholds=True,
        panel=panel_of(args.name, args.data),
        steps=args.steps,
        epoch_steps=args.epoch_steps,
        learning_rate=args.learning_rate,
        out=args.out,
        start=args.start,
        resume=args.resume,
        workers=args.workers,
        threads=args.threads,
        device=args.device,
        dtype=args.dtype,
    )


if __name__ == "__main__":
    main()
