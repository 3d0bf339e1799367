"""`report`: read labels, choose what to show, write the page.

1. Open labels, image and the record of the run, and refuse what cannot be shown.
2. Measure all instances, out of core.
3. Draw a level that fits into memory, and a few instances at full resolution.
4. Fill the page.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import pi, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.measurement.measure import measure
from embedseg_large.options import takes
from embedseg_large.reporting import facts, plots
from embedseg_large.reporting.again import command
from embedseg_large.reporting.card import card_of
from embedseg_large.reporting.charts import HEIGHT, WIDTH
from embedseg_large.reporting.drawing import Inks
from embedseg_large.reporting.gallery import Group, cards_of, find_groups, size_column, size_text
from embedseg_large.reporting.options import ReportOptions
from embedseg_large.reporting.overview import Overview, closeup, overview
from embedseg_large.reporting.page import render
from embedseg_large.reporting.subject import ReportSubject, find_subject
from embedseg_large.reporting.tasktimes import read_times
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.storage.disk import check_file, whole_file
from embedseg_large.storage.tables import Table

_SMALL = 30
"""If a typical instance has fewer pixels than this in the overview, there is a close-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report that was written."""

    path: str
    bytes: int
    labels: str
    """Path or URL, without credentials."""
    timepoint: int
    n_instances: int
    has_image: bool
    overview_level: int | None
    """Level of the labels shown in the overview; None if there is no overview."""
    joined: int | None
    """Number of instances joined at a seam; None if unknown."""
    gallery: dict[str, list[int]]
    """Labels that are shown, by reason."""

    def as_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        return asdict(self)


@takes(ReportOptions)
def report(
    source: str | os.PathLike[str],
    labels: str | None = None,
    *,
    out: str | os.PathLike[str] = "report.html",
    **options: Any,
) -> Report:
    """Write one HTML file about labels: pictures, instances to check, seams, settings.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr image with labels inside, or of the labels themselves: a label
        group or a TIFF.
    labels
        Name of the labels; None: the only ones.
    out
        The file, which is self-contained and works offline. An existing file is replaced.
    **options

    Returns
    -------
    Report
        Its location and content.

    Raises
    ------
    UsageError
        If labels, timepoint, model or log do not exist or do not belong to that run, or the folder
        of the file does not exist.
    VolumeError
        If something cannot be read, labels and image do not match, or there are no instances.
    OutputError
        If the file cannot be written; this is checked first.
    """
    asked = ReportOptions.of(options, "report")
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{os.fspath(out)}: a report is an HTML file; name it .html")
    check_file(out)
    subject = find_subject(source, labels, asked)
    times = None
    if asked.log is not None:
        times = read_times(asked.log, subject.made, subject.timepoint)
    has_model = "model" in subject.made or asked.model is not None
    card = card_of(subject.made, asked.model) if has_model else None
    table = _measured(subject, asked)
    inks = Inks.of(table["label"].astype(np.uint64))
    diameter = _diameter(subject, table)
    seen = overview(subject, inks, diameter)
    is_crowded = seen is not None and seen.diameter < _SMALL
    near = closeup(subject, inks, diameter, _centroids(subject, table)) if is_crowded else None
    groups = find_groups(table)
    seams = facts.seams_of(subject.made, subject.timepoint)
    text = render(
        subject=subject,
        about=_about(subject),
        facts=_headline(subject, table),
        warnings=subject.made.get("warnings", []),
        overview=seen,
        closeup=near,
        level_note=_level_note(seen, subject),
        groups=[(group, cards_of(group, subject, table, inks)) for group in groups],
        histograms=plots.histograms(subject, table),
        chart_size=(WIDTH, HEIGHT),
        summary=facts.summary_of(table),
        maps=plots.maps(subject, table, times),
        seams=seams,
        stages=facts.stages_of(subject.made),
        settings=facts.settings_of(subject.made),
        versions=facts.versions_of(subject.made),
        card=card,
        command=command(subject.made, card.name, card.method) if card else "",
        version=version("embedseg-large"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return Report(
        path=os.fspath(out),
        bytes=_write(Path(out), text),
        labels=subject.place,
        timepoint=subject.timepoint,
        n_instances=len(table),
        has_image=bool(subject.image),
        overview_level=None if seen is None else seen.level,
        joined=subject.made.get("seams", {}).get("joined"),
        gallery={group.key: _labels_of(group, table) for group in groups},
    )


def _measured(subject: ReportSubject, asked: ReportOptions) -> Table:
    table = measure(
        subject.labels.path,
        timepoint=subject.timepoint,
        axes=asked.axes,
        voxel_size=asked.voxel_size,
        **WorkerOptions.among(vars(asked)),
    )
    if not len(table):
        raise VolumeError(
            f"{subject.place}: no instance at timepoint {subject.timepoint}, so there is nothing "
            "to report; segment with a lower --seed or --foreground, or choose --timepoint"
        )
    return table


def _diameter(subject: ReportSubject, table: Table) -> float:
    """Diameter of a ball (2D: disc) of median size, in µm or voxels."""
    size = float(np.median(table[size_column(table)])) * prod(subject.steps)
    return float(np.cbrt(6 * size / pi) if len(subject.shape) == 3 else np.sqrt(4 * size / pi))


def _centroids(subject: ReportSubject, table: Table) -> NDArray[np.float64]:
    axes = "zyx"[-len(subject.shape) :]
    return np.stack([table[axis].astype(np.float64) for axis in axes], axis=1)


def _labels_of(group: Group, table: Table) -> list[int]:
    labels: list[int] = table["label"][group.rows].tolist()
    return labels


def _write(path: Path, text: str) -> int:
    """Write a file, which appears complete or not at all; return its length in bytes."""
    content = text.encode()
    with whole_file(path) as begun:
        begun.write_bytes(content)
    return len(content)


# Words ------------------------------------------------------------------------------------------


def _about(subject: ReportSubject) -> list[str]:
    """The description of the labels below the title."""
    volume = subject.labels.finest
    about = [f"{facts.BY.join(map(str, subject.shape))} {subject.unit}s"]
    if subject.voxel_size is not None:
        about.append(facts.BY.join(f"{s:.4g}" for s in subject.voxel_size) + " µm each")
    else:
        about.append(f"{subject.unit} size unknown")
    if level := subject.made.get("volume", {}).get("level"):
        about.append(f"level {level} of the image")
    if subject.image:
        about.append(f"channel {subject.channel}")
    if volume.n_timepoints > 1:
        about.append(f"timepoint {subject.timepoint} of {volume.n_timepoints}")
    return about


def _headline(subject: ReportSubject, table: Table) -> list[facts.Fact]:
    """The key figures."""
    size = table[size_column(table)]
    middle = int(np.argsort(size, kind="stable")[size.size // 2])
    at_border = int(np.count_nonzero(table["touches_border"]))
    filled = float(size.sum()) / prod(subject.shape)
    found = [
        facts.Fact(name="instances", value=f"{len(table):,}"),
        facts.Fact(name="median size", value=size_text(table, middle)),
        facts.Fact(name=f"of the {subject.whole} filled", value=f"{filled:.1%}"),
        facts.Fact(name="at the border", value=f"{at_border:,}"),
    ]
    joined = subject.made.get("seams", {}).get("joined")
    if joined is not None:
        found.append(facts.Fact(name="joined at seams", value=f"{joined:,}"))
    return found


def _level_note(seen: Overview | None, subject: ReportSubject) -> str:
    """Describe which part of the volume is shown."""
    if seen is None:
        return ""
    size = facts.BY.join(map(str, seen.shape))
    words = (
        "Full resolution of the labels"
        if seen.shape == subject.shape
        else f"A coarser level ({size} voxels)"
    )
    return words + (", of which the centre is shown." if seen.is_part else ".")
