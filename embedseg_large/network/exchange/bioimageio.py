"""A model as a package of bioimage.io, which ImageJ, ilastik, QuPath and others can load.

::

    rdf.yaml                what is in here, in the words of the model specification 0.5
    weights.torchscript.pt  the network; raw channels, to be clustered elsewhere
    weights.onnx            the same
    model.safetensors       our model file, for anyone who needs instances
    README.md               how to get from channels to instances; the card
    image.npy               a test input, not normalised, and
    embedding.npy           the network's output for it
    cover.png               both

The specification covers the normalisation, the sizes that the network accepts and the context it
needs (as a halo), but neither augmentation nor this clustering, so the README describes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from embedseg_large.errors import RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.exchange.modelpage import page_of
from embedseg_large.network.exchange.onnx import onnx_of
from embedseg_large.network.exchange.portable import INPUT, OUTPUT, PERCENTILES, PortableModel, need
from embedseg_large.network.exchange.rdf import (
    COVER,
    EPS,
    ONNX,
    OWN,
    PAGE,
    TORCHSCRIPT,
    About,
    description_of,
    smallest,
)
from embedseg_large.network.exchange.torchscript import torchscript_of
from embedseg_large.network.modelfile import StoredModel, write_model_file
from embedseg_large.network.settings import STRIDE, ModelSettings

DESCRIPTION = "rdf.yaml"
MOST = {2: 256, 3: 64}
"""Largest edge of the test image, unless the network needs more."""

_COVER_EDGE = 320


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExampleImage:
    """An image with which the package is tested, and which is published in it."""

    image: NDArray[Any]
    """``(*spatial)`` or ``(channels, *spatial)``, any numbers, not normalised; its centre is used,
    and mirrored if it is too small."""

    source: str
    """Source and licence of the image."""


def write_package(
    model: PortableModel, sample: ExampleImage, about: About, folder: Path
) -> tuple[Path, list[str]]:
    """Write a package and have bioimageio.core test it.

    Parameters
    ----------
    model
        The model.
    sample
        The test image.
    about
        Name, authors, licence.
    folder
        An empty folder for the files of the package, and for the package.

    Returns
    -------
    package, passed
        A zip file, and the tests that it passed.

    Raises
    ------
    UsageError
        If an extra is not installed, or the image or the licence is not usable.
    RunError
        If the package does not pass the test.
    """
    need(("bioimageio.core",), "a package of bioimage.io")
    check_licence(about.licence)
    image = _test_image(sample.image, model)
    raw = _raw(model, image)
    np.save(folder / f"{INPUT}.npy", image)
    np.save(folder / f"{OUTPUT}.npy", raw)
    (folder / TORCHSCRIPT).write_bytes(torchscript_of(model))
    (folder / ONNX).write_bytes(onnx_of(model)[0])
    stored = StoredModel(
        weights=model.network.state_dict(), settings=model.settings, card=model.card
    )
    write_model_file(stored, folder / OWN)
    page = page_of(
        model,
        title=f"EmbedSeg {about.name}",
        model_file=OWN,
        licence=about.licence,
        sample_source=sample.source,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    _draw_cover(image[0, 0], raw[0, -1], folder / COVER)
    package = _packed(description_of(model, about, folder), folder)
    tests = tests_of(package)
    if failed := [f"{name}: {found}" for name, found in tests.items() if found]:
        raise RunError(f"the package does not pass the test of bioimageio.core: {failed[0]}")
    return package, list(tests)


def check_licence(licence: str | None) -> None:
    """Raise a UsageError unless the licence is None or an SPDX identifier."""
    if licence is not None and not is_licence(licence):
        raise UsageError(
            f"licence is {licence!r}; use an SPDX identifier (spdx.org/licenses), "
            "such as CC-BY-4.0 or BSD-3-Clause"
        )


def is_licence(text: str) -> bool:
    """Whether a text is an SPDX identifier."""
    from bioimageio.spec.generic.v0_3 import LicenseId
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(LicenseId).validate_python(text)
    except ValidationError:
        return False
    return True


def needed_of(shape: Sequence[int], settings: ModelSettings) -> Box:
    """Return the part of an image that becomes the test image of a package: its centre.

    Parameters
    ----------
    shape
        Spatial shape of the image.
    settings
        Settings of the model.
    """
    sizes = []
    for length, context in zip(shape, settings.context, strict=True):
        most = min(length, MOST[settings.ndim]) // STRIDE * STRIDE
        sizes.append(min(length, max(smallest(context), most)))
    start = tuple((length - size) // 2 for length, size in zip(shape, sizes, strict=True))
    return Box(start, tuple(a + size for a, size in zip(start, sizes, strict=True)))


# Files ------------------------------------------------------------------------------------------


def _test_image(image: NDArray[Any], model: PortableModel) -> NDArray[np.float32]:
    """Cut out the centre: float32 ``(1, channels, *spatial)`` with valid sizes."""
    settings = model.settings
    channels = image[None] if image.ndim == settings.ndim else image
    if channels.ndim != settings.ndim + 1 or len(channels) != settings.channels:
        raise UsageError(
            f"the sample has shape {image.shape}; the model needs {settings.channels} channel(s) "
            f"of {settings.ndim} spatial axes"
        )
    shape = channels.shape[1:]
    middle = channels[(slice(None), *needed_of(shape, settings).slices)]
    short = [max(0, smallest(c) - n) for c, n in zip(settings.context, shape, strict=True)]
    padded = np.pad(middle, [(0, 0), *((0, n) for n in short)], mode="symmetric")
    return np.ascontiguousarray(padded[None], dtype=np.float32)


def _raw(model: PortableModel, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise as described in ``rdf.yaml``, and run the network."""
    spatial = tuple(range(2, image.ndim))
    low, high = np.percentile(image, PERCENTILES, axis=spatial, keepdims=True)
    if not (high > low).all():
        raise UsageError("the sample is constant, or not finite; pass one with objects")
    normalised = ((image - low) / (high - low + EPS)).astype(np.float32)
    with torch.no_grad():
        raw: NDArray[np.float32] = model.network(torch.from_numpy(normalised)).numpy()
    return raw


