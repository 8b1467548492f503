"""Per-layer inputs (Gemma 3n and 4): each token brings a short vector to every layer.

T tokens, D width, N layers, P width of these vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.config.feed_forward import Activation
from coterie.nn.kernels.swiglu import gated
from coterie.nn.linear import Linear, TokenEmbedding
from coterie.nn.norm import NormKind


class PerLayerInputs(nn.Module):
    """`(sqrt(P) embed(id) + norm(projection(h) / sqrt(D))) / sqrt(2)` for each layer, h being the embedding.

    The table holds the vectors of all layers side by side; `sqrt(P)` is rounded to the activations' dtype.
    """

    def __init__(
        self, vocab_size: int, width: int, num_layers: int, per_layer_width: int, norm: NormKind
    ) -> None:
        super().__init__()
        self.width, self.num_layers, self.per_layer_width = width, num_layers, per_layer_width
        self.embed = TokenEmbedding(vocab_size, num_layers * per_layer_width)
        self.projection = Linear(width, num_layers * per_layer_width)
        self.norm = norm.of(per_layer_width)

    def forward(self, ids_T: Tensor, h_TD: Tensor) -> Tensor:
        """(T, N, P)."""
        shape = (self.num_layers, self.per_layer_width)
        scale = torch.tensor(self.per_layer_width**0.5, dtype=h_TD.dtype, device=h_TD.device)
        known_TNP = (F.embedding(ids_T, self.embed.weight).to(h_TD.dtype) * scale).unflatten(-1, shape)
        seen_TNP = self.norm((self.projection(h_TD) * self.width**-0.5).unflatten(-1, shape))
        return (seen_TNP + known_TNP) * 2.0**-0.5


class PerLayerGate(nn.Module):
    """What a layer adds from its input p: `norm(projection(activation(gate h) * p))`."""

    def __init__(self, width: int, per_layer_width: int, activation: Activation, norm: NormKind) -> None:
        super().__init__()
        self.activation = activation
        self.gate = Linear(width, per_layer_width)
        self.projection = Linear(per_layer_width, width)
        self.norm = norm.of(width)

    def forward(self, h_TD: Tensor, input_TP: Tensor) -> Tensor:
        """(T, D)."""
        return self.norm(self.projection(gated(self.gate(h_TD), input_TP, self.activation)))
