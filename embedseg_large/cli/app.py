"""All commands under one name."""

from __future__ import annotations

import typer

from embedseg_large.cli.command import Command, CommandGroup
from embedseg_large.cli.commands import (
    benchmark,
    compare,
    convert,
    demo,
    evaluate,
    export,
    export_labels,
    import_,
    info,
    measure,
    report,
    review,
    segment,
    status,
    suggest,
    synthesise,
    track,
    train,
    tune,
    view,
)

app = typer.Typer(
    name="embedseg-large",
    cls=CommandGroup,
    help="Find every nucleus or cell in volumes far larger than memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=lambda v: _version(v)
    ),
) -> None:
    """Find every nucleus or cell in volumes far larger than memory."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"embedseg-large {version('embedseg-large')}")
        raise typer.Exit


COMMANDS = (
    demo.demo,
    convert.convert,
    info.info,
    synthesise.synthesise,
    train.train,
    tune.tune,
    compare.compare,
    suggest.suggest,
    segment.segment,
    status.status,
    evaluate.evaluate,
    measure.measure,
    track.track,
    report.report,
    review.review,
    view.view,
    export_labels.export_labels,
    export.export,
    import_.import_,
    benchmark.benchmark,
)
for command in COMMANDS:
    # import_: a keyword without the underscore
    app.command(command.__name__.removesuffix("_").replace("_", "-"), cls=Command)(command)
