"""Segment many images, one after the other; the same command again does what is not done.

::

    OUT/NAME.tif (or NAME.ome.zarr)   a mask for each image
    OUT/images.csv                    a row for each image
    OUT/contact_sheet.jpg             a view of each image
    OUT/.embedseg-large/              what is finished, see `ledger`

Without an output folder, labels go into the images' own OME-Zarr stores, and the table, the sheet
and the records into a folder beside them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.batch.images import (
    BatchImage,
    Choice,
    OpenedImage,
    Source,
    list_images,
    open_images,
)
from embedseg_large.batch.ledger import Ledger, State
from embedseg_large.batch.masks import (
    ENDINGS,
    MaskFormat,
    move_labels,
    set_aside,
    write_tiff_mask,
)
from embedseg_large.batch.sheet import Thumbnail, draw_sheet, draw_view
from embedseg_large.errors import EmbedSegError, ModelError, PlaceError, UsageError, cause
from embedseg_large.runs.dask.backend import chosen, client_of, device_on
from embedseg_large.runs.facts import Facts, token
from embedseg_large.runs.lock import Lock
from embedseg_large.runs.progress import Observer, Watcher
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.classical import CLASSICAL
from embedseg_large.segmentation.request.prepare import AnyModel, load_network
from embedseg_large.segmentation.segment import segment
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.storage.connection import is_remote, shown
from embedseg_large.storage.disk import check_writable
from embedseg_large.storage.open import folder_at
from embedseg_large.storage.tables import write_table
from embedseg_large.volumes.folders import is_path, stem
from embedseg_large.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

TABLE, SHEET = "images.csv", "contact_sheet.jpg"

Status = Literal["done", "finished before", "failed"]

_OF_ONE = ("output", "mask", "keep_predictions", "from_predictions", "scratch")
"""Options that are of a single image, or that a batch decides itself."""
_DEFAULTS = {"channel": "0", "foreground": "0.5", "intensity_field": "none"}
"""Settings that mean the same as none; the command line states them."""
_OF_OPENING = ("channel", "axes", "voxel_size", "nodata")


class BatchWatcher(Protocol):
    """Who looks at a batch."""

    def begins(self, name: str, number: int, count: int) -> Watcher | Observer | None:
        """An image is about to be segmented, the number-th (from 1) of the batch.

        Returns
        -------
        Who looks at its run.
        """

    def ended(self, image: ImageResult, number: int, count: int) -> None:
        """An image is done, was finished before, or failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """What became of one image."""

    name: str
    image: str
    """Path or URL, without credentials."""
    status: Status
    n_instances: int | None = None
    """None if it failed."""
    labels: str = ""
    """Path of its mask, or of its labels; empty if it failed."""
    joined: int | None = None
    """Instances that are larger than the largest halo, see the seam report."""
    shape: tuple[int, ...] = ()
    """Of the mask: (t,) (z,) y, x."""
    seconds: float | None = None
    """Of its run."""
    error: str = ""
    """Why it failed."""

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of all images."""

    images: tuple[ImageResult, ...]
    out: str
    """Folder of the table and the contact sheet."""
    table: str
    """Path of the table."""
    contact_sheet: str | None
    """Path of the picture; None if there is nothing to show."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def count(self, status: Status) -> int:
        """Return how many images have a status."""
        return sum(image.status == status for image in self.images)

    @property
    def failed(self) -> tuple[ImageResult, ...]:
        """Images without a mask."""
        return tuple(image for image in self.images if image.status == "failed")

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return {
            "n_images": len(self),
            "done": self.count("done"),
            "finished_before": self.count("finished before"),
            "failed": self.count("failed"),
            "n_instances": sum(image.n_instances or 0 for image in self.images),
            "out": self.out,
            "table": self.table,
            "contact_sheet": self.contact_sheet,
            "images": [image.as_dict() for image in self.images],
        }


