"""``embedseg-large demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedseg_large.cli.console import print_facts, progress_bars, reported, set_up_logging
from embedseg_large.cli.evaluate import print_scores
from embedseg_large.cli.options import Overwrite, Verbose
from embedseg_large.cli.segment import print_summary

DEMO_TILE = (64, 72, 72)
"""Small, so that the small embryo is really cut into tiles: 2 x 2 x 2 of them."""


@reported()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("embedseg-demo"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Local worker processes; none: this process.")
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Segment the embryo that comes with the package, score it, and draw it."""
    set_up_logging(verbose)
    from embedseg_large.data import copy_demo, load_demo
    from embedseg_large.engine.evaluate import evaluate
    from embedseg_large.engine.segment import segment
    from embedseg_large.pictures import orthogonal_slices

    store = copy_demo(out / "blastocyst.ome.zarr", overwrite=overwrite)
    with progress_bars(False) as watcher:
        # One pass instead of 16: a first look should take seconds.
        result = segment(
            store.image, "nuclei-3d", workers=workers, watcher=watcher, tta="none", tile=DEMO_TILE
        )
    print_summary(result.summary)
    scores = evaluate(result.path, store.truth)
    print_scores([s.as_dict() for s in scores])

    picture = out / "blastocyst.png"
    volume = load_demo()
    orthogonal_slices(
        volume.image,
        volume.truth,
        result.labels.compute(),
        volume.voxel_size,
        picture,
        "Mouse blastocyst, DAPI (idr0062): nuclei-3d",
    )
    print_facts(None, {"store": store.image, "picture": picture})
