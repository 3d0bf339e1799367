"""The page: a template filled with values; all external text is escaped."""

from __future__ import annotations

from typing import Any


def render(template: str = "page.html", room: str = "reporting", **values: Any) -> str:
    """Fill a template.

    Parameters
    ----------
    template, room
        Its file name, and the subpackage that holds it in its folder ``templates``; it may
        include those of ``reporting``.
    **values
        The variables of the template; a missing one is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    rooms = dict.fromkeys((room, "reporting"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(f"embedseg_large.{name}") for name in rooms]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["seconds"] = seconds
    return environment.get_template(template).render(**values)


def seconds(value: float) -> str:
    """Format a duration for people."""
    if value < 90:
        return f"{value:.3g} s"
    minutes = value / 60
    return f"{minutes:.3g} min" if minutes < 90 else f"{minutes / 60:,.1f} h"
