"""A model as ONNX, which runs without torch.

Batch and spatial axes are free, the latter in multiples of 8. Everything needed apart from the
graph is in ``metadata_props``: the notes of `PortableModel`, with each name prefixed by
``embedseg_large.``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedseg_large.errors import RunError
from embedseg_large.network.exchange.portable import INPUT, OUTPUT, PortableModel, need
from embedseg_large.network.settings import STRIDE

OPSET = 18
"""Version of ONNX's operators; the one that torch's exporter is written in."""

TOLERANCE = 1e-4
"""Largest accepted difference from torch, as a fraction of the output's standard deviation."""


def onnx_of(model: PortableModel) -> tuple[bytes, float]:
    """Return the network as an ONNX file that has been compared with torch.

    Returns
    -------
    content, difference
        The bytes of the file; and the largest difference of a raw channel from torch's, over inputs
        of two shapes, divided by the standard deviation of torch's.

    Raises
    ------
    UsageError
        If onnx, onnxscript or onnxruntime is not installed.
    RunError
        If the graph is not valid, or its results differ from torch's.
    """
    need(("onnx", "onnxscript", "onnxruntime"), "ONNX")
    import onnx

    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            model.network,
            (model.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(_free_axes(model.axes),),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # as always with dynamo
    proto = program.model_proto
    notes = {f"embedseg_large.{name}": text for name, text in model.notes().items()}
    onnx.helper.set_model_props(proto, notes)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise RunError(f"onnx does not accept the graph that torch made: {error}") from error
    content: bytes = proto.SerializeToString()
    return content, checked_difference(model, content)


def _free_axes(axes: str) -> dict[int, Any]:
    """Return the axes that may have any length, or any multiple of 8."""
    sizes = {2 + d: STRIDE * torch.export.Dim(axis) for d, axis in enumerate(axes)}
    return {0: torch.export.Dim("batch"), **sizes}


def checked_difference(model: PortableModel, content: bytes) -> float:
    """Compare with torch on the shape with which the graph was traced and on another one.

    Returns
    -------
    The largest difference, as a fraction of the output's standard deviation.

    Raises
    ------
    RunError
        If it exceeds `TOLERANCE`.
    """
    made_from = model.example()
    other = model.example(batch=1).repeat_interleave(2, dim=-1)
    found = max(_difference(model, content, image) for image in (made_from, other))
    if not found <= TOLERANCE:
        raise RunError(
            f"ONNX differs from torch by {found:.1e} of the output's standard deviation, more than "
            f"{TOLERANCE:g}; try other versions of torch and onnxruntime"
        )
    return found


def _difference(model: PortableModel, content: bytes, image: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = model.network(image).numpy()
    answer = run_onnx(content, image.numpy())
    return float(np.abs(answer - wanted).max() / wanted.std())


def run_onnx(content: bytes, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an ONNX file on the CPU.

    Parameters
    ----------
    content
        Content of the file.
    image
        Normalised, ``(n, channels, *spatial)``.

    Returns
    -------
    Raw channels ``(n, 2·ndim + 1, *spatial)``.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    raw: NDArray[np.float32] = session.run([OUTPUT], {INPUT: image})[0]
    return raw


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide the exporter's messages about its internals."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
