"""Low-rank factors on frozen weights of linear layers, experts and routers: LoRA (arXiv 2106.09685) and DoRA.

`y = x W^T + scale (x A^T) B^T`. The factors work on activations: neither pass forms the difference
`scale B A`, so that the cost of an expert depends on its rows only. With `B = 0`, the start, every output is
that of the layer without factors, bit for bit. The factors are fp32 and are cast to the input's dtype like
the weights.

DoRA (arXiv 2402.09353) writes the adapted weight as `m (W + scale B A) / |W + scale B A|`: `m` holds the
learnt length of each output row, and the norm is a constant in the gradient. Each expert has its own rows.

E experts, S of them adapted, I input and O output features, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.nn.experts import ExpertLinear
from coterie.nn.kernels.weights import ExpertWeights, matrix_of
from coterie.nn.linear import Linear, linear
from coterie.nn.quantised_layers import (
    QuantisedExpertLinear,
    QuantisedLinear,
    plain_with,
    quantised_linear,
    quantised_of,
)
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.router import Router


class LowRank(nn.Module):
    """The factors of an adapted layer: `lora_A` (*, r, I), `lora_B` (*, O, r).

    With DoRA also `lora_magnitude` (*, O). `*` is S for experts and absent elsewhere. The frozen weight is
    `weight`, or `quantised`.
    """

    weight: nn.Parameter
    quantised: QuantisedTensor | None
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_magnitude: nn.Parameter | None
    base_square: Tensor | None

    def add_factors(self, rank: int, alpha: float, dropout: float = 0.0, dora: bool = False) -> None:
        """Make the factors: A uniform within 1/sqrt(I), B zero, lengths those of the rows as they are."""
        frozen = self.weight if self.quantised is None else self.quantised
        out_features, in_features = frozen.shape[-2:]
        device = self.weight.device if self.quantised is None else self.quantised.codes.device
        several = [len(self.chosen)] if isinstance(self, LoRAExpertLinear) else []
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.lora_A = nn.Parameter(torch.empty(*several, rank, in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(*several, out_features, rank, device=device))
        nn.init.uniform_(self.lora_A, -(in_features**-0.5), in_features**-0.5)
        self.register_buffer("base_square", None, persistent=False)
        self.lora_magnitude = None
        if dora:
            square = torch.stack([w.detach().float().square().sum(-1) for w in self.adapted_weights()])
            self.base_square = square.reshape(*several, out_features)
            self.lora_magnitude = nn.Parameter(self.row_norms())

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass is equal to."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """Alpha over rank."""
        return self.alpha / self.rank

    def adapted_weights(self) -> Iterator[Tensor]:
        """The frozen `(O, I)` matrix of each pair of factors, in their order."""
        raise NotImplementedError

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """`(*, O)`: length of each row of `W + scale B A`, from products with the factors alone."""
        assert self.base_square is not None
        a, b = self.lora_A.float(), self.lora_B.float()
        cross = torch.stack(
            [w.float() @ a_rI.mT for w, a_rI in zip(self.adapted_weights(), _each(a), strict=True)]
        )
        inner = 2 * self.scale * cross.reshape(b.shape) + self.scale**2 * (b @ (a @ a.mT))
        return (self.base_square + (inner * b).sum(-1)).clamp_min(1e-30).sqrt()

    def row_factors(self) -> Tensor | None:
        """(*, O): the factor of DoRA on each output row; None without DoRA."""
        return None if self.lora_magnitude is None else self.lora_magnitude / self.row_norms()

    def delta(self) -> Tensor:
        """`(*, O, I)`: `scale B A`, for merging and tests."""
        return self.scale * (self.lora_B @ self.lora_A)

    def plain(self) -> nn.Module:
        """The layer without its factors, on the same unchanged weight."""
        raise NotImplementedError

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain layer with the factors folded into the same weight.

        A quantised weight is replaced by a float32 one.
        """
        if self.quantised is not None:
            assert isinstance(self, Linear | ExpertLinear)
            return plain_with(self, self.effective_weight())
        self.weight.copy_(self.effective_weight())
        return self.plain()

    def adapted(self, weight: Tensor) -> Tensor:
        """`weight (*, O, I)` with the factors folded in, in its dtype."""
        factors = self.row_factors()
        result = weight.float() + self.delta()
        return (result if factors is None else factors[..., None] * result).to(weight.dtype)

    def extra_repr(self) -> str:
        """Kind, rank, alpha and dropout."""
        kind = "DoRA" if self.lora_magnitude is not None else "LoRA"
        return f"{kind} rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}"


def _each(factor: Tensor) -> Sequence[Tensor]:
    return factor.unbind(0) if factor.dim() == 3 else (factor,)


