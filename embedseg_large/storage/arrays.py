"""Zarr arrays and groups at a path or URL."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from embedseg_large.errors import EmbedSegError, MetadataError, VolumeError, cause, foreign
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.connection import Address, Retries, is_remote, shown
from embedseg_large.storage.open import folder_at

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000
"""Maximum number of entries of a folder that are examined."""
_DOCUMENTS = (".zattrs", ".zarray", "zarr.json")  # in the order of writing: an array is complete


def open_array(
    path: str | os.PathLike[str],
    mode: Literal["r", "r+"] = "r",
    zarr_format: Literal[2, 3] | None = None,
    *,
    durable: bool = False,
) -> Any:
    """Open the zarr array at a path or URL, without reading chunks.

    Parameters
    ----------
    path
        Local path, or a URL as in `embedseg_large.storage.open.folder_at`.
    mode
        ``"r"``, or ``"r+"`` to write as well.
    zarr_format
        2 or 3 where it is known, which saves requests.
    durable
        Whether written chunks must survive a power failure.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    MetadataError, VolumeError
        If its metadata are damaged, or reading its chunks would not be safe; see `codecs`.
    UnreachableError
        If a server does not respond.
    """
    import zarr

    from embedseg_large.storage.codecs import checked

    where = shown(os.fspath(path))
    with _damaged(where):
        array = zarr.open_array(**_place(path, durable), mode=mode, zarr_format=zarr_format)
        return checked(_separated(array, os.fspath(path)), where)


def _separated(array: Any, path: str) -> Any:
    """Correct the separator of chunk names if zarr v2 metadata do not state it.

    The default is a dot. Stores with nested folders that leave it out would read as the fill value.
    """
    from dataclasses import replace as changed

    import zarr

    about = array.metadata
    if about.zarr_format != 2 or about.dimension_separator != "." or array.ndim < 2:
        return array
    if not (_is_nested_there(path, array) if is_remote(path) else _is_nested(Path(path))):
        return array
    logger.info("%s: chunks are in nested folders, contrary to the metadata", path)
    nested = changed(about, dimension_separator="/")
    return zarr.Array(changed(array.async_array, metadata=nested))


def _is_nested(folder: Path) -> bool:
    """Whether chunks are in numbered folders; most stores have a first chunk to check."""
    if (folder / "0").is_dir():
        return True
    with os.scandir(folder) as entries:
        first = next((e for e in islice(entries, _LOOKED_AT) if e.name[:1].isdigit()), None)
    return first is not None and first.is_dir() and first.name.isdigit()


def _is_nested_there(path: str, array: Any) -> bool:
    """The same in a bucket, or on a server that lists nothing: there, two chunks are tried."""
    folder = RemoteFolder.at(path)
    if (names := folder.some_names()) is not None:
        first = next((name for name in names if name[:1].isdigit()), "")
        return "/" in first
    middle = [n // 2 // c for n, c in zip(array.shape, array.chunks, strict=True)]
    cells = [list(map(str, cell)) for cell in ([0] * array.ndim, middle)]
    if any(folder.may_read(".".join(cell)) for cell in cells):
        return False
    return any(folder.may_read("/".join(cell)) for cell in cells)


def open_group(path: str | os.PathLike[str]) -> Any:
    """Open the zarr group at a path or URL for reading, without consolidated metadata.

    Raises
    ------
    FileNotFoundError, MetadataError, UnreachableError
        As for `open_array`.
    """
    import zarr

    with _damaged(shown(os.fspath(path))):
        return zarr.open_group(**_place(path), mode="r", use_consolidated=False)


@contextmanager
def _damaged(where: str) -> Iterator[None]:
    """Report what is wrong with a node in one line, unless it is missing or of the other kind."""
    import zarr

    absent = (FileNotFoundError, zarr.errors.NodeTypeValidationError)
    todo = "restore it or write it again"
    with foreign(where, "zarr metadata are damaged", todo=todo, kind=MetadataError, unless=absent):
        try:
            yield
        except (EmbedSegError, *absent):
            raise
        except (OSError, ImportError) as error:
            raise VolumeError(f"{where}: cannot be opened ({cause(error)}); check it") from error


def create_array(path: str | os.PathLike[str], **options: Any) -> None:
    """Write the metadata of an array; an existing one keeps its chunks and gets new metadata.

    Parameters
    ----------
    path
        Local path, or URL of a bucket.
    **options
        As for ``zarr.create_array``: shape, dtype, chunks, ...

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    import zarr

    # zarr would turn every folder above the array into a group, up to the bucket itself.
    documents: dict[str, Any] = {}
    zarr.create_array(zarr.storage.MemoryStore(documents), **options)
    folder = folder_at(path)
    for name in _DOCUMENTS:
        if name in documents:
            folder.write(name, documents[name].to_bytes(), durable=True)


def _place(path: str | os.PathLike[str], durable: bool = False) -> dict[str, Any]:
    """Return the location of a node as arguments of zarr."""
    text = os.fspath(path)
    if not is_remote(text):
        from embedseg_large.storage.codecs import DurableStore, GuardedStore

        return {"store": (DurableStore if durable else GuardedStore)(text)}
    from embedseg_large.storage.retrying_store import PatientStore

    address = Address.of(text)
    return {"store": PatientStore(address, Retries.from_environment()), "path": address.key}
