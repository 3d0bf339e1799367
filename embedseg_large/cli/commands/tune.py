"""``embedseg-large tune``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from embedseg_large.cli.console import check_folder_of, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Overwrite
from embedseg_large.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedseg_large.training.tuning.tune import Tuned


@dataclass(frozen=True, kw_only=True)
class TuneFlags:
    """What is tuned, and on what."""

    heading: ClassVar[str | None] = None

    tta: Annotated[
        str | None,
        typer.Option(
            metavar="MODES",
            help="Test-time augmentations: none,4,8,16,48. Default: none and the model's default. "
            "Of models of other methods: one, as their thresholds are the same for all.",
        ),
    ] = None
    keep_largest_piece: Annotated[
        bool | None,
        typer.Option(
            "--keep-largest-piece/--no-keep-largest-piece",
            help="Make the model drop loose pieces of objects by default, or not.",
        ),
    ] = None
    fill_holes: Annotated[
        bool | None,
        typer.Option(
            "--fill-holes/--no-fill-holes",
            help="Make the model fill holes of objects by default, or not.",
        ),
    ] = None
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="Channel of the images, by number or name; or all. Default: 0, or all of the "
            "model's.",
        ),
    ] = None


@reported("interrupted; nothing was written")
@grouped
def tune(
    model: Annotated[str, typer.Argument(help="Bundled name, file, or folder of a checkpoint.")],
    *,
    images: Annotated[
        list[str],
        typer.Option(
            help="Folder of annotated images; repeatable for several sets of equal weight."
        ),
    ],
    masks: Annotated[
        list[str],
        typer.Option(help="Folder of their masks with the same file names; once per --images."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Model to write. Default: only print the result."),
    ] = None,
    choice: TuneFlags,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the best --seed and --margin of a model on annotated images, without training.

    For one pass and for each augmentation, the pair of a grid with the highest mean AP over IoU 0.5
    to 0.9 is chosen; within 0.005 of it, the one with the lowest seed. The model written to --out
    has the same weights, and `segment` uses these thresholds by default.

    For models of other methods, their own thresholds are found, the same for all augmentations.
    """
    if len(images) != len(masks):
        raise UsageError(
            f"{len(images)} --images and {len(masks)} --masks; pass one folder of masks per "
            "folder of images"
        )
    if out is not None:
        _check(out, overwrite)
    from embedseg_large.training.tuning.tune import is_rounded
    from embedseg_large.training.tuning.tune import tune as run

    tuned, found = run(
        model,
        list(zip(images, masks, strict=True)),
        tta=None if choice.tta is None else [mode.strip() for mode in choice.tta.split(",")],
        keep_largest_piece=choice.keep_largest_piece,
        fill_holes=choice.fill_holes,
        pairing=_pairing(choice.channel),
        watcher=lambda text: None if as_json else typer.echo(text, err=True),
    )
    if out is not None:
        tuned.save(out, dtype="float16" if is_rounded(tuned) else "float32")
    if as_json:
        told = {one.mode: one.as_dict() for one in found}
        print_json({"model": None if out is None else str(out), "thresholds": told})
        return
    _show(found)
    if out is not None:
        typer.echo(f"model: {out}")


def _pairing(channel: str | None) -> dict[str, str | None]:
    """The channel to use, unless it is the default; None: all."""
    if channel is None:
        return {}
    return {"channel": None if channel == "all" else channel}


def _check(out: Path, overwrite: bool) -> None:
    """Refuse an unwritable file before any work."""
    check_folder_of(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out, or pass --overwrite")


def _show(found: Sequence[Tuned]) -> None:
    rows = []
    for one in found:
        rows.append(_row(one.mode, "the model's", one.before, one.ap_before))
        rows.append(_row("", "best", one.after, one.ap_after))
    limits = [f"AP {iou:g}" for iou in found[0].ap_after]
    print_table(["TTA", "thresholds", *found[0].after, *limits, "mean"], rows)


def _row(mode: str, words: str, at: Mapping[str, float], ap: dict[float, float]) -> list[str]:
    mean = sum(ap.values()) / len(ap)
    return [
        mode,
        words,
        *(f"{value:g}" for value in at.values()),
        *(f"{v:.3f}" for v in [*ap.values(), mean]),
    ]
