"""A run in words and numbers: seam report, settings, times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedseg_large.segmentation.intensity_field import described
from embedseg_large.segmentation.request.scale_choice import described_scale, table_of
from embedseg_large.storage.tables import Table

BY = " \N{MULTIPLICATION SIGN} "
"""Separator between the lengths of a size."""
_SUMMARISED = (
    *("voxels", "volume_", "pixels", "area_", "surface_", "perimeter_", "sphericity"),
    *("circularity", "axis_", "intensity_mean", "seediness"),
)
"""Prefixes of the table columns that are summarised."""
_COUNTS = (
    *("faces", "voxels", "rounds", "tiles", "tiles_exact"),
    *("certified", "agreed", "repaired", "joined", "matched"),
)
"""Counts of a seam report; unrecorded ones are 0."""
_MOST_TRACED = 100
"""Maximum number of listed instances of the seam report."""
_NAMES = {
    "tta": "test-time augmentation",
    "tile": "prediction tile",
    "context": "context of a tile",
    "cluster_tile": "clustering tile",
    "max_halo": "largest halo",
    "min_object_size": "smallest instance has more voxels than",
    "foreground": "seediness of the foreground above",
    "seed": "seediness of a seed from",
    "margin": "Gaussian of an instance's voxels above",
    "reach": "longest accepted offset",
    "dtype": "number format",
}
_STAGES = {
    "statistics": "Intensities of the whole volume",
    "predict": "Network",
    "cluster": "Clustering",
    "check": "Comparing seams",
    "clean": "Cleaning instances",
    "finish": "Writing labels",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A name and a value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedFact:
    """An instance that the seam report lists."""

    label: int
    kind: str
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamFacts:
    """The seam report."""

    is_clean: bool
    """Whether tiles left no trace."""
    verdict: str
    """A sentence."""
    counts: tuple[tuple[str, int, str], ...]
    """Kind of instance, number, and what it means."""
    facts: tuple[Fact, ...]
    objects: tuple[TracedFact, ...]
    more: int
    """Listed by the run, but not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """The cost of a stage."""

    name: str
    tasks: int
    seconds: float
    share: float
    """Share of the time of all stages."""
    speed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Summary of a column of the table of instances."""

    name: str
    low: str
    median: str
    high: str


def seams_of(made: Mapping[str, Any], timepoint: int) -> SeamFacts | None:
    """Put the seam report into words; None if there is none."""
    said = made.get("seams")
    if not isinstance(said, Mapping):
        return None
    said = {**dict.fromkeys(_COUNTS, 0), **said}
    joined = int(said["joined"])
    objects = [
        TracedFact(label=o["label"], kind=kind, seed=" ".join(_at(o["seed"])))
        for kind in ("joined", "repaired")
        for o in said[f"{kind}_objects"]
        if o.get("timepoint", timepoint) == timepoint
    ]
    return SeamFacts(
        is_clean=joined == 0,
        verdict=_verdict(said, is_ours=not made.get("segmenter")),
        counts=tuple(_counts(said)),
        facts=(*_seam_facts(said), *_cleaning_facts(made.get("cleaning", {}))),
        objects=tuple(objects[:_MOST_TRACED]),
        more=max(0, len(objects) - _MOST_TRACED),
    )


def _at(seed: Sequence[int]) -> Iterator[str]:
    return (f"{axis} {k}" for axis, k in zip("zyx"[-len(seed) :], seed, strict=True))


def _verdict(said: Mapping[str, Any], *, is_ours: bool) -> str:
    joined, faces, voxels = (int(said[name]) for name in ("joined", "faces", "voxels"))
    if joined and is_ours:
        return (
            f"{joined:,} instance{'s were' if joined > 1 else ' was'} joined at a seam and may be "
            "wrong there: look at them below. --max-halo raises the limit of the halo."
        )
    if joined:
        matched = int(said["matched"])
        return (
            f"Tiles describe {joined:,} instance{'s' * (joined > 1)} differently: {matched:,} "
            f"{'were' if matched != 1 else 'was'} matched by overlap in the halo, the others are "
            "taken from the tile that owns them. Look at them below. A larger halo may help."
        )
    if not faces:
        return "Everything was clustered at once: there are no seams."
    return (
        f"Tiles left no trace: {voxels:,} voxels on both sides of {faces:,} "
        f"face{'s' * (faces > 1)} were compared, and nothing had to be joined."
    )


def _counts(said: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    meanings = {
        "certified": "nothing unseen by a tile could have changed them",
        "agreed": "all tiles that see them describe them identically",
        "repaired": "tiles describe them identically since they were given a larger halo",
        "joined": "tiles disagree at any halo",
    }
    return ((kind, int(said[kind]), meaning) for kind, meaning in meanings.items())


def _seam_facts(said: Mapping[str, Any]) -> Iterator[Fact]:
    yield Fact(name="faces between tiles", value=f"{said['faces']:,}")
    yield Fact(name="voxels compared", value=f"{said['voxels']:,}")
    yield Fact(name="tiles proven exact", value=f"{said['tiles_exact']:,} of {said['tiles']:,}")
    yield Fact(name="rounds of repair", value=f"{said['rounds']:,}")


def _cleaning_facts(said: Mapping[str, int]) -> Iterator[Fact]:
    """Describe dropped pieces and filled holes, if masks were cleaned."""
    if said:
        pieces, inside = said["pieces_dropped"], said["instances_with_pieces"]
        told = f"{pieces:,} of {inside:,} instances, {said['voxels_dropped']:,} voxels"
        yield Fact(name="loose pieces dropped", value=told)
        told = f"of {said['instances_with_holes']:,} instances, {said['voxels_filled']:,} voxels"
        yield Fact(name="holes filled", value=told)
        yield Fact(name="instances not cleaned", value=f"{said['left']:,}")


def settings_of(made: Mapping[str, Any]) -> list[Fact]:
    """List the settings of the run."""
    facts = [
        Fact(name=_NAMES.get(name, name.replace("_", " ")), value=_text(value))
        for name, value in made.get("settings", {}).items()
    ]
    for name, value in made.get("foreground", {}).items():
        if value is not None and name in ("mask", "dark_below"):
            facts.append(Fact(name=name.replace("_", " "), value=_text(value)))
    return [*facts, *_intensities(made), *_scales(made)]


def _intensities(made: Mapping[str, Any]) -> Iterator[Fact]:
    for number, one in enumerate(made.get("intensity") or []):
        if isinstance(one, Mapping):
            name = "intensities that became 0 and 1" + f" ({number})" * (number > 0)
            yield Fact(name=name, value=f"{one['low']:,g} and {one['high']:,g}")
    if isinstance(made.get("intensity_field"), Mapping):
        yield Fact(name="light evened out", value=described(made["intensity_field"]))


def _scales(made: Mapping[str, Any]) -> Iterator[Fact]:
    """The scales that were tried, if the scale was chosen automatically."""
    said = made.get("object_diameter")
    if not isinstance(said, Mapping):
        return
    yield Fact(name="scale (auto)", value=described_scale(said))
    _, rows = table_of(said)
    for chosen, width, found, median, views, neighbours, score in rows:
        text = (
            f"{found} found, median {median or 'none'}; agreement of views {views}, "
            f"of neighbouring scales {neighbours}; score {score}"
        )
        yield Fact(name=f"scale for {width} voxels{', ' * bool(chosen)}{chosen}", value=text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return BY.join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def stages_of(made: Mapping[str, Any]) -> list[StageFacts]:
    """List the cost of stages, in seconds of all workers together."""
    stages = made.get("stages", {})
    total = sum(stage["seconds"] for stage in stages.values()) or 1.0
    return [
        StageFacts(
            name=_STAGES.get(name, name),
            tasks=stage["tiles"],
            seconds=stage["seconds"],
            share=stage["seconds"] / total,
            speed=_speed(stage["voxels_per_second"]),
        )
        for name, stage in stages.items()
    ]


def _speed(voxels: float) -> str:
    return f"{voxels / 1e6:,.2f}" if voxels else ""


def versions_of(made: Mapping[str, Any]) -> list[Fact]:
    """List the versions of programs that affect the labels."""
    return [Fact(name=n, value=str(v)) for n, v in made.get("versions", {}).items()]


def summary_of(table: Table) -> list[Row]:
    """Summarise sizes, shapes and intensities of a table of instances."""
    rows = []
    for name, column in table.columns.items():
        values = column.astype(np.float64) if name.startswith(_SUMMARISED) else np.empty(0)
        known = values[np.isfinite(values)]
        if known.size:
            low, middle, high = map(_number, np.percentile(known, [5, 50, 95]))
            rows.append(Row(name=_words(name), low=low, median=middle, high=high))
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _words(name: str) -> str:
    """A column's name for display."""
    units = {"_um3": " (µm³)", "_um2": " (µm²)", "_um": " (µm)"}
    for ending, unit in units.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " ") + unit
    return name.replace("_", " ")
