"""A model's decoding step as one native call: made once, run for every token.

Legend: T tokens, one or several of each sequence; D width, V vocabulary, H query heads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from coterie.config.model import BlockConfig
from coterie.native import layout, rows
from coterie.native.feed_forward import Choices, add_layer_input, dense, layer_inputs, mixture
from coterie.native.layers import NAMES, copy, linear, matrix, norm, product
from coterie.native.mixers import Shared, attend, attend_latent
from coterie.native.program import CannotPlan, Rows, StepProgram, check_known
from coterie.native.runner import run, thread_functions
from coterie.native.state_mixers import gated_delta, mamba2, short_conv
from coterie.native.threads import StepThreads
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
from coterie.nn.router import Routing
from coterie.nn.short_conv import ShortConv
from coterie.nn.transformer import Transformer

MOST_TOKENS = 16
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
_FIRST_CAPACITY = 256


class KeptRows(Protocol):
    """The keys and values of one layer of one sequence, written in place."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[int, int, int]:
        """Make room for rows like these: addresses of keys and values, rows with the new ones."""
        ...


class KeptSequence(Protocol):
    """What one sequence keeps; `infer.cache.SequenceCache`."""

    long: bool

    @property
    def length(self) -> int:
        """Tokens seen."""
        ...

    def layer(self, index: int) -> KeptRows:
        """The keys and values of a layer."""
        ...

    def turn_state(self, index: int, like: Sequence[Tensor]) -> list[int]:
        """The addresses of a layer's state, which the step turns into the next one in place."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Count new tokens."""
        ...


