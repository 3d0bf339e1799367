"""The page: what a comparison found, in words, tables and pictures."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.networks import LEARNING, ROUNDS
from embedseg_large.comparison.options import AnnotatedOptions, CompareOptions
from embedseg_large.comparison.place import ComparisonPlace
from embedseg_large.comparison.result import Comparison, Standing, TileCheck, Trial, deviation
from embedseg_large.geometry import Box
from embedseg_large.options import Flag
from embedseg_large.pictures import Panel, grey_of, matched_colours, numbered, palette
from embedseg_large.reporting.drawing import Inks, Picture, grey_pixels, overlay, picture
from embedseg_large.reporting.facts import BY, Fact
from embedseg_large.reporting.page import render, seconds
from embedseg_large.storage.disk import whole_file
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.tuning.thresholds import IOUS
from embedseg_large.volumes.intensity import intensity_ranges

PANEL = 440
"""Width of a picture, in pixels."""
REGION = 256
"""Maximum edge of the region that is shown, in voxels."""
LONGER = 10
"""Factor on the steps in the command that trains the best network for longer."""
_UNEQUAL = 0.25
"""Part by which the time of a training may differ from the budget without a note."""
_CLOSE = 0.02
"""Difference of mean AP within which methods are not ranked without several seeds."""
_KINDS = {
    "true_positive": "found",
    "split": "split",
    "merged": "merged",
    "miss": "missed",
    "false_positive": "false positives",
}
"""Kinds of errors, see `embedseg_large.evaluation.errors`, and their names on the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A cell of a table of scores."""

    text: str
    share: float
    """From 0, the worst of all methods, to 1, the best: how strongly it is coloured."""
    is_best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The region as segmented by a method."""

    title: str
    note: str
    picture: Picture


