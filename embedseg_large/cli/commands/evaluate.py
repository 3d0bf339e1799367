"""``embedseg-large evaluate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, numbers
from embedseg_large.cli.runoptions import WorkerFlags
from embedseg_large.errors import UsageError

if TYPE_CHECKING:
    from embedseg_large.evaluation.evaluate import Evaluation, RunScores

MEASURES = {"iou": "IoU", "boundary": "boundary IoU", "reference": "IoR"}
COLUMNS = ("ap", "precision", "recall", "f1", "pq", "mean_matched_iou", "tp", "fp", "fn")


@dataclass(frozen=True, kw_only=True)
class MatchingFlags:
    """When two objects are the same."""

    panel: ClassVar[str | None] = None

    thresholds: Annotated[
        Any, typer.Option(parser=numbers, metavar="T,T,...", help="Thresholds from 0 to 1.")
    ] = None
    localisation: Annotated[
        str,
        typer.Option(
            metavar="iou|boundary|reference",
            help="What thresholds apply to: the IoU of masks, the IoU of their boundaries, "
            "or the intersection over the true object.",
        ),
    ] = "iou"
    boundary_width: Annotated[
        int | None, typer.Option(help="Thickness of a boundary in voxels. Default: 2.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """What else is compared, and what the files are like."""

    panel: ClassVar[str | None] = None

    errors: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE", help="Write a table of all objects, found or not: .csv or .parquet."
        ),
    ] = None
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREDICTION",
            help="Labels of another run; repeatable. Prints mean and standard deviation.",
        ),
    ] = None
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, if a file has none: zyx.")
    ] = None
    ignore_label: Annotated[
        int,
        typer.Option(
            help="Value of unannotated true voxels; negative values are always unannotated."
        ),
    ] = -1


@reported()
@grouped
def evaluate(
    prediction: Annotated[
        str,
        typer.Argument(help="Labels: STORE/labels/NAME, TIFF, zarr array, or a folder of those."),
    ],
    truth: Annotated[
        str,
        typer.Argument(
            help="True labels, likewise; files in folders are matched by name without suffix."
        ),
    ],
    *,
    rule: MatchingFlags,
    more: EvaluateFlags,
    as_json: Json = False,
    where: WorkerFlags,
) -> None:
    """Score labels against true ones: AP, precision, recall, F1, PQ, mean IoU."""
    from embedseg_large.evaluation import evaluate as engine

    if more.run and more.errors:
        raise UsageError("--errors works with a single prediction; leave out --run")
    options: dict[str, Any] = {
        "axes": more.axes,
        "ignore": more.ignore_label,
        "localisation": rule.localisation,
        **asdict(where),
    }
    if rule.boundary_width is not None:
        options["boundary_width"] = rule.boundary_width
    wanted = rule.thresholds or engine.THRESHOLDS
    facts = {"localisation": rule.localisation}
    if more.run:
        _show_runs(
            engine.evaluate_runs([prediction, *more.run], truth, wanted, **options), facts, as_json
        )
    else:
        result = engine.evaluate_images(prediction, truth, wanted, errors=more.errors, **options)
        _show(result, facts, as_json)


def print_scores(scores: list[dict[str, Any]], localisation: str = "iou") -> None:
    """Print one row per threshold."""
    rows = [[f"{s['threshold']:g}", *(_cell(s[c]) for c in COLUMNS)] for s in scores]
    print_table(_heads(localisation), rows)


def _show(result: Evaluation, facts: dict[str, Any], as_json: bool) -> None:
    """Print the pooled scores, the scores of each of several images, and the counts of errors."""
    scores = [s.as_dict() for s in result.scores]
    errors = {} if result.errors is None else {"errors": result.errors}
    if as_json:
        images = [_image(image.name, image.scores, image.errors) for image in result.images]
        print_json({"scores": scores, **facts, "images": images, **errors})
        return
    if len(result.images) > 1:
        _print_images(result)
    print_scores(scores, facts["localisation"])
    if errors:
        print_facts(None, {k.replace("_", " "): f"{n:,}" for k, n in errors["errors"].items()})


def _image(name: str, scores: list[Any], errors: dict[str, int] | None) -> dict[str, Any]:
    counts = {} if errors is None else {"errors": errors}
    return {"name": name, "scores": [s.as_dict() for s in scores], **counts}


def _print_images(result: Evaluation) -> None:
    """Print the AP of every image."""
    heads = ["AP of image", *(f"≥ {s.threshold:g}" for s in result.scores)]
    print_table(heads, [[i.name, *(_cell(s.ap) for s in i.scores)] for i in result.images])


def _show_runs(result: RunScores, facts: dict[str, Any], as_json: bool) -> None:
    """Print the mean over runs with its standard deviation."""
    mean, deviation = result.mean, result.deviation
    if as_json:
        runs = [[s.as_dict() for s in run.scores] for run in result.runs]
        print_json({"scores": mean, **facts, "deviations": deviation, "runs": runs})
        return
    rows = [
        [f"{m['threshold']:g}", *(f"{_cell(m[c])} ± {_cell(d[c])}" for c in COLUMNS)]
        for m, d in zip(mean, deviation, strict=True)
    ]
    print_table(_heads(facts["localisation"]), rows)


def _heads(localisation: str) -> list[str]:
    measure = MEASURES[localisation]
    return [f"{measure} ≥", *(c.replace("mean_matched_iou", f"mean {measure}") for c in COLUMNS)]


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
