"""What of a model fits into memory while it is served, and how fast it can be, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coterie.config import ModelConfig
from coterie.plan.counts import count_parameters, kv_bytes

# Python, PyTorch and the compiled kernels.
PROGRAM = 600_000_000
# Bytes of a number with its scale, in blocks of 64 (`--quant`).
QUANTISED: dict[str, float] = {"int8": 8.25 / 8, "int4": 4.25 / 8}
SIZES = {"float32": 4, "bfloat16": 2}


def forms_of(quant: str | None) -> tuple[str, ...]:
    """The forms to plan for: the one that is asked for, or all, widest first."""
    return ("none", *QUANTISED) if quant is None else (quant,)


@dataclass(frozen=True)
class ServePlan:
    """Bytes of a model that is served in one form. `cache`: keys and values of all sequences when full.

    `room`: for experts, out of `experts`, in `memory`. `hits`: the share of the uses of experts that find
    them there. `active`: bytes of weights that one token reads.
    """

    form: str
    always: int
    experts: int
    cache: int
    active: int
    memory: int
    room: int
    hits: float

    @property
    def fits(self) -> str:
        """`memory`: all of it fits; `disk`: with experts on disk; `no`."""
        return "no" if self.room < 0 else "memory" if self.room >= self.experts else "disk"

    def to_dict(self) -> dict[str, object]:
        """All figures."""
        return {**self.__dict__, "fits": self.fits}


def plan_serve(
    config: ModelConfig,
    memory: int,
    form: str,
    context: int,
    sequences: int = 1,
    dtype: str = "bfloat16",
    uses: Mapping[int, Sequence[int]] | None = None,
) -> ServePlan:
    """The plan for matrices in `form` (`none`: `dtype`) and all else in `dtype`, for `sequences` replies.

    `uses`: counts of a profile, by layer; without them, experts count as equally used, the worst case.
    """
    counts, wide = count_parameters(config), SIZES[dtype]
    coded = QUANTISED.get(form, wide)
    matrices = counts.attention + counts.dense + counts.shared
    plain = counts.router + counts.norms
    always = int((counts.embedding + counts.head + plain) * wide + matrices * coded)
    experts = int(counts.experts * coded)
    head = config.vocab_size * config.width
    active = int((head + plain) * wide + (matrices + counts.experts_active) * coded)
    cache = sequences * kv_bytes(config, context, wide)
    room = memory - PROGRAM - always - cache
    share = min(1.0, max(0.0, room / experts)) if experts else 1.0
    hits = share if uses is None else _busiest(uses, share)
    return ServePlan(form, always, experts, cache, active, memory, room, hits)


def _busiest(uses: Mapping[int, Sequence[int]], share: float) -> float:
    """The part of all uses that falls on this share of the experts, the busiest first."""
    numbers = sorted((count for counts in uses.values() for count in counts), reverse=True)
    kept = share * len(numbers)
    whole = int(kept)
    found = sum(numbers[:whole]) + (kept - whole) * (numbers[whole] if whole < len(numbers) else 0)
    return found / max(1, sum(numbers))


def expert_bytes(config: ModelConfig, plan: ServePlan) -> int:
    """Bytes of one expert, on average."""
    return plan.experts // max(1, sum(moe.router.num_experts for _, moe in config.moe_layers()))


def token_seconds(config: ModelConfig, plan: ServePlan, step: float, read: float) -> float:
    """Seconds of one token of one sequence. `step`: with all experts in memory; `read`: of one expert."""
    chosen = sum(moe.router.top_k for _, moe in config.moe_layers())
    return step + chosen * (1 - plan.hits) * read
