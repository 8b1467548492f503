"""The type that a checkpoint's model runs in: the one asked for, or by what is stored and the processor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.tensor_writer import DTYPES, as_dtype
from coterie.config import ConfigError, Precision
from coterie.machine.device import choose_dtype

AUTO = "auto"


@dataclass(frozen=True)
class RunningDtype:
    """The type of parameters and of the module's activations, and why it was chosen."""

    dtype: torch.dtype
    reason: str
    expected: bool = True  # as stored, or as asked for

    def __str__(self) -> str:
        """Such as `bfloat16 (as stored)`."""
        return f"{_name(self.dtype)} ({self.reason})"


def running_dtype(
    requested: str, checkpoint: Checkpoint, device: torch.device, precision: Precision | None = None
) -> RunningDtype:
    """The type that `requested` names; `auto`: bfloat16 where it is fast and nothing wider is stored.

    A model stored in float32 stays so, because rounding it would change it. One in 16 bits or in codes runs
    in bfloat16 on processors that multiply well in it (`choose_dtype`) and else in float32. Codes that
    `precision` does not keep are widened, which only float32 does exactly.
    Errors: `ConfigError` for an unknown name.
    """
    if requested != AUTO:
        if requested not in DTYPES:
            raise ConfigError(f"dtype '{requested}' is not known; use one of {', '.join([AUTO, *DTYPES])}")
        return RunningDtype(as_dtype(requested), "asked for")
    stored, chosen = checkpoint.kept_dtype, choose_dtype(AUTO, device)
    if stored == torch.float32:
        return RunningDtype(stored, "as stored")
    if checkpoint.quantised and (precision is None or not precision.stored):
        return RunningDtype(torch.float32, "stored in codes, which are widened")
    form = "in codes" if checkpoint.quantised else f"as {_name(stored)}"
    if chosen != torch.bfloat16:
        return RunningDtype(chosen, f"stored {form}; bfloat16 is slow on this {device.type}", False)
    if form == "as bfloat16":
        return RunningDtype(chosen, "as stored")
    return RunningDtype(chosen, f"stored {form}", False)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
