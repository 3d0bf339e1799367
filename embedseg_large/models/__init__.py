"""Bundled models: one safetensors file each, loaded by its name without suffix."""

from __future__ import annotations

from importlib.resources import files

SUFFIX = ".safetensors"


def bundled_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(e.removesuffix(SUFFIX) for e in entries if e.endswith(SUFFIX)))
