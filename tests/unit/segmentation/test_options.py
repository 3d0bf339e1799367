"""An option is declared once: keyword, documentation and flag are made from its field."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import typer

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.options import Flag, docs_of, takes
from embedseg_large.segmentation.options import SegmentOptions

NAMES = [field.name for field in fields(SegmentOptions)]


@pytest.mark.parametrize("name", NAMES)
def test_each_option_of_segment_has_a_flag_and_a_docstring(name: str) -> None:
    hint = get_type_hints(SegmentOptions, include_extras=True)[name]
    (flag,) = (one for one in get_args(hint) if isinstance(one, Flag))
    assert flag.help.endswith(".")
    assert docs_of(SegmentOptions)[name]


def test_the_command_has_a_flag_for_each_option() -> None:
    command = typer.main.get_command(app).commands["segment"]  # type: ignore[attr-defined]
    assert set(NAMES) <= {parameter.name for parameter in command.params}


def test_segment_shows_each_option_in_its_signature_and_in_its_docstring() -> None:
    shown = inspect.signature(es.segment).parameters
    assert set(NAMES) <= set(shown)
    assert shown["foreground"].default == 0.5
    for name in NAMES:
        assert f"\n    {name}\n        " in (es.segment.__doc__ or "")


def test_an_option_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match=r"draw\(\) got .*'halos'; did you mean 'halo'\?"):
        SegmentOptions.of({"halos": (8, 8, 8)}, "draw")


def test_options_that_are_as_they_are_by_default_are_not_given() -> None:
    assert SegmentOptions(foreground=0.5, seed=0.8).given() == {"seed": 0.8}


def test_a_function_without_a_docstring_takes_options_too() -> None:
    @takes(SegmentOptions)
    def bare(**options: object) -> object:
        return options

    assert list(inspect.signature(bare).parameters) == NAMES
    assert bare(halo=1) == {"halo": 1}
