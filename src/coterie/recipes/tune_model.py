"""The model of a tuning run: what is made trainable, how it is kept, and how it is proven from disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import attach, is_trained
from coterie.adapters.files import adapter_base, is_adapter, save_adapter
from coterie.adapters.patch import attach_subset, is_patch, save_patch
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import BalanceConfig, CheckpointError, ConfigError, ExpertSelection
from coterie.config.methods import ResultKind, tuning_method
from coterie.config.tune import TuneConfig
from coterie.nn.moe import MoE
from coterie.nn.parameter_groups import Group, parameter_groups
from coterie.nn.transformer import Transformer
from coterie.proof.judge import judge
from coterie.proof.records import ProbeRecord, default_sequences, record
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")
TRAINABLE = "trainable.safetensors"
BIAS_RATE = 1e-3  # step of the selection bias where the model names none: DeepSeek-V3's


@dataclass(frozen=True)
class Tuned:
    """A model made ready. `base`: its directory. `asked`: the groups that are to be trained. `kind`: of the
    result.
    """

    model: Transformer
    tokenizer: Tokenizer
    base: Path
    origin: str
    kind: ResultKind
    treatments: dict[str, str]
    asked: set[str]


def prepare_model(config: TuneConfig, dtype: torch.dtype, device: torch.device) -> Tuned:
    """Load the model and make exactly what `config` says trainable.

    Errors: `ConfigError` for an intent that this model cannot follow, `CheckpointError`, `DataError`.
    """
    origin, further = config.model, None
    if is_patch(config.model):
        raise ConfigError(
            f"{config.model}: is an expert patch, which is not trained further; apply it first "
            "(coterie patch apply)"
        )
    if is_adapter(config.model):
        origin, further = adapter_base(config.model), config.model
    method = tuning_method(config.method)
    quantise = config.adapter() if method.quantised else None
    # An adapter belongs to the base as it is stored, not to a rounding of it.
    checkpoint = Checkpoint.open(origin)
    held = torch.float32 if method.float32 else checkpoint.kept_dtype
    loaded = checkpoint.load(held, device, compute_dtype=dtype, quantise=quantise)
    model = loaded.model
    if loaded.tokenizer is None:
        raise ConfigError(
            f"{config.model}: has no tokenizer.json, so examples cannot be read; add the model's own"
        )
    treatments: dict[str, str] = {**config.treatments()}
    _check_intent(config, model)
    kind: ResultKind = method.result
    if further is not None:
        _check_further(config)
        apply_in_place(model, further, loaded.checkpoint)
        assert model.adapter is not None
        treatments = {str(group): how for group, how in model.adapter.train.items()}
    elif method.wraps == "chosen experts":
        assert config.experts is not None
        attach_subset(model, ExpertSelection.from_file(config.experts))
    elif method.wraps == "weights":
        _make_whole(model, treatments)
    else:
        chosen = ExpertSelection.from_file(config.experts) if config.experts else None
        attach(model, config.adapter(), chosen)
    if config.router == "dense-grad":
        _hear_all_experts(model)
    _set_balance(config, model, treatments.get("router", "freeze"))
    groups = parameter_groups(model)
    _say_coarse(model, groups)
    present = {groups[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    asked = {
        group
        for group, how in treatments.items()
        if how not in ("freeze", "bias") and group in groups.values()
    }
    if config.experts and method.wraps == "factors":
        asked |= {"experts"}
    return Tuned(model, loaded.tokenizer, loaded.path, origin, kind, treatments, asked | present)


def _say_coarse(model: Transformer, groups: Mapping[str, Group]) -> None:
    """Weights trained in full keep the base's type: in 16 bits a step below 1/256 of a weight may be rounded
    away.
    """
    trained = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    coarse = sorted({groups[name] for name, parameter in trained if parameter.dtype != torch.float32})
    if coarse:
        _log.warning(
            "%s is trained in full in 16 bits, as the base is stored, so small steps are rounded away; "
            "convert the base with --dtype float32 first to keep them",
            ", ".join(coarse),
        )


def _check_intent(config: TuneConfig, model: Transformer) -> None:
    """What was said in so many words must be possible; what a method does by itself applies where it can."""
    groups = set(parameter_groups(model).values())
    for group, how in config.train.items():
        if how != "freeze" and group not in groups:
            raise ConfigError(
                f"train.{group}={how}: this {model.config.family} model has no '{group}'; its groups: "
                f"{', '.join(sorted(groups))}"
            )
    if not model.config.is_moe:
        for name, given in (("experts", config.experts), ("router", config.router)):
            if given not in (None, "freeze"):
                raise ConfigError(
                    f"{name}: this {model.config.family} model is dense and has none; leave it out"
                )
        if tuning_method(config.method).moe_only:
            raise ConfigError(
                f"method {config.method} is for mixtures of experts, and {config.model} is dense"
            )


def _check_further(config: TuneConfig) -> None:
    method = tuning_method(config.method)
    if not method.has_factors or method.quantised or config.train or config.experts or config.router:
        raise ConfigError(
            f"{config.model}: is an adapter, whose own factors are trained further; leave method, "
            "train, experts and "
            "router out, or merge it first (coterie merge)"
        )


def _make_whole(model: Transformer, treatments: dict[str, str]) -> None:
    if "lora" in treatments.values():
        raise ConfigError(
            "method full trains weights themselves; use method lora with train.GROUP=full to mix both"
        )
    groups = parameter_groups(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, treatments.get(groups[name], "freeze")))


def _hear_all_experts(model: Transformer) -> None:
    """Routers also learn from the experts that they did not choose."""
    for layer, block in enumerate(model.blocks):
        if isinstance(block.ffn, MoE):
            if block.ffn.config.router.apply_to == "input":
                raise ConfigError(
                    f"router=dense-grad: layer {layer} multiplies what experts read by the score, so "
                    "one that is not "
                    "chosen says nothing; use router=full"
                )
            block.ffn.dense_gradient = True


def _set_balance(config: TuneConfig, model: Transformer, treatment: str) -> None:
    """Balance losses as asked. The selection bias moves only where the result holds it: with full or bias."""
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


def trainable_tensors(model: Transformer) -> dict[str, Tensor]:
    """Everything that training changes in the model's files: trainable parameters and selection biases."""
    tensors = {
        name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for layer, router in model.routers():
        if router.select_bias is not None:
            tensors[f"blocks.{layer}.ffn.router.select_bias"] = router.select_bias
    return tensors


def write_trainable(directory: Path, model: Transformer) -> None:
    """A run's own checkpoint: only what is trained."""
    save_file({n: t.cpu().contiguous() for n, t in trainable_tensors(model).items()}, directory / TRAINABLE)


@torch.no_grad()
def read_trainable(directory: Path, model: Transformer) -> None:
    """Take back what `write_trainable` wrote. Errors: `CheckpointError` for the checkpoint of another run."""
    stored, own = load_file(directory / TRAINABLE), trainable_tensors(model)
    if stored.keys() != own.keys() or any(stored[name].shape != own[name].shape for name in own):
        raise CheckpointError(
            f"{directory}: was written by a run that trained other tensors; choose another 'out'"
        )
    for name, tensor in own.items():
        tensor.copy_(stored[name])


def probe(model: Transformer, tokenizer: Tokenizer) -> ProbeRecord:
    """What the model says to the fixed texts, without dropout."""
    training = model.training
    model.eval()
    try:
        sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
        return record(model, sequences, tokenizer)
    finally:
        model.train(training)


def save_result(tuned: Tuned, out: Path, about: dict[str, Any]) -> Path:
    """Write the adapter, patch or model of a finished run."""
    path = out / tuned.kind
    if tuned.kind == "adapter":
        save_adapter(path, tuned.model, tuned.base, tuned.tokenizer)
    elif tuned.kind == "patch":
        save_patch(path, tuned.model, tuned.origin)
    else:
        save_model(
            path, tuned.model, tuned.tokenizer, extra={"recipe": "tune", "parent": tuned.origin, **about}
        )
    return path


def reloader(config: TuneConfig, tuned: Tuned, path: Path) -> Callable[[], Transformer]:
    """How a user gets the result: the base from its directory and the result on it, or the result itself."""

    def load() -> Transformer:
        dtype = tuned.model.compute_dtype
        parameters = next(tuned.model.parameters()).dtype
        if tuned.kind == "model":
            return load_model(path, parameters, compute_dtype=dtype).model
        quantise = config.adapter() if tuning_method(config.method).quantised else None
        base = load_model(tuned.origin, parameters, compute_dtype=dtype, quantise=quantise).model
        apply_in_place(base, path, tuned.base)
        return base

    return load


def prove(base: ProbeRecord, tuned: ProbeRecord, reloaded: ProbeRecord, path: Path) -> dict[str, float]:
    """What the files say against the model that was trained and against its base.

    Errors: `CheckpointError` when training changed nothing, or the files are not the tuned model.
    """
    found = judge(base, tuned, reloaded)
    if found.ruling == "unchanged":
        raise CheckpointError(
            f"{path}: the tuned model says exactly what its base says, so nothing was learnt; more "
            "steps or a larger lr"
        )
    if not found.faithful:
        raise CheckpointError(f"{path}: read back, it {found.reason}; the result is not to be used")
    return {
        "gravity": found.gravity,
        "moved_mean": found.moved.mean_logprob,
        "reloaded_mean": found.lost.mean_logprob,
        "reloaded_max": found.lost.max_logprob,
    }
