"""Labels on a disk: written under a hidden name, renamed when they are complete.

Every failure moves older labels back; after a kill, the next `DiskLabels.check` does so.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedseg_large.errors import OutputError
from embedseg_large.labels.edited import dated, now_at, was_edited
from embedseg_large.labels.folder import (
    Draft,
    is_of_run,
    listed,
    provenance_in,
    refuse_taken,
)
from embedseg_large.labels.repeatable import repeatable
from embedseg_large.storage.consolidated import refresh_on_disk
from embedseg_large.storage.disk import (
    LocalFolder,
    check_writable,
    locked,
    output_errors,
    replaced,
    sweep,
)
from embedseg_large.storage.group import Document, ZarrGroup
from embedseg_large.volumes.multiscale import ZARR_FORMATS

_OLD, _GONE = ".old", ".gone"
"""Ends of hidden names of older labels: moved aside, and about to be removed."""


@dataclass(frozen=True, slots=True)
class DiskLabels:
    """The ``labels`` folder of a local store; `LabelFolder` describes its methods."""

    store: str
    """Absolute path of the store."""

    @property
    def _folder(self) -> Path:
        return Path(self.store, "labels")

    def attributes(self) -> Document:
        """Read the attributes of the store."""
        return ZarrGroup.at(self.store).attributes()

    def zarr_format(self) -> int | None:
        """Return the zarr format of the store."""
        return ZarrGroup.at(self.store).zarr_format()

    def holds_something_else(self) -> bool:
        """Whether the store is a file, or a folder of other things."""
        store = Path(self.store)
        return store.is_file() or (
            store.is_dir() and self.zarr_format() is None and any(store.iterdir())
        )

    def check(self, name: str, version: str, *, overwrite: bool, run: str | None = None) -> None:
        """Test writing, settle labels that were moved aside, and check the name."""
        check_writable(Path(self.store))
        check_writable(self._folder)
        self._settle(name, version)
        if not is_of_run(ZarrGroup.at(self._folder / name).attributes(), run):
            self._check_free(name, overwrite)

    def place(self, name: str, run: str) -> tuple[str, str]:
        """Return a hidden folder beside the final one."""
        return str(self._folder / f".{name}-{run}"), ""

    def begin(self, draft: Draft) -> None:
        """Remove what another run started under this name, and create the hidden arrays."""
        for other in self._hidden(draft.name, ""):
            if other != Path(draft.store.path):
                LocalFolder(str(other)).remove_all()
        if self.zarr_format() is None:
            ZarrGroup.at(self.store).write(draft.store.zarr_format, {})
        is_new = not Path(draft.store.path).exists()
        try:
            draft.store.create()
        except BaseException:
            if is_new:  # otherwise it holds the work of an earlier attempt
                with suppress(OutputError):
                    self.discard(draft)
            raise

    def publish(self, draft: Draft, attributes: Document, *, overwrite: bool) -> None:
        """Rename the hidden group, list its name, then remove or keep the older labels."""
        pending, version = Path(draft.store.path), draft.store.ngff_version
        about = dated(attributes, now_at(pending))
        ZarrGroup.at(pending).describe(draft.store.zarr_format, about)
        aside = pending.with_name(f"{pending.name}{_OLD}")
        with locked(self._folder):
            self._check_free(draft.name, overwrite)
            with replaced(pending, self._folder / draft.name, aside):
                self._list(draft.name, version)
        self._finish(draft.name, version)

    def complete(self, name: str, run: str, version: str) -> Document | None:
        """List the name, remove or keep the older labels."""
        attributes = ZarrGroup.at(self._folder / name).attributes()
        if not is_of_run(attributes, run):
            return None
        self._finish(name, version)
        return provenance_in(attributes)

    def _finish(self, name: str, version: str) -> None:
        """Do all that follows once the labels have their name; may be done again."""
        self._settle(name, version)
        with locked(self._folder):
            self._list(name, version)
            refresh_on_disk(self._folder)
            for folder in (self._folder, Path(self.store)):
                sweep(folder)

    def discard(self, draft: Draft) -> None:
        """Remove the hidden group, and the ``labels`` folder if nothing else is in it."""
        with output_errors(draft.store.path):
            if Path(draft.store.path).exists():
                shutil.rmtree(draft.store.path)
        with suppress(OSError):  # other labels live there
            self._folder.rmdir()

    def _check_free(self, name: str, overwrite: bool) -> None:
        if not overwrite and (self._folder / name).exists():
            refuse_taken(str(self._folder / name))

    def _asides(self, name: str) -> Iterator[Path]:
        """Find older labels that a publication moved aside, or has begun to remove."""
        yield from self._hidden(name, f"({_OLD}|{_GONE})")

    def _hidden(self, name: str, end: str) -> Iterator[Path]:
        """Find the hidden folders of runs for labels of a name."""
        pattern = re.compile(rf"\.{re.escape(name)}-[0-9a-f]{{8}}{end}")
        if self._folder.is_dir():
            yield from (p for p in sorted(self._folder.iterdir()) if pattern.fullmatch(p.name))

    def _settle(self, name: str, version: str) -> None:
        """Settle labels that were moved aside: moved back, removed, or kept as NAME.bak.

        The lock is held for renaming only: a million files may take minutes to look at or remove.
        """
        for aside in self._asides(name):
            if aside.suffix == _OLD:
                is_needless = _can_be_made_again(aside)
                with locked(self._folder):
                    if aside.exists():  # otherwise, another process has settled it
                        self._put_away(aside, name, version, is_needless=is_needless)
        for aside in self._asides(name):
            if aside.suffix == _GONE:
                LocalFolder(str(aside)).remove_all()

    def _put_away(self, aside: Path, name: str, version: str, *, is_needless: bool) -> None:
        """Give labels that were moved aside their next name."""
        with output_errors(aside):
            if not (self._folder / name).exists():
                aside.rename(self._folder / name)
            elif is_needless:  # under this name, they may be incomplete
                aside.rename(aside.with_suffix(_GONE))
            else:
                kept = self._free_name(f"{name}.bak")
                self._list(kept, version)  # first: settled labels are skipped
                aside.rename(self._folder / kept)

    def _free_name(self, name: str) -> str:
        number, free = 0, name
        while (self._folder / free).exists():
            number += 1
            free = f"{name}{number}"
        return free

    def _list(self, name: str, version: str) -> None:
        """Add a name to the list in the ``labels`` group, creating that group if missing."""
        group = ZarrGroup.at(self._folder)
        before = group.attributes()
        after = listed(before, name, version)
        if after != before:
            group.write(ZARR_FORMATS[version], after, keep=True)


def _can_be_made_again(labels: Path) -> bool:
    """Whether labels can be discarded: a run made them, and they have not been edited since."""
    found = repeatable(ZarrGroup.at(labels))
    return found is not None and not was_edited(labels, found)