def write_page(
    found: Comparison,
    place: ComparisonPlace,
    drawn: Pair,
    options: CompareOptions,
    sources: tuple[Any, Any] | None,
) -> None:
    """Write the page.

    Parameters
    ----------
    found
        The results to show.
    place
        Where labels are stored.
    drawn
        The image to draw.
    options
        The requested options.
    sources
        Paths of images and masks for the command; None: there is no command.
    """
    trained = next((s for s in found.standings if s.best.steps is not None), None)
    text = render(
        "compare.html",
        "comparison",
        found=found,
        verdict=_verdict(found),
        warnings=_warnings(found),
        facts=_facts(found),
        ious=[f"{iou:g}" for iou in IOUS],
        scores=_score_rows(found.standings),
        kinds=list(_KINDS.values()),
        errors=[_error_row(s) for s in found.standings],
        sees_all=any(s.tiles.sees_all for s in found.standings if s.tiles),
        tiles=[(s.method, s.tiles, _tile_words(s.tiles)) for s in found.standings if s.tiles],
        costs=[_cost_row(s) for s in found.standings],
        shown=_pictures(found, place, drawn),
        drawn=drawn.name,
        setup=_setup(found, options),
        division=found.division,
        trained=trained,
        command="" if trained is None else _command(trained, options, sources),
        version=version("embedseg-large"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with whole_file(place.page) as begun:
        begun.write_text(text)


# Words ------------------------------------------------------------------------------------------


def _verdict(found: Comparison) -> str:
    """The result in a sentence or two."""
    best, *others = found.standings
    if best.ap == 0:
        return (
            "No method found an object with an IoU of 0.5 or more, so none is best; compare with a "
            "larger budget, or check that images and masks belong together."
        )
    text = f"{best.method} has the highest mean AP, {best.ap:.3f}"
    if not others:
        return f"{text}; no other method took part."
    second = others[0]
    text += f", followed by {second.method} with {second.ap:.3f}."
    margin = _CLOSE if best.spread is None else (best.spread + (second.spread or 0.0))
    if best.ap - second.ap < margin:
        text += " The difference is too small to rank the two; compare with more seeds or images."
    return text


def _warnings(found: Comparison) -> list[str]:
    texts = [f"{name} did not take part: {why}." for name, why in found.skipped.items()]
    texts += [f"{name} failed: {why}." for name, why in found.failed.items()]
    count = sum(found.winner.trials[0].errors.get(kind, 0) for kind in ("split", "merged", "miss"))
    count += found.winner.trials[0].errors.get("true_positive", 0)
    if count < 50:
        texts.append(
            f"The held-out part has only {count} objects; scores may differ on other images."
        )
    texts += _without_objects([s.best for s in found.standings])
    texts += _unequal_times(found)
    for standing in found.standings:
        tiles = standing.tiles
        if tiles and not tiles.is_equal:
            texts.append(f"{standing.method}: labels depend on the tiles. {_tile_words(tiles)}")
    return texts


def _without_objects(trials: Sequence[Trial]) -> list[str]:
    """One note on all methods that found nothing."""
    none = [t for t in trials if t.at(0.5)["tp"] + t.at(0.5)["fp"] == 0]
    if not none:
        return []
    steps = sorted({trial.steps for trial in none if trial.steps is not None})
    many = [f"{n:,}" for n in (steps[:1] if len(steps) < 2 else (steps[0], steps[-1]))]
    why = f": {' to '.join(many)} steps are probably too few" if many else ""
    return [
        f"No object was found by {', '.join(trial.method for trial in none)}{why}; compare with "
        "a larger budget or smaller crops."
    ]


def _unequal_times(found: Comparison) -> list[str]:
    """A note if the time of a step changed so much that methods did not have the same time."""
    budget = found.settings.get("budget")
    if budget is None:  # the same number of steps instead
        return []
    trials = [t for s in found.standings for t in s.trials if t.steps is not None]
    times = {t.method: t.fit_seconds for t in trials if abs(t.fit_seconds / budget - 1) > _UNEQUAL}
    if not times:
        return []
    who = ", ".join(f"{method} {seconds(time)}" for method, time in times.items())
    return [
        f"Not the same time: trained for {who} instead of {seconds(budget)}. The steps of a method "
        "are counted from the time of its first ones; compare on a machine that does nothing else, "
        "or with --steps."
    ]


def _facts(found: Comparison) -> list[Fact]:
    best = found.winner
    trial = best.best
    cost = found.settings
    spent = f"{cost['steps']:,} steps" if cost["steps"] else seconds(cost["budget"])
    return [
        Fact(name="best method", value=best.method if best.ap > 0 else "none"),
        Fact(name="mean AP, IoU 0.5 to 0.9", value=f"{best.ap:.3f}"),
        Fact(name="panoptic quality at 0.5", value=f"{best.mean(0.5, 'pq'):.3f}"),
        Fact(name="training of each network", value=spent),
        Fact(name="objects held out", value=f"{int(trial.at(0.5)['tp'] + trial.at(0.5)['fn']):,}"),
    ]


def _tile_words(tiles: TileCheck | None) -> str:
    """Whether labels depend on the tiles, in words."""
    if tiles is None:
        return ""
    count = len(tiles.cuts)
    if tiles.objects == 0 and tiles.is_equal:
        return "No object was found"
    if tiles.is_equal:
        return f"Equal in all {count} cuts"
    bad = sum(cut.same < tiles.objects or cut.extra > 0 for cut in tiles.cuts)
    return (
        f"Different in {bad} of {count} cuts: up to {tiles.changed} of {tiles.objects} objects "
        "differ from those of the whole image"
    )


# Tables -----------------------------------------------------------------------------------------


def _score_rows(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Scores of each method, coloured from the worst to the best."""
    columns = [_numbers([s.ap for s in standings], [s.spread for s in standings])]
    for iou in IOUS:
        columns.append(_numbers([s.mean(iou, "ap") for s in standings]))
    columns.append(_numbers([s.mean(0.5, "pq") for s in standings]))
    columns.append(
        _numbers([float(np.mean([t.boundary["ap"] for t in s.trials])) for s in standings])
    )
    return [
        {"method": s.method, "numbers": row}
        for s, row in zip(standings, zip(*columns, strict=True), strict=True)
    ]


def _numbers(
    values: Sequence[float], spreads: Sequence[float | None] | None = None
) -> list[Number]:
    low, high = min(values), max(values)
    found = []
    for value, spread in zip(values, spreads or [None] * len(values), strict=True):
        share = (value - low) / (high - low) if high > low else 0.0
        text = f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
        found.append(Number(text=text, share=round(share, 3), is_best=value == high > low))
    return found


def _error_row(standing: Standing) -> dict[str, Any]:
    """Mean numbers of objects of each kind."""
    each = [[trial.errors[kind] for trial in standing.trials] for kind in _KINDS]
    whole = len(standing.trials) == 1
    counts = [f"{np.mean(v):,.0f}" if whole else f"{np.mean(v):,.1f}" for v in each]
    return {"method": standing.method, "counts": counts}


def _cost_row(standing: Standing) -> dict[str, str]:
    best, tiles = standing.best, standing.tiles
    fits = [trial.fit_seconds for trial in standing.trials]
    spread = deviation(fits)
    rate = None if tiles is None else tiles.predict_rate
    return {
        "method": standing.method,
        "steps": "" if best.steps is None else f"{best.steps:,}",
        "fit": seconds(float(np.mean(fits))) + ("" if spread is None else f" ± {spread:.2g}"),
        "tune": seconds(float(np.mean([trial.tune_seconds for trial in standing.trials]))),
        "predict": "" if rate is None else _rate(rate),
        "decode": "" if tiles is None else _rate(tiles.decode_rate),
        "whole": f"{1e6 * best.seconds / best.voxels:.3g} s",
        "memory": f"{best.bytes_per_voxel:,.0f}",
        "knobs": ", ".join(
            [f"{name} {value:g}" for name, value in best.knobs.items()]
            + [f"by {split}" for name, split in best.settings.items() if name == "split"]
        ),
    }


def _rate(voxels: float) -> str:
    return f"{voxels / 1e6:.3g}"


def _setup(found: Comparison, options: CompareOptions) -> list[Fact]:
    """Settings common to all methods."""
    settings = found.settings
    cost = f"{settings['steps']:,} steps" if settings["steps"] else seconds(settings["budget"])
    crop = settings["crop"]
    counts = {name: len(images) for name, images in found.division.items()}
    return [
        Fact(name="training of each network", value=f"{cost}, without validation"),
        Fact(name="backbone", value=str(settings["backbone"])),
        Fact(name="crops per step", value=str(settings["batch"])),
        Fact(name="crop", value="from the objects" if crop is None else BY.join(map(str, crop))),
        Fact(name="learning rate", value=f"{settings['learning_rate']:g}, cosine"),
        Fact(name="seeds", value=str(options.seeds)),
        Fact(name="validations", value=f"{ROUNDS}, and thresholds tuned after the last"),
        Fact(name="images", value=", ".join(f"{n} {name}" for name, n in counts.items())),
        Fact(name="split seed", value=str(settings["split_seed"])),
        Fact(name="models", value=found.folder),
    ]


def _command(standing: Standing, options: CompareOptions, sources: tuple[Any, Any] | None) -> str:
    """Return the command that trains a network for longer; empty if images have no path."""
    steps = standing.best.steps
    if steps is None or sources is None:
        return ""
    images, masks = sources
    where = f"--masks {shlex.quote(str(masks))}" if masks else f"--labels {options.labels}"
    crop = "" if options.crop is None else f" --crop {','.join(map(str, options.crop))}"
    where += "".join(f" {flag}" for flag in _flags(options.chosen()))
    more = "".join(f" --{name.replace('_', '-')} {value}" for name, value in LEARNING.items())
    return (
        f"embedseg-large train --images {shlex.quote(str(images))} \\\n"
        f"    {where} \\\n"
        f"    --out {standing.method}.safetensors --method {standing.method} "
        f"--backbone {options.backbone} \\\n"
        f"    --steps {LONGER * steps} --batch {options.batch} "
        f"--learning-rate {options.learning_rate:g}{crop} \\\n"
        f"   {more} --tune-thresholds"
    )


def _flags(chosen: Mapping[str, Any]) -> Iterator[str]:
    """Options of the data for the command line; those of no effect in training are left out."""
    hints = get_type_hints(AnnotatedOptions, include_extras=True)
    for name, value in chosen.items():
        if name in ("labels", "ndim"):
            continue
        (stated,) = (each for each in hints[name].__metadata__ if isinstance(each, Flag))
        flag = stated.name or f"--{name.replace('_', '-')}"
        text = ",".join(map(str, value)) if isinstance(value, list) else value
        if value is True:
            yield flag
        else:
            yield f"{flag} {shlex.quote('all' if text is None else str(text))}"


# Pictures ---------------------------------------------------------------------------------------


def _pictures(found: Comparison, place: ComparisonPlace, pair: Pair) -> list[Shown]:
    """The same region by each method, the truth first."""
    truth = np.maximum(pair.flat_labels(), 0)
    box = _region(truth)
    image = pair.image_of(pair.image.read(box))[0]
    plane = _plane_of(truth[box.slices])
    grey, intensity = _flat(image, plane), intensity_ranges(pair.image)[0]
    panel = Panel(0, 0, PANEL, max(1, round(PANEL * grey.shape[0] / grey.shape[1])))
    pixels = grey_pixels(grey_of(grey, panel, intensity.low, intensity.high))
    wanted = _flat(truth[box.slices], plane)
    ids, true_numbers = numbered(wanted)
    colours = palette(ids.size)
    lines = overlay(wanted, panel, Inks(ids.astype(np.uint64), colours), width=2)
    shown = [
        Shown(
            title="annotated",
            note=_objects(ids.size) + ("" if plane is None else f", plane {box.start[0] + plane}"),
            picture=picture(pixels, lines, f"Annotated objects of {pair.name}"),
        )
    ]
    for standing in found.standings:
        flat = _flat(place.labels(standing.best)[box.slices], plane)
        own, numbers = numbered(flat)
        if own.size:
            matched = matched_colours(numbers, true_numbers, colours, own.size)
            lines = overlay(flat, panel, Inks(own.astype(np.uint64), matched), width=2)
        else:
            lines = np.zeros((panel.height, panel.width, 4), np.uint8)
        words = f"Objects found by {standing.method}"
        shown.append(
            Shown(
                title=standing.method,
                note=f"{_objects(own.size)} here; mean AP of all images {standing.best.ap:.3f}",
                picture=picture(pixels, lines, words),
            )
        )
    return shown


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count:,} objects"


def _region(truth: NDArray[Any]) -> Box:
    """A part around the centre of the objects, `REGION` voxels along y and x."""
    found = np.argwhere(truth)
    middle = np.median(found, axis=0).astype(int) if found.size else np.array(truth.shape) // 2
    size = np.minimum(truth.shape, REGION)
    start = np.clip(middle - size // 2, 0, np.array(truth.shape) - size)
    return Box(tuple(start.tolist()), tuple((start + size).tolist()))


def _plane_of(labels: NDArray[Any]) -> int | None:
    """The plane with most labelled voxels; None in 2D."""
    if labels.ndim == 2:
        return None
    return int(np.count_nonzero(labels, axis=(1, 2)).argmax())


def _flat(voxels: NDArray[Any], plane: int | None) -> NDArray[Any]:
    return voxels if plane is None else voxels[plane]
