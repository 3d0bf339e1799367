"""Measurements beside their labels, in the same store, where other programs look.

::

    STORE/tables/            group, attribute "tables": ["nuclei"]
    STORE/tables/nuclei/     group that describes the table and names its labels
                 table.parquet     (or .csv where pyarrow is not installed)
    STORE/labels/nuclei/     image-label.properties: a few columns, of few enough instances;
                             properties of other programs are kept

NGFF has no standard of tables yet. The groups are a *feature table* as ngio and Fractal read it
(fractal-analytics-platform.github.io/ngio, table specifications V1); the properties are NGFF's own,
which napari-ome-zarr shows as features of the labels layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, PlaceError, UsageError, foreign
from embedseg_large.extras import extra
from embedseg_large.labels.edited import dated, published_at
from embedseg_large.labels.pending import PROVENANCE
from embedseg_large.labels.published import provenance_of
from embedseg_large.storage.connection import is_remote, joined, refuse_web, shown
from embedseg_large.storage.consolidated import refresh_on_disk
from embedseg_large.storage.group import Document, ZarrGroup, ngff_content
from embedseg_large.storage.open import folder_at
from embedseg_large.storage.parquet import read_parquet
from embedseg_large.storage.tables import write_table

PROPERTIES_MOST = 20_000
"""Maximum number of instances for which properties are written: readers parse all of them as JSON
whenever the labels are opened."""
_DIGITS = 6
_CORRECT = "correct it, or write the table with --out"


def check_store(store: str, labels: str, *, properties: bool = False) -> None:
    """Refuse a store to which no table of labels can be written, before hours of measuring.

    Parameters
    ----------
    store, labels
        Path or URL of the store, and name of the labels.
    properties
        Whether the labels will get properties.

    Raises
    ------
    UsageError
        If it is on a web server, or has a table of that name from another program.
    MetadataError
        If it is not a zarr group, or what it says of tables or labels cannot be added to.
    PlaceError
        If it is read-only; also for root, who could write anyway.
    """
    refuse_web(store, "write the table with --out")
    _format(store)
    if not is_remote(store):
        local = Path(folder_at(store).path)
        _check_mode(local, local / "labels" / labels)
    folder_at(store).check_writable()
    about = ZarrGroup.at(joined(store, f"tables/{labels}")).attributes()
    if about and PROVENANCE not in about:
        raise UsageError(
            f"{joined(shown(store), f'tables/{labels}')} belongs to another program; write the "
            "table with --out"
        )
    names = ZarrGroup.at(joined(store, "tables")).attributes().get("tables", [])
    if not isinstance(names, list):
        raise MetadataError(
            f"{joined(shown(store), 'tables')}: the attribute tables is not a list; {_CORRECT}"
        )
    if properties:
        place = joined(store, f"labels/{labels}")
        _check_properties(ZarrGroup.at(place).attributes(), shown(place))


def write_label_table(
    store: str, labels: str, columns: Mapping[str, NDArray[Any]], properties: Sequence[str]
) -> str:
    """Write a table of the instances of labels into their store.

    Parameters
    ----------
    store
        Path or URL of the image.
    labels
        Name of the labels. A table of that name is replaced.
    columns
        Columns of equal length; ``label`` identifies the instance, and ``timepoint`` the timepoint.
    properties
        Names of columns for ``image-label.properties``; none for labels of several timepoints,
        because properties have no time axis. Not written for more than `PROPERTIES_MOST` instances.

    Returns
    -------
    str
        Path or URL of the file.

    Raises
    ------
    MetadataError
        If the store is not a zarr group.
    OutputError
        If it cannot be written.
    """
    zarr_format = _format(store)
    root = folder_at(store)
    backend = "parquet" if find_spec("pyarrow") else "csv"
    tables = root.below("tables")
    table = tables.below(labels)
    table.write(f"table.{backend}", _packed(columns, backend))
    about: Document = {
        "type": "feature_table",
        "table_version": "1",
        "region": {"path": f"../labels/{labels}"},
        "backend": backend,
        "index_key": "label",
        "index_type": "int",
    }
    token = provenance_of(joined(store, f"labels/{labels}")).get("token")
    about[PROVENANCE] = {"token": token}  # of these labels, in case others get their name later
    ZarrGroup(table).update(zarr_format, lambda _: about)
    ZarrGroup(tables).update(zarr_format, lambda old: _listed(old, labels))
    if properties and columns["label"].size <= PROPERTIES_MOST:
        rows = _rows(columns, [name for name in properties if name in columns])
        _put_properties(store, labels, zarr_format, rows)
    if not is_remote(store):
        for changed in ("tables", f"labels/{labels}"):
            refresh_on_disk(Path(root.path, changed))
    return joined(store, f"tables/{labels}/table.{backend}")


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table in the store of its labels."""

    columns: dict[str, NDArray[Any]]
    """Columns by name."""
    is_certain: bool
    """Whether it is known to belong to the current labels of that name."""


