"""Where a network runs, in which number format, and how much of it at a time."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import torch
from dask.system import cpu_count

from embedseg_large.errors import UsageError

# Activations and workspaces of one pass on a GPU, per voxel of its input, in float32. Estimated
# from the CPU's; if the number is too small, an attempt fails and is repeated with half the batch.
CUDA_BYTES_PER_VOXEL = 200
_SHARE_OF_FREE = 0.8
_MOST_BYTES = 4e9
"""Memory that a batch may take: enough to keep a GPU busy, and available on nearly every GPU, so
that the batch size, and with it the choice of kernels, is the same on all workers of a run."""


def available_cores() -> int:
    """Count the cores this process may use, limited by affinity or the quota of a container."""
    return int(cpu_count())


def processor_name(device: str) -> str:
    """Return what the processor or GPU calls itself."""
    if device_kind(device) == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    except (OSError, StopIteration):  # not Linux
        return platform.processor() or platform.machine()


def default_device() -> str:
    """Return ``cuda`` if torch finds a CUDA device, else ``cpu``; ``mps`` only where asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return the fastest number format whose labels are those of float32: float16 on a GPU.

    On real embryos, labels from float16 agreed with those from float32 with AP 1.000 at IoU 0.9;
    those from bfloat16 did not reach 0.99: 8 bits are too few, even though it is fast on some CPUs.
    """
    return "float16" if device_kind(device) == "cuda" else "float32"


def native_bfloat16(device: str) -> bool:
    """Whether a device supports bfloat16 natively, which is faster than float32.

    On CPUs this means AVX512-BF16 or AMX; elsewhere torch converts back and forth, which is slower.
    """
    kind = device_kind(device)
    if kind == "cuda":
        # 8.0 is the first architecture with bfloat16 units; torch also claims emulated ones
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if kind != "cpu":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def training_dtype(device: str) -> str:
    """Return the number format for training: bfloat16 if the device supports it, else float32."""
    return "bfloat16" if native_bfloat16(device) else "float32"


def device_kind(device: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps``, available or not; raise a UsageError for any other."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"device is {device!r}; use cpu, cuda or mps")
    return kind


def checked_device(device: str) -> str:
    """Return the device if it is available; raise a UsageError otherwise."""
    if not is_here(device):
        name = {"cuda": "CUDA device", "mps": "Apple GPU"}[device_kind(device)]
        raise UsageError(f"device is {device!r}, but torch finds no {name} here; use cpu")
    return device


def is_here(device: str) -> bool:
    """Whether this machine has such a device."""
    kind = device_kind(device)
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind == "cpu" or torch.backends.mps.is_available()


def lanes_that_fit(most: int, voxels: int, first: float, more: float) -> int:
    """Return the number of passes that the CPU computes concurrently, at least 1.

    As many as fit into half of the free memory. The result does not depend on it, to the last bit.

    Parameters
    ----------
    most
        Maximum useful number.
    voxels
        Size of the input of one pass.
    first, more
        Bytes per voxel of the first pass, and of each additional one.
    """
    room = 0.5 * psutil.virtual_memory().available / voxels
    return max(1, min(most, 1 + int((room - first) / more)))


def passes_that_fit(device: str, voxels: int, most: int) -> int:
    """Return the number of passes in a batch on a GPU: a power of two, at least 1.

    As many as fit into 4 GB, or fewer if less memory is free.

    Parameters
    ----------
    device
        A GPU.
    voxels
        Size of the input of one pass.
    most
        Maximum number needed.
    """
    room = min(_SHARE_OF_FREE * _free_bytes(device), _MOST_BYTES)
    fitting = int(room / (CUDA_BYTES_PER_VOXEL * voxels))
    return 1 << (max(1, min(fitting, most)).bit_length() - 1)


def _free_bytes(device: str) -> int:
    """Memory of a GPU that tensors may take."""
    if device_kind(device) == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused  # torch keeps what it no longer uses


def free_unused(device: str) -> None:
    """Give memory of a GPU back that torch keeps, and no longer uses."""
    if device_kind(device) == "mps":
        torch.mps.empty_cache()
    else:
        torch.cuda.empty_cache()
