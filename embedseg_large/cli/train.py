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
)
from embedseg_large.cli.options import Json, Verbose, numbers, sizes

if TYPE_CHECKING:
    from embedseg_large.network.model import Model

_DATA, _VALIDATION, _LEARNING, _WATCHING, _WORK = (
    "Data",
    "Validation",
    "Learning",
    "Watching",
    "Work",
)


def _channel(text: str) -> int | str:
    """A number, or ``all``."""
    if text == "all" or text.isdigit():
        return text if text == "all" else int(text)
    raise typer.BadParameter(f"{text!r} is neither a number nor all")


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


@reported("interrupted; the same command with --resume goes on from the last epoch")
def train(
    images: Annotated[str, typer.Option(help="Folder of images: TIFF or OME-Zarr.")],
    out: Annotated[str, typer.Option(help="File of the model to make.")],
    masks: Annotated[
        str | None,
        typer.Option(help="Folder of masks, one for each image, of the same file name."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Model to fine-tune: a bundled name or a file."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training of --out that was cut off.")
    ] = False,
    labels: Annotated[
        str | None,
        _option(_DATA, "Instead of --masks: name of the labels inside each OME-Zarr image."),
    ] = None,
    ndim: Annotated[
        int | None, _option(_DATA, "2 or 3: refuse images of another number of axes.")
    ] = None,
    channel: Annotated[
        Any, _option(_DATA, "Channel of the images, or all.", parser=_channel, metavar="I")
    ] = "0",
    timepoint: Annotated[int | None, _option(_DATA, "Timepoint of images and masks.")] = None,
    level: Annotated[int, _option(_DATA, "Pyramid level, 0 is the finest.")] = 0,
    axes: Annotated[
        str | None, _option(_DATA, "Letters of the axes, where the images have none: zyx.")
    ] = None,
    voxel_size: Annotated[
        Any,
        _option(
            _DATA,
            "Micrometres, where the images do not say it or are wrong.",
            parser=numbers,
            metavar="Z,Y,X",
        ),
    ] = None,
    ignore_label: Annotated[
        int, _option(_DATA, "Mask value of what is not annotated; negative ones never are.")
    ] = -1,
    validation: Annotated[
        float, _option(_VALIDATION, "Fraction of the images to keep aside; 0: none.")
    ] = 0.15,
    validation_images: Annotated[
        str | None, _option(_VALIDATION, "Folder of images to validate on instead.")
    ] = None,
    validation_masks: Annotated[str | None, _option(_VALIDATION, "And of their masks.")] = None,
    validate_every: Annotated[
        int, _option(_VALIDATION, "Epochs between two validations.", min=1)
    ] = 1,
    patience: Annotated[
        int | None,
        _option(
            _VALIDATION,
            "Stop after so many validations without a better model. Default: never.",
            min=1,
        ),
    ] = None,
    epochs: Annotated[int, _option(_LEARNING, "Passes over the annotated objects.", min=1)] = 200,
    epoch_crops: Annotated[
        int | None,
        _option(
            _LEARNING,
            "Objects of a pass, drawn anew for each, from images with few objects more often. "
            "Default: all.",
            min=1,
        ),
    ] = None,
    batch: Annotated[int, _option(_LEARNING, "Crops at a time; memory grows with it.", min=1)] = 2,
    accumulate: Annotated[int, _option(_LEARNING, "Batches that make a step.", min=1)] = 8,
    learning_rate: Annotated[
        float, _option(_LEARNING, "At first; it falls to 0. For fine-tuning try 0.0001.")
    ] = 5e-4,
    average_steps: Annotated[
        int,
        _option(
            _LEARNING, "Keep the mean of the weights over so many steps, 0: the last ones.", min=0
        ),
    ] = 0,
    weight_decay: Annotated[float, _option(_LEARNING, "Pull of the weights towards 0.")] = 1e-4,
    crop: Annotated[
        Any,
        _option(
            _LEARNING,
            "Voxels of a crop, multiples of 8. Default: from the sizes of the objects.",
            parser=sizes,
            metavar="Z,Y,X",
        ),
    ] = None,
    center: Annotated[
        str,
        _option(_LEARNING, "Where an object's voxels point: medoid, approximate-medoid, centroid."),
    ] = "medoid",
    robust: Annotated[
        bool,
        _option(
            _LEARNING, "Vary sizes and intensities of crops, not only their direction.", "--robust"
        ),
    ] = False,
    freeze_encoder: Annotated[
        bool,
        _option(
            _LEARNING,
            "With --from: only the decoders learn; for very few objects.",
            "--freeze-encoder",
        ),
    ] = False,
    seed: Annotated[int, _option(_LEARNING, "Decides all that is random.", min=0)] = 0,
    pictures_every: Annotated[
        int, _option(_WATCHING, "Epochs between two sheets of pictures; 0: none.", min=0)
    ] = 5,
    tensorboard: Annotated[
        str | None,
        _option(_WATCHING, "Folder to write for TensorBoard.", metavar="DIR"),
    ] = None,
    device: Annotated[
        str | None, _option(_WORK, "cpu or cuda. Default: cuda where there is one.")
    ] = None,
    dtype: Annotated[
        str, _option(_WORK, "Of the convolutions: float32, bfloat16 or float16.")
    ] = "float32",
    workers: Annotated[
        int, _option(_WORK, "Processes that cut crops beside the training.", min=0)
    ] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a model on images and masks, or fine-tune one.

    OUT.training keeps what --resume needs, the best model so far, log.jsonl with a line an epoch,
    and pictures/. On several GPUs: `torchrun --nproc-per-node N -m embedseg_large train ...`; a
    step then sees N times as many crops.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    from embedseg_large.cli.trainbars import TrainBars
    from embedseg_large.training.augment import AugmentSettings
    from embedseg_large.training.processes import Processes
    from embedseg_large.training.train import train as run

    first = Processes.here(device).first
    try:
        with TrainBars(quiet=as_json or not first) as watcher:
            model = run(
                images,
                masks,
                out=out,
                ndim=ndim,
                validation=validation,
                validation_images=validation_images,
                validation_masks=validation_masks,
                start=start,
                resume=resume,
                augment=AugmentSettings.robust() if robust else None,
                center=center,  # type: ignore[arg-type]  # checked there
                crop=crop,
                device=device,
                watcher=watcher,
                tensorboard=tensorboard,
                pairing={
                    "labels": labels,
                    "channel": None if channel == "all" else int(channel),
                    "timepoint": timepoint,
                    "level": level,
                    "axes": axes,
                    "voxel_size": voxel_size,
                    "ignore": ignore_label,
                },
                epochs=epochs,
                epoch_crops=epoch_crops,
                batch=batch,
                accumulate=accumulate,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                validate_every=validate_every,
                pictures_every=pictures_every,
                patience=patience,
                average_steps=average_steps,
                freeze_encoder=freeze_encoder,
                seed=seed,
                workers=workers,
                dtype=dtype,
            )
    except KeyboardInterrupt:
        if first:
            typer.echo("interrupted; with --resume it goes on after the last epoch", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if first:
        _show(out, model, as_json)


def _show(out: str, model: Model, as_json: bool) -> None:
    """Print what was made."""
    if as_json:
        print_json({"model": out, "settings": model.settings.as_dict(), "card": model.card})
        return
    validation = model.card.get("validation")
    facts = {"model": out, "from": f"epoch {model.card['training']['epoch']}"}
    if validation is not None:
        scores = "  ".join(f"{at}: {ap:.3f}" for at, ap in validation["ap"].items())
        facts["AP at IoU"] = f"{scores}  ({', '.join(validation['images'][:8])})"
    print_facts(None, facts | {"pictures, log": f"{out}.training"})
