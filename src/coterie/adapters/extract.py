"""Extract the adapter from a merged checkpoint: decompose its difference from the base into factors.

O output features, I input features, r rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coterie.adapters.attach import Adapter, Factors
from coterie.adapters.peft_names import Names
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError, ModelConfig


@torch.no_grad()
def extract_adapter(merged: Checkpoint, base: Checkpoint, max_rank: int) -> tuple[Adapter, ModelConfig]:
    """Factors for every matrix that differs, copies of all other differing parameters, and the base's config.

    Singular values below the rounding of the stored weights are noise and are left out. Errors:
    `CheckpointError` for models of different shape, no difference, or one of a higher rank than `max_rank`.
    """
    tuned, before = merged.load().model, base.load().model
    config = before.config
    if tuned.config.blocks != config.blocks or tuned.config.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{merged.path}: has another shape than {base.path}; give the base it was made from"
        )
    epsilon = torch.finfo(merged.stored_dtype).eps
    names = Names(config)
    old = dict(before.named_parameters()) | dict(before.named_buffers())
    new = dict(tuned.named_parameters()) | dict(tuned.named_buffers())
    factors: dict[str, Factors] = {}
    full: dict[str, Tensor] = {}
    for name in names.parameters:
        if torch.equal(old[name], new[name]):
            continue
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in names.places:
            factors[layer] = _factors(
                new[name] - old[name], new[name], epsilon, max_rank, f"{merged.path}: '{name}'"
            )
        else:
            full[name] = new[name].clone()
    if not factors and not full:
        raise CheckpointError(
            f"{merged.path}: does not differ from {base.path}; there is no adapter to extract"
        )
    return Adapter(factors, full), config


def _factors(change: Tensor, weight: Tensor, epsilon: float, max_rank: int, where: str) -> Factors:
    u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
    # Independent errors of size e in an (O, I) matrix have a spectral norm of about e (sqrt O + sqrt I).
    sides = math.sqrt(change.shape[-2]) + math.sqrt(change.shape[-1])
    noise = epsilon * float(weight.abs().max()) * sides
    rank = max(1, int((s > noise).sum(-1).max()))
    if rank > max_rank:
        raise CheckpointError(
            f"{where} differs from the base by rank {rank}; allow more with --max-rank, or keep it whole"
        )
    root = s[..., :rank].sqrt()
    a, b = root[..., :, None] * v[..., :rank, :], u[..., :, :rank] * root[..., None, :]
    return Factors(a.float(), b.float(), float(rank))
