"""``embedseg-large demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedseg_large.cli.commands.evaluate import print_scores
from embedseg_large.cli.commands.segment import print_summary
from embedseg_large.cli.console import print_facts, progress_bars, reported, set_up_logging
from embedseg_large.cli.options import Overwrite, Verbose

if TYPE_CHECKING:
    from embedseg_large.data import DemoStore

DEMO_MODEL = "nuclei-3d"
DEMO_TILE = (64, 72, 72)
"""Small enough to cut the small embryo into 2 x 2 x 2 tiles."""


@reported("interrupted; rerun the same command to resume")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("embedseg-demo"),
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Local worker processes to start. Default: this process alone."),
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Segment, score and draw the embryo that ships with the package."""
    set_up_logging(verbose)
    from embedseg_large.data import load_demo
    from embedseg_large.evaluation.evaluate import evaluate
    from embedseg_large.pictures import orthogonal_slices
    from embedseg_large.segmentation.segment import segment

    store = store_of(out / "blastocyst.ome.zarr", overwrite)
    with progress_bars(False) as watcher:
        # Eight passes: a first look should take seconds, and show what the model can do.
        result = segment(
            store.image, DEMO_MODEL, workers=workers, watcher=watcher, tta="8", tile=DEMO_TILE
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
        f"Mouse blastocyst, DAPI (idr0062): {DEMO_MODEL}",
    )
    print_facts(None, {"store": store.image, "picture": picture})


def store_of(path: Path, overwrite: bool) -> DemoStore:
    """The demo volume; a copy left by an interrupted demo is reused."""
    from embedseg_large.data import DemoStore, copy_demo

    truth, found = (path / "labels" / name for name in ("truth", "nuclei"))
    if truth.exists() and not found.exists() and not overwrite:
        return DemoStore(path, truth)
    return copy_demo(path, overwrite=overwrite)