class NativePlan:
    """The native form of one model. It reads the model's weights where they are.

    A plan serves one thread at a time.
    """

    def __init__(self, model: Transformer, most: int = MOST_TOKENS) -> None:
        config = model.config
        check_known(config, "a model", _KNOWN_MODEL)
        if not model.has_head:
            raise CannotPlan("a model without a head")
        self.most = most
        self._shared = Shared(model.compute_dtype)
        self._choices: dict[int, Choices] = {}
        program = StepProgram(most)
        self._program = program
        h = program.rows(config.width)
        self._embed(model, h)
        self._inputs: Rows | None = None
        if model.per_layer is not None:
            self._inputs = layer_inputs(program, model.per_layer, h, model.compute_dtype)
        for index, block in enumerate(model.blocks):
            if type(block) is not Block:
                raise CannotPlan(f"blocks of kind {type(block).__name__}")
            self._block(block, config.blocks[index], index, h)
        last = program.rows(config.width)
        norm(program, model.norm, h, last)
        if config.logit_scale != 1.0:
            copy(program, last, last, config.logit_scale)
        self._logits_TV = self._head(model, last)
        self._heads = max((attention.num_heads for attention in config.attentions), default=1)
        self._templates = [
            (layer, self._template(model, keys), self._template(model, values))
            for layer, keys, values in self._shared.kept
        ]
        self._state_templates = [
            (layer, [torch.empty(shape) for shape in parts]) for layer, parts in self._shared.states
        ]
        self._table = program.table()
        self._scores = torch.empty(0, self._heads, 0)
        self.threads = StepThreads()
        self._make_context()
        self._model, self._weights = model, _addresses(model)

    def _embed(self, model: Transformer, h: Rows) -> None:
        config, program = model.config, self._program
        address, kind = program.vector(model.embed.weight)
        scale = float(torch.tensor(config.embed_scale, dtype=model.compute_dtype))
        program.add(rows.embed, address, kind, config.width, h.address, h.stride, scale)
        if config.embed_norm:
            norm(program, None, h, h, eps=config.norm_eps)

    def _block(self, block: Block, config: BlockConfig, index: int, h: Rows) -> None:
        check_known(config, "a block", _KNOWN_BLOCK)
        program = self._program
        x, y = program.rows(h.width), program.rows(h.width)
        if block.attention is not None:
            if block.attention_norm is not None:
                norm(program, block.attention_norm, h, x)
            read = h if block.attention_norm is None else x
            if type(block.attention) not in _MIXERS:
                raise CannotPlan(f"layers of kind {type(block.attention).__name__}")
            seen = _MIXERS[type(block.attention)](program, self._shared, block.attention, index, read)
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
            copy(program, h, h, float(block.output_scale))
            program.copied_from(block.output_scale)

    def _feed_forward(self, block: Block, index: int, x: Rows, y: Rows, h: Rows) -> None:
        program, post = self._program, block.ffn_post_norm
        # What is read must not change before it is read: without a norm before, x is the stream itself.
        apart = post is not None or x is h
        to, factor, add = (y, 1.0, False) if apart else (h, block.residual_scale, True)
        if isinstance(block.ffn, MoE):
            self._choices[index] = mixture(program, block.ffn, x, h, to, factor, add)
        else:
            assert isinstance(block.ffn, FeedForward)
            dense(program, block.ffn, x, to, factor, add)
        if apart:
            if post is not None:
                norm(program, post, y, y)
            copy(program, y, h, block.residual_scale, True)

    def _template(self, model: Transformer, shape: tuple[int, ...]) -> list[Tensor]:
        """One, two ... new rows of a cache, without memory."""
        row = torch.empty(1, *shape, dtype=model.compute_dtype)
        return [row.expand(count, *shape) for count in range(1, self.most + 1)]

    def _head(self, model: Transformer, h: Rows) -> Tensor:
        """The buffer (T, V) that the scores of the last norm's result are written to."""
        config, program = model.config, self._program
        # An odd number of cache lines from row to row: powers of two would share few places in the caches.
        padded = LANES * (-(-config.vocab_size // LANES) | 1)
        logits_TV = torch.zeros(self.most, padded)[:, : config.vocab_size]
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

    def _make_context(self) -> None:
        most = self.most
        self._ids, self._positions, self._long = (np.zeros(most, np.int64) for _ in range(3))
        self._kept = np.zeros((max(1, len(self._templates)) * most, 3), np.int64)
        self._states = np.zeros(max(1, len(self._state_templates)) * most * 2, np.int64)
        self._context = np.zeros(layout.CONTEXT, np.int64)
        fields = {
            layout.OPS: self._table.data_ptr(),
            layout.NUM_OPS: self._table.shape[0],
            layout.IDS: self._ids.ctypes.data,
            layout.POSITIONS: self._positions.ctypes.data,
            layout.LONG: self._long.ctypes.data,
            layout.KEPT: self._kept.ctypes.data,
            layout.STATES: self._states.ctypes.data,
        }
        functions = thread_functions()
        if functions is not None:
            fields[layout.WAIT], fields[layout.WHO] = functions[1:]
        for index, value in fields.items():
            self._context[index] = value

    @property
    def kinds(self) -> frozenset[int]:
        """How the weights of products are stored."""
        return frozenset(self._program.kinds)

    @property
    def stored(self) -> str:
        """The same for people, for example `bf16, int4`."""
        return ", ".join(dict.fromkeys(NAMES[kind] for kind in sorted(self.kinds)))

    def is_current(self) -> bool:
        """Whether the model's weights are where the plan reads them, and copies of them still right."""
        return self._program.copies_are_current() and _addresses(self._model) == self._weights

    @torch.inference_mode()
    def step(self, ids: Sequence[int], caches: Sequence[KeptSequence]) -> Tensor:
        """Scores (T, V), float32, after each of at most `most` tokens, `ids[i]` of the sequence `caches[i]`.

        Several tokens of one sequence follow each other, in order. Their caches take the tokens in. An
        interrupted step leaves them as an interrupted forward pass does.
        """
        num_tokens = len(ids)
        assert 0 < num_tokens == len(caches) <= self.most, "a step takes a few tokens, each of a sequence"
        runs = [(cache, len(list(same))) for cache, same in groupby(caches)]
        assert not self._state_templates or len(runs) == num_tokens, "a state takes one token of a sequence"
        # Numbers go through numpy: torch's indexing costs ten times as much.
        self._ids[:num_tokens] = ids
        self._positions[:num_tokens] = [cache.length + each for cache, count in runs for each in range(count)]
        self._long[:num_tokens] = [cache.long for cache in caches]
        states: list[int] = []
        for layer, parts in self._state_templates:
            for cache in caches:
                states += (*cache.turn_state(layer, parts), 0)[:2]
        self._states[: len(states)] = states
        entries: list[tuple[int, int, int]] = []
        for layer, keys, values in self._templates:
            for cache, count in runs:
                at, values_at, kept = cache.layer(layer).extend(keys[count - 1], values[count - 1])
                entries += [(at, values_at, kept - later) for later in range(count - 1, -1, -1)]
        if entries:
            self._kept[: len(entries)] = entries
            self._make_room(num_tokens, max(count for _, _, count in entries))
        self._context[layout.TOKENS] = num_tokens
        threads = self.threads.choose(num_tokens)
        self._context[layout.THREADS] = threads
        begun = time.monotonic()
        with self._model.store or nullcontext():
            run(self._context.ctypes.data)
        self.threads.note(threads, num_tokens, time.monotonic() - begun)
        for cache, count in runs:
            cache.advance(count)
        return self._logits_TV[:num_tokens].clone()

    def _make_room(self, num_tokens: int, count: int) -> None:
        """Room for the scores of `count` keys of each sequence."""
        tokens, _, capacity = self._scores.shape
        if num_tokens > tokens or count > capacity:
            wanted = max(capacity, _FIRST_CAPACITY, 2 * count) if count > capacity else capacity
            self._scores = torch.empty(max(num_tokens, tokens), self._heads, wanted)
            self._context[layout.SCORES] = self._scores.data_ptr()
            self._context[layout.CAPACITY] = self._scores.shape[2]

    def routing(self, num_tokens: int) -> dict[int, Routing]:
        """The choices of the last step by layer."""
        return {layer: choices.of(num_tokens) for layer, choices in self._choices.items()}


def _addresses(model: Transformer) -> list[int]:
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
