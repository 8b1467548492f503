"""What tuning costs, from the config alone: parameters trained, bytes held in each phase, what makes it fit.

Bytes are those of one process on a CPU or a GPU. Activations are those that this implementation keeps for the
backward pass. E experts, K chosen, T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coterie.config import AdapterConfig, ConfigError, MLAConfig, ModelConfig, MoEConfig
from coterie.config.methods import TuningMethod, tuning_method
from coterie.config.mixers import STATE_MIXERS
from coterie.plan.counts import count_parameters, flops_per_token
from coterie.plan.matrices import Matrix, matrices

PROCESS_BYTES = 450_000_000  # Python, PyTorch, oneDNN's kernels and this package, without a model
HELD_IN_ONE = 2.25  # as `TuningMethod.held`, of mixtures with factors: their layers keep little and free much
KEPT_LOGITS_BYTES = 64 * 1024**2
LOGITS_CHUNK_BYTES = 3 * 8 * 1024**2


@dataclass(frozen=True)
class TuneSettings:
    """The settings that decide the cost of tuning.

    `experts`: share of each layer's experts that `esft` trains, or their number by layer. `dtype_bytes`: of
    parameters (4 or 2). `activation_bytes`: of activations (None: those of the parameters). `row_length`
    and `batch_rows` make one micro-batch. `recompute`: layers keep their input and run again in the backward
    pass.
    """

    method: str = "lora"
    rank: int = 16
    experts: float | Mapping[int, int] = 0.25
    dtype_bytes: int = 4
    activation_bytes: int | None = None
    quant: Literal["none", "int8", "int4"] = "none"
    quant_block: int = 64
    row_length: int = 1024
    batch_rows: int = 4
    accumulate: int = 1
    recompute: bool = False

    @property
    def how(self) -> TuningMethod:
        """The method's record. Errors: `ConfigError` for an unknown one."""
        return tuning_method(self.method)

    def words(self) -> str:
        """The settings that decide memory, in one line."""
        precision = {
            "none": {4: "float32", 2: "bfloat16"}[self.dtype_bytes],
            "int8": "8 bit",
            "int4": "4 bit",
        }
        rank = f", rank {self.rank}" if self.how.has_factors else ""
        computed = {4: "float32", 2: "bfloat16"}[self.activation_bytes or self.dtype_bytes]
        return (
            f"{self.method}{rank}, {precision[self.quant]} weights, {computed} products, "
            f"{self.batch_rows} x {self.row_length} tokens, accumulate {self.accumulate}"
        )


@dataclass(frozen=True)
class TunePlan:
    """What tuning with `settings` costs.

    `parameters`: by kind. `parts`: bytes by part. `phases`: bytes by phase (`load`, `step`, `save`, `merge`).
    `flops_per_token`: operations of a training step per token.
    """

    settings: TuneSettings
    parameters: dict[str, int]
    parts: dict[str, int]
    phases: dict[str, int]
    flops_per_token: float

    @property
    def peak(self) -> int:
        """Bytes of the largest phase of tuning. Merging is left out: it can run on another machine."""
        return max(self.phases[name] for name in ("load", "step", "save"))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        settings = {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__}
        return {
            "settings": settings,
            "parameters": self.parameters,
            "parts": self.parts,
            "phases": self.phases,
            "peak_bytes": self.peak,
            "flops_per_token": self.flops_per_token,
        }


