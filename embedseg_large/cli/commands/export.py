"""``embedseg-large export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Overwrite
from embedseg_large.cli.units import readable_bytes
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedseg_large.network.exchange.export import Exported
    from embedseg_large.network.model import Model

OUR_NAME, OUR_LICENCE = "The embedseg_large developers", "BSD-3-Clause"
"""Authors of the bundled models."""

_DENSEST = Box((30, 24, 64), (94, 88, 128))  # holds parts of 42 of the 61 nuclei
_EXCERPT = "IDR idr0062, image 6001240, Blin et al. 2019, CC BY 4.0; halved along each axis"


@dataclass(frozen=True, kw_only=True)
class PackageFlags:
    """What a bioimage.io package says."""

    heading: ClassVar[str | None] = None

    sample: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="bioimageio: image whose centre becomes the published test image. Default: "
            "a piece of the demo embryo.",
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="bioimageio: name of the model. Default: from its card."),
    ] = None
    author: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="bioimageio: author of the model; repeatable."),
    ] = None
    licence: Annotated[
        str | None,
        typer.Option(metavar="SPDX", help="bioimageio: licence of the weights, e.g. CC-BY-4.0."),
    ] = None


@reported("interrupted; nothing was written")
@grouped
def export(
    model: Annotated[str, typer.Argument(help="Bundled name, file, or folder of a checkpoint.")],
    out: Annotated[Path, typer.Argument(help="File to write: .zip, .onnx or .pt.")],
    *,
    format: Annotated[
        str | None,
        typer.Option(help="bioimageio, onnx or torchscript. Default: by the suffix of OUT."),
    ] = None,
    package: PackageFlags,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model for other programs: a tested bioimage.io package, ONNX, or TorchScript.

    They get the network only. Clustering its output into instances requires this package.
    """
    from embedseg_large.models import bundled_models
    from embedseg_large.network.checkpoint import load_model
    from embedseg_large.network.exchange.export import export_model, format_of

    kind = format_of(out, format)
    _check_useful(
        kind,
        {
            "sample": package.sample,
            "name": package.name,
            "author": package.author,
            "licence": package.licence,
        },
    )
    loaded = load_model(model)
    ours = model in bundled_models()
    image, source = _sample(package.sample, loaded) if kind == "bioimageio" else (None, "")
    if kind != "torchscript" and not as_json:
        typer.echo("building and testing the package takes a minute or two", err=True)
    exported = export_model(
        loaded,
        out,
        format=kind,
        sample=image,
        sample_source=source,
        name=package.name,
        authors=package.author or ([OUR_NAME] if ours else []),
        licence=package.licence or (OUR_LICENCE if ours else None),
        overwrite=overwrite,
    )
    if as_json:
        print_json(exported.as_dict())
        return
    print_facts(str(out), _facts(exported))


def _check_useful(kind: str, given: dict[str, object]) -> None:
    """Refuse options that only apply to a bioimage.io package."""
    useless = [f"--{name}" for name, value in given.items() if value]
    if kind != "bioimageio" and useless:
        raise UsageError(
            f"{', '.join(useless)}: not supported by {kind}; leave it out, or write a bioimage.io "
            "package (OUT.zip)"
        )


def _facts(exported: Exported) -> dict[str, str]:
    """The facts to print."""
    facts = {"format": exported.format, "size": readable_bytes(exported.size)}
    if exported.difference is not None:
        facts["checked"] = (
            f"differs from torch by {exported.difference:.0e} of the standard deviation"
        )
    if exported.tests:
        facts["tested"] = f"by bioimageio.core: {len(exported.tests)} of {len(exported.tests)} pass"
        facts["authors"] = ", ".join(exported.authors) or "not stated; pass --author"
        facts["licence"] = exported.licence or "not stated; pass --licence"
    return facts


def _sample(path: str | None, model: Model) -> tuple[NDArray[Any], str]:
    """Read a piece of an image, no larger than needed, and name its source."""
    import numpy as np

    from embedseg_large.network.exchange.bioimageio import needed_of

    if path is None:
        from embedseg_large.data import load_demo

        excerpt = load_demo().image
        shown = excerpt[_DENSEST.slices] if model.ndim == 3 else excerpt[len(excerpt) // 2]
        return np.stack([shown] * model.channels), _EXCERPT
    from embedseg_large.volumes.volume import open_volume

    volume = open_volume(path, channel=0 if model.channels == 1 else None, timepoint=0)
    if volume.ndim != model.ndim:
        raise UsageError(f"{volume.name} has {volume.ndim} spatial axes, the model {model.ndim}")
    image = volume.read(needed_of(volume.spatial_shape, model.settings))
    return image, f"{volume.name}; ask the authors for its licence"
