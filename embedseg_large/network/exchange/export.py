"""Models for other programs: one entry for all formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from embedseg_large.errors import OutputError, UsageError
from embedseg_large.files import whole
from embedseg_large.network.exchange.bioimageio import (
    ExampleImage,
    check_licence,
    is_licence,
    write_package,
)
from embedseg_large.network.exchange.onnx import onnx_of
from embedseg_large.network.exchange.portable import PortableModel, check_target, need
from embedseg_large.network.exchange.rdf import About
from embedseg_large.network.exchange.torchscript import torchscript_of
from embedseg_large.network.model import Model

FORMATS = {"bioimageio": (".zip",), "onnx": (".onnx",), "torchscript": (".pt", ".pth", ".ts")}
"""Formats that can be written, and their suffixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    """The file."""

    format: str
    """One of `FORMATS`."""

    size: int
    """Size in bytes."""

    difference: float | None = None
    """For ONNX: largest difference from torch, as a fraction of the output's standard deviation."""

    tests: Sequence[str] = ()
    """For a bioimage.io package: the tests of bioimageio.core, all of which it passed."""

    authors: Sequence[str] = ()
    """For a package: its authors."""

    licence: str | None = None
    """For a package: its licence."""

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        facts: dict[str, Any] = {"path": str(self.path), "format": self.format, "size": self.size}
        if self.difference is not None:
            facts["difference"] = self.difference
        if self.tests:
            facts |= {"tests": list(self.tests), "authors": list(self.authors)}
            facts["licence"] = self.licence
        return facts


def export_model(
    model: Model,
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    sample: NDArray[Any] | None = None,
    sample_source: str = "not stated",
    name: str | None = None,
    authors: Sequence[str] = (),
    licence: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model for other programs: the network, and notes on how to use it.

    Other programs compute the raw channels. Test-time augmentation, clustering and tiling are not
    part of any of these formats.

    Parameters
    ----------
    model
        The model.
    out
        File to write. It appears only after it has been checked, and complete.
    format
        ``bioimageio`` (a package tested by bioimageio.core), ``onnx`` (compared with torch) or
        ``torchscript``. Default: by the suffix of `out`, ``.zip``, ``.onnx`` or ``.pt``.
    sample, sample_source
        For ``bioimageio``, and needed there: an image ``(*spatial)`` or ``(channels, *spatial)``
        with any intensities, not normalised, whose centre becomes the test image of the package;
        and its source and licence.
    name, authors, licence
        For ``bioimageio``. Default: those of the model's card. The licence is an SPDX identifier,
        such as ``CC-BY-4.0``.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    Path, size, and what was checked.

    Raises
    ------
    UsageError
        If an argument cannot be used, the file exists, or an extra is not installed.
    RunError
        If the result does not reproduce the model's numbers, or does not pass the test.
    OutputError
        If the file cannot be written.
    """
    path = Path(out)
    kind = format_of(path, format)
    check_target(path, overwrite)
    parts = PortableModel.of(model)
    if kind == "torchscript":
        return _written(path, kind, torchscript_of(parts))
    if kind == "onnx":
        content, difference = onnx_of(parts)
        return _written(path, kind, content, difference=difference)
    if sample is None:
        raise UsageError("a bioimage.io package contains a test image; pass a sample")
    need(("bioimageio.core", "onnx", "onnxscript", "onnxruntime"), "a bioimage.io package")
    about = _about(model, path, name, authors, licence)
    with TemporaryDirectory() as folder:
        shown = ExampleImage(image=sample, source=sample_source)
        package, tests = write_package(parts, shown, about, Path(folder))
        told = {"tests": tests, "authors": about.authors, "licence": about.licence}
        return _written(path, kind, package.read_bytes(), **told)


def format_of(path: Path, asked: str | None) -> str:
    """Return the format: the one requested, or else the one of the path's suffix.

    Raises
    ------
    UsageError
        If there is no such format, or the suffix does not name one.
    """
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"format is {asked!r}; use one of {', '.join(FORMATS)}")
    by_suffix = next((f for f, known in FORMATS.items() if path.suffix.lower() in known), None)
    if asked is None and by_suffix is None:
        raise UsageError(
            f"{path}: its suffix names no format; use .zip, .onnx or .pt, or pass the format: "
            f"{', '.join(FORMATS)}"
        )
    return asked or by_suffix or ""


def _about(
    model: Model, path: Path, name: str | None, authors: Sequence[str], licence: str | None
) -> About:
    """Return what was passed, or else the value of the card."""
    check_licence(licence)
    card = model.card
    written = card.get("licence")
    if licence is None and isinstance(written, str) and is_licence(written):
        licence = written
    named = [str(author) for author in authors or card.get("authors", ())]
    return About(name=name or str(card.get("name", path.stem)), authors=named, licence=licence)


def _written(path: Path, kind: str, content: bytes, **more: Any) -> Exported:
    """Write a file that appears whole."""
    try:
        with whole(path, durable=True) as begun:
            begun.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    return Exported(path=path, format=kind, size=len(content), **more)
