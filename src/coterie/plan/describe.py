"""What a model is, in words and numbers, from its config alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
)
from coterie.config.mixers import STATE_MIXERS, StateMixer
from coterie.plan.counts import (
    Counts,
    count_parameters,
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    memory,
)
from coterie.plan.encoders import encoder_parameters

# Bits per weight of each way to hold a model; 4-bit: blocks of 32 with one 16-bit scale, as in Q4_0.
PRECISIONS = {"float32": 32.0, "bfloat16": 16.0, "8 bits": 8.5, "4 bits": 4.5}
_ENDINGS = {2: "nd", 3: "rd"}
_CONTEXTS = (4096, 32768, 131072, 1048576)


@dataclass(frozen=True)
class ModelDescription:
    """What a model is, in words and numbers.

    `architecture`: one line. `layers`: one line per kind of layer. `selection_bias`, `vision`: numbers that
    `counts` leaves out (`vision` None: an encoder whose size is not known here). `flops_per_token`:
    operations of a forward pass, averaged over `context` positions.
    `kv_bytes_per_token`: bytes of bfloat16 that one more token adds to the cache;
    `kv_bytes_per_token_beyond_windows`: the same once every window is full. `kv_bytes`: context -> bytes of
    the whole cache. `memory_bytes`: purpose -> bytes. `oddities`: what is unlike a plain decoder, one line
    each.
    """

    architecture: str
    layers: tuple[str, ...]
    counts: Counts
    selection_bias: int
    vision: int | None
    context: int
    flops_per_token: float
    kv_bytes_per_token: int
    kv_bytes_per_token_beyond_windows: int
    kv_bytes: dict[int, int]
    memory_bytes: dict[str, int]
    oddities: tuple[str, ...]

    @property
    def everything(self) -> int:
        """All numbers of the whole model: what a directory in its format stores."""
        return self.counts.total + self.counts.mtp + self.selection_bias + (self.vision or 0)

    @property
    def experts_share(self) -> float:
        return self.counts.experts / self.counts.total

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        uncounted = {
            "selection_bias": self.selection_bias,
            "vision": self.vision,
            "everything": self.everything,
        }
        return {
            "architecture": self.architecture,
            "layers": list(self.layers),
            "parameters": self.counts.to_dict() | uncounted,
            "experts_share": self.experts_share,
            "context": self.context,
            "flops_per_token": self.flops_per_token,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes_per_token_beyond_windows": self.kv_bytes_per_token_beyond_windows,
            "kv_bytes": {str(length): size for length, size in self.kv_bytes.items()},
            "memory_bytes": self.memory_bytes,
            "oddities": list(self.oddities),
        }


def describe(config: ModelConfig) -> ModelDescription:
    """Architecture, parameters, operations, cache and memory of a model.

    Errors: `ConfigError` for the config of an image encoder that lacks a key.
    """
    context = min(config.max_positions, 4096)
    counts = count_parameters(config)
    biases, vision = selection_biases(config), encoder_parameters(config)
    everything = counts.total + counts.mtp + biases + (vision or 0)
    contexts = [length for length in _CONTEXTS if length < config.max_positions] + [config.max_positions]
    windows = [attention.window or 0 for attention in config.attentions]
    training = {"to train with AdamW, activations aside": memory(config, "training").total}
    return ModelDescription(
        architecture=architecture(config),
        layers=tuple(layer_lines(config)),
        counts=counts,
        selection_bias=biases,
        vision=vision,
        context=context,
        flops_per_token=flops_per_token(config, context),
        kv_bytes_per_token=kv_bytes_per_token(config),
        kv_bytes_per_token_beyond_windows=kv_bytes_per_token(config, beyond=max(windows, default=0)),
        kv_bytes={length: kv_bytes(config, length) for length in contexts},
        memory_bytes=training
        | {f"to hold in {name}": int(everything * bits / 8) for name, bits in PRECISIONS.items()},
        oddities=tuple(oddities(config)),
    )


def architecture(config: ModelConfig) -> str:
    """One line: family, depth, width, vocabulary, kind, longest context."""
    return (
        f"{config.family}, {config.num_layers} layers, width {config.width}, vocabulary "
        f"{config.vocab_size:,}, "
        f"{'mixture of experts' if config.is_moe else 'dense'}, up to {config.max_positions:,} positions"
        + (", tied embeddings" if config.tie_embeddings else "")
    )


def layer_lines(config: ModelConfig) -> list[str]:
    """Each kind of layer in words, after the layers of that kind: `layers 0-2, 4: ...`."""
    kinds: dict[BlockConfig, list[int]] = {}
    for index, block in enumerate(config.blocks):
        kinds.setdefault(block, []).append(index)
    return [
        f"{_which(layers, config.num_layers)}: {'; '.join(_part_words(block))}"
        for block, layers in kinds.items()
    ]


def _part_words(block: BlockConfig) -> list[str]:
    words = [] if block.attention is None else [_attention_words(block.attention)]
    return words if block.ffn is None else [*words, _ffn_words(block.ffn)]


def _which(layers: list[int], total: int) -> str:
    """Some of `total` layers by number, or the others as exceptions where that is shorter."""
    if len(layers) == total:
        return "all layers" if total > 1 else "its layer"
    listed = f"{'layer' if len(layers) == 1 else 'layers'} {ranges(layers)}"
    others = f"all layers but {ranges([index for index in range(total) if index not in layers])}"
    return others if len(listed) > 40 and len(others) < len(listed) else listed


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as text: runs are joined and a constant step is named: `0-2, 4`, `3-47 every 4th`."""
    steps = {b - a for a, b in pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        return f"{numbers[0]}-{numbers[-1]} every {step}{_ENDINGS.get(step, 'th')}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def oddities(config: ModelConfig) -> list[str]:
    """What is unlike a plain decoder (rotary, causal, grouped queries, SwiGLU), one line each."""
    plain = [a for a in config.attentions if isinstance(a, AttentionConfig)]
    found = []

    def layers(what: str, wanted: Callable[[BlockConfig], bool]) -> None:
        indices = [index for index, block in enumerate(config.blocks) if wanted(block)]
        if indices:
            found.append(f"{what}: {_which(indices, config.num_layers)}")

    layers(
        "no positions",
        lambda block: isinstance(block.attention, AttentionConfig) and block.attention.rope is None,
    )
    for mask, words in (
        ("chunked", "attention within chunks of"),
        ("sliding", "attention within a window of"),
    ):
        for window in sorted({a.window or 0 for a in plain if a.mask == mask}):
            layers(f"{words} {window:,}", functools.partial(_limited, mask=mask, window=window))
    layers(
        "latent attention (one compressed cache for all heads)",
        lambda block: isinstance(block.attention, MLAConfig),
    )
    layers(
        "a state of fixed size in place of keys and values",
        lambda block: isinstance(block.attention, STATE_MIXERS),
    )
    layers("keys and values of an earlier layer", _borrows)
    layers("a feed-forward without attention", lambda block: block.attention is None)
    layers("attention or another mixer without a feed-forward", lambda block: block.ffn is None)
    if any(a.keys_as_values for a in plain):
        found.append("values are the keys before their norm, in some layers or all")
    if config.per_layer_width is not None:
        found.append(f"each token has an input of {config.per_layer_width} numbers for each layer")
    if any(block.output_scale for block in config.blocks):
        found.append("the result of a layer is multiplied by a stored number")
    if any(a.gate != "none" for a in plain):
        found.append("attention whose result is gated")
    layers("queries grow with their position", _has_temperature)
    if any(a.sinks for a in plain):
        found.append("attention sinks: a learnt score that takes attention and gives nothing")
    if any(a.qkv_clip for a in plain):
        found.append(f"queries, keys and values clipped to {max(a.qkv_clip or 0 for a in plain):g}")
    if any(a.qkv_bias or a.output_bias for a in plain):
        found.append("biases in attention")
    found += _rope_words(config) + _scale_words(config) + _norm_words(config) + _moe_words(config)
    if config.is_moe:
        layers("dense feed-forward", lambda block: isinstance(block.ffn, FeedForwardConfig))
    if config.tie_embeddings:
        found.append("the head is the embedding (tied)")
    if config.num_mtp_layers:
        found.append(
            f"{config.num_mtp_layers} further layer(s) for multi-token prediction, not counted in the total"
        )
    encoder = encoder_parameters(config)
    if encoder != 0:
        counted = "" if encoder else ", nor counted"
        found.append(f"an image encoder that is carried through and not run{counted}")
    return found


def selection_biases(config: ModelConfig) -> int:
    """Numbers in the routers' selection biases: stored, moved by a rule in training, not parameters."""
    routers = [moe.router for _, moe in config.moe_layers()]
    last = config.blocks[-1].ffn
    if config.num_mtp_layers and isinstance(last, MoEConfig):
        routers += [last.router] * config.num_mtp_layers
    return sum(router.num_experts for router in routers if router.select_bias)


_QK_NORMS = {
    "head": "query/key norm per head",
    "head_after": "query/key norm per head after rope",
    "full": "query/key norm over all heads",
    "weightless": "query/key norm per head without weight, after rope",
    "weightless_before": "query/key norm per head without weight",
}


def _attention_words(attention: AttentionConfig | MLAConfig | StateMixer) -> str:
    if isinstance(attention, STATE_MIXERS):
        return f"{attention.words}, {4 * attention.state_values:,} bytes of state"
    if isinstance(attention, MLAConfig):
        heads = f"{attention.num_heads} heads of {attention.head_dim}"
        return f"latent attention, {heads}, latent {attention.kv_rank} + {attention.rope_dim} for positions"
    words = [f"attention {attention.num_heads}/{attention.num_kv_heads} heads of {attention.head_dim}"]
    words.append(attention.mask if attention.window is None else f"{attention.mask} {attention.window}")
    words.append("no positions" if attention.rope is None else f"rope theta {attention.rope.theta:g}")
    if attention.qk_norm != "none":
        words.append(_QK_NORMS[attention.qk_norm])
    if attention.keys_of is not None:
        words.append(f"keys and values of layer {attention.keys_of}")
    if attention.keys_as_values:
        words.append("keys as values")
    return ", ".join(words)


def _ffn_words(ffn: FeedForwardConfig | MoEConfig) -> str:
    if not isinstance(ffn, MoEConfig):
        return f"dense feed-forward of {ffn.width}{'' if ffn.gated else ' without a gate'}"
    router = ffn.router
    shared = f" and a shared one of {ffn.shared_width}" if ffn.shared_width else ""
    on = " on the expert's input" if router.apply_to == "input" else ""
    latent = f" on {ffn.latent_width} latent numbers" if ffn.latent_width else ""
    gate = "" if ffn.gated else " without a gate"
    experts = f"{router.num_experts} experts of {ffn.expert_width}{gate}{latent}, {router.top_k} per token"
    return f"{experts} ({router.score}{on}){shared}"


def _rope_words(config: ModelConfig) -> list[str]:
    ropes = [attention.rope for attention in config.attentions if attention.rope is not None]
    scalings = {rope.scaling.kind: rope.scaling for rope in ropes if rope.scaling is not None}
    some = ", in some layers" if any(rope.scaling is None for rope in ropes) else ""
    words = [
        f"positions stretched by {kind} rope scaling, factor {s.factor:g}{some}"
        for kind, s in scalings.items()
    ]
    for rope, width in {(a.rope, a.head_dim) for a in config.attentions if isinstance(a, AttentionConfig)}:
        if rope is not None and rope.rotated is not None and rope.rotated < width:
            words.append(f"rope turns {rope.rotated} of {width} numbers of a head")
    return words + (
        ["rope turns neighbouring pairs of numbers"] if any(r.style == "pairs" for r in ropes) else []
    )


_ACTIVATIONS = {
    "gelu_tanh": "GELU (its tanh form) in place of SiLU",
    "relu2": "the square of ReLU in place of SiLU",
}


def _scale_words(config: ModelConfig) -> list[str]:
    """Factors and caps, in the order in which a token meets them."""
    plain = [a for a in config.attentions if isinstance(a, AttentionConfig)]
    words = [f"embeddings times {config.embed_scale:g}"] if config.embed_scale != 1 else []
    factors = {
        a.softmax_scale for a in plain if not math.isclose(a.softmax_scale, a.head_dim**-0.5, rel_tol=1e-6)
    }
    words += [f"attention scores times {factor:g}, not head width^-1/2" for factor in sorted(factors)]
    caps = {a.score_cap for a in plain if a.score_cap is not None}
    words += [f"attention scores capped at {cap:g}" for cap in sorted(caps)]
    activations = {block.ffn.activation for block in config.blocks if block.ffn is not None}
    words += [words_of for name, words_of in _ACTIVATIONS.items() if name in activations]
    if config.residual_scale != 1:
        words.append(f"what a layer adds times {config.residual_scale:g}")
    if config.logit_scale != 1:
        words.append(f"scores of tokens times {config.logit_scale:g}")
    if config.logit_cap is not None:
        words.append(f"scores of tokens capped at {config.logit_cap:g}")
    return words


def _norm_words(config: ModelConfig) -> list[str]:
    kinds = {block.norms for block in config.blocks}
    words = ["norms before and after attention and feed-forward"] if "sandwich" in kinds else []
    words += ["norms after attention and feed-forward, none before"] if "post" in kinds else []
    words += ["norms multiply by 1 + weight"] if config.norm_plus_one else []
    words += ["embeddings normed"] if config.embed_norm else []
    if any(isinstance(a, AttentionConfig) and a.value_norm for a in config.attentions):
        words.append("values normed")
    return words + (["norms round after their weight"] if config.norm_rounding == "after_weight" else [])


def _has_temperature(block: BlockConfig) -> bool:
    return (
        isinstance(block.attention, AttentionConfig | MLAConfig) and block.attention.temperature is not None
    )


def _borrows(block: BlockConfig) -> bool:
    return isinstance(block.attention, AttentionConfig) and block.attention.keys_of is not None


def _limited(block: BlockConfig, mask: str, window: int) -> bool:
    """Whether the block's attention has this mask and window."""
    a = block.attention
    return isinstance(a, AttentionConfig) and a.mask == mask and a.window == window


def _moe_words(config: ModelConfig) -> list[str]:
    moe = config.first_moe
    if moe is None:
        return []
    router, words = moe.router, []
    if router.apply_to == "input":
        words.append("router scores multiply the expert's input, not its output")
    if router.select_bias:
        words.append("a bias moves the choice of experts and not their weights")
    if router.num_groups > 1:
        words.append(f"experts chosen within the best {router.top_groups} of {router.num_groups} groups")
    if (
        router.score == "softmax"
        and not router.score_after_topk
        and not router.renormalize
        and router.top_k > 1
    ):
        words.append("the chosen experts' weights do not sum to 1")
    if router.scale != 1:
        words.append(f"expert weights times {router.scale:g}")
    if router.input_norm_eps is not None:
        words.append("the router norms what it reads")
    if router.expert_scale:
        words.append("expert weights times a learnt number per expert")
    if moe.expert_norms:
        words.append("routed experts and the shared one have norms each, before and after")
    if moe.shared_gate:
        words.append("the shared expert's result is multiplied by a gate, one number per token")
    if moe.clamped is not None:
        words.append(f"experts with biases and an activation clamped at {moe.clamped.limit:g}")
    return words
