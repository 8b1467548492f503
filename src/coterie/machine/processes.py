"""The processes of one run: which one this is, and sums over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """`world` processes train one model; this is number `rank`, using accelerator `local` of its machine.

    The reader shares rows out by rank, the loop sums over all processes, and only the main process writes.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def current(cls) -> Self:
        """The processes of `torch.distributed`, or one process where it has not been initialised."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return cls(rank, world, rank % max(1, torch.cuda.device_count()))

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, checkpoints and results."""
        return self.rank == 0

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; with one process, do nothing."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            torch.distributed.barrier()

    def main_first(self, work: Callable[[], T]) -> T:
        """`work()` in the main process, then in the others, which find what the main one wrote."""
        if self.is_main:
            result = work()
            self.wait()
            return result
        self.wait()
        return work()

    def first_reason(self, reason: str | None) -> str | None:
        """The first reason that a process gives, by rank; the same in all of them."""
        if self.world == 1:
            return reason
        reasons: list[str | None] = [None] * self.world
        torch.distributed.all_gather_object(reasons, reason)
        return next((found for found in reasons if found is not None), None)

    def place(self, device: torch.device) -> torch.device:
        """`device`, or accelerator `local` where `device` names an accelerator without a number."""
        if device.type == "cuda" and device.index is None and self.world > 1:
            return torch.device("cuda", self.local)
        return device
