"""Steps that all operations on whole models share: another config, with all unaffected tensors copied over.

T tokens, D width, E experts, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.families import config_to_hf, float32_parameters
from coterie.nn.moe import MoE
from coterie.nn.packed import PASS_TOKENS, forward_packed, groups_of
from coterie.nn.recording import Recorder
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import routers_of

FeedForwardOf = Callable[[int, FeedForwardConfig | MoEConfig], FeedForwardConfig | MoEConfig]
Sequences = Sequence[Sequence[int]]
_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def changed(config: ModelConfig, ffn_of: FeedForwardOf, family: str | None = None) -> ModelConfig:
    """The config with other feed-forwards, of another family if given, without multi-token prediction.

    Errors: `ConfigError` when the family's published form cannot carry the result.
    """
    blocks = tuple(
        block.model_copy(update={"ffn": ffn_of(index, block.ffn)})
        for index, block in enumerate(config.blocks)
    )
    update: dict[str, Any] = {"blocks": blocks, "num_mtp_layers": 0}
    if family is not None and family != config.family:
        kept = {key: value for key, value in config.extra.items() if key in _TOKEN_KEYS}
        update |= {"family": family, "extra": kept}
    result = config.model_copy(update=update)
    config_to_hf(result)
    return result


@torch.no_grad()
def rebuilt(model: Transformer, config: ModelConfig) -> Transformer:
    """A model of `config` that shares no memory with `model`; tensors of equal name and shape are copied.

    All others are NaN until they are written; `finished` checks that none is left.
    Errors: `ConfigError` for a model with an adapter.
    """
    if model.adapter is not None:
        raise ConfigError("surgery: the model has an adapter; merge it first")
    parameter = next(model.parameters())
    new = Transformer(config, model.compute_dtype).to(parameter.device, parameter.dtype)
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    for name in float32_parameters(config):
        new.get_parameter(name).data = new.get_parameter(name).data.float()
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        if name in before and before[name].shape == tensor.shape:
            tensor.copy_(before[name])
        elif isinstance(tensor, torch.nn.Parameter):
            tensor.fill_(float("nan"))
    for _, router in new.routers():
        router.balance.reset()
    new.carried = dict(model.carried)
    return new.eval()


def finished(model: Transformer) -> Transformer:
    """The model itself, after a check that every weight was written.

    Errors: `AssertionError` naming a weight that an operation forgot, which is a bug of the operation.
    """
    for name, parameter in model.named_parameters():
        assert not bool(parameter.isnan().any()), f"surgery left '{name}' unwritten"
    return model


def moe_layers(model: Transformer, what: str) -> list[tuple[int, MoE]]:
    """(layer, module) of every mixture of experts; `what`: the operation, for the message.

    Errors: `ConfigError` for a dense model.
    """
    routers_of(model.config, what)
    return [(index, block.ffn) for index, block in enumerate(model.blocks) if isinstance(block.ffn, MoE)]


@torch.no_grad()
def combine_experts(old: MoE, new: MoE, mixture_NE: Tensor) -> None:
    """Write each of `new`'s N experts, with its row in the router, as `mixture`'s weighted sum of `old`'s E.

    A row of 0s with a single 1 copies one expert bit for bit.
    """
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (old.router.weight, new.router.weight),
        (old.router.bias, new.router.bias),
    ]
    pairs.append((old.router.select_bias, new.router.select_bias))
    for name in ("gate_up", "down"):
        before, after = getattr(old.experts, name), getattr(new.experts, name)
        pairs += [(before.weight, after.weight), (before.bias, after.bias)]
    for before, after in pairs:
        if before is None or after is None:
            continue
        for row, weights_E in enumerate(mixture_NE):
            chosen = weights_E.nonzero().flatten().tolist()
            if len(chosen) == 1 and float(weights_E[chosen[0]]) == 1.0:
                after[row] = before[chosen[0]]
            else:
                after[row] = sum(float(weights_E[e]) * before[e].float() for e in chosen)


def with_mixtures(model: Transformer, mixtures: Mapping[int, Tensor]) -> Transformer:
    """The model with other experts in every layer: `mixtures[layer]` is the (N, E) of `combine_experts`.

    Errors: `ConfigError` when the model's family cannot have these numbers of experts.
    """

    def ffn_of(layer: int, ffn: FeedForwardConfig | MoEConfig) -> FeedForwardConfig | MoEConfig:
        if not isinstance(ffn, MoEConfig):
            return ffn
        router = ffn.router.model_copy(update={"num_experts": len(mixtures[layer])})
        return ffn.model_copy(update={"router": router})

    new = rebuilt(model, changed(model.config, ffn_of))
    for layer, mixture in mixtures.items():
        before, after = model.blocks[layer].ffn, new.blocks[layer].ffn
        assert isinstance(before, MoE) and isinstance(after, MoE)
        combine_experts(before, after, mixture)
    return finished(new)


@torch.no_grad()
def watch(model: Transformer, sequences: Sequences) -> Iterator[Recorder]:
    """Run the model on some sequences at a time; each record holds routing, inputs and outputs by layer.

    Errors: `ConfigError` without any sequence, and for a dense model.
    """
    if not any(len(sequence) for sequence in sequences):
        raise ConfigError("surgery: no text to look at; give --data")
    moe_layers(model, "surgery")
    limit = model.config.max_positions
    pieces = [s[at : at + limit] for s in sequences for at in range(0, len(s), limit)]
    for group in groups_of(pieces, PASS_TOKENS):
        recorder = Recorder(tensors=True)
        forward_packed(model, group, recorder)
        yield recorder


def expert_output(module: MoE, expert: int, x_TD: Tensor, weights_T: Tensor | None = None) -> Tensor:
    """`(T, D)`: one expert's output for these rows, their input weighted where the router weights inputs."""
    if module.config.router.apply_to == "input" and weights_T is not None:
        x_TD = x_TD * weights_T[:, None].to(x_TD.dtype)
    counts = [0] * module.config.router.num_experts
    counts[expert] = len(x_TD)
    return module.experts(x_TD, tuple(counts))


def rows_of_expert(routing: Routing, expert: int) -> tuple[Tensor, Tensor]:
    """(token numbers that chose the expert, the weights they gave it)."""
    rows, slots = (routing.ids_TK == expert).nonzero(as_tuple=True)
    return rows, routing.weights_TK[rows, slots]