def segment_images(
    images: Source,
    model: AnyModel = None,
    labels: str = "nuclei",
    *,
    out: str | os.PathLike[str] | None = None,
    mask_format: MaskFormat = "tiff",
    pattern: str | None = None,
    wells: Sequence[str] | None = None,
    fields: Sequence[str] | None = None,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster_config: str | os.PathLike[str] | None = None,
    watcher: BatchWatcher | None = None,
    **options: Any,
) -> BatchResult:
    """Segment every image of a folder, a plate or a list.

    Called again, it skips the images that are finished, of which neither image nor settings have
    changed, and resumes the one that was interrupted. An image that fails does not stop the others.

    Parameters
    ----------
    images
        Folder of TIFF, PNG and OME-Zarr images; an HCS plate or well; a converted file with several
        series (bioformats2raw); one image; or a list of paths.
    model
        As for `segment`. All images must have the same axes.
    labels
        Name of the label group, where labels go into the images' own stores.
    out
        Folder for the masks, which is made if it does not exist. None: labels go into the images'
        own OME-Zarr stores, and the table into the folder ``SOURCE-LABELS`` beside them.
    mask_format
        ``"tiff"``: compressed TIFFs of uint16, or of uint32 where that is too few, with the image's
        voxel size. ``"ome-zarr"``: label volumes with a pyramid.
    pattern
        Wildcards that names of files in a folder must match, such as ``"*_dapi.tif"``.
    wells, fields
        Wells (``"B03"``, ``"C*"``) and fields of view of a plate; None: all.
    client, workers, scheduler, cluster_config
        As for `segment`; a cluster is started once for all images.
    watcher
        Is told when an image begins and ends.
    **options
        As for `segment`, but those that are of a single image: output, mask, scratch,
        keep_predictions, from_predictions. ``series``: which of several images in each file;
        default: all of a converted file, the largest of a TIFF. ``overwrite``: whether masks may be
        replaced that were made with other settings or of another image; a mask that this batch did
        not write is kept as ``NAME.bak``.

    Returns
    -------
    BatchResult
        What became of each image.

    Raises
    ------
    UsageError
        Before any work: there are no images, names collide, axes differ, an option does not fit, or
        masks are there that may not be replaced.
    VolumeError
        If no image can be opened.
    OutputError
        If nothing can be written to `out`.
    """
    SegmentOptions.of(options, "segment_images")  # refuses names that are none
    given = dict(options)
    series, overwrite = given.pop("series", None), given.pop("overwrite", False)
    _check_options(given, mask_format)
    choice = Choice(
        pattern=pattern,
        wells=None if wells is None else tuple(wells),
        fields=None if fields is None else tuple(fields),
        series=series,
    )
    listed = list_images(images, choice)
    where = shown(os.fspath(images)) if is_path(images) else "the list"
    opening = {"channel": 0} | {name: given[name] for name in _OF_OPENING if name in given}
    opened = open_images(listed, where, **opening)
    place = _Place(images, out, labels, mask_format)
    _check_places(opened, place)
    first = next(one.volume for one in opened if one.volume is not None)
    network = load_network_of(model, first.ndim)
    todo = _plan(opened, place, _facts(network, labels, mask_format, given), overwrite=overwrite)
    executor = chosen(client, workers, scheduler, cluster_config)
    given["device"] = device_on(executor, given.get("device"))
    batch = _Batch(
        place=place,
        network=network,
        labels=labels,
        options=given,
        overwrite=overwrite,
        watcher=watcher,
    )
    with Lock(folder_at(str(place.ledger.folder / "lock")), {"run": str(place.out)}).held():
        results: list[ImageResult] = []
        try:
            with _client(executor, given.get("device"), todo) as able:
                for number, job in enumerate(todo, 1):
                    is_first = all(r.status == "finished before" for r in results)
                    results.append(batch.do(job, number, len(todo), able, is_first=is_first))
        finally:
            table, sheet = batch.conclude(results)
    return BatchResult(
        images=tuple(results), out=str(place.out), table=str(table), contact_sheet=sheet
    )


def load_network_of(model: AnyModel, ndim: int) -> Any:
    """Load a model once for all images; the classical method, made for each image, stays a name."""
    if model == CLASSICAL or isinstance(model, TileSegmenter):
        return model
    return load_network(model, ndim)


