"""``embedseg-large train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import (
    INTERRUPTED,
    print_facts,
    print_json,
    reported,
    set_up_logging,
    stop_on_sigterm,
    wait_briefly,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Verbose
from embedseg_large.cli.trainoptions import (
    Cropping,
    Data,
    Drawing,
    Length,
    Optimising,
    Synthesis,
    Validation,
    Watching,
    Work,
)
from embedseg_large.training.settings import DEFAULT_RECIPE

if TYPE_CHECKING:
    from embedseg_large.network.model import Model


@reported()
@grouped
def train(
    out: Annotated[str, typer.Option(help="Model file to write.")],
    images: Annotated[str | None, typer.Option(help="Folder of images: TIFF or OME-Zarr.")] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Folder of masks with the same file names as the images."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Model to fine-tune: a bundled name or a file."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="What is learnt: embedseg, three-class, two-class, flows, affinities, stardist or "
            "harmonic. Default: embedseg, or that of --from."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Network: erfnet or unet. Default: erfnet, or that of --from."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="Set of defaults: paper, or robust for images with other microscopes and "
            "object sizes than the training data."
        ),
    ] = DEFAULT_RECIPE,
    robust: Annotated[bool, typer.Option("--robust", hidden=True)] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted training of --out.")
    ] = False,
    *,
    data: Data,
    synthesis: Synthesis,
    validation: Validation,
    length: Length,
    drawing: Drawing,
    cropping: Cropping,
    optimising: Optimising,
    watching: Watching,
    work: Work,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train or fine-tune a model on images and masks, or on synthetic volumes.

    OUT.training holds the state for --resume, the best model so far, log.jsonl with one line per
    epoch, and pictures/. On several GPUs: `torchrun --nproc-per-node N -m embedseg_large train
    ...`; a step then processes N times as many crops.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    wait_briefly()
    from embedseg_large.cli.trainbars import TrainBars
    from embedseg_large.training.processes import Processes
    from embedseg_large.training.train import train as run

    first = Processes.here(work.device).first
    learnt: dict[str, Any] = {"method": method, "backbone": backbone}
    try:
        with TrainBars(quiet=as_json or not first) as watcher:
            model = run(
                images,
                masks,
                out=out,
                ndim=data.ndim,
                also=data.also,
                start=start,
                resume=resume,
                recipe="robust" if robust else recipe,
                pairing=data.pairing(),
                watcher=watcher,
                **vars(synthesis),
                **validation.arguments(),
                **vars(cropping),
                **{name: value for name, value in learnt.items() if value is not None},
                **length.given(),
                **drawing.given(),
                **optimising.given(),
                **vars(watching),
                **vars(work),
            )
    except KeyboardInterrupt:
        if first:
            typer.echo(f"interrupted; {_what_is_kept(out)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if first:
        _show(out, model, as_json)


def _what_is_kept(out: str) -> str:
    from embedseg_large.training.train import is_resumable

    if is_resumable(out):
        return "use --resume to continue after the last finished epoch"
    return "no epoch was finished; rerun the same command to start over"


def _show(out: str, model: Model, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print_json({"model": out, "settings": model.settings.as_dict(), "card": model.card})
        return
    validation = model.card.get("validation")
    facts = {"model": out, "from": f"epoch {model.card['training']['epoch']}"}
    if validation is not None:
        scores = "  ".join(f"{at}: {ap:.3f}" for at, ap in validation["ap"].items())
        facts["AP at IoU"] = f"{scores}  ({', '.join(validation['images'][:8])})"
    print_facts(None, facts | {"pictures, log": f"{out}.training"})
