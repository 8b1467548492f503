"""Load a model for tuning and make exactly what the settings say trainable."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import adapted_layers, attach, is_trained
from coterie.adapters.files import AdapterFiles, adapter_base, is_adapter, read_adapter
from coterie.adapters.patch import attach_subset, is_patch
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import AdapterConfig, BalanceConfig, ConfigError, ExpertSelection, ModelConfig
from coterie.config.effects import Facts
from coterie.config.method_run import MethodRun
from coterie.config.methods import ResultKind, TuningMethod, tuning_method
from coterie.nn.moe import MoE
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.text.template_sources import ChatTemplates, template_from
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")
BIAS_RATE = 1e-3  # step of the selection bias where the model names none: DeepSeek-V3's


@dataclass(frozen=True)
class Tuned:
    """A model that is ready for tuning.

    `base`: its directory. `origin`: the name of the base as it was given. `kind`: of the result.
    `treatments`: by group. `asked`: the groups that are to be trained.
    """

    model: Transformer
    tokenizer: Tokenizer
    base: Path
    origin: str
    kind: ResultKind
    treatments: dict[str, str]
    asked: set[str]

    def ranks(self, rank: int) -> dict[str, int]:
        """The rank of each group's factors; `rank` where the model has no adapter."""
        adapter = self.model.adapter
        if adapter is None:
            return dict.fromkeys(self.treatments, rank)
        ranks = dict.fromkeys(self.treatments, adapter.rank)
        moe = self.model.config.first_moe
        if moe is not None:
            ranks["experts"] = adapter.expert_rank(moe.router.num_experts, moe.router.top_k)
        return ranks


Run = TypeVar("Run", bound=MethodRun)


def held_dtype(method: TuningMethod, kept: torch.dtype) -> torch.dtype:
    """The type in which `method` holds the weights of a base that is kept as `kept`."""
    return torch.float32 if method.float32 else kept


def prepare_model(config: MethodRun, dtype: torch.dtype, device: torch.device) -> Tuned:
    """Load the model and make exactly what `config` says trainable.

    Where `config.model` is an adapter, `config` is what `continued` returned.
    Errors: `ConfigError` for an intent that this model cannot follow, `CheckpointError`, `DataError`.
    """
    further = read_adapter(config.model) if is_adapter(config.model) else None
    origin = adapter_base(config.model) if further is not None else config.model
    template = None if config.template is None else template_from(config.template)
    method = tuning_method(config.method)
    checkpoint = Checkpoint.open(origin)
    _check_intent(config, checkpoint.config)
    checkpoint.verify()  # the result names this base by its manifest
    held = held_dtype(method, checkpoint.kept_dtype)
    rounding = further.settings if further is not None else config.adapter() if method.quantised else None
    precision = None if rounding is None else rounding.precision
    loaded = checkpoint.load(held, device, compute_dtype=dtype, precision=precision)
    model = loaded.model
    if loaded.tokenizer is None:
        raise ConfigError(
            f"{config.model}: has no tokenizer.json, so examples cannot be read; add the model's own"
        )
    treatments: dict[str, str] = {**config.treatments()}
    _check_groups(config, model)
    if further is not None:
        treatments = _attach_further(config, model, further, checkpoint)
    else:
        chosen = ExpertSelection.from_file(config.experts) if config.experts else None
        make_trainable(model, method, config.adapter(), chosen)
    if config.router == "dense-grad":
        _send_gradients_to_all_experts(model)
    _set_balance(config, model, treatments.get("router", "freeze"))
    _warn_of_coarse_steps(model)
    if template is not None:
        loaded.tokenizer.templates = ChatTemplates.of(template)
    asked = _asked_groups(model, treatments)
    if config.experts and method.wraps == "factors":
        asked |= {"experts"}
    return Tuned(model, loaded.tokenizer, checkpoint.path, origin, method.result, treatments, asked)


def continued(config: Run) -> Run:
    """The settings of a run that trains an adapter further: the adapter's own; others are as they are.

    Errors: `ConfigError` for a given setting that says something else than the adapter, whose factors it
    cannot change, and for an expert patch.
    """
    if is_patch(config.model):
        raise ConfigError(
            f"{config.model}: is an expert patch, which is not trained further; apply it first "
            "(coterie patch apply)"
        )
    if not is_adapter(config.model):
        return config
    own = read_adapter(config.model).settings
    factors = "lora" in own.train.values()
    own_method = "qlora" if own.quant != "none" else "dora" if own.dora else "lora" if factors else "router"
    its: dict[str, Any] = {"method": own_method}
    if factors:
        its |= {"rank": own.rank, "alpha": own.alpha}
    if own.quant != "none":
        its["bits"] = 4 if own.quant == "int4" else 8
    for name, value in its.items():
        given = getattr(config, name)
        if name in config.model_fields_set and given is not None and given != value:
            raise ConfigError(
                f"{config.model}: is an adapter of {name} {value}, and its own factors are trained further, "
                f"so '{name}' cannot be {given}; leave it out, or merge the adapter first (coterie merge)"
            )
    for name in ("experts", "router"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{config.model}: is an adapter, whose own factors are trained further; leave '{name}' out, "
                "or merge it first (coterie merge)"
            )
    if factors and "dropout" not in config.model_fields_set:
        its["dropout"] = own.dropout
    if "rank_rule" in config.model_fields_set and config.rank_rule != own.rank_rule:
        raise ConfigError(
            f"{config.model}: is an adapter of rank_rule {own.rank_rule}; leave 'rank_rule' out"
        )
    return config.model_copy(update=its)


