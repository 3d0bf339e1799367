"""Devices for tasks, and how many tasks share one."""

from __future__ import annotations

TASKS_PER_GPU = 4
"""Concurrent prediction tasks per GPU. One computes while earlier ones write and later ones read,
so the GPU never waits for a disk. A power of two, so that shares of one GPU are exact.
"""
THREADS_BESIDE_GPU = 2 * TASKS_PER_GPU
"""Concurrent tasks of all kinds in a process with a GPU, which predicts several tiles in the time
in which a core clusters one. They cluster on the CPU while the network is running."""


def is_gpu(device: str) -> bool:
    """Whether a device is a GPU: ``cuda``, ``cuda:1``, ``mps``."""
    return device.startswith(("cuda", "mps"))
