"""``embedseg-large segment`` for a folder or a plate: output for many images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from embedseg_large.cli.console import (
    FAILURE,
    print_error,
    print_facts,
    print_json,
    print_table,
    stderr_console,
)
from embedseg_large.errors import UsageError

if TYPE_CHECKING:
    from embedseg_large.batch.results import BatchResult, ImageResult
    from embedseg_large.runs.progress import Observer

_ROWS = 40
"""Maximum number of listed images; the table has all of them."""


def is_many(store: str, given: Mapping[str, Any]) -> bool:
    """Whether `segment` was called for many images.

    Raises
    ------
    UsageError
        If an option for many images was given for one.
    """
    from embedseg_large.batch.images import is_many as holds_many

    if "out" in given or holds_many(store):
        return True
    only = {"pattern": "--pattern", "wells": "--wells", "fields": "--field"}
    flags = [flag for name, flag in only.items() if name in given]
    if flags:
        raise UsageError(f"{store} is one image; leave out {', '.join(flags)}")
    return False


def segment_many(
    store: str, model: str | None, options: Mapping[str, Any], *, as_json: bool
) -> dict[str, Any]:
    """Segment all images, show the results, and return them as values for JSON."""
    from embedseg_large.batch.segment_images import segment_images

    watcher = None if as_json else BatchLines()
    try:
        result = segment_images(store, model, watcher=watcher, **options)
    finally:
        if watcher is not None:
            watcher.close()
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)
    for image in result.failed:
        print_error(f"{image.name}: {image.error}")
    return result.as_dict()


def exit_code(summary: dict[str, Any]) -> int:
    """Return the exit code: failure if any image failed."""
    return FAILURE if summary["failed"] else 0


class BatchLines:
    """Shows a batch on stderr: a line per image, and in a terminal the bars of the current one."""

    def __init__(self) -> None:
        self._console = stderr_console(highlight=False, markup=False, soft_wrap=True)
        self._bars = ExitStack()

    def begins(self, name: str, number: int, count: int) -> Observer | None:
        """Show the bars of an image."""
        from embedseg_large.cli.runbars import RunBars

        if not self._console.is_terminal:
            return None
        self._console.print(f"{number}/{count} {name}")
        return self._bars.enter_context(RunBars(stderr_console()))

    def ended(self, image: ImageResult, number: int, count: int) -> None:
        """Show the result of an image."""
        self._bars.close()
        if image.status == "finished before":
            return
        found = "failed" if image.n_instances is None else f"{image.n_instances:,} instances"
        took = "" if image.seconds is None else f", {image.seconds:.1f} s"
        self._console.print(f"{number}/{count} {image.name}: {found}{took}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bars.close()


def _show(result: BatchResult) -> None:
    from embedseg_large.batch.results import Status

    rows = [
        [image.name, image.status, "" if image.n_instances is None else f"{image.n_instances:,}"]
        for image in result.images[:_ROWS]
    ]
    print_table(["image", "", "instances"], rows)
    left = len(result) - len(rows)
    masks = [image.labels for image in result.images if image.labels]
    in_folder = all(Path(mask).parent == Path(result.out) for mask in masks)
    facts = {
        "images": ", ".join(f"{n:,} {s}" for s in get_args(Status) if (n := result.count(s))),
        "instances": f"{sum(image.n_instances or 0 for image in result.images):,}",
        **({"masks": result.out} if in_folder else {"labels": f"{masks[0]}, and so on"}),
        "table": result.table + (f" ({left:,} more images)" if left else ""),
        **({} if result.contact_sheet is None else {"contact sheet": result.contact_sheet}),
    }
    print_facts(None, facts)
