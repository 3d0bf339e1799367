"""Several processes that train one network, started by ``torchrun``.

::

    rank 0   crops 0, 2, 4, ... ─┐ gradients, ┌─ the same step ─┐  validates, draws, writes
                                 ├─ averaged ─┤                 ├─
    rank 1   crops 1, 3, 5, ... ─┘            └─ the same step ─┘  waits

All weights are equal on all ranks at all times. Batch normalisation takes its mean and variance
over the batches of all ranks on CUDA (`torch.nn.SyncBatchNorm`); on the CPU, where torch has no
such layer, over the batch of each rank, and the running statistics of rank 0 are kept.

Started without ``torchrun``, a process is alone: `Processes` of world 1, which does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, distributed, nn

from embedseg_large.errors import UsageError
from embedseg_large.network.device import (
    available_cores,
    checked_device,
    default_device,
    device_kind,
)

LONGEST_WAIT = timedelta(days=1)
"""Time the others wait while rank 0 validates."""

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train together, as seen from one of them.

    Parameters
    ----------
    device
        Device of this process: ``cpu`` or ``cuda:INDEX``; alone also ``cuda``.
    rank, world
        Rank of this process, and number of processes.
    local_world
        Number of processes on this machine, which share its cores.
    """

    device: str = "cpu"
    rank: int = 0
    world: int = 1
    local_world: int = 1

    @classmethod
    def here(cls, device: str | None = None, environ: Mapping[str, str] = os.environ) -> Processes:
        """Determine the role of this process.

        Parameters
        ----------
        device
            ``cpu``, ``cuda``, ``cuda:INDEX``; None: cuda if available.
        environ
            Environment variables set by ``torchrun``.

        Raises
        ------
        UsageError
            If the device is not available, or there are fewer devices than processes.
        """
        place = checked_device(device or default_device())
        if device_kind(place) == "mps":
            raise UsageError("models are not trained on mps; use cpu, or a machine with CUDA")
        if not all(name in environ for name in _SET_BY_TORCHRUN) or environ["WORLD_SIZE"] == "1":
            return cls(place)
        world = int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_RANK", environ["RANK"]))
        if place == "cuda":
            place = f"cuda:{local}"
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"process {local} of this machine has no GPU, torch finds "
                    f"{torch.cuda.device_count()}; pass torchrun a smaller --nproc-per-node"
                )
        local_world = int(environ.get("LOCAL_WORLD_SIZE", world))
        return cls(place, int(environ["RANK"]), world, local_world)

    @property
    def first(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is only this process."""
        return self.world == 1

    @property
    def device_type(self) -> str:
        """``cpu`` or ``cuda``."""
        return torch.device(self.device).type

    @property
    def cores(self) -> int:
        """Cores of the CPU for each of the processes of this machine."""
        return max(1, available_cores() // self.local_world)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Join the group of processes, and leave it at the end; an existing group is kept."""
        if self.alone or distributed.is_initialized():
            yield
            return
        if self.device_type == "cuda":
            torch.cuda.set_device(self.device)
        # collective messages (agreed, gathered) go through the CPU
        backend = "gloo" if self.device_type == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, timeout=LONGEST_WAIT)
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def agreed(self, number: int) -> int:
        """Return the number from the first process, as soon as it has one."""
        if self.alone:
            return number
        told = torch.tensor(number)
        distributed.broadcast(told, src=0)
        return int(told)

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum of the values of all processes."""
        if self.alone:
            return values
        total = values.cpu()
        distributed.all_reduce(total)
        return total

    def gathered(self, values: Tensor) -> Tensor:
        """Return the values of all processes, ``(world, *shape)``; `values` are on the CPU."""
        if self.alone:
            return values[None]
        found = [torch.empty_like(values) for _ in range(self.world)]
        distributed.all_gather(found, values)
        return torch.stack(found)

    def adapted(self, network: nn.Module) -> nn.Module:
        """Return the network with normalisation over all processes, if torch supports it."""
        if self.alone or self.device_type == "cpu":
            return network
        adapted = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return cast(nn.Module, adapted)

    def averaging(self, network: nn.Module) -> nn.Module:
        """Return a module that computes what the network does, and averages its gradients.

        With one process, it is the network itself. Unused parameters must not require a gradient,
        or the processes would wait for it.
        """
        if self.alone:
            return network
        devices = None if self.device_type == "cpu" else [torch.device(self.device)]
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)