def _check_options(options: Mapping[str, Any], mask_format: str) -> None:
    """Refuse what makes no sense of many images."""
    given = [name for name in _OF_ONE if options.get(name) not in (None, False)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names}: of a single image; leave it out, or segment one image")
    if mask_format not in ENDINGS:
        raise UsageError(f"mask format {mask_format!r} is not one of {', '.join(ENDINGS)}")


# Where things go --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where masks, table, sheet and records go."""

    source: Source
    given: str | os.PathLike[str] | None
    labels: str
    mask_format: MaskFormat

    @property
    def is_in_stores(self) -> bool:
        """Whether labels go into the images' own stores."""
        return self.given is None

    @property
    def out(self) -> Path:
        """Folder of the table, the sheet and the records."""
        if self.given is not None:
            if is_remote(os.fspath(self.given)):
                raise UsageError(f"{self.given}: masks are written to a folder of this machine")
            return Path(self.given).absolute()
        if not is_path(self.source) or is_remote(os.fspath(self.source)):
            raise UsageError("say which folder the masks and the table go to, with --out")
        path = Path(self.source).absolute()
        return path.with_name(f"{stem(path)}-{self.labels}")

    @property
    def ledger(self) -> Ledger:
        """The records."""
        return Ledger(self.out)

    def mask(self, image: BatchImage) -> Path:
        """Where the mask of an image is or will be."""
        if self.is_in_stores:
            return Path(image.path, "labels", self.labels)
        return self.out / f"{image.name}{ENDINGS[self.mask_format]}"


def _check_places(opened: Sequence[OpenedImage], place: _Place) -> None:
    """Refuse an output that cannot hold the masks, or holds the images."""
    if place.out.exists() and not place.out.is_dir():
        raise PlaceError(f"{place.out}: this is a file; give a folder for the masks with --out")
    if place.out.suffix in (".tif", ".tiff", ".zarr", ".png") and not place.out.exists():
        raise UsageError(f"{place.out}: give a folder for the masks, not the name of an image")
    if place.is_in_stores:
        for one in opened:
            if one.volume is not None and one.volume.ngff_version not in ("0.4", "0.5"):
                raise UsageError(
                    f"{one.volume.name} cannot hold labels of its own: only OME-Zarr 0.4 and 0.5 "
                    "can; say which folder the masks go to, with --out"
                )
    for one in opened:
        if Path(one.image.path).absolute() == place.mask(one.image):
            raise UsageError(
                f"{place.out}: the masks would replace the images; give another folder with --out"
            )
    check_writable(place.out)


# What is to be done -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """An image, and what is known of its mask."""

    opened: OpenedImage
    facts: Facts
    state: State


def _facts(network: Any, labels: str, mask_format: MaskFormat, options: Mapping[str, Any]) -> Facts:
    """All that decides the masks but the images, as it was asked for."""
    return {
        "labels": labels,
        "mask_format": mask_format,
        "model": getattr(network, "fingerprint", network),
        "settings": {
            name: _plain(value)
            for name, value in options.items()
            if value is not False and _DEFAULTS.get(name) != str(value)
        },
        "version": version("embedseg-large"),
    }


def _plain(value: Any) -> Any:
    """An option as JSON gives it back."""
    if isinstance(value, slice):
        return [value.start, value.stop]
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _plan(
    opened: Sequence[OpenedImage], place: _Place, facts: Facts, *, overwrite: bool
) -> list[_Job]:
    """Find out what is done, and refuse to replace what may not be."""
    jobs, others, foreign = [], [], []
    for one in opened:
        mask, of_image = place.mask(one.image), facts | {"image": _about(one)}
        state, different = place.ledger.state(one.image.name, mask, of_image)
        others += [f"{mask} had {different}"] if state == "other" else []
        foreign += [str(mask)] if state == "foreign" else []
        jobs.append(_Job(opened=one, facts=of_image, state=state))
    if overwrite or not (others or foreign):
        return jobs
    if others:
        raise UsageError(
            f"{len(others)} of {len(jobs)} masks were made otherwise ({others[0]}); choose another "
            "folder (--out), or make them again with --overwrite"
        )
    raise UsageError(
        f"{foreign[0]}{_more(foreign)}: there already, and not written by this command; choose "
        "another folder (--out), or replace it with --overwrite, which keeps it as .bak"
    )


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _about(one: OpenedImage) -> Facts:
    """What changes when an image does."""
    volume = one.volume
    if volume is None:
        return {}
    stored = volume.storage
    written = stored.digest or stored.stamp(tuple(slice(None) for _ in stored.shape))
    return {"shape": list(stored.shape), "dtype": str(volume.dtype), "files": written}


