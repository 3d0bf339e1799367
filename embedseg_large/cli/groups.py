"""Options of a command in groups: each a frozen dataclass whose fields are declared once.

::

    @dataclass(frozen=True, kw_only=True)
    class Output:  # known to this command only
        heading: ClassVar[str | None] = "Output"  # in --help
        labels: Annotated[str, typer.Option(help="Name of the labels.")] = "nuclei"

    @grouped
    def segment(
        store: Store,
        *,
        output: Output,
        given: Annotated[dict[str, Any], ObjectOptions, TileOptions],
        as_json: Json = False,
    ) -> None:

`given` are options that functions of the library take (`embedseg_large.options`): those that were
used, by name, and of a flag that shows its default, that. Typer sees one flat list of parameters,
in the order of the groups and of the fields in each.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from embedseg_large.cli.options import FORMS
from embedseg_large.options import Flag, Options

T = TypeVar("T")


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """Allow a command to have parameters that are groups of options."""
    signature = inspect.signature(command, eval_str=True)
    kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}

    @functools.wraps(command)
    def run(**given: Any) -> T:
        for name, kind in kinds.items():
            flags = [field.name for group in _groups(kind) for field in fields(group)]
            values = {flag: given.pop(flag) for flag in flags if flag in given}
            if isinstance(kind, type) and flags:
                given[name] = kind(**values)
            elif flags:
                given[name] = {flag: v for flag, v in values.items() if v is not None}
        return command(**given)

    flat = list(_flat(signature))
    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]  # not known
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


def _groups(kind: Any) -> tuple[Any, ...]:
    """The groups that an annotation names; empty: an ordinary parameter."""
    if is_dataclass(kind):
        return (kind,)
    declared = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return tuple(d for d in declared if isinstance(d, type) and issubclass(d, Options))


def _flat(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        groups = _groups(parameter.annotation)
        if not groups:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        named = {flag.name: flag for group in reversed(groups) for flag in _parameters(group)}
        order = dict.fromkeys(field.name for group in groups for field in fields(group))
        yield from (named[name] for name in order if name in named)


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if get_origin(hints[field.name]) is not Annotated:
            continue  # a keyword only
        kind, declared = get_args(hints[field.name])
        if isinstance(declared, Flag):
            yield _parameter(field, kind, declared, group.heading)
        else:
            option = copy(declared)
            option.rich_help_panel = group.heading
            yield _named(field, field.default, kind, option)


def _parameter(field: Field[Any], kind: Any, flag: Flag, heading: str | None) -> inspect.Parameter:
    """The flag of an option that a function takes, too: None where it is not used."""
    name, form = flag.name or f"--{field.name.replace('_', '-')}", FORMS.get(flag.form or "")
    default = field.default if flag.shows_default else None
    metavar = flag.metavar
    if form is not None:
        kind, metavar = Any, metavar or form.metavar
    elif flag.form == "text":
        kind, default = str | None, None if default is None else str(default)
    elif flag.form == "texts":
        kind = list[str] | None
    elif kind is bool:
        default = field.default
    elif kind == bool | None:
        name = f"{name}/--no-{name[2:]}"
    option = typer.Option(
        name,
        help=flag.help,
        metavar=metavar,
        min=flag.min,
        parser=None if form is None else form.parser,
        rich_help_panel=heading,
    )
    return _named(field, default, kind, option)


def _named(field: Field[Any], default: Any, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
