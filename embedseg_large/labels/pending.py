"""Label volumes being written: where they go, how they are filled, and how they are published.

1. `embedseg_large.labels.target` finds the location. 2. `LabelTarget.create` creates the arrays
where they are not mistaken for labels. 3. Tasks fill whole regions of it (`PendingLabels.write`,
then `downsample` level by level). 4. `PendingLabels.publish` gives them their name, in a way that
depends on the location: see `embedseg_large.labels.folder`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.folder import PROVENANCE as PROVENANCE
from embedseg_large.labels.folder import Draft, LabelFolder
from embedseg_large.labels.instances import KEY, InstanceTable
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.coordinate_systems import CoordinateFrame, has_coordinate_systems
from embedseg_large.volumes.multiscale import (
    LevelSpec,
    MultiscaleStore,
    Reader,
    ngff_attributes,
)


@dataclass(frozen=True, kw_only=True)
class LabelTarget:
    """A usable location for labels; made by `label_target`."""

    store: str
    """Folder or URL of the group whose ``labels`` folder receives them."""
    name: str
    """Name of the labels."""
    ngff_version: str
    """``"0.4"``, ``"0.5"`` or ``"0.6"``."""
    axes: str
    """The axes of the image without c, t before (z,) y, x."""
    units: tuple[str | None, ...]
    """Unit of each axis."""
    levels: tuple[LevelSpec, ...]
    """Level 0 is the segmented level of the image."""
    overwrite: bool
    """Whether labels of that name may be replaced."""
    in_image: bool
    """Whether `store` is the segmented image."""
    is_flat: bool = False
    """Whether image and labels have a z axis of one plane, which boxes leave out."""
    frame: CoordinateFrame | None = None
    """The image's coordinate systems, of 0.6."""

    @property
    def folder(self) -> str:
        """The ``labels`` folder."""
        return joined(self.store, "labels")

    @property
    def path(self) -> str:
        """The group of the labels, once they are published."""
        return joined(self.folder, self.name)

    def pending(self, dtype: DTypeLike, *, run: str | None = None) -> PendingLabels:
        """Describe the labels of a run before they are published; touches no disk.

        Parameters
        ----------
        dtype
            An integer type.
        run
            Token of the run: the same token names the same group, so that a run can be resumed
            after a crash. None: a separate group.

        Raises
        ------
        UsageError
            If the dtype is not an integer.
        """
        kind = np.dtype(dtype)
        if not np.issubdtype(kind, np.integer):
            raise UsageError(f"labels are integers, not {kind}")
        short = secrets.token_hex(4) if run is None else _digest(run)
        path, suffix = label_folder(self.store).place(self.name, short)
        store = MultiscaleStore(
            path=path,
            ngff_version=self.ngff_version,
            axes=self.axes,
            units=self.units,
            dtype=kind.name,
            levels=self.levels,
            suffix=suffix,
            content="labels",
        )
        return PendingLabels(target=self, draft=Draft(name=self.name, run=short, store=store))

    def check_free(self) -> None:
        """Check again that labels of that name can be written.

        Raises
        ------
        LabelsExistError
            If the name has been taken since, and may not be overwritten.
        """
        label_folder(self.store).check(self.name, self.ngff_version, overwrite=self.overwrite)

    def complete(self, run: str) -> dict[str, Any] | None:
        """Complete an interrupted publication; return the labels' provenance, if there is one."""
        return label_folder(self.store).complete(self.name, run, self.ngff_version)

    def discard(self, pending: str | None) -> None:
        """Remove hidden labels that an unfinished run has begun, if they are in this store."""
        parent, _, begun = (pending or "").rpartition("/")
        if parent == self.folder and begun.startswith("."):
            folder_at(f"{parent}/{begun}").remove_all()

    def create(self, dtype: DTypeLike, *, run: str | None = None) -> PendingLabels:
        """Create all arrays, or open those of an earlier attempt.

        Parameters
        ----------
        dtype, run
            As in `pending`.

        Raises
        ------
        UsageError
            If the dtype is not an integer.
        OutputError
            If they cannot be written.
        """
        pending = self.pending(dtype, run=run)
        label_folder(self.store).begin(pending.draft)
        return pending


