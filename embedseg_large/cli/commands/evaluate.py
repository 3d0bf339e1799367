"""``embedseg-large evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.options import ErrorsOption, LabelOptions, MatchingOptions
from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions

if TYPE_CHECKING:
    from embedseg_large.evaluation.evaluate import Evaluation, RunScores

MEASURES = {"iou": "IoU", "boundary": "boundary IoU", "reference": "IoR"}
COLUMNS = ("ap", "precision", "recall", "f1", "pq", "mean_matched_iou", "tp", "fp", "fn")


@dataclass(frozen=True, kw_only=True)
class ThresholdsOption(Options):
    """From when on two objects are the same."""

    thresholds: Annotated[
        Sequence[float] | None, Flag("Thresholds from 0 to 1.", form="numbers", metavar="T,T,...")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunsOption(Options):
    """What is scored, too."""

    run: Annotated[
        list[str] | None,
        Flag(
            "Labels of another run; repeatable. Prints mean and standard deviation.",
            form="texts",
            metavar="PREDICTION",
        ),
    ] = None


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
    given: Annotated[
        dict[str, Any],
        ThresholdsOption,
        MatchingOptions,
        ErrorsOption,
        RunsOption,
        LabelOptions,
        WorkerOptions,
    ],
    as_json: Json = False,
) -> None:
    """Score labels against true ones: AP, precision, recall, F1, PQ, mean IoU."""
    from embedseg_large.evaluation import evaluate as engine

    runs = given.pop("run", None)
    if runs and "errors" in given:
        raise UsageError("--errors works with a single prediction; leave out --run")
    wanted = given.pop("thresholds", engine.THRESHOLDS)
    facts = {"localisation": given["localisation"]}
    if runs:
        scored = engine.evaluate_runs([prediction, *runs], truth, wanted, **given)
        _show_runs(scored, facts, as_json)
    else:
        _show(engine.evaluate_images(prediction, truth, wanted, **given), facts, as_json)


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