def _draw_cover(image: NDArray[Any], logits: NDArray[Any], path: Path) -> None:
    """Draw the plane with the highest seediness beside its seediness: twice as wide as high."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    seeds = 1 / (1 + np.exp(-logits))
    if image.ndim == 3:
        fullest = int(seeds.sum((1, 2)).argmax())
        image, seeds = image[fullest], seeds[fullest]
    low, high = np.percentile(image, PERCENTILES)
    panels = (np.clip((image - low) / (high - low + EPS), 0, 1) ** 0.7, "gray"), (seeds, "magma")
    imsave(path, np.hstack([colormaps[name](_squared(values)) for values, name in panels]))


def _squared(plane: NDArray[Any]) -> NDArray[Any]:
    """Return the largest square in the centre of a plane, enlarged."""
    edge = min(plane.shape)
    first = [(n - edge) // 2 for n in plane.shape]
    square = plane[first[0] : first[0] + edge, first[1] : first[1] + edge]
    index = np.arange(_COVER_EDGE) * edge // _COVER_EDGE
    shown: NDArray[Any] = square[np.ix_(index, index)]
    return shown


# Package ----------------------------------------------------------------------------------------


def _packed(described: dict[str, Any], folder: Path) -> Path:
    """Pack the files of a folder with their description."""
    import yaml

    out = folder / "package.zip"
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=100)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    with ZipFile(out, "w", ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            if path != out:
                archive.write(path, path.name)
    return out


def tests_of(package: Path) -> dict[str, str]:
    """Let bioimageio.core test a package: format, test output, other sizes and batches.

    The test runs in a separate process because it seeds generators and leaves files open.

    Parameters
    ----------
    package
        The zip file.

    Returns
    -------
    The failure of each test by the test's name; empty if it passed.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "summary.json"
        words = ["test", str(package), f"--summary={path}"]
        done = run([sys.executable, "-m", "bioimageio.core", *words], capture_output=True)
        if not path.exists():
            told = done.stderr.decode(errors="replace").split("\n")
            return {"start": next((line for line in reversed(told) if line.strip()), "no summary")}
        summary = json.loads(path.read_text(encoding="utf-8"))
    found = {detail["name"]: _problem(detail) for detail in summary["details"]}
    return found | ({} if summary["status"] == "passed" else {"status": summary["status"]})


def _problem(detail: dict[str, Any]) -> str:
    """Return in one line why a test failed; empty if it passed."""
    if detail["status"] != "failed":
        return ""
    return " ".join("; ".join(error["msg"] for error in detail["errors"]).split()) or "failed"
