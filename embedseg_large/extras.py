"""Optional packages, which not everyone installs: what to run where one is missing.

::

    with extra("track", "--tracker laptrack", instead="use --tracker lap"):
        import laptrack
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embedseg_large.errors import UsageError

_NAMES = {
    "bioimageio": "bioimageio.core",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Packages that are not called what is imported, apart from ``_`` instead of ``-``."""


def install(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f'pip install "embedseg-large[{extra}]"'


@contextmanager
def extra(name: str, purpose: str, *, instead: str = "") -> Iterator[None]:
    """Turn a failed import of the body into one line with the command that installs the extra.

    Parameters
    ----------
    name
        Of the extra.
    purpose
        What needs it, as the subject of a sentence.
    instead
        What the user can do without it.

    Raises
    ------
    UsageError
        If a package that the body imports is not installed.
    """
    try:
        yield
    except ImportError as error:
        otherwise = f", or {instead}" if instead else ""
        missing = f"{purpose} needs {_package(error)}"
        raise UsageError(f"{missing}; {install(name)}{otherwise}") from error


def _package(error: ImportError) -> str:
    """Name of the package that could not be imported."""
    if not error.name:
        return "another package"
    root = error.name.split(".")[0]
    return _NAMES.get(root, root.replace("_", "-"))
