"""Labels in a bucket, where nothing can be renamed.

::

    labels/NAME/
      .run            the run that has started; exists until its labels are published
      0-RUN/...       arrays of that run only
      instances-RUN/  and its table, see `instances`
      zarr.json       the group's document: written last, and names the arrays that count

Writing that one document publishes the labels: before, readers see the older labels or none,
afterwards the new ones. Only then are older arrays deleted and the name is added to the ``labels``
list, on the condition that the list has not changed in the meantime.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from embedseg_large.errors import OutputError, RunError
from embedseg_large.labels.folder import (
    Draft,
    is_of_run,
    listed,
    provenance_in,
    refuse_taken,
)
from embedseg_large.labels.instances import KEY
from embedseg_large.labels.repeatable import repeatable
from embedseg_large.storage.bucket import RemoteFolder
from embedseg_large.storage.consolidated import refresh_in_bucket
from embedseg_large.storage.group import DOCUMENTS, Document, ZarrGroup, ngff_content
from embedseg_large.volumes.multiscale import ZARR_FORMATS

_MARK = ".run"
_ARRAY = re.compile(rf"(\d+|{KEY})-[0-9a-f]{{8}}/")
_GROUP = {2: (".zattrs", ".zgroup"), 3: ("zarr.json",)}
_COPIES = 16  # requests at once


@dataclass(frozen=True, slots=True)
class BucketLabels:
    """The ``labels`` folder of a store in a bucket; `LabelFolder` describes its methods."""

    store: str
    """URL of the store."""

    @property
    def _root(self) -> RemoteFolder:
        return RemoteFolder.at(self.store)

    @property
    def _folder(self) -> RemoteFolder:
        return self._root.below("labels")

    def attributes(self) -> Document:
        """Read the attributes of the store."""
        return ZarrGroup(self._root).attributes()

    def zarr_format(self) -> int | None:
        """Return the zarr format of the store."""
        return ZarrGroup(self._root).zarr_format()

    def holds_something_else(self) -> bool:
        """Whether there are objects that do not form a zarr group."""
        return self.zarr_format() is None and bool(self._root.children())

    def check(self, name: str, version: str, *, overwrite: bool, run: str | None = None) -> None:  # noqa: ARG002
        """Test writing, and check the name."""
        self._folder.check_writable()
        if not is_of_run(ZarrGroup(self._folder.below(name)).attributes(), run):
            self._check_free(name, overwrite)

    def place(self, name: str, run: str) -> tuple[str, str]:
        """Return the final path, and array names that no other run has."""
        return self._folder.below(name).path, f"-{run}"

    def begin(self, draft: Draft) -> None:
        """Mark the name as in use, remove what another run started, and create the arrays."""
        folder = self._folder.below(draft.name)
        begun = ZarrGroup(folder).document(_MARK).get("run")
        if begun not in (None, draft.run):
            self._clear(draft.name, begun)
        if begun != draft.run and not folder.create(_MARK, _mark(run=draft.run)):
            raise OutputError(f"{folder.path}: another run has just started these labels")
        if self.zarr_format() is None:
            ZarrGroup(self._root).write(draft.store.zarr_format, {})
        draft.store.create()

    def publish(self, draft: Draft, attributes: Document, *, overwrite: bool) -> None:
        """Write the group's document, remove older arrays, and list the name."""
        self._check_mark(draft)
        self._check_free(draft.name, overwrite)
        kept = self._keep_others(draft)

        def checked(_: Document) -> Document:
            self._check_mark(draft)  # between reading and writing: another run may have published
            return attributes

        folder, zarr_format = self._folder.below(draft.name), draft.store.zarr_format
        ZarrGroup(folder).update(zarr_format, checked, afresh=True)
        self._finish(draft.name, attributes, draft.store.ngff_version, kept)

    def _check_mark(self, draft: Draft) -> None:
        folder = self._folder.below(draft.name)
        if ZarrGroup(folder).document(_MARK).get("run") != draft.run:
            raise RunError(f"{folder.path}: another run is now writing these labels")

    def complete(self, name: str, run: str, version: str) -> Document | None:
        """Remove older arrays, and list the name."""
        folder = self._folder.below(name)
        attributes = ZarrGroup(folder).attributes()
        if not is_of_run(attributes, run):
            return None
        kept = ZarrGroup(folder).document(_MARK).get("kept")
        ZarrGroup(folder).write(ZARR_FORMATS[version], attributes)  # of zarr 2, half may be missing
        self._finish(name, attributes, version, [] if kept is None else [str(kept)])
        return provenance_in(attributes)

    def _finish(self, name: str, attributes: Document, version: str, kept: list[str]) -> None:
        """Do all that follows the group's document; may be done again."""
        folder, zarr_format = self._folder.below(name), ZARR_FORMATS[version]
        remain = _members_of(attributes).union(_GROUP[zarr_format], [_MARK])
        _remove(folder, lambda child: child not in remain)
        self._list(name, version)
        folder.remove(_MARK)
        self._refresh([name, *kept], zarr_format)

    def discard(self, draft: Draft) -> None:
        """Remove the arrays of the run, unless they are published."""
        mark = ZarrGroup(self._folder.below(draft.name)).document(_MARK)
        if mark.get("run") == draft.run:
            self._clear(draft.name, draft.run)

    def _check_free(self, name: str, overwrite: bool) -> None:
        if not overwrite and self._is_taken(name):
            refuse_taken(self._folder.below(name).path)

    def _is_taken(self, name: str) -> bool:
        """Whether there is anything other than the remains of an unfinished run."""
        children = self._folder.below(name).children()
        if _MARK in children and not self._is_listed(name):
            return False
        return any(child != _MARK and not _ARRAY.fullmatch(child) for child in children)

    def _is_listed(self, name: str) -> bool:
        return name in ngff_content(ZarrGroup(self._folder).attributes()).get("labels", [])

    def _clear(self, name: str, run: str) -> None:
        """Remove the remains of a run; the mark last, in case the removal is interrupted."""
        folder = self._folder.below(name)
        stays = _members_of(ZarrGroup(folder).attributes()) if self._is_taken(name) else set()
        documents = () if stays else DOCUMENTS
        _remove(
            folder,
            lambda child: (child.endswith(f"-{run}/") and child not in stays) or child in documents,
        )
        folder.remove(_MARK)

    def _keep_others(self, draft: Draft) -> list[str]:
        """Copy labels that were not made by a run to NAME.bak; return the names of the copies."""
        folder = self._folder.below(draft.name)
        if not self._is_taken(draft.name) or repeatable(ZarrGroup(folder)) is not None:
            return []
        mark = ZarrGroup(folder).document(_MARK)
        kept = mark.get("kept") or self._free_name(f"{draft.name}.bak")
        folder.write(_MARK, _mark(run=draft.run, kept=kept))  # a second attempt copies there too
        _copy(self._folder, draft.name, kept, lambda child: not child.endswith(f"-{draft.run}/"))
        self._list(kept, draft.store.ngff_version)
        return [kept]

    def _free_name(self, name: str) -> str:
        number, free = 0, name
        while self._folder.below(free).children():
            number += 1
            free = f"{name}{number}"
        return free

    def _list(self, name: str, version: str) -> None:
        add = partial(listed, name=name, version=version)
        ZarrGroup(self._folder).update(ZARR_FORMATS[version], add)

    def _refresh(self, names: list[str], zarr_format: int) -> None:
        """Update consolidated metadata for some labels, and for the list of labels."""
        members = {name: _documents(self._folder, name, zarr_format) for name in names}
        own = {n: ZarrGroup(self._folder).document(n) for n in _GROUP[zarr_format]}
        refresh_in_bucket(self._folder, {**members, "": own})


