"""``embedseg-large info``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    print_table,
    reported,
)
from embedseg_large.cli.options import Json
from embedseg_large.cli.units import readable_bytes
from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.storage.connection import joined, shown

_KINDS = {"plate": "plate", "well": "well of a plate", "series": "several images of one file"}
_LISTED = 24
"""Images of a container that are shown."""
Told = Mapping[str, tuple[str, Callable[[Any], str]]]

_MANY, _FEW = 12, 3
"""A list with more values than the first number is cut to the second."""


@reported()
def info(
    thing: Annotated[
        str | None, typer.Argument(help="Image or label volume, plate, model file or name.")
    ] = None,
    *,
    level: Annotated[int, typer.Option(help="Pyramid level of a volume.")] = 0,
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, if the file has none: zyx.")
    ] = None,
    series: Annotated[
        int | None, typer.Option(help="Which of several images in a TIFF. Default: the largest.")
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Read missing files, and missing planes of a TIFF, as zeros."
        ),
    ] = False,
    system: Annotated[
        bool,
        typer.Option(
            "--system", help="Describe this machine: versions, devices, memory, installed extras."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a volume, without reading voxels, a model, or this machine."""
    if system == (thing is not None):
        raise UsageError("pass what to describe: a volume, a model, or --system")
    if thing is None:
        _describe_system(as_json)
        return
    if not _is_model(thing):
        _check_name(thing)
    if _is_model(thing):
        facts, show = _about_model(thing), _print_model
    else:
        facts = _about_container(thing) or _about_volume(
            thing, level, axes=axes, series=series, allow_missing=allow_missing
        )
        show = _print_volume
    if as_json:
        print_json(facts)
    else:
        show(thing, facts)


def _print_volume(thing: str, facts: Mapping[str, Any]) -> None:
    """Print what a volume is, one level per row, or what a container of several images is."""
    about = {name: v for name, v in facts.items() if name not in ("levels", "listed")}
    print_facts(shown(thing), dict(_rows(about, {**_TOLD, **_TOLD_OF_VOLUMES})))
    if facts.get("listed"):
        _print_images(facts["listed"])
    if facts.get("levels"):
        levels = enumerate(facts["levels"])
        rows = [[str(i), str(v["path"]), _text(v["shape"])] for i, v in levels]
        print_table(["level", "path", "shape"], rows)


def _print_model(thing: str, facts: Mapping[str, Any]) -> None:
    """Print what a model is; its scores, if it has any, one set of images per row."""
    scores = _score_table(facts.get("scores"))
    about = {name: v for name, v in facts.items() if name != "scores" or scores is None}
    print_facts(shown(thing), dict(_rows(about, _TOLD)))
    if scores is not None:
        print_table(*scores)


def _describe_system(as_json: bool) -> None:
    from embedseg_large.cli.system import print_system, system_facts

    facts = system_facts()
    if as_json:
        print_json(facts)
    else:
        print_system(facts)


def _is_model(thing: str) -> bool:
    path = Path(thing)
    if _is_safetensors(path) or (path / "data_properties.json").exists():
        return True
    if path.exists() or "/" in thing:
        return False
    from embedseg_large.models import bundled_models

    return thing in bundled_models()


def _check_name(thing: str) -> None:
    """Refuse a word that is neither an existing file nor a bundled model.

    Raises
    ------
    UsageError
        If there is neither.
    """
    from embedseg_large.models import bundled_models

    if "/" not in thing and not Path(thing).exists():
        names = ", ".join(bundled_models())
        raise UsageError(f"{thing}: no such file or folder, nor a bundled model ({names})")


def _is_safetensors(path: Path) -> bool:
    """Whether a file has the name of safetensors, or its start: a length, then a JSON object."""
    if path.suffix == ".safetensors":
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:  # what opens it as a volume says why
        return False


def _about_volume(thing: str, level: int, **options: Any) -> dict[str, Any]:
    from embedseg_large.labels.published import label_names, provenance_of
    from embedseg_large.labels.tables import table_warning
    from embedseg_large.volumes.volume import open_volume

    volume = open_volume(thing, channel=None, level=level, **options)
    facts = volume.describe()
    if (depth := volume.time_or_depth()) is not None:
        facts["look out"] = depth.partition(": ")[2]
    if volume.is_labels:
        made = provenance_of(thing)
        told = ("n_instances", "region", "seams", "settings", "model")
        facts |= {k: made[k] for k in told if k in made}
    elif volume.ngff_version is not None:
        facts["labels"] = label_names(thing)
        tokens = {
            n: provenance_of(joined(thing, f"labels/{n}")).get("token") for n in facts["labels"]
        }
        stale = (table_warning(thing, name, token) for name, token in tokens.items())
        facts["look out"] = [text for text in stale if text]
    return facts


