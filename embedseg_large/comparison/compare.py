"""Compare methods on the same images at equal cost: the public function.

1. Divide the images: to learn from, to tune on, to score on.
2. Train each method for the same time, or tune it where nothing is trained.
3. Score it on images that no method has seen, and cut one into tiles to check for traces.
4. Write the page, the table and the numbers.

Every finished training is kept: the same command resumes, and further methods can be
added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embedseg_large.comparison.contender import Contender, Say
from embedseg_large.comparison.contenders import choose
from embedseg_large.comparison.division import Division, contents, divide, truth_of
from embedseg_large.comparison.options import CompareOptions
from embedseg_large.comparison.page import write_page
from embedseg_large.comparison.place import ComparisonPlace
from embedseg_large.comparison.result import Comparison, Standing, Trial
from embedseg_large.comparison.scoring import judge
from embedseg_large.comparison.table import columns_of
from embedseg_large.comparison.tiles import check_tiles
from embedseg_large.errors import RunError
from embedseg_large.options import takes
from embedseg_large.storage.disk import whole_file
from embedseg_large.storage.tables import write_table
from embedseg_large.training.data.sources import Pair, check_masks, find_pairs
from embedseg_large.volumes.folders import is_path


@takes(CompareOptions)
def compare(
    images: Any,
    masks: Any = None,
    *,
    out: str | os.PathLike[str] = "compare.html",
    watcher: Say | None = None,
    **options: Any,
) -> Comparison:
    """Compare methods on annotated images, at equal cost.

    Every method learns from the same crops of the same images with the same network for the same
    time, and is scored on images that no method has seen.

    Parameters
    ----------
    images, masks
        Folders, or lists of paths or arrays, as for `embedseg_large.train`. One or two images are
        cut into parts.
    out
        The page: one HTML file that needs no other. Beside it lie a table (``.csv``), all numbers
        (``.json``), and a folder (``.comparison``) with the models. The same call resumes an
        interrupted comparison, and may add methods and seeds.
    watcher
        Notified of progress, in words.
    **options

    Returns
    -------
    Comparison
        The methods, best first.

    Raises
    ------
    UsageError, VolumeError
        If the images or options cannot be used; nothing has been computed then.
    OutputError
        If the page cannot be written.
    RunError
        If every method fails; otherwise those that fail are left out, see `Comparison.failed`.
    """
    chosen = CompareOptions.of(options, "compare")
    place, say = ComparisonPlace(Path(out)), watcher or (_silent)
    place.check()
    pairs = find_pairs(images, masks, **chosen.pairing())
    contenders, skipped = choose(chosen, pairs)
    check_masks(pairs)
    division = divide(pairs, chosen.split_seed)
    settings = chosen.deciding()
    facts = {
        "images": division.facts(),
        "content": contents(pairs),
        "version": version("embedseg-large"),
    }
    place.begin(settings | facts, overwrite=chosen.overwrite)
    drawn = _richest(division.held_out)
    standings, failed = _standings(contenders, chosen, division, drawn, place, say)
    found = Comparison(
        path=os.fspath(place.page),
        standings=tuple(sorted(standings, key=lambda one: -one.ap)),
        skipped=skipped,
        failed=failed,
        division=division.facts(),
        settings=settings,
        folder=os.fspath(place.folder),
    )
    sources = (images, masks) if is_path(images) and (masks is None or is_path(masks)) else None
    write_table(place.csv, columns_of(found))
    with whole_file(place.json) as begun:
        begun.write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    write_page(found, place, division.held_out[drawn], chosen, sources)
    return found


def _silent(text: str) -> None:
    """Ignore progress."""
    del text


def _standings(
    contenders: Sequence[Contender],
    options: CompareOptions,
    division: Division,
    drawn: int,
    place: ComparisonPlace,
    say: Say,
) -> tuple[list[Standing], dict[str, str]]:
    """Train and score all methods; of those that fail, return why by name."""
    standings: list[Standing] = []
    failed: dict[str, str] = {}
    for contender in contenders:
        try:
            standings.append(_standing(contender, options, division, drawn, place, say))
        except RunError as error:
            say(f"{contender.name}: failed, {error}")
            failed[contender.name] = str(error)
    if not standings:
        raise RunError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return standings, failed


def _standing(
    contender: Contender,
    options: CompareOptions,
    division: Division,
    drawn: int,
    place: ComparisonPlace,
    say: Say,
) -> Standing:
    """Train and score a method with each seed, or read the finished results."""
    seeds = range(options.seeds if contender.is_random else 1)
    trials = [_trial(contender, seed, division, drawn, place, say) for seed in seeds]
    return Standing(method=contender.name, trials=tuple(trials))


def _trial(
    contender: Contender,
    seed: int,
    division: Division,
    drawn: int,
    place: ComparisonPlace,
    say: Say,
) -> Trial:
    known = place.trial(contender.name, seed)
    if known is not None:
        return known
    fitted = contender.fit(division, seed, place.folder, say)
    say(f"{contender.name}, seed {seed}: scoring")
    judged = judge(fitted, division.held_out)
    tiles = None
    if seed == 0:
        say(f"{contender.name}: cutting an image into tiles")
        tiles = check_tiles(fitted, division.whole[drawn], place.folder)
    trial = Trial(
        method=contender.name,
        seed=seed,
        steps=fitted.steps,
        fit_seconds=fitted.seconds,
        tune_seconds=fitted.tuning,
        knobs=fitted.knobs,
        scores=judged.scores,
        boundary=judged.boundary,
        errors=judged.errors,
        seconds=judged.seconds,
        voxels=judged.voxels,
        bytes_per_voxel=fitted.bytes_per_voxel,
        model=fitted.model,
        tiles=tiles,
        settings=fitted.settings,
    )
    place.keep(trial, judged.labels[drawn])
    say(f"{contender.name}, seed {seed}: mean AP {trial.ap:.3f}")
    return trial


def _richest(pairs: Sequence[Pair]) -> int:
    """Return the index of the image with the most objects, which is drawn and cut into tiles."""
    return int(np.argmax([np.unique(truth_of(pair)).size for pair in pairs]))
