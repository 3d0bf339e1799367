"""``embedseg-large train``."""

from __future__ import annotations

from dataclasses import dataclass
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
from embedseg_large.options import Flag, Options
from embedseg_large.training.options import (
    CropOptions,
    CurveOptions,
    DeviceOptions,
    LabelsOption,
    PairingOptions,
    SetOptions,
    StartOptions,
    SyntheticOptions,
    TrainOptions,
    ValidationOptions,
)
from embedseg_large.training.recipe_options import (
    HardwareOptions,
    LengthOptions,
    MethodOptions,
    OptimiserOptions,
    PauseOptions,
    PictureOptions,
    SamplingOptions,
)

if TYPE_CHECKING:
    from embedseg_large.network.model import Model


@dataclass(frozen=True, kw_only=True)
class FromOption(Options):
    """What is fine-tuned."""

    start: Annotated[
        str | None, Flag("Model to fine-tune: a bundled name or a file.", name="--from")
    ] = None


@reported()
@grouped
def train(
    out: Annotated[str, typer.Option(help="Model file to write.")],
    images: Annotated[str | None, typer.Option(help="Folder of images: TIFF or OME-Zarr.")] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Folder of masks with the same file names as the images."),
    ] = None,
    *,
    given: Annotated[
        dict[str, Any],
        FromOption,
        MethodOptions,
        StartOptions,
        LabelsOption,
        SetOptions,
        PairingOptions,
        SyntheticOptions,
        ValidationOptions,
        PauseOptions,
        LengthOptions,
        SamplingOptions,
        CropOptions,
        OptimiserOptions,
        PictureOptions,
        CurveOptions,
        DeviceOptions,
        HardwareOptions,
    ],
    robust: Annotated[bool, typer.Option("--robust", hidden=True)] = False,
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

    first = Processes.here(given.get("device")).first
    if robust:
        given["recipe"] = "robust"
    pairing = PairingOptions.among(given)
    if pairing["channel"] == "all":
        pairing["channel"] = None
    options = TrainOptions.among(given) | FromOption.among(given)
    try:
        with TrainBars(quiet=as_json or not first) as watcher:
            model = run(images, masks, out=out, pairing=pairing, watcher=watcher, **options)
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
    epoch = model.card["training"].get("epoch")  # a forest has none
    if epoch is None:
        print_facts(None, {"model": out, "mean AP": model.card.get("tuned", {}).get("ap", "")})
        return
    facts = {"model": out, "from": f"epoch {epoch}"}
    if validation is not None:
        scores = "  ".join(f"{at}: {ap:.3f}" for at, ap in validation["ap"].items())
        facts["AP at IoU"] = f"{scores}  ({', '.join(validation['images'][:8])})"
    print_facts(None, facts | {"pictures, log": f"{out}.training"})