# The work ---------------------------------------------------------------------------------------


@contextmanager
def _client(where: Any, device: str | None, jobs: Sequence[_Job]) -> Iterator[Any]:
    """The workers of all images; None for this process, and where nothing is to be done."""
    if where is None or all(job.state == "finished" for job in jobs):
        yield None
        return
    with client_of(where, device or "cpu") as client:
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is done to every image."""

    place: _Place
    network: Any
    labels: str
    options: dict[str, Any]
    """Of `segment`."""
    overwrite: bool
    watcher: BatchWatcher | None

    def do(self, job: _Job, number: int, count: int, client: Any, *, is_first: bool) -> ImageResult:
        """Segment an image, unless it is finished; a failure is a result.

        Wrong use that the first image to be segmented shows is raised.
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
                    raise  # it would be told of every image
                result = self._failed(image, str(error))
            except Exception as error:
                logger.exception("%s", image.name)
                result = self._failed(image, cause(error))
        if self.watcher is not None:
            self.watcher.ended(result, number, count)
        return result

    def conclude(self, results: Sequence[ImageResult]) -> tuple[Path, str | None]:
        """Write the table and the contact sheet of what there is."""
        table, sheet = self.place.out / TABLE, self.place.out / SHEET
        with suppress(OSError):  # it holds what an image that failed has left
            self.place.ledger.work.rmdir()
        if not results:
            return table, None
        self.place.out.mkdir(parents=True, exist_ok=True)
        write_table(table, table_of(results))
        views = [Thumbnail(_caption(r), self._picture(r)) for r in results]
        if all(view.pixels is None for view in views):
            return table, None
        draw_sheet(views, sheet, _title(results, self.labels))
        return table, str(sheet)

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
            self.network,
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
        picture = draw_view(_one_channel(volume), made.path)
        if not self.place.is_in_stores:
            self._publish(made.path, mask, largest)
            shutil.rmtree(work, ignore_errors=True)
        about = {
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
        """Whether an attempt before had finished the labels, and not the mask."""
        return (store / "labels" / self.labels).exists()

    def _known(self, image: BatchImage) -> ImageResult:
        """The result of an image that is finished, from its record."""
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


# What is told -----------------------------------------------------------------------------------


def table_of(results: Sequence[ImageResult]) -> dict[str, NDArray[Any]]:
    """The columns of the table of images."""
    return {
        "name": np.array([r.name for r in results]),
        "image": np.array([r.image for r in results]),
        "status": np.array([r.status for r in results]),
        "instances": np.array(["" if r.n_instances is None else r.n_instances for r in results]),
        "joined": np.array(["" if r.joined is None else r.joined for r in results]),
        "shape": np.array([" x ".join(map(str, r.shape)) for r in results]),
        "seconds": np.array(["" if r.seconds is None else f"{r.seconds:.2f}" for r in results]),
        "labels": np.array([r.labels for r in results]),
        "error": np.array([r.error for r in results]),
    }


def _caption(result: ImageResult) -> str:
    told = "failed" if result.n_instances is None else f"{result.n_instances:,}"
    return f"{result.name} · {told}"


def _title(results: Sequence[ImageResult], labels: str) -> str:
    found = sum(result.n_instances or 0 for result in results)
    return f"{labels}: {found:,} instances in {len(results):,} images"


def _one_channel(volume: Volume) -> Volume:
    return volume if volume.channel is not None else replace(volume, channel=0)


def _shape(mask: Path) -> list[int]:
    return list(open_volume(mask, channel=None).shape)