def _about_container(thing: str) -> dict[str, Any] | None:
    """The images of a plate, a well or a converted file, and what the first of them is like."""
    from embedseg_large.batch.images import container_of
    from embedseg_large.volumes.folders import is_folder_of_images
    from embedseg_large.volumes.volume import open_volume

    if is_folder_of_images(thing):
        return _about_folder(thing)
    container = container_of(thing)
    if container is None:
        return None
    there = [image for image in container.images if not image.missing]
    wells = {image.well for image in container.images if image.well}
    return {
        "kind": _KINDS[container.kind],
        "wells": len(wells) or None,
        "n_images": len(there),
        "missing": [image.missing for image in container.missing],
        "first": str(open_volume(there[0].path, channel=None)) if there else None,
        "listed": [
            {k: v for k, v in asdict(image).items() if v} | {"path": shown(image.path)}
            for image in container.images
        ],
    }


def _about_folder(thing: str) -> dict[str, Any]:
    """The images of a folder, and what the first of them is like, if it can be opened."""
    from embedseg_large.batch.images import Selection, list_images
    from embedseg_large.volumes.volume import open_volume

    images = list_images(thing, Selection())
    try:
        first = str(open_volume(images[0].path, channel=None))
    except EmbedSegError as error:
        first = str(error)
    return {
        "kind": "folder of images",
        "n_images": len(images),
        "first": first,
        "listed": [{"name": image.name, "path": shown(image.path)} for image in images],
    }


def _print_images(images: Sequence[Mapping[str, Any]]) -> None:
    """Print a row an image; of many, the first."""
    keys = [key for key in ("name", "well", "field", "path") if any(key in i for i in images)]
    rows = [[str(image.get(key, "")) for key in keys] for image in images[:_LISTED]]
    print_table(keys, rows)
    if len(images) > _LISTED:
        typer.echo(f" ... {len(images):,} images in all; --json lists them\n")


def _about_model(thing: str) -> dict[str, Any]:
    from embedseg_large.network.checkpoint import load_model

    model = load_model(thing)
    settings = model.settings
    method = {"method": settings.method, "backbone": settings.backbone}
    names = ["ndim", "channels", "pitch", "min_object_size", "seed", "margin"]
    names += ["object_diameter", "object_depth", "voxel_size"]
    names += ["extent", "tile", "context", "halo", "fingerprint"]
    own = model.settings.as_dict()
    cleaning = {name: True for name in ("keep_largest_piece", "fill_holes") if own[name]}
    facts = {name: getattr(model, name) for name in names}
    knobs = {"knobs": dict(settings.knobs)} if settings.knobs else {}
    facts = method | facts | cleaning | {"thresholds": own["thresholds"]} | knobs
    return facts | {name: value for name, value in model.card.items() if name not in facts}


def _rows(facts: Mapping[str, Any], told: Told, within: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of the facts; nested ones individually, prefixed with the outer name."""
    for key, value in facts.items():
        words, text = told.get(key, (key.replace("_", " "), _text))
        name = f"{within} {words}" if within and words != within else words
        if isinstance(value, Mapping):
            yield from _rows(value, told, name)
        elif value not in (None, []):
            yield name, text(value)


def _score_table(scores: Any) -> tuple[list[str], list[list[str]]] | None:
    """The AP of a model, one row per set of images; None if anything else is called scores."""
    match scores:
        case [{"data": _, "ap": {}}, *_] if all(map(_is_score, scores)):
            return _table_of(scores)
    return None


def _is_score(score: Any) -> bool:
    match score:
        case {"data": _, "ap": {**values}}:
            return all(isinstance(value, int | float) for value in values.values())
    return False


def _table_of(scores: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    limits = dict.fromkeys(limit for score in scores for limit in score["ap"])
    rows = [
        [
            str(score["data"]),
            str(score.get("tta", "")),
            *(str(score.get(count, "")) for count in ("true", "found")),
            *(f"{score['ap'][t]:.3f}" if t in score["ap"] else "" for t in limits),
        ]
        for score in scores
    ]
    return ["AP of images", "tta", "true", "found", *(f"≥ {t}" for t in limits)], rows


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > _MANY:
        return f"{_text(value[:_FEW])}, ... ({len(value):,} in total; --json lists them)"
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


_TOLD: Told = {"thresholds": ("with TTA", _text)}
"""Facts that are shown to people differently than to programs: name, and function for the text."""
_TOLD_OF_VOLUMES: Told = {
    "bytes": ("size", readable_bytes),
    "images": ("images in the file", lambda images: "; ".join(images) + " (choose with --series)"),
    "n_images": ("images", _text),
    "is_labels": ("kind", lambda labels: "labels" if labels else "image"),
    "voxel_size_um": ("voxel size", lambda sizes: f"{_text(sizes)} µm"),
}
"""Those of volumes."""
