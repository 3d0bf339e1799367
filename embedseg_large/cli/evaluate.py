"""``embedseg-large evaluate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedseg_large.cli.console import print_json, print_table, reported
from embedseg_large.cli.options import Json, numbers

COLUMNS = ("ap", "precision", "recall", "f1", "pq", "mean_matched_iou", "tp", "fp", "fn")


@reported
def evaluate(
    prediction: Annotated[str, typer.Argument(help="STORE/labels/NAME, TIFF or zarr array.")],
    truth: Annotated[str, typer.Argument(help="The same for the true labels.")],
    thresholds: Annotated[
        Any, typer.Option(parser=numbers, metavar="T,T,...", help="IoU thresholds, 0 to 1.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, where a file has none: zyx.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score labels against true ones: AP, precision, recall, F1, PQ, mean IoU."""
    from embedseg_large.engine.evaluate import THRESHOLDS
    from embedseg_large.engine.evaluate import evaluate as run

    scores = [s.as_dict() for s in run(prediction, truth, thresholds or THRESHOLDS, axes=axes)]
    if as_json:
        print_json({"scores": scores})
    else:
        print_scores(scores)


def print_scores(scores: list[dict[str, Any]]) -> None:
    """Print one row a threshold."""
    columns = ["IoU ≥", *(c.replace("mean_matched_iou", "mean IoU") for c in COLUMNS)]
    rows = [[f"{s['threshold']:g}", *(_cell(s[c]) for c in COLUMNS)] for s in scores]
    print_table(columns, rows)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
