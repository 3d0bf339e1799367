"""The page: a template filled with values; all external text is escaped."""

from __future__ import annotations

from typing import Any


def render(**values: Any) -> str:
    """Fill the template.

    Parameters
    ----------
    **values
        The variables of ``page.html``; a missing one is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("embedseg_large.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["seconds"] = seconds
    return environment.get_template("page.html").render(**values)


def seconds(value: float) -> str:
    """Format a duration for people."""
    if value < 90:
        return f"{value:.3g} s"
    minutes = value / 60
    return f"{minutes:.3g} min" if minutes < 90 else f"{minutes / 60:,.1f} h"
