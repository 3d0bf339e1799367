"""Devices that tasks compute on, and how many tasks share one."""

from __future__ import annotations

TASKS_PER_GPU = 4
"""Tasks of the network under way on a GPU. One computes; those that were before it write, and the
next have read, so that the GPU never waits for a disk. A power of two: shares of one GPU are exact.
"""
THREADS_BESIDE_GPU = 2 * TASKS_PER_GPU
"""Tasks of all kinds under way in a process with a GPU, which predicts several tiles in the time in
which a core clusters one. They cluster on the CPU while the network is at work."""


def is_gpu(device: str) -> bool:
    """Whether a device is a GPU: ``cuda``, ``cuda:1``."""
    return device.startswith("cuda")
