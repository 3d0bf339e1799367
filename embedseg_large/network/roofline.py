"""How fast a network could be: what it computes, and what the machine can compute and move.

A program that does ``f`` floating-point operations on a machine that does ``r`` of them per second
takes at least ``f / r`` seconds (the flat part of the roofline of Williams et al. 2009). Here ``r``
is measured: what the library reaches in products of large matrices in the network's number format,
not a figure from a data sheet. The remaining gap is therefore due to the network alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from embedseg_large.network.device import checked_device
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.settings import STRIDE

_EDGE = {"cpu": 1024, "cuda": 8192, "mps": 4096}
"""Rows and columns of the matrices that are multiplied: large enough to be bound by arithmetic."""
_COPIED = {"cpu": 2**27, "cuda": 2**30, "mps": 2**28}
"""Bytes that are copied: more than fit into caches."""
_SECONDS = 0.3
_COUNTED_EDGE = 8 * STRIDE


def flops_per_voxel(ndim: int, channels: int) -> float:
    """Count the floating-point operations of one pass of the network per voxel of its input.

    A multiplication and an addition count as two. Only convolutions are counted: everything else is
    1 % of them.

    Parameters
    ----------
    ndim
        Spatial axes, 2 or 3.
    channels
        Channels of the image.
    """
    shape = (1, channels, *(_COUNTED_EDGE,) * ndim)
    with torch.device("meta"):
        network, image = BranchedERFNet(ndim, channels).eval(), torch.empty(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return float(counter.get_total_flops() / _COUNTED_EDGE**ndim)


def matmul_rate(device: str, dtype: str, threads: int) -> float:
    """Measure floating-point operations per second in products of large matrices.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:INDEX``.
    dtype
        float32, bfloat16 or float16.
    threads
        Threads of the CPU.

    Raises
    ------
    UsageError
        If the device is not available.
    """
    edge = _EDGE[_kind(device)]
    a, b = (torch.full((edge, edge), 0.5, device=device, dtype=_dtype(dtype)) for _ in range(2))
    product = torch.empty_like(a)
    with _using(threads):
        return 2 * edge**3 / _least_seconds(lambda: torch.mm(a, b, out=product), device)


def copy_rate(device: str, dtype: str, threads: int) -> float:
    """Measure bytes per second, read and written, in copies of a large tensor.

    Parameters and exceptions as for `matmul_rate`.
    """
    kind = _dtype(dtype)
    source = torch.ones(_COPIED[_kind(device)] // kind.itemsize, device=device, dtype=kind)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * kind.itemsize
    with _using(threads):
        return moved / _least_seconds(lambda: target.copy_(source), device)


def _kind(device: str) -> str:
    return torch.device(checked_device(device)).type


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


@contextmanager
def _using(threads: int) -> Iterator[None]:
    """Let torch use that many CPU threads in this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _least_seconds(call: Callable[[], object], device: str) -> float:
    """Time of the fastest of several calls: other work on the machine only slows them down."""
    call()
    least, began = float("inf"), time.perf_counter()
    while least == float("inf") or time.perf_counter() - began < _SECONDS:
        _wait_for(device)
        start = time.perf_counter()
        call()
        _wait_for(device)
        least = min(least, time.perf_counter() - start)
    return least


def _wait_for(device: str) -> None:
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
