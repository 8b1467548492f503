"""Which experts serve which kind of text: counts of the router's choices, layer by layer and slice by
slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from coterie.config import MoEConfig
from coterie.data.heldout import HeldoutDocument
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer


@torch.inference_mode()
def routing_shares(
    model: Transformer,
    documents: Sequence[HeldoutDocument],
    max_tokens_per_slice: int = 20000,
    row_length: int = 512,
) -> dict[str, Any]:
    """`{layers, num_experts, top_k, slices, share[layer][slice][expert]}`; each `share[l][s]` sums to 1.

    Reads documents in order until each slice has had `max_tokens_per_slice` tokens. Models whose MoE layers
    differ in their number of experts are read up to the largest, absent experts having share 0.
    """
    routers = model.routers()
    configs = [b.ffn for b in model.config.blocks if isinstance(b.ffn, MoEConfig)]
    num_experts = max(config.router.num_experts for config in configs)
    slices = sorted({document.slice for document in documents})
    counts = np.zeros((len(routers), num_experts))

    def record(layer: int) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, routing: Routing) -> None:
            counts[layer] += np.bincount(routing.ids_TK.flatten().cpu().numpy(), minlength=num_experts)

        return hook

    handles = [router.register_forward_hook(record(i)) for i, (_, router) in enumerate(routers)]
    share = np.zeros((len(routers), len(slices), num_experts))
    try:
        for index, name in enumerate(slices):
            counts[:] = 0
            _read(model, [d for d in documents if d.slice == name], max_tokens_per_slice, row_length)
            share[:, index] = counts / counts.sum(-1, keepdims=True)
    finally:
        for handle in handles:
            handle.remove()
    return {
        "layers": [layer for layer, _ in routers],
        "num_experts": num_experts,
        "top_k": configs[0].router.top_k,
        "slices": slices,
        "share": share.tolist(),
    }


def _read(model: Transformer, documents: Sequence[HeldoutDocument], max_tokens: int, row_length: int) -> None:
    device = model.embed.weight.device
    seen = 0
    for document in documents:
        for at in range(0, len(document.ids), row_length):
            if seen >= max_tokens:
                return
            ids = torch.from_numpy(document.ids[at : at + row_length].astype(np.int64)).to(device)
            model(ids, ForwardContext.packed([len(ids)], device=device))
            seen += len(ids)
