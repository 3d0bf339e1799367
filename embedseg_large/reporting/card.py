"""The card of the model that made the labels, found by its fingerprint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.models import bundled_models
from embedseg_large.reporting.facts import Fact

_WORDS = ("summary", "data", "split", "limits", "data_licence")
"""Entries of a card worth reading beside a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The model that made the labels."""

    name: str
    """Value for `segment --model`; "..." for a model without a known name."""
    facts: tuple[Fact, ...]
    method: str | None = None
    """Its method; None if the model is not known."""


def card_of(made: Mapping[str, Any], model: str | os.PathLike[str] | None = None) -> ModelCard:
    """Describe the model of a run.

    Parameters
    ----------
    made
        The record of the run, which identifies the model only by its fingerprint.
    model
        Name, file or folder of the model; None: try the bundled ones.

    Raises
    ------
    UsageError
        If `model` is a different one.
    ModelError
        If there is no such model.
    """
    fingerprint = Fact(name="fingerprint", value=str(made.get("model", "not recorded")))
    if made.get("segmenter"):
        return ModelCard(name=str(made["segmenter"]), facts=(fingerprint,))
    from embedseg_large.network.checkpoint import load_model

    for name in bundled_models() if model is None else [os.fspath(model)]:
        found = load_model(name)
        if found.fingerprint == made.get("model"):
            facts = (*_facts(found), fingerprint)
            return ModelCard(name=name, facts=facts, method=found.settings.method)
    if model is not None:
        raise UsageError(f"{os.fspath(model)} is not the model that made these labels")
    return ModelCard(name="...", facts=(fingerprint,))


def _facts(model: Any) -> Iterator[Fact]:
    yield Fact(name="method", value=model.settings.method)
    for name in _WORDS:
        if model.card.get(name):
            yield Fact(name=name.replace("_", " "), value=str(model.card[name]))
    if model.object_diameter:
        size = f"{model.object_diameter:.3g} voxels wide"
        if model.object_depth:
            size += f", {model.object_depth:.3g} deep"
        yield Fact(name="objects in its training data", value=size)
