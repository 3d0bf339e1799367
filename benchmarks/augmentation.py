"""What test-time augmentation costs and what it brings: every mode that a bundled model can use.

::

    .venv/bin/python benchmarks/augmentation.py nuclei-3d --data DATA [--json FILE]

Scores are those of `scripts/score_models.py`, on the same held-out images and StarDist's sample;
modes take turns, image by image, so that other work on the machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import embedseg_large as es

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from score_models import Images, held_out, stardist_sample

SHOWN = (0.5, 0.7, 0.9)


def scored(model: es.Model, images: Images) -> list[dict[str, Any]]:
    """AP and time of each mode on some images."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for image, _ in images:
        normalised = es.normalise(image)
        for mode in model.tta_modes:
            began = time.perf_counter()
            embedding = model.predict(normalised, tta=mode)
            seconds[mode] += time.perf_counter() - began
            at = model.thresholds_of(mode)._asdict()
            found[mode].append(es.cluster(embedding, model.min_object_size, **at))
    truth = [mask for _, mask in images]
    voxels = sum(mask.size for mask in truth)
    lines = []
    for mode in model.tta_modes:
        scores = es.evaluate(found[mode], truth, SHOWN)
        lines.append(
            {
                "tta": mode,
                "us_per_voxel": seconds[mode] / voxels * 1e6,
                "found": scores[0].tp + scores[0].fp,
                "true": scores[0].tp + scores[0].fn,
                "ap": {s.threshold: s.ap for s in scores},
            }
        )
    return lines


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = es.load_model(options.model)
    images = {
        "held-out images": held_out(model.ndim, options.data),
        "StarDist's sample": stardist_sample(model.ndim, options.data),
    }
    result = {}
    for name, pairs in images.items():
        result[name] = scored(model, pairs)
        heads = " | ".join(f"AP at {t}" for t in SHOWN)
        print(f"\n{options.model}, {name} ({result[name][0]['true']} objects)\n")
        print(f"| mode | found | {heads} | µs per voxel |\n|---|---|{'---|' * len(SHOWN)}---|")
        for line in result[name]:
            aps = " | ".join(f"{line['ap'][t]:.3f}" for t in SHOWN)
            print(f"| {line['tta']} | {line['found']} | {aps} | {line['us_per_voxel']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