@dataclass(frozen=True, kw_only=True)
class PendingLabels:
    """Labels that are being written and not visible; picklable, reopened by path."""

    target: LabelTarget
    """Their final location."""
    draft: Draft
    """Their current location."""

    @property
    def store(self) -> MultiscaleStore:
        """The arrays."""
        return self.draft.store

    @property
    def path(self) -> str:
        """Folder or URL of the group of the arrays."""
        return self.store.path

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a label."""
        return np.dtype(self.store.dtype)

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return len(self.store.levels)

    def regions(self, level: int, about: Box | None = None) -> Iterator[Box]:
        """Cut a level into spatial regions, in raster order; each may be written by one task.

        If labels are only `about` a part of level 0, other regions need not be written: they are 0.
        """
        about = None if about is None else self._stored(about)
        return map(self._seen, self.store.regions(level, about))

    def read(self, level: int, box: Box, timepoint: int | None = None) -> NDArray[Any]:
        """Read labels back; arguments as in `write`."""
        return self.store.read(level, self._stored(box), self._lead(timepoint)).reshape(box.shape)

    def write(
        self, level: int, box: Box, labels: NDArray[Any], timepoint: int | None = None
    ) -> None:
        """Write the labels of whole regions.

        Parameters
        ----------
        level
            Which level.
        box
            One region of `regions`, or a box of several.
        labels
            Shape ``box.shape``, any integer dtype.
        timepoint
            Needed if the image has several timepoints.

        Raises
        ------
        OutputError
            If they cannot be written: read-only, disk full.
        RunError
            If the box shares a file with voxels outside of it, or a label does not fit the dtype.
        UsageError
            If the timepoint is missing or wrong.
        """
        stored = self._stored(box)
        if labels.shape == box.shape:
            labels = labels.reshape(stored.shape)
        self.store.write(level, stored, labels, self._lead(timepoint))

    def source(self, level: int, box: Box) -> Box:
        """Find the region of level ``level - 1`` that `downsample` reads for a box."""
        return self._seen(self.store.source(level, self._stored(box)))

    def downsample(
        self, level: int, box: Box, timepoint: int | None = None, finer: Reader | None = None
    ) -> None:
        """Compute a region of a level from the finer one, by nearest neighbour, and write it.

        Level ``level - 1`` must be complete, unless `finer` gives it. Voxel i of the result is
        voxel ``ceil((i + 1/2) * factor - 1)`` of the finer level (``[::2]`` for a factor of 2),
        where the factor comes from the scales if these explain the shapes, else from the shapes.

        Parameters
        ----------
        level
            Which level, from 1.
        box
            One region of ``regions(level)``.
        timepoint
            As in `write`.
        finer
            Function that returns the labels of a box of the finer level, if faster than reading
            them.

        Raises
        ------
        OutputError
            If it cannot be written: read-only, disk full.
        """
        reader = finer
        if finer is not None and self.target.is_flat:
            given = finer

            def reader(box: Box) -> NDArray[Any]:
                return given(self._seen(box))[np.newaxis]

        self.store.sample(level, self._stored(box), self._lead(timepoint), reader)

    def instances(self, count: int, columns: Sequence[str]) -> InstanceTable:
        """Describe a table of the instances beside the labels; touches no disk.

        Parameters
        ----------
        count
            Number of instances of the timepoint with the most.
        columns
            Some of those of `embedseg_large.labels.instances`.
        """
        return InstanceTable(
            labels=self.path,
            name=f"{KEY}{self.store.suffix}",
            zarr_format=self.store.zarr_format,
            columns=tuple(columns),
            timepoints=self.target.levels[0].shape[0] if "t" in self.target.axes else None,
            rows=count,
        )

    def publish(
        self, provenance: Mapping[str, Any], instances: InstanceTable | None = None
    ) -> None:
        """Publish the labels under their name; older labels are replaced or kept as a copy.

        Labels that this package did not write, or with several timepoints, are kept as ``NAME.bak``
        (``NAME.bak1``, ...).

        Parameters
        ----------
        provenance
            JSON values that record how the labels were made; stored as the attribute `PROVENANCE`.
        instances
            A table that was written beside the labels.

        Raises
        ------
        LabelsExistError
            If labels of that name have appeared and overwriting was not requested.
        OutputError
            If they cannot be published; older labels are then unchanged.
        """
        version = self.target.ngff_version
        about: dict[str, Any] = {} if has_coordinate_systems(version) else {"version": version}
        if self.target.in_image:
            about["source"] = {"image": "../../"}
        attributes = ngff_attributes(
            self.store,
            name=self.target.name,
            method="nearest",
            more={"image-label": about},
            frame=self.target.frame,
        )
        attributes[PROVENANCE] = dict(provenance)
        if instances is not None:
            attributes[PROVENANCE][KEY] = instances.entry
        overwrite = self.target.overwrite
        label_folder(self.target.store).publish(self.draft, attributes, overwrite=overwrite)

    def discard(self) -> None:
        """Remove the arrays, and the ``labels`` folder if nothing else is in it.

        Raises
        ------
        OutputError
            If they cannot be removed.
        """
        label_folder(self.target.store).discard(self.draft)

    def _stored(self, box: Box) -> Box:
        """Return the box of the stored array, which may have an additional z axis."""
        return Box((0, *box.start), (1, *box.stop)) if self.target.is_flat else box

    def _seen(self, box: Box) -> Box:
        return Box(box.start[1:], box.stop[1:]) if self.target.is_flat else box

    def _lead(self, timepoint: int | None) -> tuple[int, ...]:
        """Find the index along the axes before (z,) y, x."""
        if "t" not in self.target.axes:
            return ()
        length = self.target.levels[0].shape[0]
        if timepoint is None and length == 1:
            return (0,)
        if timepoint is None or not 0 <= timepoint < length:
            raise UsageError(f"{self.path}: timepoint {timepoint} is not one of 0..{length - 1}")
        return (timepoint,)


def _digest(run: str) -> str:
    return hashlib.blake2b(run.encode(), digest_size=4).hexdigest()


def label_folder(store: str) -> LabelFolder:
    """Return the ``labels`` folder of the store at a path or URL; touches nothing.

    Raises
    ------
    UsageError
        If the scheme of the URL is not supported.
    """
    if is_remote(store):
        from embedseg_large.labels.in_bucket import BucketLabels

        return BucketLabels(shown(store))
    from embedseg_large.labels.on_disk import DiskLabels

    return DiskLabels(folder_at(store).path)
