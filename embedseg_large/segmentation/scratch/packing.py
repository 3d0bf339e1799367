"""How the predictions of a tile are kept: one bit a voxel, and the channels of those that count.

::

    bytes 0-7   length of the next part, little endian
    bits        a packed bit for each voxel of the core, in raster order: 0 for background
    values      the packed channels, (channels, voxels with bit 1) float16

Most of an embryo is background. It costs neither space nor time to pack, and a reader decodes one
byte a voxel and the values, never all channels of a whole tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import background

_LENGTH = 8
_LOWEST = background((1,))[-1, 0]
"""Logit of background, see `embedseg_large.embedding.keep_above`."""


def pack_prediction(stored: NDArray[np.float16]) -> bytes:
    """Pack stored predictions, (channels, *core), at least one voxel of which is kept."""
    kept = stored[-1] != _LOWEST
    bits = _pack(np.packbits(kept))
    return len(bits).to_bytes(_LENGTH, "little") + bits + _pack(stored[:, kept])


def unpack_prediction(
    data: bytes, shape: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
    """Unpack the predictions of a core.

    Parameters
    ----------
    data
        What `pack_prediction` returned.
    shape
        Of the core.

    Returns
    -------
    kept, values
        ``(*core)``: which voxels were kept. ``(channels, voxels)``: their channels, in raster
        order. All others are background.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    bits = np.unpackbits(_unpack(data[_LENGTH:end], np.uint8), count=prod(shape))
    values = _unpack(data[end:], np.float16).reshape(-1, np.count_nonzero(bits))
    return bits.view(np.bool_).reshape(shape), values


def _pack(values: NDArray[Any]) -> bytes:
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
    return bytes(codec.encode(np.ascontiguousarray(values)))


def _unpack(packed: bytes, dtype: Any) -> NDArray[Any]:
    from numcodecs import Blosc

    return np.frombuffer(Blosc().decode(packed), dtype=dtype)
