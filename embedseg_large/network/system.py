"""What torch finds on this machine, and the defaults of a run."""

from __future__ import annotations

from typing import Any

import torch

from embedseg_large.network.device import available_cores, default_device, default_dtype


def torch_facts() -> dict[str, Any]:
    """Describe torch and its devices, as values that JSON can hold.

    Returns
    -------
    dict
        ``torch`` and ``cuda`` versions, ``cores`` this process may use, the default ``device`` and
        ``dtype`` of a run, and ``devices``: name, total and free memory in bytes.
    """
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": available_cores(),
        "device": default_device(),
        "dtype": default_dtype(default_device()),
        "devices": [_cuda(number) for number in range(torch.cuda.device_count())],
    }


def _cuda(number: int) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    return {
        "device": f"cuda:{number}",
        "name": about.name,
        "memory": total,
        "free_memory": free,
    }
