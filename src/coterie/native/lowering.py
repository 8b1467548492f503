"""A model as a table of operations: which kernel reads what, in which order.

Legend: T tokens, D width, V vocabulary, H query heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coterie.config.model import BlockConfig
from coterie.native import rows
from coterie.native.feed_forward import Choices, add_layer_input, dense, layer_inputs, mixture
from coterie.native.layers import NAMES, copy, linear, matrix, norm, product
from coterie.native.mixers import Shared, attend, attend_latent
from coterie.native.program import CannotPlan, Rows, StepProgram, check_known
from coterie.native.state_mixers import gated_delta, mamba2, short_conv
from coterie.native.vectors import LANES
from coterie.nn.attention import Attention
from coterie.nn.block import Block
from coterie.nn.gated_delta import GatedDeltaNet
from coterie.nn.linear import Linear
from coterie.nn.lora import LoRALinear
from coterie.nn.mamba2 import Mamba2
from coterie.nn.mla import LatentAttention
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.quantised_layers import QuantisedLinear
from coterie.nn.short_conv import ShortConv
from coterie.nn.transformer import Transformer

_KNOWN_MODEL = {
    "family", "vocab_size", "width", "blocks", "max_positions", "norm_eps", "norm_rounding", "norm_plus_one",
    "final_norm_plus_one", "embed_scale", "embed_norm", "residual_scale", "logit_scale", "logit_cap",
    "tie_embeddings", "init_std", "num_mtp_layers", "extra",
}  # fmt: skip
_KNOWN_BLOCK = {"attention", "ffn", "norms", "post_norm_eps", "output_scale", "per_layer_width"}
# What a mixer gives before its last projection.
_MIXERS: dict[type, Callable[..., Rows]] = {
    Attention: attend,
    LatentAttention: attend_latent,
    ShortConv: short_conv,
    GatedDeltaNet: gated_delta,
    Mamba2: mamba2,
}


class Lowering:
    """The operations of one step of a model, and their buffers.

    `most`: tokens of a step at most. `h_TD`: the stream, which operations from `head` on only read and make
    scores of. Without `compiles` no kernel is compiled, and the table cannot be run:
    this tells what would run, also for a model on the meta device.
    Errors: `CannotPlan`.
    """

    def __init__(self, model: Transformer, most: int, compiles: bool = True) -> None:
        config = model.config
        check_known(config, "a model", _KNOWN_MODEL)
        if not model.has_head:
            raise CannotPlan("a model without a head")
        self.shared = Shared(model.compute_dtype)
        self.choices: dict[int, Choices] = {}
        program = StepProgram(most, compiles)
        self.program = program
        self.h_TD = torch.zeros(most, config.width)
        h = Rows(program.own(self.h_TD), 4 * config.width, config.width)
        self._embed(model, h)
        self._inputs: Rows | None = None
        if model.per_layer is not None:
            self._inputs = layer_inputs(program, model.per_layer, h, model.compute_dtype)
        for index, block in enumerate(model.blocks):
            if type(block) is not Block:
                raise CannotPlan(f"blocks of kind {type(block).__name__}")
            self._block(block, config.blocks[index], index, h)
        self.head = program.cut()
        last = program.rows(config.width)
        norm(program, model.norm, h, last)
        if config.logit_scale != 1.0:
            copy(program, last, last, config.logit_scale)
        self.logits_TV = self._head(model, last)

    @property
    def stored(self) -> str:
        """How the weights of products are stored, for people: `bf16, int4`."""
        return ", ".join(dict.fromkeys(NAMES[kind] for kind in sorted(self.program.kinds)))

    def _embed(self, model: Transformer, h: Rows) -> None:
        config, program = model.config, self.program
        address, kind = program.vector(model.embed.weight)
        scale = float(torch.tensor(config.embed_scale, dtype=model.compute_dtype))
        program.add(rows.embed, address, kind, config.width, h.address, h.stride, scale)
        if config.embed_norm:
            norm(program, None, h, h, eps=config.norm_eps)

    def _block(self, block: Block, config: BlockConfig, index: int, h: Rows) -> None:
        check_known(config, "a block", _KNOWN_BLOCK)
        program = self.program
        x, y = program.rows(h.width), program.rows(h.width)
        if block.attention is not None:
            if block.attention_norm is not None:
                norm(program, block.attention_norm, h, x)
            read = h if block.attention_norm is None else x
            if type(block.attention) not in _MIXERS:
                raise CannotPlan(f"layers of kind {type(block.attention).__name__}")
            seen = _MIXERS[type(block.attention)](program, self.shared, block.attention, index, read)
            last, post, factor = block.attention.o, block.attention_post_norm, block.residual_scale
            assert isinstance(last, Linear)
            if post is None:
                linear(program, last, seen, h, factor, True)
            else:
                linear(program, last, seen, y)
                norm(program, post, y, y)
                copy(program, y, h, factor, True)
        if block.ffn is not None:
            if block.ffn_norm is not None:
                norm(program, block.ffn_norm, h, x)
            self._feed_forward(block, index, h if block.ffn_norm is None else x, y, h)
        if block.per_layer is not None and self._inputs is not None:
            width = block.per_layer.gate.out_features
            add_layer_input(program, block.per_layer, self._inputs.part(index * width, width), h)
        if block.output_scale is not None:
            scale = block.output_scale
            copy(program, h, h, 1.0 if scale.is_meta else float(scale))
            program.copied_from(scale)

    def _feed_forward(self, block: Block, index: int, x: Rows, y: Rows, h: Rows) -> None:
        program, post = self.program, block.ffn_post_norm
        # What is read must not change before it is read: without a norm before, x is the stream itself.
        apart = post is not None or x is h
        to, factor, add = (y, 1.0, False) if apart else (h, block.residual_scale, True)
        if isinstance(block.ffn, MoE):
            self.choices[index] = mixture(program, block.ffn, x, h, to, factor, add)
        else:
            assert isinstance(block.ffn, FeedForward)
            dense(program, block.ffn, x, to, factor, add)
        if apart:
            if post is not None:
                norm(program, post, y, y)
            copy(program, y, h, block.residual_scale, True)

    def _head(self, model: Transformer, h: Rows) -> Tensor:
        """The buffer (T, V) that the scores of the last norm's result are written to."""
        config, program = model.config, self.program
        # An odd number of cache lines from row to row: powers of two would share few places in the caches.
        padded = LANES * (-(-config.vocab_size // LANES) | 1)
        logits_TV = torch.zeros(program.most, padded)[:, : config.vocab_size]
        logits = Rows(program.own(logits_TV), 4 * padded, config.vocab_size)
        if model.head is None:
            product(program, matrix(program, model.embed.weight), h, logits)
        else:
            if type(model.head) not in (Linear, QuantisedLinear, LoRALinear):
                raise CannotPlan(f"a head of kind {type(model.head).__name__}")
            linear(program, model.head, h, logits)
        if config.logit_cap is not None:
            program.add(
                rows.cap, logits.address, logits.stride, logits.width, float(config.logit_cap), serial=False
            )
        return logits_TV
