"""The record of an operation: what it was, and what it changed in size, function and perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from coterie.config import ModelConfig
from coterie.families import family
from coterie.plan.counts import count_parameters, memory

T = TypeVar("T")


@dataclass(frozen=True)
class BeforeAfter(Generic[T]):
    """One fact of the model before and after the operation."""

    before: T
    after: T


@dataclass(frozen=True)
class FunctionChange:
    """How far the answers are from the original's, in nats; the fields of `proof.difference.Difference`."""

    max_logprob: float
    mean_logprob: float
    kl: float | None
    top1: float | None


@dataclass(frozen=True)
class HealingRecord:
    """The training after an operation. `towards`: "the original" or "the text"; `trained`: which part."""

    steps: int
    tokens: int
    towards: str
    trained: str
    lr: float
    first_loss: float
    last_loss: float


@dataclass
class SurgeryReceipt:
    """What an operation did; `surgery.json` of the result.

    `parameters`: counts by name. `memory`: bytes for inference in bfloat16. `lost`: parts that the result
    lacks. `loads_in`: reader -> how it reads the result. `details`: facts of one kind of operation, such as
    the experts kept by layer. `function`: stage ("after_surgery", "after_healing") -> change.
    `perplexity_data`: the texts it was measured on; empty where the model has no tokenizer.
    `perplexity_tokens`: how many of their tokens. `perplexity`:
    stage ("before", "after", "healed") -> value, None where it was not measured.
    """

    operation: str
    settings: Mapping[str, Any]
    source: str
    family: BeforeAfter[str]
    parameters: BeforeAfter[dict[str, int]]
    memory: BeforeAfter[int]
    loads_in: dict[str, str]
    lost: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    function: dict[str, FunctionChange] = field(default_factory=dict)
    perplexity_data: list[str] = field(default_factory=list)
    perplexity_tokens: int = 0
    perplexity: dict[str, float | None] = field(default_factory=dict)
    healing: HealingRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of `surgery.json`, of JSON types."""
        data = {"format": 1} | asdict(self)
        data["memory_bytes_bfloat16"] = data.pop("memory")
        texts = data.pop("perplexity_data") or "none: the model has no tokenizer"
        data["perplexity"] = {"data": texts, "tokens": data.pop("perplexity_tokens")} | data["perplexity"]
        if self.healing is None:
            del data["healing"]
        return data


def open_receipt(
    operation: str,
    settings: Mapping[str, Any],
    source: str,
    before: ModelConfig,
    after: ModelConfig,
    details: dict[str, Any],
) -> SurgeryReceipt:
    """The receipt of an operation, as far as the two configs tell: sizes and readers."""
    return SurgeryReceipt(
        operation=operation,
        settings=dict(settings),
        source=source,
        family=BeforeAfter(before.family, after.family),
        parameters=BeforeAfter(_counts(before), _counts(after)),
        memory=BeforeAfter(memory(before, "inference").total, memory(after, "inference").total),
        loads_in={
            "coterie": "read back with the same answers",
            "transformers": f"{family(after.family).architecture} (model_type {after.family})",
            "others": f"whatever reads {after.family} checkpoints: every layer has as many experts as "
            "config.json says",
        },
        details=details,
    )


def _counts(config: ModelConfig) -> dict[str, int]:
    found = count_parameters(config)
    return {name: getattr(found, name) for name in ("total", "active_all", "active_core", "experts")}