def read_label_table(store: str, labels: str) -> StoredTable | None:
    """Read the table of labels from their store.

    Parameters
    ----------
    store, labels
        Path or URL of the store, and name of the labels.

    Returns
    -------
    StoredTable or None
        None if there is no table of this package, or pyarrow is not installed to read it.

    Raises
    ------
    MetadataError
        If it cannot be read.
    """
    table = folder_at(joined(store, f"tables/{labels}"))
    about = ZarrGroup(table).attributes()
    made = about.get(PROVENANCE)
    is_readable = about.get("backend") == "parquet" and find_spec("pyarrow") is not None
    if not isinstance(made, dict) or not is_readable:
        return None
    token = provenance_of(joined(store, f"labels/{labels}")).get("token")
    where = f"{joined(shown(store), 'tables')}/{labels}/table.parquet"
    with foreign(where, todo="measure again with --into-store", kind=MetadataError):
        columns = read_parquet(table.read("table.parquet"))
    return StoredTable(columns, token is not None and made.get("token") == token)


def unread_columns(store: str, labels: str) -> list[str]:
    """Name the columns of a table that `read_label_table` does not read: a CSV file.

    Raises
    ------
    UsageError
        If it is a Parquet file, and pyarrow is not installed to look into it.
    """
    table = folder_at(joined(store, f"tables/{labels}"))
    backend = ZarrGroup(table).attributes().get("backend")
    if backend == "parquet":
        where = f"{joined(shown(store), 'tables')}/{labels}/table.parquet"
        with extra("tables", f"{where}: Parquet", instead="replace it with --overwrite"):
            import_module("pyarrow")
    if backend != "csv" or not table.exists("table.csv"):
        return []
    head = table.read("table.csv").partition(b"\n")[0]
    return head.decode(errors="replace").strip().split(",")


def table_warning(store: str, labels: str, token: str | None) -> str | None:
    """Return a message if a table in a store belongs to other labels than the current ones.

    Parameters
    ----------
    store, labels
        Path or URL of the store, and name of the labels.
    token
        Token of the labels.

    Returns
    -------
    str or None
        None if there is no table of this package, or it belongs to these labels.
    """
    about = ZarrGroup.at(joined(store, f"tables/{labels}")).attributes().get(PROVENANCE)
    if not isinstance(about, dict) or about.get("token") == token:
        return None
    return (
        f"{joined(shown(store), f'tables/{labels}')} is of other labels of that name, which were "
        "replaced: measure again with --into-store"
    )


def _check_mode(*folders: Path) -> None:
    """Refuse read-only folders."""
    for folder in folders:
        if folder.is_dir() and not folder.stat().st_mode & 0o222:
            raise PlaceError(f"{folder}: read-only; write the table with --out")


def _format(store: str) -> int:
    found = ZarrGroup.at(store).zarr_format()
    if found is None:
        raise MetadataError(f"{shown(store)} is not an OME-Zarr store; write the table with --out")
    return found


def _packed(columns: Mapping[str, NDArray[Any]], ending: str) -> bytes:
    """Write a table to bytes."""
    with TemporaryDirectory() as folder:
        file = Path(folder, f"table.{ending}")
        write_table(file, columns)
        return file.read_bytes()


def _put_properties(store: str, labels: str, zarr_format: int, rows: list[Document]) -> None:
    """Add properties to the description of labels, which still says when they were published."""
    group = ZarrGroup.at(joined(store, f"labels/{labels}"))
    published = None if is_remote(store) else published_at(Path(group.folder.path))

    def changed(old: Document) -> Document:
        new = _with_properties(old, rows)
        return new if published is None else dated(new, published)

    group.update(zarr_format, changed)


def _listed(attributes: Document, name: str) -> Document:
    names = attributes.get("tables", [])
    return attributes | {"tables": [*names, *(() if name in names else (name,))]}


def _check_properties(attributes: Document, where: str) -> None:
    """Refuse a description of labels to which no properties can be added."""
    label = ngff_content(attributes).get("image-label", {})
    if not isinstance(label, dict):
        raise MetadataError(f"{where}: image-label is not a JSON object; {_CORRECT}")
    rows = label.get("properties", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MetadataError(
            f"{where}: image-label.properties is not a list of JSON objects; {_CORRECT}"
        )


def _with_properties(attributes: Document, rows: list[Document]) -> Document:
    """Store properties at the place required by the version of the labels.

    Properties of other instances, and what says of no instance, stay as they are.
    """
    if "ome" in attributes:
        return attributes | {"ome": _with_properties(attributes["ome"], rows)}
    about = attributes.get("image-label", {})
    fresh = {row["label-value"]: row for row in rows}
    old = [row | fresh.pop(_label_of(row), {}) for row in about.get("properties", [])]
    return attributes | {"image-label": about | {"properties": [*old, *fresh.values()]}}


def _label_of(row: Document) -> int | None:
    """The instance that a row of properties describes, if it says so."""
    value = row.get("label-value")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rows(columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[Document]:
    """One object per instance, as NGFF requires."""
    cells = [_values(columns[name]) for name in names]
    rows = zip(columns["label"].tolist(), *cells, strict=True)
    return [{"label-value": row[0], **dict(zip(names, row[1:], strict=True))} for row in rows]


def _values(column: NDArray[Any]) -> list[Any]:
    """Values for JSON, which has no NaN; six digits are enough for colouring."""
    if column.dtype.kind != "f":
        return list(column.tolist())
    return [float(f"{v:.{_DIGITS}g}") if np.isfinite(v) else None for v in column.tolist()]
