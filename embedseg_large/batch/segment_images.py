"""Segment many images, one after the other; rerunning the command resumes.

::

    OUT/NAME.tif (or NAME.ome.zarr)   a mask for each image
    OUT/images.csv                    a row for each image
    OUT/contact_sheet.jpg             a view of each image
    OUT/.embedseg-large/              finished images, see `ledger`

Without an output folder, labels go into the images' own OME-Zarr stores, and the table, the sheet
and the records into a folder beside them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from embedseg_large.batch.images import (
    BatchImage,
    OpenedImage,
    Selection,
    Source,
    list_images,
    open_images,
)
from embedseg_large.batch.ledger import State
from embedseg_large.batch.masks import ENDINGS, move_labels, set_aside, write_tiff_mask
from embedseg_large.batch.options import BatchCall, MaskFormat
from embedseg_large.batch.place import SHEET, TABLE, BatchPlace, check_place
from embedseg_large.batch.results import BatchResult, ImageResult, caption_of, table_of, title_of
from embedseg_large.batch.sheet import Thumbnail, draw_sheet, draw_view, evenly
from embedseg_large.errors import EmbedSegError, ModelError, UsageError, cause
from embedseg_large.options import takes
from embedseg_large.runs.dask.backend import chosen, client_of, device_on
from embedseg_large.runs.facts import Facts, token
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.progress import Observer, Watcher
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.classical import CLASSICAL
from embedseg_large.segmentation.request.own_function import OwnFunction, own_segmenter
from embedseg_large.segmentation.request.prepare import AnyModel, load_network
from embedseg_large.segmentation.segment import segment
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.storage.connection import shown
from embedseg_large.storage.open import folder_at
from embedseg_large.storage.tables import write_table
from embedseg_large.volumes.content import content_of
from embedseg_large.volumes.folders import is_path
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

_OF_ONE = ("output", "mask", "keep_predictions", "from_predictions", "scratch")
"""Options that apply to a single image, or that a batch sets itself."""
_DEFAULTS = {field.name: str(field.default) for field in fields(SegmentOptions)}
"""Default of each option, as text: the command line passes some of them, numbers as text."""
_OF_OPENING = ("channel", "axes", "voxel_size", "nodata", "allow_missing")


class BatchWatcher(Protocol):
    """Observer of a batch."""

    def begins(self, name: str, number: int, count: int) -> Watcher | Observer | None:
        """Called before image `number` (from 1) of the batch is segmented.

        Returns
        -------
        Observer of its run.
        """

    def ended(self, image: ImageResult, number: int, count: int) -> None:
        """Called when an image is done, was finished before, or failed."""


@takes(BatchCall)
def segment_images(
    images: Source,
    model: AnyModel = None,
    labels: str = "nuclei",
    *,
    watcher: BatchWatcher | None = None,
    **options: Any,
) -> BatchResult:
    """Segment every image of a folder, a plate or a list.

    Called again, it skips finished images if neither the image nor the settings
    have changed, and resumes the interrupted one. An image that fails does not stop the others.

    Parameters
    ----------
    images
        Folder of TIFF, PNG and OME-Zarr images; an HCS plate or well; a converted file with several
        series (bioformats2raw); one image; or a list of paths.
    model
        As for `segment`. All images must have the same axes.
    labels
        Name of the label group, where labels go into the images' own stores.
    watcher
        Notified when an image begins and ends.
    **options

    Returns
    -------
    BatchResult
        The result of each image.

    Raises
    ------
    UsageError
        Before any work: if there are no images, names collide, axes differ, an option does not
        apply, or existing masks may not be replaced.
    VolumeError
        If no image can be opened.
    OutputError
        If nothing can be written to `out`.

    Notes
    -----
    The options output, mask, scratch, keep_predictions and from_predictions of `segment` apply to a
    single image, and are refused. ``series``: which of several images in each file; default: all of
    a converted file, the largest of a TIFF. ``overwrite``: whether masks may be replaced that were
    made with other settings or of another image; a mask that this batch did not write is kept as
    ``NAME.bak``. A cluster is started once for all images.
    """
    asked = BatchCall.of(options, "segment_images")
    given = SegmentOptions.among(options)
    given.pop("series", None)
    given.pop("overwrite", None)
    _check_options(given, asked.mask_format)
    opened = _open(images, asked, given)
    place = BatchPlace(images, asked.out, labels, asked.mask_format)
    check_place(opened, place)
    models = {
        ndim: (network, _facts(network, labels, asked.mask_format, given))
        for ndim, network in load_networks(model, opened).items()
    }
    todo = _plan(opened, place, models, overwrite=asked.overwrite)
    executor = chosen(asked)
    given["device"] = device_on(executor, given.get("device"))
    batch = _Batch(
        place=place,
        labels=labels,
        options=given,
        overwrite=asked.overwrite,
        watcher=watcher,
    )
    with Lock(folder_at(str(place.ledger.folder / "lock")), {"run": str(place.out)}).held():
        results: list[ImageResult] = []
        try:
            with _client(executor, given["device"], todo) as able:
                for number, job in enumerate(todo, 1):
                    is_first = all(r.status == "finished before" for r in results)
                    results.append(batch.do(job, number, len(todo), able, is_first=is_first))
        finally:
            table, sheet = batch.conclude(results)
    return BatchResult(
        images=tuple(results), out=str(place.out), table=str(table), contact_sheet=sheet
    )


def _open(images: Source, asked: BatchCall, given: Mapping[str, Any]) -> list[OpenedImage]:
    """Find and open the images."""
    selection = Selection(
        pattern=asked.pattern,
        wells=None if asked.wells is None else tuple(asked.wells),
        fields=None if asked.fields is None else tuple(asked.fields),
        series=asked.series,
    )
    listed = list_images(images, selection)
    where = shown(os.fspath(images)) if is_path(images) else "the list"
    opening = {"channel": 0} | {name: given[name] for name in _OF_OPENING if name in given}
    return open_images(listed, where, **opening)


def load_networks(model: AnyModel, opened: Sequence[OpenedImage]) -> dict[int, Any]:
    """Load a model once for all images, by the number of axes of those that it is for.

    Without a model, images of one plane get the bundled one for 2D images, as in `segment`. The
    classical method, created per image, stays a name.
    """
    ndims = {one.volume.flattened().ndim for one in opened if one.volume is not None}
    model = own_segmenter(model)
    if model is None:
        return {ndim: load_network(None, ndim) for ndim in ndims}
    if model != CLASSICAL and not isinstance(model, TileSegmenter | OwnFunction):
        model = load_network(model, min(ndims))
    return dict.fromkeys(ndims, model)


def _check_options(options: Mapping[str, Any], mask_format: str) -> None:
    """Refuse options that make no sense for many images."""
    given = [name for name in _OF_ONE if options.get(name) not in (None, False)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names}: only for a single image; leave it out, or segment one image")
    if mask_format not in ENDINGS:
        raise UsageError(f"mask format {mask_format!r} is not one of {', '.join(ENDINGS)}")


# What is to be done -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """An image, and the state of its mask."""

    opened: OpenedImage
    network: Any
    facts: Facts
    state: State


def _facts(network: Any, labels: str, mask_format: MaskFormat, options: Mapping[str, Any]) -> Facts:
    """Return everything except the images that determines the masks, as requested."""
    return {
        "labels": labels,
        "mask_format": mask_format,
        "model": getattr(network, "fingerprint", network),
        "settings": {
            name: _plain(value) for name, value in options.items() if str(value) != _DEFAULTS[name]
        },
        "version": version("embedseg-large"),
    }


def _plain(value: Any) -> Any:
    """Return an option after a round trip through JSON."""
    if isinstance(value, slice):
        return [value.start, value.stop]
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _plan(
    opened: Sequence[OpenedImage],
    place: BatchPlace,
    models: Mapping[int, tuple[Any, Facts]],
    *,
    overwrite: bool,
) -> list[_Job]:
    """Find finished images, and refuse to replace masks that must be kept."""
    jobs, others, foreign = [], [], []
    for one in opened:
        ndim = min(models) if one.volume is None else one.volume.flattened().ndim
        network, facts = models[ndim]
        mask, of_image = place.mask(one.image), facts | {"image": _about(one)}
        state: State = "todo"  # an image that cannot be opened fails, whatever its mask
        different = ""
        if one.volume is not None:
            state, different = place.ledger.state(one.image.name, mask, of_image)
        others += [f"{mask} had {different}"] if state == "other" else []
        foreign += [str(mask)] if state == "foreign" else []
        jobs.append(_Job(opened=one, network=network, facts=of_image, state=state))
    if overwrite or not (others or foreign):
        return jobs
    if others:
        raise UsageError(
            f"{len(others)} of {len(jobs)} masks were made differently ({others[0]}); choose "
            "another folder (--out), or replace them with --overwrite"
        )
    raise UsageError(
        f"{foreign[0]}{_more(foreign)}: already exists, and was not written by this command; "
        "choose another folder (--out), or replace it with --overwrite, which keeps it as .bak"
    )


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _about(one: OpenedImage) -> Facts:
    """Return what changes with an image."""
    volume = one.volume
    if volume is None:
        return {}
    shape = list(volume.storage.shape)
    return {"shape": shape, "dtype": str(volume.dtype), "files": content_of(volume)}


# The work ---------------------------------------------------------------------------------------


@contextmanager
def _client(where: Any, device: str | None, jobs: Sequence[_Job]) -> Iterator[Any]:
    """Provide the workers for all images; None for this process, or if there is nothing to do."""
    if where is None or all(job.state == "finished" for job in jobs):
        yield None
        return
    with client_of(where, device or "cpu") as client:
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Settings for every image."""

    place: BatchPlace
    labels: str
    options: dict[str, Any]
    """Options of `segment`."""
    overwrite: bool
    watcher: BatchWatcher | None

    def do(self, job: _Job, number: int, count: int, client: Any, *, is_first: bool) -> ImageResult:
        """Segment an image, unless it is finished; a failure is a result.

        A usage error with the first segmented image is raised.
        """
        image = job.opened.image
        if job.state == "finished":
            result = self._known(image)
        elif job.opened.problem:
            result = self._failed(image, job.opened.problem)
        else:
            inner = None if self.watcher is None else self.watcher.begins(image.name, number, count)
            try:
                result = self._done(job, client, inner)
            except EmbedSegError as error:
                if is_first and isinstance(error, UsageError | ModelError):
                    raise  # it would occur for every image
                result = self._failed(image, str(error))
            except Exception as error:
                logger.exception("%s", image.name)
                result = self._failed(image, cause(error))
        if self.watcher is not None:
            self.watcher.ended(result, number, count)
        return result

    def conclude(self, results: Sequence[ImageResult]) -> tuple[Path, str | None]:
        """Write the table and the contact sheet of all results so far, and of earlier runs."""
        table, sheet = self.place.out / TABLE, self.place.out / SHEET
        with suppress(OSError):  # it holds the files of a failed image
            self.place.ledger.work.rmdir()
        if not results:
            return table, None
        self.place.out.mkdir(parents=True, exist_ok=True)
        rows = [*results, *self._earlier({result.name for result in results})]
        write_table(table, table_of(rows))
        shown_rows = [rows[at] for at in evenly(len(rows))]
        views = [Thumbnail(caption_of(r), self._picture(r)) for r in shown_rows]
        if all(view.pixels is None for view in views):
            return table, None
        draw_sheet(views, sheet, title_of(rows, self.labels, len(views)))
        return table, str(sheet)

    def _earlier(self, names: Collection[str]) -> Iterator[ImageResult]:
        """Results of the images that were finished before, except those with these names."""
        for name in self.place.ledger.names():
            record = self.place.ledger.read(name)
            if name in names or "n_instances" not in record:
                continue
            path = str(record.get("image", ""))  # missing in records of earlier versions
            image = BatchImage(name=name, path=path)
            if (path or not self.place.is_in_stores) and self.place.mask(image).exists():
                yield self._known(image)

    def _picture(self, result: ImageResult) -> Any:
        return None if result.status == "failed" else self.place.ledger.picture(result.name)

    def _done(self, job: _Job, client: Any, watcher: Watcher | Observer | None) -> ImageResult:
        image, volume = job.opened.image, job.opened.volume
        assert volume is not None
        began = time.perf_counter()
        mask = self.place.mask(image)
        if job.state == "foreign" and not self.place.is_in_stores:
            logger.warning("%s is kept as %s", mask, set_aside(mask))
        work = self.place.ledger.work / image.name
        store = work / f"{token(job.facts)}.zarr"
        where: dict[str, Any] = {} if self.place.is_in_stores else {"output": store}
        made = segment(
            image.path,
            job.network,
            self.labels,
            client=client,
            watcher=watcher,
            series=image.series,
            overwrite=self.overwrite if self.place.is_in_stores else self._is_left(store),
            **where,
            **self.options,
        )
        of_series = made.summary.get("timepoints", {}).values()
        largest = max(of_series, default=made.n_instances)
        seconds = round(time.perf_counter() - began, 3)
        picture = draw_view(_one_channel(_anew(volume)), made.path)
        if not self.place.is_in_stores:
            self._publish(made.path, mask, largest)
            shutil.rmtree(work, ignore_errors=True)
        about = {
            "image": shown(image.path),
            "n_instances": made.n_instances,
            "joined": made.seams.joined,
            "shape": list(made.labels.shape) if self.place.is_in_stores else _shape(mask),
            "seconds": seconds,
        }
        self.place.ledger.write(image.name, mask, job.facts, about, picture)
        return replace(self._known(image), status="done")

    def _publish(self, labels: str, mask: Path, largest: int) -> None:
        if self.place.mask_format == "tiff":
            write_tiff_mask(labels, mask, largest)
        else:
            move_labels(labels, mask)

    def _is_left(self, store: Path) -> bool:
        """Whether an earlier attempt finished the labels, but not the mask."""
        return (store / "labels" / self.labels).exists()

    def _known(self, image: BatchImage) -> ImageResult:
        """Return the result of a finished image, from its record."""
        record = self.place.ledger.read(image.name)
        return ImageResult(
            name=image.name,
            image=shown(image.path),
            status="finished before",
            n_instances=record["n_instances"],
            labels=str(self.place.mask(image)),
            joined=record["joined"],
            shape=tuple(record["shape"]),
            seconds=record["seconds"],
        )

    def _failed(self, image: BatchImage, error: str) -> ImageResult:
        return ImageResult(name=image.name, image=shown(image.path), status="failed", error=error)


def _anew(volume: Volume) -> Volume:
    """Open an image again: one that was read keeps its file open, or its voxels in memory."""
    return volume.at_level(volume.level)


def _one_channel(volume: Volume) -> Volume:
    return volume if volume.channel is not None else replace(volume, channel=0)


def _shape(mask: Path) -> list[int]:
    return list(open_volume(mask, channel=None).shape)
