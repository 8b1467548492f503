"""What an adapter is, as data: the groups that are trained and how, the rank, the form of frozen weights."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from coterie.config.base import Settings, suggest
from coterie.config.precision import Precision

AdaptedGroup = Literal["attention", "experts", "shared", "dense", "router", "norm", "embedding", "head"]
ADAPTED_GROUPS: tuple[AdaptedGroup, ...] = get_args(AdaptedGroup)
Treatment = Literal["lora", "full", "freeze", "bias"]
RankRule = Literal["per-expert", "active", "total"]

# Groups without a matrix that multiplies activations, which low-rank factors need.
_NO_LORA = ("norm", "embedding")
_DEFAULT: dict[AdaptedGroup, Treatment] = {
    "attention": "lora",
    "experts": "lora",
    "shared": "lora",
    "dense": "lora",
    "router": "freeze",
    "norm": "freeze",
    "embedding": "freeze",
    "head": "freeze",
}


def effective_rank(rank: int, rule: RankRule, num_experts: int, top_k: int) -> int:
    """Rank of each expert's factors, at least 1.

    `per-expert`: `rank` itself. `active`: `rank // top_k`, so that the experts of one token have `rank`
    together. `total`: `rank // num_experts`, so that all experts of a layer have `rank` together.
    """
    share = {"per-expert": 1, "active": top_k, "total": num_experts}[rule]
    return max(1, rank // share)


class AdapterConfig(Settings):
    """How a model is adapted.

    `train` says for each group `lora` (low-rank factors added to frozen weights), `full` (the weights
    themselves), `freeze`, or for routers `bias` (only their biases, the selection bias included). Groups that
    are not named keep the default: LoRA on attention, experts, shared and dense feed-forwards. The product of
    the factors is multiplied by `alpha` over their rank. `dropout` acts on the input of the factors. `dora`
    also learns the length of each output row. `quant`: the frozen matrices of attention, experts, shared and
    dense feed-forwards are kept in 8 or 4 bits, with one scale for every `quant_block` numbers of a row.
    `seed`: for the initial values of the factors.
    """

    rank: int = Field(16, gt=0)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    dora: bool = False
    rank_rule: RankRule = "per-expert"
    train: dict[AdaptedGroup, Treatment] = Field(default_factory=dict)
    quant: Literal["none", "int8", "int4"] = "none"
    quant_block: int = Field(64, gt=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        train = data.get("train") if isinstance(data, dict) else None
        if train is None or not isinstance(train, dict):
            return data if train is not None else {**data, "train": dict(_DEFAULT)}
        for group in train:
            if group not in ADAPTED_GROUPS:
                hint = suggest(str(group), ADAPTED_GROUPS) or f"; groups: {', '.join(ADAPTED_GROUPS)}"
                raise ValueError(f"unknown group '{group}'{hint}")
        return {**data, "train": _DEFAULT | train}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for group in _NO_LORA:
            if self.train[group] == "lora":  # type: ignore[index]
                raise ValueError(
                    f"'{group}' takes full or freeze: low-rank factors need a matrix product, which it lacks"
                )
        for group, treatment in self.train.items():
            if treatment == "bias" and group != "router":
                raise ValueError(f"'{group}' takes lora, full or freeze: 'bias' is for routers")
        if all(treatment == "freeze" for treatment in self.train.values()):
            raise ValueError(
                "every group is frozen, so nothing would be trained; give one of them lora or full"
            )
        return self

    @property
    def precision(self) -> Precision | None:
        """What the frozen matrices are held in; None without `quant`."""
        if self.quant == "none":
            return None
        held = {
            group: self.quant
            for group in ("attention", "experts", "shared", "dense")
            if self.train[group] != "full"  # type: ignore[index]
        }
        return Precision.from_dict({**held, "block": self.quant_block, "stored": False}, where="adapter")

    def expert_rank(self, num_experts: int, top_k: int) -> int:
        """Rank of each routed expert's factors under `rank_rule`; all other matrices have `rank`."""
        return effective_rank(self.rank, self.rank_rule, num_experts, top_k)