def plan_tune(config: ModelConfig, settings: TuneSettings) -> TunePlan:
    """The plan for one set of settings.

    Errors: `ConfigError` for a method that trains nothing in the model.
    """
    how = settings.how
    if how.moe_only and not config.is_moe:
        raise ConfigError(
            f"plan: {settings.method} trains parts of a mixture of experts, and this model is dense"
        )
    if how.quantised and settings.quant == "none":
        settings = replace(settings, quant="int4")
    total = count_parameters(config).total
    trained = trained_parameters(config, settings)
    added = trained if how.adds_values else 0
    weights = _weight_bytes(config, settings) + added * 4
    tokens = settings.row_length * settings.batch_rows
    in_one = any(_in_one(moe, settings) for _, moe in config.moe_layers())
    held = HELD_IN_ONE if in_one else how.held
    kept = activation_values(config, settings) * held
    if settings.recompute:  # the inputs of all layers, and all of one layer
        one = max(_block_values(config, layer, settings) for layer in range(config.num_layers))
        kept = min(kept, (config.num_layers + 2) * config.width + one * held)
    each = settings.activation_bytes or settings.dtype_bytes
    activations = int(kept * tokens * each)
    logits = min(KEPT_LOGITS_BYTES, tokens * config.vocab_size * each) + LOGITS_CHUNK_BYTES
    trained_bytes = 4 if how.adds_values else settings.dtype_bytes
    gradients, optimiser = trained * trained_bytes, trained * 2 * trained_bytes
    working = int(max(_working_values(config, settings)) * tokens * each)
    step = weights + optimiser + activations + logits + gradients + working
    largest = max(matrix.rows * matrix.columns for matrix in matrices(config)) * 4
    whole = total * settings.dtype_bytes
    phases = {
        "load": PROCESS_BYTES + weights + (largest if settings.quant != "none" else 0),
        "step": PROCESS_BYTES + step,
        "save": PROCESS_BYTES + weights + optimiser + trained * 4,
        "merge": PROCESS_BYTES + whole + added * 4 + largest,
    }
    parts = {"process": PROCESS_BYTES, "weights": weights, "gradients": gradients, "optimiser": optimiser}
    parts |= {"activations": activations, "logits": logits, "working": working}
    return TunePlan(settings, {"total": total, "trained": trained}, parts, phases, _flops(config, settings))


def trained_parameters(config: ModelConfig, settings: TuneSettings) -> int:
    """Parameters that receive gradients: factors, whole weights, or those of chosen experts."""
    counts, how = count_parameters(config), settings.how
    train = how.treatments()
    if set(train.values()) == {"full"}:
        return counts.total
    trained = counts.router if train["router"] == "full" else 0
    for m in matrices(config):
        if train[m.group] == "lora":
            trained += settings.rank * (m.rows + m.columns) * m.count + (m.rows * m.count if how.dora else 0)
        elif train[m.group] == "full" and m.group != "router":
            chosen = how.wraps == "chosen experts" and m.group == "experts"
            trained += m.rows * m.columns * (_chosen(config, settings, m) if chosen else m.count)
    return trained


def activation_values(config: ModelConfig, settings: TuneSettings) -> float:
    """Numbers kept for the backward pass per token of a micro-batch, without the head's logits."""
    return (
        sum(_block_values(config, layer, settings) for layer in range(config.num_layers)) + 2 * config.width
    )


def _block_values(config: ModelConfig, layer: int, settings: TuneSettings) -> float:
    block, width = config.blocks[layer], config.width
    a = block.attention
    how = settings.how
    factors = settings.rank if how.has_factors else 0
    attention: float
    if a is None:
        attention = 0
    elif isinstance(a, STATE_MIXERS):
        attention = a.training_values + len(a.matrices(width)) * factors
    elif isinstance(a, MLAConfig):
        heads = a.num_heads * (3 * a.head_dim + 3 * a.value_dim + a.nope_dim)
        attention = heads + 2 * (a.q_rank or 0) + 3 * (a.kv_rank + a.rope_dim) + 6 * factors
    else:
        queries, keys = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        normed = 1 if a.qk_norm in ("head", "full") else 0
        keys = keys if a.keys_of is None else 0
        attention = queries * (2 + normed) + keys * (2 + normed) + 4 * factors
        attention += 3 * (block.per_layer_width or 0)
    ffn, around = block.ffn, (4 if block.is_whole else 2) * width
    if ffn is None:
        return around + attention
    layers = ffn.num_matrices
    if not isinstance(ffn, MoEConfig):
        return around + attention + layers * (ffn.width + factors)
    inner = 3 if how.adds_values or ffn.clamped else 2
    if ffn.clamped:
        inner = 7
    read = ffn.latent_width or width
    rows = ffn.router.top_k * _padding(ffn, settings)
    # With factors the whole layer is one operation that keeps gate and up alone (nn.lora_moe).
    per_row = 2 * ffn.expert_width if _in_one(ffn, settings) else 2 * read + inner * ffn.expert_width
    routed = rows * per_row + 3 * ffn.router.num_experts + 20
    shared = layers * (ffn.shared_width + factors) if ffn.shared_width else 0
    shared += 3 * width if ffn.expert_norms else 0
    shared += 2 * (ffn.latent_width + factors) if ffn.latent_width else 0
    return around + attention + routed + shared


def _in_one(ffn: MoEConfig, settings: TuneSettings) -> bool:
    how = settings.how
    plain = not ffn.clamped and ffn.gated and ffn.activation == "silu" and ffn.router.apply_to == "output"
    return how.has_factors and not how.dora and plain


