"""Settings of synthetic volumes as users write them: a file, or a short text.

::

    diameter=12:30,anisotropy=2          the short form: ranges with a colon, shapes with an x
    embryo.yaml, embryo.json             diameter: [12, 30]
                                         anisotropy: 2
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from embedseg_large.documents import read_yaml
from embedseg_large.errors import UsageError
from embedseg_large.synthesis.settings import SynthesisSettings, names

Stated = SynthesisSettings | Mapping[str, Any] | str | os.PathLike[str] | None
"""Settings, some of them by name, the short form, or a YAML or JSON file; None: the defaults."""

_INTEGERS = ("ndim", "shape")


def read_settings(stated: Stated = None, *, ndim: int | None = None) -> SynthesisSettings:
    """Read settings.

    Parameters
    ----------
    stated
        See `Stated`.
    ndim
        Number of spatial axes of the images used with the volumes; None: any.

    Raises
    ------
    UsageError
        If there is no such file, setting or value, or the number of axes differs; the message names
        the file and the setting.
    """
    if isinstance(stated, SynthesisSettings):
        return _of_axes(stated, ndim)
    where, values = _values(stated)
    try:
        read = {n: _value(n, value) for n, value in values.items() if value is not None}
        if ndim is not None:
            read = {"ndim": ndim} | read
        return _of_axes(SynthesisSettings(**read), ndim)
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def _of_axes(settings: SynthesisSettings, ndim: int | None) -> SynthesisSettings:
    if ndim is not None and settings.ndim != ndim:
        raise UsageError(f"synthetic volumes are {settings.ndim}D, but {ndim}D is required")
    return settings


def _values(stated: Mapping[str, Any] | str | os.PathLike[str] | None) -> tuple[str, Any]:
    """Return the origin of the settings, for messages, and the settings by name."""
    if stated is None:
        return "", {}
    if isinstance(stated, Mapping):
        return "", stated
    if not isinstance(stated, str | os.PathLike):
        raise UsageError(
            f"settings are a {type(stated).__name__}; pass a file, a mapping, or text like "
            "diameter=12:30,anisotropy=2"
        )
    text = os.fspath(stated)
    if not text.strip():
        raise UsageError("settings are empty; leave them out, or state some: diameter=12:30")
    if "=" in text and not _is_there(text):
        return "", dict(_word(word) for word in text.split(","))
    return f"{text}: ", _content(text)


def _is_there(text: str) -> bool:
    """Whether a text is the path of a file; one that is too long for a path is not."""
    try:
        return Path(text).exists()
    except OSError:
        return False


def _word(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise UsageError(f"{word!r} is not like diameter=12:30")
    return name.strip(), value.strip()


def _content(path: str) -> Mapping[str, Any]:
    """Read a file."""
    try:
        found = read_yaml(path)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; pass a YAML or JSON file, or settings like "
            "diameter=12:30,anisotropy=2"
        ) from None
    except ValueError:
        raise UsageError(
            f"{path} is neither YAML nor JSON; write lines like diameter: [12, 30]"
        ) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{path}: it holds no settings; write lines like diameter: [12, 30]")
    return found


def _value(name: Any, value: Any) -> Any:
    """Translate a value into what `SynthesisSettings` takes."""
    known = list(names())
    if name not in known:
        near = get_close_matches(str(name), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
        raise UsageError(f"no setting {name!r}; {hint}")
    kind = int if name in _INTEGERS else float
    parts = _parts(value, "x" if name == "shape" else ":")
    try:
        numbers = tuple(kind(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} is {value!r}; pass {_like(name)}") from None
    if name == "shape":
        return numbers
    if _is_range(name):
        if len(numbers) not in (1, 2):
            raise UsageError(f"{name} is {value!r}; pass {_like(name)}")
        return numbers[0], numbers[-1]
    if len(numbers) != 1:
        raise UsageError(f"{name} is {value!r}; pass {_like(name)}")
    return numbers[0]


def _parts(value: Any, separator: str) -> list[Any]:
    if isinstance(value, str):
        return value.split(separator)
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_range(name: str) -> bool:
    default = getattr(SynthesisSettings(), name)
    return name == "anisotropy" or isinstance(default, tuple)


def _like(name: str) -> str:
    if name == "shape":
        return "sizes like 48x112x112"
    return "a number, or a range like 12:30" if _is_range(name) else "one number"
