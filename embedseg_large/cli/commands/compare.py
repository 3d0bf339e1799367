"""``embedseg-large compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    print_table,
    reported,
    set_up_logging,
    stop_on_sigterm,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Verbose
from embedseg_large.comparison.options import (
    AnnotatedOptions,
    FairOptions,
    LearningOptions,
)

if TYPE_CHECKING:
    from embedseg_large.comparison.result import Comparison


@reported(interrupted="interrupted; rerun the same command to resume")
@grouped
def compare(
    images: Annotated[str, typer.Option(help="Folder of images: TIFF or OME-Zarr; or one image.")],
    masks: Annotated[
        str | None,
        typer.Option(help="Folder of masks with the same file names as the images; or one mask."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="HTML", help="Page to write.")] = Path(
        "compare.html"
    ),
    *,
    given: Annotated[dict[str, Any], FairOptions, AnnotatedOptions, LearningOptions],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: remove an earlier comparison.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare methods on your images at equal cost, and check whether labels depend on tiles.

    Every method trains for the same time on the same images, is tuned on others, and is scored on
    images that no method has seen. One HTML page shows scores, errors, pictures, costs and whether
    tiles leave a trace. Rerunning the same command resumes; methods and seeds can be added.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    from embedseg_large.comparison.compare import compare as run

    found = run(
        images,
        masks,
        out=out,
        watcher=lambda text: None if as_json else typer.echo(text, err=True),
        overwrite=overwrite,
        **given,
    )
    if as_json:
        print_json(found.as_dict())
        return
    print_table(["method", "mean AP", "AP 0.5", "AP 0.7", "PQ 0.5", "tiles"], _rows(found))
    print_facts(None, {"page": found.path, "models": found.folder})


def _rows(found: Comparison) -> list[list[str]]:
    return [
        [
            standing.method,
            f"{standing.ap:.3f}",
            f"{standing.mean(0.5, 'ap'):.3f}",
            f"{standing.mean(0.7, 'ap'):.3f}",
            f"{standing.mean(0.5, 'pq'):.3f}",
            "" if standing.tiles is None else ("equal" if standing.tiles.is_equal else "different"),
        ]
        for standing in found.standings
    ]
