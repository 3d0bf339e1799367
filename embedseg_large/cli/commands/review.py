"""``embedseg-large review``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json
from embedseg_large.review.options import NameOptions
from embedseg_large.runs.options import WorkerOptions

if TYPE_CHECKING:
    from embedseg_large.review.doubt import Doubtful
    from embedseg_large.review.review import Review

_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What is decided, in this order."""

    heading: ClassVar[str | None] = "Decisions"

    undo: Annotated[int, typer.Option(metavar="N", min=0, help="Undo the last N decisions.")] = 0
    redo: Annotated[
        int, typer.Option(metavar="N", min=0, help="Make N undone decisions again.")
    ] = 0
    apply: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Make the decisions of a file, one per line: accept 17; delete 17; "
            "split 17 40,20,33 44,25,33; merge 17 18; paint 17 40,20,30+5. -: from stdin.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written."""

    heading: ClassVar[str | None] = "Output"

    publish: Annotated[
        bool, typer.Option("--publish", help="Write the labels as they are now: NAME_reviewed.")
    ] = False
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the decisions to a file for --apply."),
    ] = None
    show: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Show the N most doubtful instances that are left."),
    ] = 20


@reported("interrupted; the decisions before are kept")
@grouped
def review(
    labels: Annotated[
        str,
        typer.Argument(help="Labels in a store, STORE/labels/NAME; or a store with only one."),
    ],
    *,
    given: Annotated[dict[str, Any], NameOptions, WorkerOptions],
    decisions: Decisions,
    output: Output,
    as_json: Json = False,
) -> None:
    """Proofread labels: the most doubtful instances first; decisions can be undone.

    The labels themselves are never changed. Decisions are kept in STORE/reviews/NAME_reviewed;
    `train --reviewed` trains on them. In napari, the same review has keys and a view of each
    instance.
    """
    from embedseg_large.review.review import open_review
    from embedseg_large.storage.disk import check_file

    if output.log is not None:
        check_file(output.log)
    script = None if decisions.apply is None else _read(decisions.apply)
    opened = open_review(labels, **given)
    for _ in range(decisions.undo):
        opened.undo()
    for _ in range(decisions.redo):
        opened.redo()
    if script is not None:
        opened.apply_script(script, str(decisions.apply))
    if output.log is not None:
        _write(output.log, opened)
    published = opened.publish() if output.publish else None
    _show(opened, published, output.show, as_json)


def _read(source: str) -> str:
    """Read decisions.

    Raises
    ------
    UsageError
        If that cannot be read.
    """
    from embedseg_large.errors import UsageError, cause

    if source == _STDIN:
        return sys.stdin.read()
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{source}: cannot be read ({cause(error)}); name a file of text"
        ) from error


def _write(path: Path, opened: Review) -> None:
    from embedseg_large.storage.disk import whole_file

    with whole_file(path) as begun:
        begun.write_text(opened.script(), encoding="utf-8")


def _show(opened: Review, published: str | None, most: int, as_json: bool) -> None:
    from embedseg_large.storage.connection import shown

    left = opened.left
    shown_first = [opened.queue[place] for place in left[:most]]
    copy = None if published is None else shown(published)
    if as_json:
        print_json(
            {
                "labels": shown(opened.place.source),
                "review": shown(opened.place.path),
                "published": copy,
                "n_instances": len(opened.queue),
                "n_left": len(left),
                "decisions": list(map(str, opened.decisions)),
                "undone": len(opened.log.undone),
                "queue": [each.as_dict() for each in shown_first],
            }
        )
        return
    facts = {
        "labels": shown(opened.place.source),
        "instances": f"{len(opened.queue):,}, {len(left):,} to look at",
        "decisions": f"{len(opened.decisions):,}",
    }
    if opened.log.undone:
        facts["undone"] = f"{len(opened.log.undone):,}"
    if opened.log.steps:
        facts["review"] = shown(opened.place.path)
    if copy is not None:
        facts["written"] = copy
    print_facts(None, facts)
    if shown_first:
        names = ["label", "doubt", "voxels", ", ".join(_axes(shown_first[0])), "reasons"]
        print_table(names, [_row(each) for each in shown_first])


def _axes(first: Doubtful) -> str:
    return "zyx"[-len(first.center) :]


def _row(each: Doubtful) -> list[str]:
    at = ", ".join(f"{c:.0f}" for c in each.center)
    return [str(each.label), f"{each.doubt:.2f}", f"{each.voxels:,}", at, ", ".join(each.reasons)]
