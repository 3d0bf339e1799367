"""A model as TorchScript, which runs with torch but without this package.

The file also holds ``embedseg_large.json``, the notes of `PortableModel`; read it with
``torch.jit.load(path, _extra_files={"embedseg_large.json": ""})``.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import torch

from embedseg_large.network.exchange.portable import PortableModel

NOTES = "embedseg_large.json"


def torchscript_of(model: PortableModel) -> bytes:
    """Return the network as a TorchScript archive, for any batch and any multiples of 8."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # deprecated in torch, but what programs of bioimage.io can load
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        trace: Any = torch.jit.trace  # has no annotations
        traced = trace(model.network, model.example(), check_trace=False)
        torch.jit.save(traced, stream, _extra_files={NOTES: json.dumps(model.notes())})
    return stream.getvalue()