def _attach_further(
    config: MethodRun, model: Transformer, further: AdapterFiles, base: Checkpoint
) -> dict[str, str]:
    """Put the adapter into its base, trainable; the treatment of each group."""
    apply_in_place(model, further, base)
    adapter = model.adapter
    assert adapter is not None
    adapter = model.adapter = adapter.model_copy(update={"dropout": config.dropout})
    for _, layer in adapted_layers(model):
        layer.dropout = config.dropout
    present = {str(group) for group in parameter_groups(model).values()}
    own: dict[str, str] = {str(group): how for group, how in adapter.train.items()}
    trained = {group: how for group, how in own.items() if how != "freeze" and group in present}
    asked = {group: how for group, how in config.train.items() if how != "freeze"}
    if config.train and asked != trained:
        words = ",".join(f"{group}={how}" for group, how in trained.items())
        raise ConfigError(
            f"{config.model}: is an adapter that trains {words}, and its own factors are trained further; "
            "leave 'train' out, or merge it first (coterie merge)"
        )
    return own


def make_trainable(
    model: Transformer, method: TuningMethod, adapter: AdapterConfig, chosen: ExpertSelection | None = None
) -> None:
    """Change a plain model into the form that `method` trains, and set `requires_grad` of every parameter.

    `adapter.train` says what happens to each group. `chosen`: the experts to which training is limited
    (default: all). Errors: `ConfigError` for what the method or the model cannot do.
    """
    if method.wraps == "chosen experts":
        assert chosen is not None
        attach_subset(model, chosen)
    elif method.wraps == "factors":
        attach(model, adapter, chosen)
    elif "lora" in adapter.train.values():
        raise ConfigError(
            "method full trains weights themselves; use method lora with train.GROUP=full to mix both"
        )
    else:
        treatments: dict[str, str] = {str(group): how for group, how in adapter.train.items()}
        groups = parameter_groups(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_trained(name, treatments.get(groups[name], "freeze")))


def _asked_groups(model: Transformer, treatments: Mapping[str, str]) -> set[str]:
    """The groups of the model that are to be trained: by their treatment, or with a trainable parameter."""
    asked = {str(group) for group in parameter_groups(model).values()}
    asked = {group for group in asked if treatments.get(group, "freeze") not in ("freeze", "bias")}
    return asked | {group for group, _ in _trained(model)}


def _trained(model: Transformer) -> Iterator[tuple[str, torch.dtype]]:
    """(group, type) of each trainable parameter."""
    groups = parameter_groups(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield groups[name], parameter.dtype


def _warn_of_coarse_steps(model: Transformer) -> None:
    """Weights trained in full keep the base's type.

    In 16 bits, a step below 1/256 of a weight may be rounded away.
    """
    coarse = sorted({group for group, dtype in _trained(model) if dtype != torch.float32})
    if coarse:
        _log.warning(
            "%s is trained in full in 16 bits, as the base is stored, so small steps are rounded away; "
            "convert the base with --dtype float32 first to keep them",
            ", ".join(coarse),
        )


def _check_groups(config: MethodRun, model: Transformer) -> None:
    """Refuse a group that the model lacks; a method's defaults apply where they can."""
    groups = set(parameter_groups(model).values())
    for group, how in config.train.items():
        if how != "freeze" and group not in groups:
            raise ConfigError(
                f"train.{group}={how}: this {model.config.family} model has no '{group}'; its groups: "
                f"{', '.join(sorted(groups))}"
            )


def _check_intent(config: MethodRun, model: ModelConfig) -> None:
    """Refuse a given setting that the model cannot follow, before its weights are read."""
    if not model.is_moe:
        for name, given in (("experts", config.experts), ("router", config.router)):
            if given not in (None, "freeze"):
                raise ConfigError(f"{name}: this {model.family} model is dense and has none; leave it out")
        if tuning_method(config.method).moe_only:
            raise ConfigError(
                f"method {config.method} is for mixtures of experts, and {config.model} is dense"
            )
    config.check_facts(Facts(moe=model.is_moe))
    if config.experts is not None:
        ExpertSelection.from_file(config.experts).check(model)


def _send_gradients_to_all_experts(model: Transformer) -> None:
    """Let routers also learn from the experts that they did not choose."""
    for layer, block in enumerate(model.blocks):
        if isinstance(block.ffn, MoE):
            if block.ffn.config.router.apply_to == "input":
                raise ConfigError(
                    f"router=dense-grad: layer {layer} multiplies the input of experts by the score, so an "
                    "expert that is not chosen has no output to learn from; use router=full"
                )
            block.ffn.dense_gradient = True


def _set_balance(config: MethodRun, model: Transformer, treatment: str) -> None:
    """Set the balance losses as asked. The selection bias moves only where the result stores it."""
    for layer, router in model.routers():
        own = router.balance.config
        change: dict[str, Any] = {}
        if config.balance == "none":
            change = {"loss_coef": 0.0, "z_loss_coef": 0.0}
        elif isinstance(config.balance, float):
            change = {"loss_coef": config.balance}
        if treatment not in ("full", "bias"):
            change["bias_rate"] = 0.0
        elif treatment == "bias" and router.bias is None:
            if router.select_bias is None:
                raise ConfigError(
                    f"router=bias: the router of layer {layer} has no bias; use router=full or lora"
                )
            change["bias_rate"] = own.bias_rate or BIAS_RATE
        router.balance.config = BalanceConfig.from_dict(own.to_dict() | change, "balance")
