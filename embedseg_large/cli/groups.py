"""Options of a command in groups: each a frozen dataclass whose fields are declared for typer.

::

    @dataclass(frozen=True, kw_only=True)
    class Output:
        panel: ClassVar[str | None] = "Output"  # heading in --help
        labels: Annotated[str, typer.Option(help="Name of the labels.")] = "nuclei"

    @grouped
    def segment(store: Store, *, output: Output, as_json: Json = False) -> None:

A group may also be of `embedseg_large.options`, whose flags are made from what functions take.
Typer sees one flat list of parameters, in the order of the groups and of the fields in each.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from embedseg_large.cli.options import FORMS
from embedseg_large.options import Flag, Options

T = TypeVar("T")


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """Allow a command to have parameters that are groups of options."""
    signature = inspect.signature(command, eval_str=True)
    groups = {n: p.annotation for n, p in signature.parameters.items() if _is_group(p.annotation)}

    @functools.wraps(command)
    def run(**given: Any) -> T:
        for name, group in groups.items():
            values = {field.name: given.pop(field.name) for field in fields(group)}
            given[name] = group(**_used(group, values))
        return command(**given)

    flat = list(_flat(signature))
    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]  # not known
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


def _used(group: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Values of flags; where a function has a default, those that were used."""
    if not issubclass(group, Options):
        return values
    return {name: value for name, value in values.items() if value is not None}


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _flat(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        if _is_group(parameter.annotation):
            yield from _parameters(parameter.annotation)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, declared = get_args(hints[field.name])
        if isinstance(declared, Flag):
            parameter = _parameter(field, kind, declared)
            kind, declared = get_args(parameter.annotation)
        else:
            parameter = inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default
            )
        option = copy(declared)
        option.rich_help_panel = group.panel
        yield parameter.replace(annotation=Annotated[kind, option])


def _parameter(field: Field[Any], kind: Any, flag: Flag) -> inspect.Parameter:
    """The flag of an option that a function takes, too: None where it is not used."""
    name, form = f"--{field.name.replace('_', '-')}", FORMS.get(flag.form or "")
    default = field.default if flag.shows_default else None
    option = typer.Option(name, help=flag.help, metavar=flag.metavar)
    if form is not None:
        kind, option.parser = Any, form.parser
        option.metavar = flag.metavar or form.metavar
    elif flag.form == "text":
        kind, default = str | None, None if default is None else str(default)
    elif kind is bool:
        default = field.default
    elif kind == bool | None:
        option = typer.Option(f"{name}/--no-{name[2:]}", help=flag.help)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
