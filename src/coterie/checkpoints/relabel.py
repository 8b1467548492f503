"""The same model in another family's layout, where that layout can carry it exactly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig, MoEConfig, RouterConfig
from coterie.families import config_to_hf, family, unwrapped
from coterie.families.base import LayerKindError
from coterie.nn.router import Balance
from coterie.nn.transformer import Transformer

# Parts that may be dropped on request, by name.
DROPPABLE = {"vision": "the image encoder", "mtp": "the layers for multi-token prediction"}
# A router over one expert: whatever it scores, that expert gets the weight 1.
_ONE = RouterConfig(num_experts=1, top_k=1, renormalize=True)


def as_family(model: Transformer, target: str, drop: Collection[str] = ()) -> tuple[Transformer, list[str]]:
    """The model under `target`'s `model_type`, and the changes that this needed, in words.

    Weights are shared with the given model where its modules stay as they are. A dense feed-forward and a
    mixture of one expert compute the same and replace each other.
    Errors: `ConfigError` naming what the family's form would lose; nothing is left out unless `drop` names
    it.
    """
    family(target, "convert")
    unknown = sorted(set(drop) - set(DROPPABLE))
    if unknown:
        raise ConfigError(f"convert: '{unknown[0]}' cannot be dropped; only {' and '.join(DROPPABLE)} can")
    config, notes = _without(model, target, drop)
    errors: list[ConfigError] = []
    for candidate, change in _candidates(config.model_copy(update={"family": target})):
        try:
            _check(candidate, model, target, drop)
        except ConfigError as error:
            errors.append(error)
            continue
        return _rebuild(model, candidate), notes + ([change] if change else [])
    # The kind of layers is what the other candidates change, so any other reason says more.
    raise next((error for error in errors if not isinstance(error, LayerKindError)), errors[0])


def _without(model: Transformer, target: str, drop: Collection[str]) -> tuple[ModelConfig, list[str]]:
    """The config without the parts to drop, and a note on each."""
    config, notes = model.config, []
    if "mtp" in drop:
        if not config.num_mtp_layers:
            raise ConfigError(
                "convert: --drop mtp needs a model with layers for multi-token prediction; this has none"
            )
        config = config.model_copy(update={"num_mtp_layers": 0})
        notes.append(f"dropped: {DROPPABLE['mtp']}, as asked")
    left = _left(model, target)
    if left and "vision" in drop:
        config = config.model_copy(update={"extra": unwrapped(config).extra})
        notes.append(f"dropped: {DROPPABLE['vision']} ({len(left)} tensors), as asked")
    if target != model.config.family and "auto_map" in config.extra:
        # auto_map names remote code of the other family.
        kept = {key: value for key, value in config.extra.items() if key != "auto_map"}
        config = config.model_copy(update={"extra": kept})
        notes.append("left out of config.json: auto_map, which names code of the other family")
    return config, notes


def _left(model: Transformer, target: str) -> list[str]:
    """Names of the carried tensors that have no place in the files of `target`, a text model."""
    if family(target).texts:
        return []
    kept = family(target).carries(model.config) or ("\0",)
    return [name for name in model.carried if not name.startswith(kept)]


def _candidates(config: ModelConfig) -> list[tuple[ModelConfig, str]]:
    """(config, change in words) of the same function: as it is, dense as one expert, one expert as dense."""
    found = [(config, "")]
    ffns = [block.ffn for block in config.blocks]
    if None in ffns:  # layers without a feed-forward, which no other family has
        return found
    if all(isinstance(ffn, FeedForwardConfig) and not ffn.bias and ffn.gated for ffn in ffns):
        found.append(
            (_with_ffns(config, [_expert_of(ffn) for ffn in ffns]), "each feed-forward became one expert")
        )
    if all(not isinstance(ffn, MoEConfig) or _is_one_expert(ffn) for ffn in ffns) and config.is_moe:
        dense = [_dense_of(ffn) for ffn in ffns]
        found.append((_with_ffns(config, dense), "each single expert became a feed-forward"))
    return found


def _expert_of(ffn: FeedForwardConfig | MoEConfig | None) -> MoEConfig:
    assert isinstance(ffn, FeedForwardConfig)
    return MoEConfig(expert_width=ffn.width, router=_ONE, activation=ffn.activation)


def _dense_of(ffn: FeedForwardConfig | MoEConfig | None) -> FeedForwardConfig:
    if isinstance(ffn, FeedForwardConfig):
        return ffn
    assert ffn is not None
    return FeedForwardConfig(width=ffn.expert_width, activation=ffn.activation)


def _is_one_expert(moe: MoEConfig) -> bool:
    """Whether the block computes just its expert: one expert, weight 1, nothing shared, plain SwiGLU."""
    router = moe.router
    always_one = router.renormalize or router.score == "softmax"
    plain = moe.shared_width is None and moe.clamped is None and not router.bias and not router.select_bias
    plain = plain and moe.gated and moe.latent_width is None
    unscaled = router.scale == 1.0 and not router.expert_scale
    return router.num_experts == 1 and always_one and unscaled and plain


def _with_ffns(config: ModelConfig, ffns: list[Any]) -> ModelConfig:
    blocks = tuple(b.model_copy(update={"ffn": ffn}) for b, ffn in zip(config.blocks, ffns, strict=True))
    return config.model_copy(update={"blocks": blocks})


def _check(config: ModelConfig, model: Transformer, target: str, drop: Collection[str]) -> None:
    """Refuse what the family's form cannot carry. Errors: `ConfigError`."""
    left = _left(model, target)
    if left:
        if "vision" not in drop:
            raise ConfigError(
                f"convert: a {target} checkpoint cannot carry the image encoder "
                f"({len(left)} tensors, such as '{min(left)}'); "
                "to leave it behind give --drop vision"
            )
    elif "vision" in drop:
        raise ConfigError(
            "convert: --drop vision needs a model with an image encoder and a text-only target "
            f"({' or '.join(family(model.config.family).texts) or 'llama4_text'})"
        )
    try:
        config_to_hf(config)
    except ConfigError as error:
        raise type(error)(f"convert: {error}") from None


