"""Options of a command in groups: each a frozen dataclass whose fields are declared for typer.

::

    @dataclass(frozen=True, kw_only=True)
    class Output:
        panel: ClassVar[str | None] = "Output"  # heading in --help
        labels: Annotated[str, typer.Option(help="Name of the labels.")] = "nuclei"

    @grouped
    def segment(store: Store, *, output: Output, as_json: Json = False) -> None:

Typer sees one flat list of parameters, in the order of the groups and of the fields in each.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """Allow a command to have parameters that are groups of options."""
    signature = inspect.signature(command, eval_str=True)
    groups = {n: p.annotation for n, p in signature.parameters.items() if _is_group(p.annotation)}

    @functools.wraps(command)
    def run(**given: Any) -> T:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return command(**given)

    flat = list(_flat(signature))
    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]  # not known
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


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
        kind, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = group.panel
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[kind, option],
        )
