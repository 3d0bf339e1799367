"""Where a network runs, and how it is built for that place."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from embedseg_large.errors import UsageError
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.settings import ModelSettings


def available_cores() -> int:
    """Count the cores this process may use, which a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_device() -> str:
    """Return ``cuda`` where torch finds a CUDA device, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(device: str) -> str:
    """Return the device if it is there; a UsageError otherwise."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in {"cpu", "cuda"}:
        raise UsageError(f"device is {device!r}; use cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {device!r}, but torch finds no CUDA device here; use cpu")
    return device


def build(weights: Mapping[str, Tensor], settings: ModelSettings, device: str) -> nn.Module:
    """Return a network for inference, with a copy of the weights."""
    with torch.device("meta"):  # no random weights, whose drawing takes time and changes the state
        network = BranchedERFNet(settings.ndim, settings.channels)
    copies = {name: tensor.to(device, copy=True) for name, tensor in weights.items()}
    network.load_state_dict(copies, assign=True)
    if torch.device(device).type == "cpu":
        _favour_onednn(network)
    return network.eval().requires_grad_(False)


def _favour_onednn(network: nn.Module) -> None:
    """Have one-threaded convolutions along z computed by oneDNN: a fifth of the network's time.

    With one thread torch keeps kernels of size 1 along y and x from oneDNN, unless they are
    dilated. Dilation means nothing along an axis where the kernel has size 1, so it is set there.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size == (3, 1, 1):
            layer.dilation = (layer.dilation[0], 2, 2)
