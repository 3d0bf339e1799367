"""Finding a model by name or path."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path

from embedseg_large.errors import ModelError
from embedseg_large.models import bundled_models
from embedseg_large.network.model import Model
from embedseg_large.network.modelfile import SUFFIX, StoredModel, read_model_file
from embedseg_large.network.original import read_original_folder


def load_model(name_or_path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """Load a trained model.

    Parameters
    ----------
    name_or_path
        Name of a bundled model, a file saved by `Model.save`, or the folder of a checkpoint of the
        original EmbedSeg program. A bundled name takes precedence over a path of that name; write
        ``./NAME`` for the path.
    device
        ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises
    ------
    ModelError
        If there is no such model, or it is not a model.
    UsageError
        If the device is not available.
    """
    stored = _find(name_or_path)
    return Model(stored.weights, stored.settings, card=stored.card, device=device)


def _find(name_or_path: str | os.PathLike[str]) -> StoredModel:
    """Read a model from a name or path."""
    if name_or_path in bundled_models():
        with as_file(files("embedseg_large.models") / f"{name_or_path}{SUFFIX}") as path:
            return read_model_file(path)
    path = Path(name_or_path)
    if path.is_dir():
        return read_original_folder(path)
    if path.is_file():
        return read_model_file(path)
    raise ModelError(
        f"no model {os.fspath(name_or_path)!r}: pass a model file, the folder of an EmbedSeg "
        f"checkpoint, or a bundled name ({', '.join(bundled_models())})"
    )
