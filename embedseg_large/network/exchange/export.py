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
from embedseg_large.network.exchange.bioimageio import (
    Sample,
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
"""What can be written, and how such files end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    """The file."""

    format: str
    """One of `FORMATS`."""

    size: int
    """In bytes."""

    difference: float | None = None
    """ONNX: largest difference from torch, as a part of the output's deviation."""

    tests: Sequence[str] = ()
    """A package of bioimage.io: the tests of bioimageio.core that it passed, all there are."""

    authors: Sequence[str] = ()
    """A package: who it says made the model."""

    licence: str | None = None
    """A package: the licence it states."""

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

    What such programs compute are the raw channels. Test-time augmentation, clustering and tiles
    are not part of any of these formats.

    Parameters
    ----------
    model
        The model.
    out
        File to write. It appears whole, after it was checked, or not at all.
    format
        ``bioimageio`` (a package that bioimageio.core has tested), ``onnx`` (compared with torch)
        or ``torchscript``. Default: by the suffix of `out`, ``.zip``, ``.onnx`` or ``.pt``.
    sample, sample_source
        For ``bioimageio``, and needed there: an image ``(*spatial)`` or ``(channels, *spatial)`` of
        any intensities, not normalised, whose middle the package is tested with and shows; and
        where it is from, with its licence.
    name, authors, licence
        For ``bioimageio``. Default: what the model's card says. The licence is an identifier of
        SPDX, such as ``CC-BY-4.0``.
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    Where it is, how large, and what was checked.

    Raises
    ------
    UsageError
        An argument cannot be used, the file exists, or an extra is not installed.
    RunError
        What was made does not give the model's numbers, or does not pass the test.
    OutputError
        The file cannot be written.
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
        raise UsageError("a package of bioimage.io holds a test image; pass a sample")
    need(("bioimageio.core", "onnx", "onnxscript", "onnxruntime"), "a package of bioimage.io")
    about = _about(model, path, name, authors, licence)
    with TemporaryDirectory() as folder:
        shown = Sample(image=sample, source=sample_source)
        package, tests = write_package(parts, shown, about, Path(folder))
        told = {"tests": tests, "authors": about.authors, "licence": about.licence}
        return _written(path, kind, package.read_bytes(), **told)


def format_of(path: Path, asked: str | None) -> str:
    """Return the format that is meant: the one asked for, or else by the ending of the path.

    Raises
    ------
    UsageError
        There is no such format, or the ending names none.
    """
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"format is {asked!r}; use one of {', '.join(FORMATS)}")
    by_suffix = next((f for f, known in FORMATS.items() if path.suffix.lower() in known), None)
    if asked is None and by_suffix is None:
        raise UsageError(
            f"{path}: its ending names no format; use .zip, .onnx or .pt, or say the format: "
            f"{', '.join(FORMATS)}"
        )
    return asked or by_suffix or ""


def _about(
    model: Model, path: Path, name: str | None, authors: Sequence[str], licence: str | None
) -> About:
    """Choose what was said, or else what the card says."""
    check_licence(licence)
    card = model.card
    written = card.get("licence")
    if licence is None and isinstance(written, str) and is_licence(written):
        licence = written
    named = [str(author) for author in authors or card.get("authors", ())]
    return About(name=name or str(card.get("name", path.stem)), authors=named, licence=licence)


def _written(path: Path, kind: str, content: bytes, **more: Any) -> Exported:
    """Write beside the file, then rename."""
    begun = path.with_name(f".{path.name}-{os.getpid()}.part")
    try:
        begun.write_bytes(content)
        begun.replace(path)
    except OSError as error:
        begun.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    return Exported(path=path, format=kind, size=len(content), **more)
