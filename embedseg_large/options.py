"""Options that are declared once: frozen dataclasses, one field an option.

::

    @dataclass(frozen=True, kw_only=True)
    class TileOptions(Options):
        heading = "Tiles (automatic)"  # in --help

        halo: Annotated[Sequence[int] | None, Flag("Seen around it.", form="sizes")] = None
        \"\"\"Predictions seen around a clustering core at first, in voxels.\"\"\"

Of each field are made: a keyword of a function and its documentation (`takes`), a flag of a command
(`embedseg_large.cli.groups`), and its row in the reference, which is written from the flags. A
field without a `Flag` is a keyword only. What a function takes is one class that inherits groups.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from os import PathLike
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from embedseg_large.errors import UsageError

T = TypeVar("T", bound="Options")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Flag:
    """What a command line shows of an option."""

    help: str
    """One or two sentences for ``--help``."""
    form: str | None = None
    """How its value is written, see `embedseg_large.cli.options`; None: as its type says."""
    name: str | None = None
    """How it is called where it is not as the field: ``--from``."""
    metavar: str | None = None
    """What stands for the value in ``--help``."""
    min: int | None = None
    """Lowest value."""
    shows_default: bool = False
    """Whether the flag has the default of the field; else it is only given when it is used."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all groups of options."""

    heading: ClassVar[str | None] = None
    """Heading in ``--help``; None: the first one."""

    @classmethod
    def of(cls: type[T], given: Mapping[str, Any], caller: str) -> T:
        """The options that were given to a function by name.

        Raises
        ------
        TypeError
            There is no such option; names the one that was probably meant.
        UsageError
            A value is of a type that the option does not take.
        """
        known = [field.name for field in fields(cls)]
        for name in sorted(set(given) - set(known)):
            alike = get_close_matches(name, known, n=1)
            advice = f"; did you mean {alike[0]!r}?" if alike else ""
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}{advice}")
        for name, kinds in _kinds_of(cls).items():
            if name in given and not any(_fits(given[name], kind) for kind in kinds):
                words = " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
                raise UsageError(f"{name} is {given[name]!r}; pass {words}")
        return cls(**given)

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a mapping that are options of this class, by name."""
        names = {field.name for field in fields(cls)}
        return {name: value for name, value in given.items() if name in names}

    def given(self) -> dict[str, Any]:
        """Those that are not what they are by default, by name."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if value != field.default}


_WORDS: Mapping[Any, str] = {
    Sequence: "several values",
    tuple: "several values",
    int: "a whole number",
    float: "a number",
    str: "a text",
    PathLike: "a path",
    NoneType: "None",
}
"""Types that are checked, in words."""


def in_digits(value: float) -> str:
    """Write a number as a command line takes it: briefly, and without changing it."""
    brief = f"{value:g}"
    return brief if float(brief) == value else repr(value)


def several(value: int | Iterable[int]) -> tuple[int, ...]:
    """Return one whole number or several, of Python or numpy, as a tuple."""
    return tuple(map(int, value)) if isinstance(value, Iterable) else (int(value),)


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not hasattr(value, "__len__")  # an array of one has both


def _kinds_of(options: type[Options]) -> Mapping[str, tuple[Any, ...]]:
    """The types that options take, by name; of those that take others, too, nothing is said."""
    found = {name: _alternatives(hint) for name, hint in get_type_hints(options).items()}
    return {name: kinds for name, kinds in found.items() if set(kinds) <= set(_WORDS)}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _alternatives(part))
    of_scalars = set(get_args(hint)) <= {int, float, str, ...}
    return (get_origin(hint) if get_args(hint) and of_scalars else hint,)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, or is as good as one, like numbers and arrays of numpy."""
    if kind in (Sequence, tuple):
        return hasattr(value, "__iter__") and not isinstance(value, str | bytes)
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return _is_whole(value) or hasattr(value, "__float__")
    return isinstance(value, kind)


def takes(options: type[Options]) -> Callable[[F], F]:
    """Let a function that ends with ``**options`` show all of them, in signature and docstring."""

    def decorated(function: F) -> F:
        signature = inspect.signature(function)
        *named, _ = signature.parameters.values()
        hints = get_type_hints(options)
        more = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(options)
        ]
        function.__signature__ = signature.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        function.__doc__ = (function.__doc__ or "").replace(
            "    **options\n", "".join(_paragraphs(options))
        )
        return function

    return decorated


def _paragraphs(options: type[Options]) -> Iterator[str]:
    """Each option as an entry of a docstring's section of parameters."""
    for name, text in docs_of(options).items():
        yield f"    {name}\n" + textwrap.indent(text, " " * 8) + "\n"


def docs_of(options: type[Options]) -> Mapping[str, str]:
    """The docstring under each field, own and inherited, in the order of the fields."""
    found = dict[str, str]()
    for one in reversed(options.__mro__):
        if issubclass(one, Options):
            found |= _docs_under(one)
    return {field.name: found.get(field.name, "") for field in fields(options)}


def _docs_under(options: type[Options]) -> dict[str, str]:
    """The docstrings under the fields that one class declares: no object keeps them."""
    try:
        source = textwrap.dedent(inspect.getsource(options))
    except OSError:  # an installation without sources
        return {}
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    return {
        named.target.id: inspect.cleandoc(str(text.value.value))
        for named, text in zip(node.body, node.body[1:], strict=False)
        if isinstance(named, ast.AnnAssign) and isinstance(named.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
