"""Train the bundled models: ``python scripts/train_bundled.py nuclei-3d --data DATA --out FILE``.

DATA is the folder that holds ``bbbc050_mouse_embryo/train`` and ``dsb2018/train``, each with
``images`` and ``masks``. The split is fixed here: embryos 7 and 8 validate ``nuclei-3d``, and a
seeded 15 % of the images ``nuclei-2d``. Bundling (`scripts/bundle_model.py`) is another step.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import embedseg_large as es
from embedseg_large.training.data.augment import AugmentSettings

VALIDATION_EMBRYOS = ("Emb07", "Emb08")

RECIPES: dict[str, dict[str, Any]] = {
    "nuclei-3d": {
        "ndim": 3,
        "batch": 2,
        "epochs": 28,
        "validate_every": 2,
        "augment": AugmentSettings.robust(),
    },
    "nuclei-2d": {
        "ndim": 2,
        "batch": 4,
        "epochs": 20,
        "epoch_crops": 1000,
        "crop": (160, 160),
        "validate_every": 2,
        # nuclei of 8 to 100 pixels are in the data already
        "augment": replace(AugmentSettings.robust(), scale=(0.7, 1.5)),
    },
}


def data_of(name: str, data: Path) -> dict[str, Any]:
    """Which images a model learns from and which it is validated on."""
    if name == "nuclei-2d":
        folder = data / "dsb2018" / "train"
        return {"images": folder / "images", "masks": folder / "masks", "validation": 0.15}
    folder = data / "bbbc050_mouse_embryo" / "train"
    files = sorted(p.name for p in (folder / "images").iterdir())
    held = [f for f in files if f.startswith(VALIDATION_EMBRYOS)]
    learnt = [f for f in files if f not in held]
    return {
        "images": [folder / "images" / f for f in learnt],
        "masks": [folder / "masks" / f for f in learnt],
        "validation_images": [folder / "images" / f for f in held],
        "validation_masks": [folder / "masks" / f for f in held],
    }


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--from", dest="start")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = RECIPES[args.name] | {
        "accumulate": 1,
        "average_steps": 500,
        "learning_rate": args.learning_rate,
    }
    recipe |= {k: v for k in ("epochs", "batch") if (v := getattr(args, k)) is not None}
    es.train(
        **data_of(args.name, args.data),
        **recipe,
        out=args.out,
        start=args.start,
        resume=args.resume,
        workers=args.workers,
        device=args.device,
        dtype=args.dtype,
    )


if __name__ == "__main__":
    main()
