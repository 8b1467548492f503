"""The config of what an operation makes: other feed-forwards, another family, no multi-token prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.config import BalanceConfig, ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.config.feed_forward import RouterConfig
from coterie.families import config_to_hf, family, retyped

FeedForwardOf = Callable[[int, FeedForwardConfig | MoEConfig], FeedForwardConfig | MoEConfig]
# How many layers for multi-token prediction a file has, where these are carried and not run.
_PREDICTING = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def changed(config: ModelConfig, new_ffn: FeedForwardOf, model_type: str | None = None) -> ModelConfig:
    """The config with other feed-forwards, of another family if given, without multi-token prediction.

    Errors: `ConfigError` when the family's published form cannot carry the result.
    """
    blocks = tuple(
        block if block.ffn is None else block.model_copy(update={"ffn": new_ffn(index, block.ffn)})
        for index, block in enumerate(config.blocks)
    )
    extra = _without_prediction(config.extra)
    result = config.model_copy(update={"blocks": blocks, "num_mtp_layers": 0, "extra": extra})
    if model_type not in (None, config.family):
        result = retyped(result, str(model_type))
    config_to_hf(result)
    return result


def _without_prediction(extra: dict[str, Any]) -> dict[str, Any]:
    none = {key: 0 for key in _PREDICTING if extra.get(key)}
    text = extra.get("text_config")
    inside = {"text_config": _without_prediction(text)} if isinstance(text, dict) else {}
    return extra | none | inside


def routed(config: ModelConfig, target: str, num_experts: int, top_k: int, split: int) -> ModelConfig:
    """The config of a dense model whose feed-forwards became mixtures, in the family `target`.

    Errors: `ConfigError` when that family cannot carry the model.
    """
    chosen = family(target)
    router = {"num_experts": num_experts, "top_k": top_k, "renormalize": True} | dict(chosen.upcycled)

    def mixture(_: int, ffn: FeedForwardConfig | MoEConfig) -> MoEConfig:
        assert isinstance(ffn, FeedForwardConfig)
        return MoEConfig(
            expert_width=ffn.width // split,
            router=RouterConfig.from_dict(router),
            activation=ffn.activation,
            gated=ffn.gated,
            shared_width=ffn.width if chosen.shared != "none" else None,
            shared_gate=chosen.shared == "gated",
            balance=BalanceConfig(loss_coef=0.001),
        )

    try:
        return changed(config, mixture, target)
    except ConfigError as error:
        raise ConfigError(
            f"upcycle: no {target} checkpoint can carry this {config.family} model ({error}); choose another "
            "one"
        ) from None
