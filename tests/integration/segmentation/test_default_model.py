"""Without a model, the bundled one for as many axes is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import embedseg_large as es


def test_an_image_of_two_axes_gets_the_model_for_images(tmp_path: Path) -> None:
    y, x = np.indices((72, 80))
    image = np.full((72, 80), 20, np.uint16)
    for cy, cx in ((20, 20), (50, 54)):
        image[(y - cy) ** 2 + (x - cx) ** 2 < 11**2] = 200
    result = es.segment(image, output=tmp_path / "o.zarr", tta="none")
    labels = np.asarray(result.labels)
    assert result.summary["model"] == es.load_model("nuclei-2d").fingerprint
    assert result.summary["settings"]["seed"] == es.load_model("nuclei-2d").seed
    assert 0 != labels[20, 20] != labels[50, 54] != 0
