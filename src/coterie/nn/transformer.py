"""The one Transformer for dense and mixture-of-experts models, on packed tokens.

T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.config.adapter import AdapterConfig
from coterie.config.errors import ConfigError, DataError
from coterie.config.model import ModelConfig
from coterie.nn.attention import KeyValueCache
from coterie.nn.block import Block
from coterie.nn.forward_context import ForwardContext, Kept
from coterie.nn.linear import Linear, TokenEmbedding, linear
from coterie.nn.logprobs import capped
from coterie.nn.moe import MoE
from coterie.nn.mtp import MTPLayer
from coterie.nn.norm import NormKind, RMSNorm, rms
from coterie.nn.per_layer import PerLayerInputs
from coterie.nn.quantised_layers import quantised_of
from coterie.nn.recompute import recomputed
from coterie.nn.recurrent import RecurrentMixer
from coterie.nn.router import Router
from coterie.nn.stored_experts import ExpertStore


class Transformer(nn.Module):
    """A decoder built from `ModelConfig`; parameters keep their dtype, activations run in `compute_dtype`.

    `carried`: tensors of the checkpoint that the decoder does not use (an image encoder), by their names on
    disk. `adapter`: the attached factors (`adapters.attach`); None for a plain model. `untied`: the adapter
    gave the head, which was the embedding, a separate matrix. `has_head`: False for an embedding model,
    which gives hidden states only. `recompute`: blocks keep their input alone for the backward pass and run
    again in it. `store`: reads routed experts that are in files (None: all weights are in memory).
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embed = TokenEmbedding(config.vocab_size, config.width)
        norm = NormKind.of_model(config)
        self.blocks = nn.ModuleList(
            Block(config.width, block, norm, config.residual_scale) for block in config.blocks
        )
        plus_one = config.norm_plus_one if config.final_norm_plus_one is None else config.final_norm_plus_one
        self.norm = RMSNorm(config.width, norm.eps, norm.late, plus_one)
        self.per_layer = None
        if config.per_layer_width is not None:
            sizes = (config.vocab_size, config.width, config.num_layers, config.per_layer_width)
            self.per_layer = PerLayerInputs(*sizes, norm)
        self.head = None if config.tie_embeddings else Linear(config.width, config.vocab_size)
        self.mtp = nn.ModuleList(MTPLayer(config) for _ in range(config.num_mtp_layers))
        self.carried: dict[str, Tensor] = {}
        self.adapter: AdapterConfig | None = None
        self.untied = False
        self.has_head = True
        self.recompute = False
        self.store: ExpertStore | None = None

    def check_head(self) -> None:
        """Refuse an embedding model. Errors: `ConfigError`."""
        if not self.has_head:
            raise ConfigError(
                "model: its checkpoint has no output head (lm_head.weight), so it gives vectors and no text"
            )

    def forward(
        self,
        ids_T: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Hidden states (T, D) after the final norm, times `logit_scale`.

        `caches`: one per segment of `context`; the new tokens are appended to them.
        Errors: `DataError` for inserted features of another shape or place (`Inserts.into`).
        """
        for h_TD in self.layer_by_layer(ids_T, context, caches):  # noqa: B007 (the last one is used)
            pass
        if caches is not None:
            for cache, length in zip(caches, context.lengths, strict=True):
                cache.advance(length)
        h_TD = self.norm(h_TD)
        return h_TD if self.config.logit_scale == 1.0 else h_TD * self.config.logit_scale

    def layer_by_layer(
        self,
        ids_T: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Iterator[Tensor]:
        """Hidden states (T, D) after each block, which runs when its result is asked for.

        Several of these side by side take many tokens through one layer before the next.
        """
        h_TD = self._embedded(ids_T)
        if context.inserts is not None:
            h_TD = context.inserts.into(h_TD)
        if self.per_layer is not None or self.config.key_sources:
            context = self._handing_on(ids_T, h_TD, context)
        recompute = self.recompute and caches is None and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            if recompute:
                h_TD = recomputed(partial(_run_block, block, context, layer), h_TD)
            else:
                h_TD = block(h_TD, context, caches, layer)
            yield h_TD

    def _handing_on(self, ids_T: Tensor, h_TD: Tensor, context: ForwardContext) -> ForwardContext:
        """The context of this pass alone, with what its layers share."""
        if self.per_layer is None:
            inputs_TNP = None
        elif context.inserts is not None:
            raise DataError(
                "inserts: this model has an input per token and layer, which features lack; give ids only"
            )
        else:
            inputs_TNP = self.per_layer(ids_T, h_TD)
        kept: dict[int, Kept] = dict.fromkeys(self.config.key_sources, ())
        return replace(context, kept=kept, per_layer_TNP=inputs_TNP)

    def _embedded(self, ids_T: Tensor) -> Tensor:
        """(T, D)."""
        h_TD = F.embedding(ids_T, self.embed.weight).to(self.compute_dtype)
        if self.config.embed_scale != 1.0:
            h_TD = h_TD * torch.tensor(self.config.embed_scale, dtype=h_TD.dtype, device=h_TD.device)
        return rms(h_TD, self.config.norm_eps) if self.config.embed_norm else h_TD

    @property
    def logit_cap(self) -> float | None:
        """Scores of tokens are `cap * tanh(score / cap)`; None: as they are."""
        return self.config.logit_cap

    @property
    def head_weight(self) -> Tensor:
        """(V, D), the output matrix (the embedding itself when tied). Errors: `ConfigError` without one."""
        self.check_head()
        return self.embed.weight if self.head is None else self.head.effective_weight()

    def logits(self, h_TD: Tensor) -> Tensor:
        """Scores (T, V), float32, of hidden states (T, D)."""
        if self.head is not None and quantised_of(self.head) is not None:
            self.check_head()
            return capped(self.head(h_TD).float(), self.logit_cap)
        return capped(linear(h_TD, self.head_weight.to(h_TD.dtype)).float(), self.logit_cap)

    def predict_further(self, h_TD: Tensor, targets_T: Tensor, context: ForwardContext) -> Iterator[Tensor]:
        """Hidden states (T, D) of each layer for multi-token prediction, for the head.

        `h_TD`: this model's result for the tokens before `targets_T`. The k-th result predicts the targets
        moved k tokens on (`nn.mtp.shifted_targets`); a segment's last k tokens have none. Inserted features
        enter through `h_TD` alone: the next token's embedding is always read by its id.
        """
        for depth, layer in enumerate(self.mtp):
            next_TD = self._embedded(targets_T.roll(-depth))
            h_TD = layer(h_TD, next_TD, context, self.config.num_layers + depth)
            yield h_TD

    def routers(self) -> list[tuple[int, Router]]:
        """(layer index, router) of every MoE layer, with the indices of `moe_layers`."""
        return [(layer, moe.router) for layer, moe in self.moe_layers()]

    def moe_layers(self) -> list[tuple[int, MoE]]:
        """(layer index, module) of every mixture of experts.

        Layers for multi-token prediction are numbered on after the last block.
        """
        blocks = [*self.blocks, *(layer.block for layer in self.mtp)]
        return [(layer, block.moe) for layer, block in enumerate(blocks) if block.moe is not None]

    def after_step(self) -> dict[str, float]:
        """End of an optimiser step: every router's `Balance.commit`.

        Returns over all layers: `dead_experts` (sum), `worst_overload` (max), and the means of
        `balance_loss`, `z_loss` and `load_entropy`; empty for a dense model.
        """
        stats = [router.balance.commit(router.select_bias) for _, router in self.routers()]
        stats = [entry for entry in stats if entry]
        if not stats:
            return {}
        merged = {name: sum(entry[name] for entry in stats) / len(stats) for name in stats[0]}
        merged["dead_experts"] = sum(entry["dead_experts"] for entry in stats)
        merged["worst_overload"] = max(entry["worst_overload"] for entry in stats)
        return merged

    def training_buffers(self) -> dict[str, Tensor]:
        """The state besides parameters that a resumed run needs, by name.

        These are each router's expert fractions of the last step and its selection bias, and the factors of
        blocks.
        """
        buffers = {name: scale for name, scale in self.named_buffers() if name.endswith("output_scale")}
        for layer, router in self.routers():
            buffers[f"blocks.{layer}.ffn.router.balance.fraction_E"] = router.balance.fraction_E
            if router.select_bias is not None:
                buffers[f"blocks.{layer}.ffn.router.select_bias"] = router.select_bias
        return buffers

    @torch.no_grad()
    def initialise(self, seed: int = 0) -> None:
        """Fresh weights: normal(0, init_std), residual outputs scaled by 1/sqrt(2 L), norms 1, biases 0.

        Each parameter draws from its own generator, seeded by (seed, name), so that its values do not depend
        on which other parameters exist or on which process holds them.
        """
        residual_std = self.config.init_std / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            parent, _, own = name.rpartition(".")
            module = self.get_submodule(parent)
            special = module.initial(own, generator) if isinstance(module, RecurrentMixer) else None
            if special is not None:
                parameter.copy_(special)
            elif isinstance(module, RMSNorm):
                module.reset()
            elif name.endswith("bias"):
                parameter.zero_()
            elif isinstance(module, Router) and own.endswith("_scale"):
                parameter.fill_(1.0)
            else:
                std = (
                    residual_std
                    if name.endswith(("attention.o.weight", "down.weight"))
                    else self.config.init_std
                )
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(std))
        for name, buffer in self.named_buffers():
            if name.endswith("output_scale"):
                buffer.fill_(1.0)
        for _, router in self.routers():
            router.balance.reset()
            if router.select_bias is not None:
                router.select_bias.zero_()


def _run_block(block: nn.Module, context: ForwardContext, layer: int, h_TD: Tensor) -> Tensor:
    result_TD: Tensor = block(h_TD, context, None, layer)
    return result_TD
