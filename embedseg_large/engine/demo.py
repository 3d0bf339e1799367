"""The demonstration: the embryo of the package as a store with its hand-made labels."""

from __future__ import annotations

import os
from pathlib import Path

from embedseg_large.data import load_demo
from embedseg_large.io.convert import write_image
from embedseg_large.io.labels import label_target
from embedseg_large.io.volume import open_volume

TRUTH = "truth"


def write_demo(store: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write the demo volume as OME-Zarr 0.5, with ``labels/truth``.

    Raises
    ------
    UsageError
        When `store` exists and `overwrite` is false.
    OutputError
        When it cannot be written.
    """
    demo = load_demo()
    write_image(
        store, demo.image, "zyx", demo.voxel_size, overwrite=overwrite, channel_names=["DAPI"]
    )
    pending = label_target(open_volume(store), TRUTH).create(demo.truth.dtype)
    for level in range(pending.n_levels):
        for box in pending.regions(level):
            if level == 0:
                pending.write(0, box, demo.truth[box.slices])
            else:
                pending.downsample(level, box)
    pending.publish({"source": "idr0062, image 6001240, labelled by hand; see NOTICE"})
    return Path(store)
