"""Parameters, FLOPs, KV cache and memory of a `ModelConfig`, by arithmetic alone.

"Active" has no common definition, so `Counts` gives three. Llama 4, Mixtral, OLMoE and Qwen publish
`active_all`; gpt-oss and DeepSeek are close to `active_head`; papers on scaling mostly use `active_core`.
Buffers (the routers' selection bias and balance statistics) are not parameters and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from coterie.config import AttentionConfig, BlockConfig, ConfigError, MLAConfig, ModelConfig, MoEConfig
from coterie.config.mixers import STATE_MIXERS, StateMixer


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. The parts sum to `total`; a tied head adds nothing (`head` is 0).

    Layers for multi-token prediction (`mtp`) are left out of every sum, as in published totals.
    """

    embedding: int
    head: int
    attention: int
    dense: int
    router: int
    shared: int
    experts: int
    experts_active: int
    norms: int
    mtp: int

    @property
    def total(self) -> int:
        """Every parameter once, without those of `mtp`."""
        return self.embedding + self.head + self._always + self.experts

    @property
    def active_all(self) -> int:
        """What one token uses, embedding and head included."""
        return self.embedding + self.head + self.active_core

    @property
    def active_head(self) -> int:
        """What one token uses, the head included but not the embedding.

        A tied matrix counts as the embedding, so it is left out.
        """
        return self.head + self.active_core

    @property
    def active_core(self) -> int:
        """What one token uses, without embedding and head."""
        return self._always + self.experts_active

    @property
    def _always(self) -> int:
        return self.attention + self.dense + self.router + self.shared + self.norms

    def to_dict(self) -> dict[str, int]:
        """Parts and sums by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        sums = {name: getattr(self, name) for name in ("total", "active_all", "active_head", "active_core")}
        return sums | parts


def count_parameters(config: ModelConfig) -> Counts:
    """Count the parameters of the model that `config` describes (equal to the built model's: tests/plan)."""
    matrix = config.vocab_size * config.width
    inputs = config.num_layers * (config.per_layer_width or 0)
    sums = dict.fromkeys(("attention", "dense", "router", "shared", "experts", "experts_active", "norms"), 0)
    for block in config.blocks:
        for name, value in _block_counts(block, config.width).items():
            sums[name] += value
    sums["norms"] += config.width + (config.per_layer_width or 0)
    sums["dense"] += inputs * config.width
    last = _block_counts(config.blocks[-1], config.width)
    one_further = sum(last.values()) - last.get("experts_active", 0) + 2 * config.width**2 + 3 * config.width
    mtp = config.num_mtp_layers * one_further
    embedding = matrix + config.vocab_size * inputs
    return Counts(embedding=embedding, head=0 if config.tie_embeddings else matrix, mtp=mtp, **sums)


def flops_per_token(config: ModelConfig, context: int, training: bool = False) -> float:
    """Floating-point operations per token, averaged over a sequence of `context` tokens.

    A product with a matrix of n parameters is 2n operations; attention does 2 * heads * (key width + value
    width) per visible key (latent attention is counted in its expanded form, the one training runs), and a
    mixer with a state its update, token by token. Norms,
    activations, rotations and softmaxes are left out, as usual. Training costs three times the forward pass
    (one more for the gradient of the input, one for that of the weight). The head's product counts, tied or
    not.
    """
    _positive("context", context)
    matrices = config.vocab_size * config.width + config.num_layers * config.width * (
        config.per_layer_width or 0
    )
    attention = 0.0
    for block in config.blocks:
        matrices += _active_matrices(block, config.width)
        attention += 0 if block.attention is None else _mixing_flops(block.attention, context)
    return (2 * matrices + attention) * (3 if training else 1)


def _mixing_flops(mixer: AttentionConfig | MLAConfig | StateMixer, context: int) -> float:
    """Operations per token between tokens, products with weights aside."""
    if isinstance(mixer, STATE_MIXERS):
        return mixer.step_flops
    value_dim = mixer.value_dim if isinstance(mixer, MLAConfig) else mixer.head_dim
    return 2 * mixer.num_heads * (mixer.head_dim + value_dim) * visible_keys(mixer, context)


def visible_keys(attention: AttentionConfig | MLAConfig, context: int) -> float:
    """Keys a query sees, its own included: the mean over the positions of a sequence of `context` tokens."""
    _positive("context", context)
    window = min(attention.window or context, context)
    triangle = window * (window + 1) // 2
    if attention.mask == "chunked":
        chunks, rest = divmod(context, window)
        return (chunks * triangle + rest * (rest + 1) // 2) / context
    return (triangle + (context - window) * window) / context


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2, beyond: int = 0) -> int:
    """Bytes of keys and values that the token at position `beyond` adds to one sequence's cache.

    A sliding or chunked layer stops growing after `window` tokens; `beyond=0` is the first one, kept by every
    layer. A layer with a state never grows.
    """
    growing = (a for a in config.attentions if a.window is None or a.window > beyond)
    return sum(_kv_values(attention) for attention in growing) * bytes_per_value


def kv_bytes(config: ModelConfig, context: int, bytes_per_value: int = 2) -> int:
    """Bytes of keys, values and states kept for one sequence of `context` tokens.

    A layer with a window keeps at most its window. A state is float32 and does not grow.
    """
    _positive("context", context)
    growing = sum(_kv_values(a) * min(a.window or context, context) for a in config.attentions)
    return growing * bytes_per_value + state_bytes(config)


def state_bytes(config: ModelConfig) -> int:
    """Bytes of the states of one sequence of any length, in the layers that keep one."""
    mixers = [block.attention for block in config.blocks]
    return sum(4 * mixer.state_values for mixer in mixers if isinstance(mixer, STATE_MIXERS))


@dataclass(frozen=True)
class Memory:
    """Bytes held at once, temporary activations excluded."""

    weights: int
    gradients: int
    optimiser: int
    cache: int

    @property
    def total(self) -> int:
        """Sum of the parts, bytes."""
        return self.weights + self.gradients + self.optimiser + self.cache


def memory(
    config: ModelConfig,
    phase: Literal["training", "inference"],
    bytes_per_value: int | None = None,
    context: int = 0,
    sequences: int = 1,
) -> Memory:
    """Bytes for weights and what goes with them.

    `training`: fp32 weights (`bytes_per_value` 4), as many bytes of gradients, and AdamW's two fp32 moments;
    it keeps no KV cache, so `context` must be 0. `inference`: weights and the KV cache of `sequences`
    sequences of `context` tokens, both at `bytes_per_value` (default 2). Every expert is held, chosen or not:
    memory follows `total`.
    """
    if phase not in ("training", "inference"):
        raise ConfigError(f"memory: unknown phase '{phase}'; choose training or inference")
    total = count_parameters(config).total
    if phase == "training":
        if context:
            raise ConfigError("memory: training keeps no KV cache; leave 'context' at 0")
        size = 4 if bytes_per_value is None else bytes_per_value
        return Memory(weights=total * size, gradients=total * size, optimiser=total * 8, cache=0)
    size = 2 if bytes_per_value is None else bytes_per_value
    cache = sequences * kv_bytes(config, context, size) if context else 0
    return Memory(weights=total * size, gradients=0, optimiser=0, cache=cache)


def _block_counts(block: BlockConfig, width: int) -> dict[str, int]:
    a, ffn = block.attention, block.ffn
    attention = 0 if a is None else _attention_matrices(a, width) + _attention_vectors(a, width)
    norms = (2 if block.norms == "sandwich" else 1) * (2 if block.is_whole else 1)
    norms += 3 if isinstance(ffn, MoEConfig) and ffn.expert_norms else 0
    counts = {"attention": attention, "norms": norms * width}
    if ffn is None:
        return counts
    per_layer = 0 if block.per_layer_width is None else (2 * block.per_layer_width + 1) * width
    if not isinstance(ffn, MoEConfig):
        biases = (ffn.num_matrices - 1) * ffn.width + width if ffn.bias else 0
        return counts | {"dense": ffn.num_matrices * width * ffn.width + biases + per_layer}
    inside, num = ffn.latent_width or width, ffn.router.num_experts
    expert = ffn.num_matrices * inside * ffn.expert_width
    expert += 2 * ffn.expert_width + width if ffn.clamped else 0  # biases
    router = num * width + (width if ffn.router.input_norm_eps is not None else 0)
    router += num * (ffn.router.bias + ffn.router.expert_scale)
    return counts | {
        "dense": per_layer,
        "router": router,
        "shared": _always_on(ffn, width) + (width if ffn.shared_gate else 0),
        "experts": num * expert,
        "experts_active": ffn.router.top_k * expert,
    }


def _always_on(ffn: MoEConfig, width: int) -> int:
    """Parameters of the shared expert and of the way into the latent space and back."""
    return ffn.num_matrices * width * (ffn.shared_width or 0) + 2 * width * (ffn.latent_width or 0)


def _attention_matrices(a: AttentionConfig | MLAConfig | StateMixer, width: int) -> int:
    if isinstance(a, STATE_MIXERS):
        return sum(rows * columns for rows, columns in a.matrices(width))
    if not isinstance(a, MLAConfig):
        gate = {"none": 0, "head": a.num_heads, "full": a.num_heads * a.head_dim}[a.gate]
        return width * (a.head_dim * (2 * a.num_heads + _key_projections(a) * a.num_kv_heads) + gate)
    queries = a.num_heads * a.head_dim
    query = width * queries if a.q_rank is None else a.q_rank * (width + queries)
    latent = width * (a.kv_rank + a.rope_dim) + a.kv_rank * a.num_heads * (a.nope_dim + a.value_dim)
    return query + latent + a.num_heads * a.value_dim * width


def _key_projections(a: AttentionConfig) -> int:
    """Keys and values; one where they are the same, none where another layer's are used."""
    return 0 if a.keys_of is not None else 1 if a.keys_as_values else 2


def _attention_vectors(a: AttentionConfig | MLAConfig | StateMixer, width: int) -> int:
    """Biases, sinks and the weights of norms inside attention."""
    if isinstance(a, STATE_MIXERS):
        return a.vectors(width)
    if isinstance(a, MLAConfig):
        return (a.q_rank or 0) + a.kv_rank
    queries, keys = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    per_head = (2 if a.keys_of is None else 1) * a.head_dim
    qk_norm = {"head": per_head, "head_after": per_head, "full": queries + keys}.get(a.qk_norm, 0)
    sinks = a.num_heads if a.sinks else 0
    return (
        sinks
        + qk_norm
        + (queries + _key_projections(a) * keys if a.qkv_bias else 0)
        + (width if a.output_bias else 0)
    )


def _active_matrices(block: BlockConfig, width: int) -> int:
    """Parameters of one block that take part in a matrix product with each token."""
    a, ffn = block.attention, block.ffn
    inner = 2 * (block.per_layer_width or 0) * width
    if isinstance(ffn, MoEConfig):
        chosen = ffn.router.top_k * ffn.num_matrices * ffn.expert_width * (ffn.latent_width or width)
        inner += chosen + _always_on(ffn, width) + ffn.router.num_experts * width
    elif ffn is not None:
        inner += ffn.num_matrices * ffn.width * width
    return inner if a is None else inner + _attention_matrices(a, width)


def _kv_values(attention: AttentionConfig | MLAConfig) -> int:
    if isinstance(attention, MLAConfig):
        return attention.kv_rank + attention.rope_dim
    if attention.keys_of is not None:
        return 0
    return 2 * attention.num_kv_heads * attention.head_dim


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; give a number of tokens of at least 1")
