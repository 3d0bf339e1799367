"""``embedseg-large measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, LabelStore, TableFile
from embedseg_large.measurement.options import (
    AxesOptions,
    ImageOption,
    ParentOption,
    PartOptions,
    TableOption,
)
from embedseg_large.runs.options import WorkerOptions

if TYPE_CHECKING:
    from embedseg_large.storage.tables import Table

_SUMMARISED = (
    *("voxels", "volume", "pixels", "area", "surface", "sphericity", "perimeter", "circularity"),
    *("axis_", "seediness", "intensity_mean"),
)
"""Prefixes of the columns that are summarised."""


@reported(interrupted="interrupted; nothing was written")
@grouped
def measure(
    store: LabelStore,
    *,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the labels; required if there are several."),
    ] = None,
    given: Annotated[
        dict[str, Any],
        ImageOption,
        ParentOption,
        TableFile,
        TableOption,
        PartOptions,
        AxesOptions,
        WorkerOptions,
    ],
    as_json: Json = False,
) -> None:
    """Measure every instance: size, position, surface, axes, intensities in each channel."""
    from embedseg_large.measurement import measure as engine
    from embedseg_large.storage.connection import shown
    from embedseg_large.storage.tables import check_table_path, write_table

    out = given.pop("out", None)
    if out is not None:
        check_table_path(out)
    table = engine.measure(store, labels, **given)
    if out is not None:
        write_table(out, table.columns, table.region)
    stored = None if table.stored is None else shown(table.stored)
    facts = summary(table) | {"table": None if out is None else str(out), "stored": stored}
    _show(facts, as_json)


def summary(table: Table) -> dict[str, Any]:
    """Summarise a table, as values that JSON can hold; quantiles are None if nothing is known."""
    import numpy as np

    facts: dict[str, Any] = {
        "n_instances": len(table),
        "timepoints": np.unique(table["timepoint"]).size,
        "touching_border": int(np.count_nonzero(table["touches_border"])),
    }
    if "seam" in table.columns:
        kinds = ("repaired", "joined")
        facts["seams"] = {kind: int(np.count_nonzero(table["seam"] == kind)) for kind in kinds}
    facts["columns"] = list(table.columns)
    facts["quantiles"] = {
        name: _quantiles(np.asarray(column, np.float64))
        for name, column in table.columns.items()
        if name.startswith(_SUMMARISED)
    }
    return facts


def _quantiles(values: Any) -> dict[str, float | None]:
    import numpy as np

    known = values[np.isfinite(values)]
    names = {"p5": 5, "median": 50, "p95": 95}
    return {n: float(np.percentile(known, p)) if known.size else None for n, p in names.items()}


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    seams = {f"seams, {kind}": f"{n:,}" for kind, n in facts.get("seams", {}).items()}
    told = {
        "instances": f"{facts['n_instances']:,}" if facts["n_instances"] else "none",
        **({"timepoints": facts["timepoints"]} if facts["timepoints"] > 1 else {}),
        "touching the border": f"{facts['touching_border']:,}",
        **seams,
        **({"table": facts["table"]} if facts["table"] else {}),
        **({"table in the store": facts["stored"]} if facts["stored"] else {}),
    }
    print_facts(None, told)
    if facts["n_instances"]:
        rows = [[name, *map(_cell, q.values())] for name, q in facts["quantiles"].items()]
        print_table(["of all instances", "5 %", "median", "95 %"], rows)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
