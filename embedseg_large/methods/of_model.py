"""The method of a model."""

from __future__ import annotations

from embedseg_large.errors import ModelError, UsageError
from embedseg_large.methods.protocol import FieldMethod, ObjectScale
from embedseg_large.methods.registry import field_method
from embedseg_large.network.settings import EMBEDSEG, ModelSettings


def scale_of(settings: ModelSettings) -> ObjectScale:
    """Return what a model records about its objects."""
    return ObjectScale(
        ndim=settings.ndim,
        extent=settings.extent,
        width=settings.width,
        voxel_size=settings.voxel_size,
        min_object_size=settings.min_object_size,
    )


def method_of(settings: ModelSettings) -> FieldMethod | None:
    """Return the method of a model; None for EmbedSeg.

    Raises
    ------
    ModelError
        If there is no such method, or the model lists fields that the method does not have.
    """
    if settings.method == EMBEDSEG:
        return None
    try:
        method = field_method(settings.method, scale_of(settings))
    except UsageError as error:
        raise ModelError(f"the model cannot be used: {error}") from error
    if method.fields != settings.fields:
        raise ModelError(
            f"the model is of the method {settings.method}, but has other fields; "
            "use the release that trained it, or train it again"
        )
    return method
