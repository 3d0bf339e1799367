"""Where a network runs, in which number format, and how much of it at a time."""

from __future__ import annotations

import os

import torch

from embedseg_large.errors import UsageError

# Activations and workspaces of one pass on a GPU, per voxel of its input, in float32. Estimated
# from the CPU's; too small a number costs an attempt that is repeated with half the batch.
CUDA_BYTES_PER_VOXEL = 200
_SHARE_OF_FREE = 0.8
_MOST_BYTES = 4e9
"""Memory that a batch may take: enough to fill a GPU, and what nearly every GPU has, so that the
batch, and with it the choice of kernels, is the same on all workers of a run."""


def available_cores() -> int:
    """Count the cores this process may use, which a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_device() -> str:
    """Return ``cuda`` where torch finds a CUDA device, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return the fastest number format whose labels are those of float32: float16 on a GPU.

    Labels of float16 agreed with those of float32 to AP 1.000 at IoU 0.9 on real embryos, those of
    bfloat16 did not to 0.99, in spite of its speed on some CPUs: 8 bits are too few.
    """
    return "float16" if device_kind(device) == "cuda" else "float32"


def native_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 itself, and faster than float32.

    On a CPU that are AVX512-BF16 and AMX; elsewhere torch converts back and forth, and is slower.
    """
    if device_kind(device) == "cuda":
        # 8.0 is the first architecture with bfloat16 units; torch also claims emulated ones
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def training_dtype(device: str) -> str:
    """Return the number format of a training: bfloat16 where the device has it, else float32."""
    return "bfloat16" if native_bfloat16(device) else "float32"


def device_kind(device: str) -> str:
    """Return ``cpu`` or ``cuda``, whether it is there or not; a UsageError for all others."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in {"cpu", "cuda"}:
        raise UsageError(f"device is {device!r}; use cpu or cuda")
    return kind


def checked_device(device: str) -> str:
    """Return the device if it is there; a UsageError otherwise."""
    if device_kind(device) == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {device!r}, but torch finds no CUDA device here; use cpu")
    return device


def passes_that_fit(device: str, voxels: int, most: int) -> int:
    """Count the passes that a GPU computes together: a power of two, at least 1.

    As many as 4 GB hold, or fewer where less is free.

    Parameters
    ----------
    device
        A CUDA device.
    voxels
        Size of the input of one pass.
    most
        No more than this are needed.
    """
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused  # torch keeps what it no longer uses
    room = min(_SHARE_OF_FREE * free, _MOST_BYTES)
    fitting = int(room / (CUDA_BYTES_PER_VOXEL * voxels))
    return 1 << (max(1, min(fitting, most)).bit_length() - 1)
