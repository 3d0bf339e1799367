"""A segmenter of the user's by its name, ``module:function``: `segment --model my_tools:nuclei`.

The module is imported, and so its code runs. Nothing else imports it: only `segment`, and only when
it is asked to. A module of this environment comes before one of the current folder; what is found
in the folder travels to workers by value, as they may not see that folder.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.classical import diameters_of, halo_of
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.volumes.volume import Volume

_NAMED = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_OFFERED = 5
"""Names of a module that an error lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFunction:
    """A function from the image of a tile to its labels, by its name."""

    name: str
    """As requested: ``module:function``."""
    function: Callable[..., Any]
    version: str
    """Hash of the source of its module: another one is another run."""

    @property
    def fingerprint(self) -> str:
        """Identity of the function."""
        return f"{self.name} {self.version}"

    def segmenter(self, image: Volume, options: SegmentOptions) -> TileSegmenter:
        """The segmenter for an image; its halo is given, or one and a half diameters.

        Raises
        ------
        UsageError
            Neither a halo nor a diameter is given.
        """
        return TileSegmenter(
            self.function,
            name=self.name,
            version=self.version,
            halo=self._halo(image, options),
            ndim=image.ndim,
            channels=image.n_channels if image.channel is None else 1,
        )

    def _halo(self, image: Volume, options: SegmentOptions) -> tuple[int, ...]:
        if options.halo is not None:
            return tuple(options.halo)
        if options.object_diameter is None:
            raise UsageError(
                f"model {self.name}: it must see whole objects; pass object_diameter "
                "(--object-diameter 20, or 12um), or halo (--halo), at least as large as your "
                "largest object"
            )
        return halo_of(diameters_of(image, options.object_diameter))


def own_segmenter(model: Any) -> Any:
    """Import what ``module:name`` means.

    Parameters
    ----------
    model
        Anything that is passed as a model.

    Returns
    -------
    A `TileSegmenter` or `OwnFunction`; `model` itself if it is not such a name.

    Raises
    ------
    UsageError
        If there is no such module, it cannot be imported, or it has no such function or segmenter.
    """
    named = _NAMED.fullmatch(model) if isinstance(model, str) else None
    if named is None or os.path.lexists(model):
        return model
    module = _imported(named["module"], model)
    try:
        found = getattr(module, named["name"])
    except AttributeError:
        raise UsageError(
            f"model {model}: {_place(module)} has no {named['name']}{_offered(module)}"
        ) from None
    if isinstance(found, TileSegmenter):
        return found
    if not callable(found) or inspect.isclass(found):
        what = "a class" if inspect.isclass(found) else f"a value of type {type(found).__name__}"
        raise UsageError(
            f"model {model}: {named['name']} is {what}; name a function from an image to labels, "
            "or a TileSegmenter"
        )
    return OwnFunction(name=model, function=found, version=_source(module))


def _imported(name: str, model: str) -> ModuleType:
    """Import a module of this environment, or else of the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # it stays: functions may import more when they are called
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"model {model}: there is no module {error.name} in this environment or in {here}"
            ) from None
        raise UsageError(
            f"model {model}: {name} needs the module {error.name}, which is not installed"
        ) from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {model}: importing {name} failed: {_said(error)}") from None
    if _is_below(module, here):
        from cloudpickle import register_pickle_by_value

        register_pickle_by_value(module)
    return module


def _is_below(module: ModuleType, folder: str) -> bool:
    """Whether a module is a file of a folder, not of an environment inside it."""
    file = getattr(module, "__file__", None)
    if file is None or "site-packages" in Path(file).parts:
        return False
    return Path(file).resolve().is_relative_to(Path(folder).resolve())


def _said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _place(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return module.__name__ if file is None else f"{module.__name__} ({file})"


def _offered(module: ModuleType) -> str:
    """What a module defines itself, for an error."""
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, TileSegmenter)
        or (inspect.isfunction(value) and value.__module__ == module.__name__)
    ]
    shown = ", ".join(n for n in names[:_OFFERED] if not n.startswith("_"))
    return f"; it has {shown}" if shown else ""


def _source(module: ModuleType) -> str:
    """Hash of the source of a module; empty if there is none."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]