def _padding(ffn: MoEConfig, settings: TuneSettings) -> float:
    """Rows of the experts' products over assignments: `nn.kernels.choose` rounds rows of busy experts up."""
    rows = settings.row_length * settings.batch_rows * ffn.router.top_k
    mean = rows / ffn.router.num_experts
    multiple = 1 if mean < 64 else 16 if mean < 256 else 32 if mean < 1024 else 64
    return 1.0 if multiple == 1 else 1 + ffn.router.num_experts * multiple / 2 / rows


def _working_values(config: ModelConfig, settings: TuneSettings) -> Iterator[float]:
    """Per token, what the backward pass of one block holds in addition to what was kept."""
    for block in config.blocks:
        ffn = block.ffn
        if isinstance(ffn, MoEConfig):
            read = ffn.latent_width or config.width
            yield ffn.router.top_k * _padding(ffn, settings) * 2 * read + 2 * config.width
        else:
            yield 2 * (0 if ffn is None else ffn.width) + 2 * config.width


def _weight_bytes(config: ModelConfig, settings: TuneSettings) -> int:
    """Bytes of the base's weights, where the matrices that an adapter's groups freeze are quantised."""
    total = count_parameters(config).total
    if settings.quant == "none":
        return total * settings.dtype_bytes
    train = AdapterConfig(rank=settings.rank).train
    quantised = sum(m.size for m in matrices(config) if train[m.group] == "lora")
    bits = {"int8": 8, "int4": 4}[settings.quant] + 16 / settings.quant_block * 2
    return (total - quantised) * settings.dtype_bytes + int(quantised * bits / 8)


def _chosen(config: ModelConfig, settings: TuneSettings, matrix: Matrix) -> int:
    assert matrix.layer is not None
    if isinstance(settings.experts, Mapping):
        return settings.experts.get(matrix.layer, 0)
    return -(-int(settings.experts * matrix.count * 1000) // 1000)


def _flops(config: ModelConfig, settings: TuneSettings) -> float:
    """Operations per token of a step: forward, gradients of inputs, and of the trained weights."""
    forward = flops_per_token(config, settings.row_length)
    share = 1.0 if settings.how.wraps == "weights" else 0.0
    if settings.how.wraps == "chosen experts":
        counts = count_parameters(config)
        share = (
            trained_parameters(config, settings)
            / max(1, counts.experts)
            * counts.experts_active
            / counts.active_all
        )
    return forward * (2 + share)


def fitting(config: ModelConfig, settings: TuneSettings, limit: int) -> list[tuple[str, TunePlan]]:
    """(what was changed, plan), one change added after another until the plan fits into `limit` bytes.

    The first entry is the plan as asked for. Changes are ordered from the cheapest to the most costly. When
    none suffices, the last entry still does not fit.
    """
    found = [("as asked", plan_tune(config, settings))]
    for words, change in _changes(found[0][1].settings):
        if found[-1][1].peak <= limit:
            break
        settings = replace(found[-1][1].settings, **change)
        found.append((words, plan_tune(config, settings)))
    return found


def _changes(settings: TuneSettings) -> Sequence[tuple[str, dict[str, Any]]]:
    changes: list[tuple[str, dict[str, Any]]] = []
    rows, accumulate = settings.batch_rows, settings.accumulate
    while rows > 1:
        rows, accumulate = -(-rows // 2), accumulate * 2
        changes.append(
            (f"batch_rows={rows} accumulate={accumulate}", {"batch_rows": rows, "accumulate": accumulate})
        )
    if settings.dtype_bytes == 4 or settings.activation_bytes == 4:
        changes.append(("dtype=bfloat16", {"dtype_bytes": 2, "activation_bytes": 2}))
    if settings.how.wraps == "weights":
        changes.append(("method=lora", {"method": "lora"}))
    changes += [
        ("quant=int8", {"quant": "int8"}),
        ("method=qlora quant=int4", {"method": "qlora", "quant": "int4"}),
    ]
    length = settings.row_length
    while length > 256:
        length //= 2
        changes.append((f"row_length={length}", {"row_length": length}))
    rank = settings.rank
    while rank > 4:
        rank //= 2
        changes.append((f"rank={rank}", {"rank": rank}))
    if settings.how.moe_only:
        changes = [c for c in changes if "quant" not in c[1] and "method" not in c[1]]
    return changes
