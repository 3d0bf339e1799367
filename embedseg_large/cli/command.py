"""The base of all commands: mistakes are reported in one line, and help is narrow."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from embedseg_large.cli.console import WRONG_USE, print_error

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of errors for wrong arguments: click's, or that of typer's copy, depending on its
version."""


class Command(TyperCommand):
    """A command in whose help flags have no type, and counts are ``N``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, as help shows them and as they are read."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]


class CommandGroup(TyperGroup):
    """All commands under one name; wrong options are reported like all other mistakes."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, as help shows them and as they are read."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command, and end the process unless `standalone_mode` is off."""
        ends = options.pop("standalone_mode", True)
        run = partial(cast(Any, super().main), *args, standalone_mode=False, **options)
        if not ends:
            return run()
        try:
            sys.exit(run())
        except _USAGE_ERROR as error:
            if told := _told(error):
                print_error(told)
            else:  # no arguments at all: show the help
                error.show()  # type: ignore[attr-defined]  # not known of either class
            sys.exit(WRONG_USE)
        except typer.Abort:
            sys.exit(1)


def _plain(parameter: Any) -> Any:
    """Show no type for flags and no range for counts: this keeps the rows of help short."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None and getattr(parameter, "min", None) is not None:
        parameter.metavar = "N"
    return parameter


def _told(error: Any) -> str:
    """The mistake, and where to read about correct use; empty without a message."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    text = str(error.format_message()).replace(". Did", ": did").rstrip(".?")
    command = error.ctx.command_path if error.ctx else "embedseg-large"
    return f"{text[:1].lower()}{text[1:]}; see {command} --help"
