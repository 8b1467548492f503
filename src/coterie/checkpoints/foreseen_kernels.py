"""What a checkpoint's decoding steps would run on here, from its config and the headers of its weights."""

from __future__ import annotations

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.quantise import hold_as, types_of
from coterie.checkpoints.running_dtype import AUTO, running_dtype
from coterie.config import CoterieError, ModelConfig, Precision
from coterie.families import family, float32_parameters
from coterie.machine.device import choose_device, choose_dtype
from coterie.native.choice import foreseen
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer


def foreseen_kernels(config: ModelConfig, checkpoint: Checkpoint | None = None) -> str:
    """One line, as the server's start says it: `native (bf16, int4)`, or `torch:` and why.

    The model is taken as `coterie serve` takes it by default: codes as they are stored, and the type that
    suits the processor. `checkpoint` None, or one without readable weights: by the config alone.
    """
    device, precision = choose_device("auto"), Precision(stored=True)
    dtype, types = choose_dtype(AUTO, device), dict.fromkeys(float32_parameters(config), torch.float32)
    with torch.device("meta"):
        model = Transformer(config, dtype)
    try:
        if checkpoint is not None:
            dtype = running_dtype(AUTO, checkpoint, device, precision).dtype
            slots = (slot for slot in family(config.family).slots(config) if slot.disk in checkpoint.tensors)
            hold_as(model, precision, checkpoint.tensors, slots)
            types = types_of(model, precision) | types
    except CoterieError:  # no weights, or damaged ones, which `inspect` names elsewhere
        pass
    materialise(model, dtype, "meta", types)
    model.compute_dtype = dtype
    return foreseen(model, device.type)
