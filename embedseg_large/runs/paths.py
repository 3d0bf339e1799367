"""Where a run keeps its files, under names that a later attempt finds again.

::

    FOLDER/x.ome.zarr                    the store
    FOLDER/.x.ome.zarr-NAME.run/         files of the run of the labels NAME until it is finished
    FOLDER/.x.ome.zarr-NAME.lock/        process working on it
    FOLDER/x.ome.zarr-NAME.predictions/  predictions that outlive it

FOLDER is a folder of a disk or a prefix of a bucket. A store that is a whole bucket has no
surrounding folder, and gets them inside, without its name.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from embedseg_large.storage.connection import Address, is_remote, refuse_web
from embedseg_large.storage.folder import Folder
from embedseg_large.storage.open import folder_at


def scratch_path(given: str | os.PathLike[str] | None, store: str, labels: str) -> str:
    """The folder of the run that writes some labels: under the one given, or beside the store."""
    if given is None:
        return _beside(store, f"{labels}.run")
    refuse_web(os.fspath(given), "choose another folder with --scratch")
    # stores with the same name in several folders may share a scratch folder
    mark = hashlib.sha256(store.encode()).hexdigest()[:8]
    return f"{folder_at(given).path}/.{store.rpartition('/')[2]}-{labels}-{mark}.run"


def predictions_path(given: str | os.PathLike[str] | None, store: str, labels: str) -> str:
    """The folder of kept predictions: beside that of the run, but not hidden."""
    parent, _, name = scratch_path(given, store, labels).rpartition("/")
    return f"{parent}/{name.removeprefix('.').removesuffix('.run')}.predictions"


def lock_folder(store: str, labels: str) -> Folder:
    """The folder of the lock of some labels: beside the store, or in it if that is read-only."""
    parent = Path(store).parent
    if not is_remote(store) and parent.is_dir() and not os.access(parent, os.W_OK):
        return folder_at(str(Path(store, "labels", f".{labels}.lock")))
    return folder_at(_beside(store, f"{labels}.lock"))


def _beside(store: str, ending: str) -> str:
    if is_remote(store) and not Address.of(store).key:
        return f"{store}/.{ending}"
    parent, _, name = store.rpartition("/")
    return f"{parent}/.{name}-{ending}"
