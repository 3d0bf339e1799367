"""Untrusted torch files: tensors and plain values, read without executing their code."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch

from embedseg_large.errors import ModelError, foreign


def read_torch_file(path: Path, what: str = "cannot be read as a torch checkpoint") -> Any:
    """Read a file written by `torch.save`.

    Parameters
    ----------
    path
        The file.
    what
        Message for a file that is not one.

    Raises
    ------
    ModelError
        If it cannot be read, refers to more than tensors and plain values, or unpacks to more than
        its size.
    """
    with foreign(path, what, todo="use another file, or save it again", kind=ModelError):
        if not path.is_file():
            raise ValueError("no file")
        _check_unpacked(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd pickle protocols: an error follows
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            more = f"refers to {named[1]}" if named else "holds more than tensors"
            raise ModelError(
                f"{path} {more}, and loading that could run code; "
                "if you trust it, save its model_state_dict alone"
            ) from error


def _check_unpacked(path: Path) -> None:
    """Refuse archives with compressed members: torch writes none, and they may unpack to TBs."""
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != ZIP_STORED for member in members):
        raise ValueError("its members are compressed")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its members are larger than the file")