class LoRALinear(LowRank, Linear):
    """A `Linear` with factors; it takes over the weight and bias of `base` as they are."""

    def __init__(
        self, base: Linear, rank: int, alpha: float, dropout: float = 0.0, dora: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.quantised = base.weight, base.bias, quantised_of(base)
        self.add_factors(rank, alpha, dropout, dora)

    def adapted_weights(self) -> Iterator[Tensor]:
        """The one matrix."""
        yield self.weight if self.quantised is None else self.quantised.dequantise()

    def effective_weight(self) -> Tensor:
        """The weight with the factors folded in."""
        return self.adapted(next(self.adapted_weights()))

    def forward(self, x_TI: Tensor) -> Tensor:
        """(T, out), in the input's dtype."""
        y_TO = linear(x_TI, self.weight) if self.quantised is None else quantised_linear(x_TI, self.quantised)
        read_TI = F.dropout(x_TI, self.dropout, self.training)
        y_TO = y_TO + self.scale * linear(linear(read_TI, self.lora_A), self.lora_B)
        factors_O = self.row_factors()
        if factors_O is not None:
            y_TO = y_TO * factors_O.to(y_TO.dtype)
        return y_TO if self.bias is None else y_TO + self.bias.to(y_TO.dtype)

    def plain(self) -> Linear:
        """The layer without its factors, on the same unchanged weight."""
        if self.quantised is not None:
            return QuantisedLinear(self, self.quantised)
        with torch.device("meta"):
            plain = Linear(self.in_features, self.out_features)
        plain.weight, plain.bias = self.weight, self.bias
        return plain


class LoRARouter(LowRank, Router):
    """A `Router` with factors on its weight; it takes over everything of `base`, statistics too."""

    def __init__(
        self, base: Router, rank: int, alpha: float, dropout: float = 0.0, dora: bool = False
    ) -> None:
        nn.Module.__init__(self)
        _take_over(base, self)
        self.quantised = None
        self.add_factors(rank, alpha, dropout, dora)

    def adapted_weights(self) -> Iterator[Tensor]:
        """The one matrix."""
        yield self.weight

    def effective_weight(self) -> Tensor:
        """The weight with the factors folded in."""
        return self.adapted(self.weight)

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, E) in fp32, with the factors' part."""
        x_TD = self.read(x_TD)
        logits_TE = linear(x_TD, self.weight.float())
        read_TD = F.dropout(x_TD, self.dropout, self.training)
        logits_TE = logits_TE + self.scale * linear(linear(read_TD, self.lora_A), self.lora_B)
        factors_E = self.row_factors()
        if factors_E is not None:
            logits_TE = logits_TE * factors_E
        return logits_TE if self.bias is None else logits_TE + self.bias.float()

    def plain(self) -> Router:
        """The layer without its factors, on the same unchanged weight."""
        with torch.device("meta"):
            plain = Router(self.weight.shape[1], self.config, self.balance.config)
        _take_over(self, plain)
        return plain


def _take_over(source: Router, target: Router) -> None:
    target.config, target.weight, target.bias = source.config, source.weight, source.bias
    target.input_scale, target.expert_scale = source.input_scale, source.expert_scale
    target.register_buffer("select_bias", source.select_bias)
    target.balance = source.balance


class LoRAExpertLinear(LowRank, ExpertLinear):
    """An `ExpertLinear` with factors on all experts or on `chosen`, with the weight and bias of `base`."""

    def __init__(
        self,
        base: ExpertLinear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        dora: bool = False,
        chosen: Sequence[int] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.quantised = base.weight, base.bias, quantised_of(base)
        self.chosen = tuple(range(base.num_experts)) if chosen is None else tuple(chosen)
        self.slots = {expert: slot for slot, expert in enumerate(self.chosen)}
        self.add_factors(rank, alpha, dropout, dora)

    def adapted_weights(self) -> Iterator[Tensor]:
        """The matrix of each adapted expert, float32 where it was quantised."""
        weight = self.weight if self.quantised is None else self.quantised
        yield from (matrix_of(weight, expert, torch.float32) for expert in self.chosen)

    def effective_weight(self) -> Tensor:
        """The (E, O, I) weight with the factors folded in: a copy of the whole."""
        weight = self.weight if self.quantised is None else self.quantised.dequantise()
        if len(self.chosen) == self.num_experts:
            return self.adapted(weight)
        index = torch.tensor(self.chosen, device=weight.device)
        return weight.index_copy(0, index, self.adapted(weight[index]))

    def weights(self, dtype: torch.dtype) -> ExpertWeights:
        """The frozen weight, the factors, and DoRA's gain."""
        return ExpertWeights(
            self.weight.to(dtype) if self.quantised is None else self.quantised,
            self.bias,
            slots=self.slots,
            a_SrI=self.lora_A.to(dtype),
            b_SOr=self.lora_B.to(dtype),
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            gain_EO=self.gains(),
        )

    def gains(self) -> Tensor | None:
        """(E, O): the factor of DoRA on each output of each expert, 1 for others; None without DoRA."""
        factors_SO = self.row_factors()
        if factors_SO is None:
            return None
        ones_EO = torch.ones(self.num_experts, self.out_features, device=factors_SO.device)
        index = torch.tensor(self.chosen, device=factors_SO.device)
        return ones_EO.index_copy(0, index, factors_SO)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain layer, folded one expert at a time so that no second stack of weights is in memory."""
        if self.quantised is not None:
            return super().merged()
        factors_SO = self.row_factors()
        for slot, expert in enumerate(self.chosen):
            matrix_OI = self.weight[expert].float() + self.scale * (self.lora_B[slot] @ self.lora_A[slot])
            self.weight[expert] = matrix_OI if factors_SO is None else factors_SO[slot][:, None] * matrix_OI
        return self.plain()

    def plain(self) -> ExpertLinear:
        """The layer without its factors, on the same unchanged weight."""
        if self.quantised is not None:
            return QuantisedExpertLinear(self, self.quantised)
        with torch.device("meta"):
            plain = ExpertLinear(self.num_experts, self.in_features, self.out_features)
        plain.weight, plain.bias = self.weight, self.bias
        return plain