def _mark(**about: str) -> bytes:
    return json.dumps(about).encode()


def _members_of(attributes: Document) -> set[str]:
    """Return the arrays of labels named in their attributes, and the group of their table."""
    multiscales = ngff_content(attributes).get("multiscales") or [{}]
    table = provenance_in(attributes).get(KEY)
    levels = {f"{dataset['path']}/" for dataset in multiscales[0].get("datasets", [])}
    return levels | ({f"{table['path']}/"} if table else set())


def _remove(folder: RemoteFolder, goes: Callable[[str], bool]) -> None:
    for child in folder.children():
        if goes(child):
            if child.endswith("/"):
                folder.below(child.rstrip("/")).remove_all()
            else:
                folder.remove(child)


def _copy(folder: RemoteFolder, name: str, to: str, goes: Callable[[str], bool]) -> None:
    """Copy labels within the store, with the documents that make them labels last."""
    children = [c for c in folder.below(name).children() if c != _MARK and goes(c)]
    folders = [f"{name}/{child}".rstrip("/") for child in children if child.endswith("/")]

    def copy(at: str) -> None:
        folder.copy(at, to + at.removeprefix(name))

    with ThreadPoolExecutor(_COPIES) as pool:
        list(pool.map(copy, (at for inner in folders for at in folder.names(inner))))
    for child in sorted(c for c in children if not c.endswith("/")):
        copy(f"{name}/{child}")


def _documents(folder: RemoteFolder, name: str, zarr_format: int) -> Mapping[str, Document]:
    """Collect the documents of a label group and its arrays, by their names below `folder`."""
    group = folder.below(name)
    attributes = ZarrGroup(group).attributes()
    table = provenance_in(attributes).get(KEY, {})
    columns = {f"{table['path']}/{column}/" for column in table.get("columns", [])}
    nodes = ["", *sorted(_members_of(attributes) | columns)]
    kinds = ("zarr.json",) if zarr_format == 3 else (".zgroup", ".zarray", ".zattrs")
    names = [node + kind for node in nodes for kind in kinds]
    found = {f"{name}/{inner}": ZarrGroup(group).document(inner) for inner in names}
    return {at: document for at, document in found.items() if document}
