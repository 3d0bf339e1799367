"""``embedseg-large train``."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, reported, set_up_logging, stop_on_sigterm
from embedseg_large.cli.options import Verbose, sizes

if TYPE_CHECKING:
    from embedseg_large.training.trainer import EpochRecord


@reported
def train(
    images: Annotated[str, typer.Option(help="Folder of images.")],
    masks: Annotated[str, typer.Option(help="Folder of masks, matched by file name.")],
    out: Annotated[str, typer.Option(help="File of the model.")],
    validation_images: Annotated[
        str | None, typer.Option(help="Folder of images to validate on.")
    ] = None,
    validation_masks: Annotated[str | None, typer.Option(help="And their masks.")] = None,
    validation: Annotated[
        float, typer.Option(help="Otherwise: fraction of the images to validate on.")
    ] = 0.15,
    ndim: Annotated[int | None, typer.Option(help="2 or 3, to be checked.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Model to fine-tune: a name or a file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out was.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over all objects.")] = 200,
    batch: Annotated[int, typer.Option(help="Crops at a time.")] = 2,
    accumulate: Annotated[int, typer.Option(help="Batches in a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="At the first epoch.")] = 5e-4,
    crop: Annotated[Any, typer.Option(parser=sizes, metavar="Z,Y,X", help="Crop.")] = None,
    robust: Annotated[
        bool, typer.Option("--robust", help="Vary sizes and intensities, not only directions.")
    ] = False,
    freeze_encoder: Annotated[
        bool, typer.Option("--freeze-encoder", help="Only the decoders learn.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a better one before stopping.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses all that is random.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that cut crops.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    verbose: Verbose = False,
) -> None:
    """Train a model on images and masks, or fine-tune one.

    OUT.training keeps the log, the best model and what --resume needs.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    from embedseg_large.training.augment import AugmentSettings
    from embedseg_large.training.train import train as run

    with _Bars() as watcher:
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
            crop=crop,
            device=device,
            watcher=watcher,
            epochs=epochs,
            batch=batch,
            accumulate=accumulate,
            learning_rate=learning_rate,
            freeze_encoder=freeze_encoder,
            patience=patience,
            seed=seed,
            workers=workers,
            dtype=dtype,
        )
    print_facts(None, {"model": out, **model.settings.as_dict()})


class _Bars(AbstractContextManager["_Bars"]):
    """A bar for the epoch, and a line for each that is done, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True))
        self._task = self._progress.add_task("epoch", total=None)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """Move the bar."""
        text = f"epoch {epoch}  loss {loss:.3f}"
        self._progress.update(self._task, completed=done, total=of, description=text)

    def epoch(self, record: EpochRecord) -> None:
        """Print a line."""
        ap = "" if record.ap is None else "  AP " + " ".join(f"{v:.3f}" for v in record.ap.values())
        best = "  best" if record.best else ""
        terms = "  ".join(f"{name} {value:.3f}" for name, value in record.loss.items())
        self._progress.console.print(
            f"epoch {record.epoch}  {terms}  IoU {record.iou:.3f}{ap}{best}",
            highlight=False,
            soft_wrap=True,
        )