@torch.no_grad()
def _rebuild(model: Transformer, config: ModelConfig) -> Transformer:
    """A Transformer of `config` with the model's tensors; only changed feed-forwards are new memory."""
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if config.num_mtp_layers or name[:4] != "mtp."
    }
    for index, (new, old) in enumerate(zip(config.blocks, model.config.blocks, strict=True)):
        if type(new.ffn) is not type(old.ffn):
            prefix = f"blocks.{index}.ffn."
            parts = {name[len(prefix) :]: state.pop(name) for name in list(state) if name.startswith(prefix)}
            state |= {prefix + name: tensor for name, tensor in _other_kind(parts).items()}
    with torch.device("meta"):
        result = Transformer(config, model.compute_dtype)
    result.load_state_dict(state, assign=True)
    for _, router in result.routers():  # statistics are not in the state dict
        router.balance = Balance(router.config.num_experts, router.balance.config).to(router.weight.device)
    left = set(_left(model, config.family))
    result.carried = {name: tensor for name, tensor in model.carried.items() if name not in left}
    return result


def _other_kind(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """A dense feed-forward's tensors as one expert's, or the reverse; the router of one expert is zero."""
    if "gate.weight" in parts:
        gate, up, down = (parts[f"{name}.weight"] for name in ("gate", "up", "down"))
        return {
            "experts.gate_up.weight": torch.cat((gate, up))[None],
            "experts.down.weight": down[None],
            "router.weight": gate.new_zeros(1, gate.shape[1]),
        }
    gate, up = parts["experts.gate_up.weight"][0].chunk(2)
    return {"gate.weight": gate, "up.weight": up, "down.weight": parts["experts.down.weight"][0]}
