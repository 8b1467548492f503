"""Layers that run again in the backward pass: the same loss, gradients and router statistics, less kept."""

from __future__ import annotations

import pytest
import torch

from coterie.config import BalanceConfig
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise

IDS = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(1))


def trained(name: str, recompute: bool, frozen: bool = False) -> tuple[Transformer, torch.Tensor, int]:
    """The model after one backward pass, its loss, and the bytes that autograd kept."""
    config = config_from_hf(_BASE | CONFIGS[name])
    balance = BalanceConfig(loss_coef=0.1, z_loss_coef=0.01)
    blocks = tuple(
        b.model_copy(update={"ffn": b.ffn.model_copy(update={"balance": balance})})
        if b.ffn.kind == "moe" else b
        for b in config.blocks
    )  # fmt: skip
    model = Transformer(config.model_copy(update={"blocks": blocks}))
    randomise(model)
    model.recompute = recompute
    model.embed.weight.requires_grad_(not frozen)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    context = ForwardContext.packed([23, 17], balance_tokens=40.0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        h_TD = model(IDS, context)
    loss = -token_logprobs(h_TD, model.head_weight, IDS.roll(-1)).mean()
    loss.backward()
    return model, loss.detach(), sum(kept.values())


@pytest.mark.parametrize("name", ["qwen3_moe", "llama_tied_bias", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_is_the_same_to_the_last_bit(name: str, frozen: bool) -> None:
    (plain, loss, kept), (again, loss_again, kept_again) = (trained(name, r, frozen) for r in (False, True))
    assert torch.equal(loss, loss_again)
    other = dict(again.named_parameters())
    for key, parameter in plain.named_parameters():
        theirs = other[key].grad
        assert (parameter.grad is None) == (theirs is None), key
        assert parameter.grad is None or torch.equal(parameter.grad, theirs), key
    for (_, router), (_, router_again) in zip(plain.routers(), again.routers(), strict=True):
        assert float(router.balance.counts_E.sum()) > 0
        for buffer in ("counts_E", "score_sum_E", "z_sum", "num_tokens"):
            assert torch.equal(getattr(router.balance, buffer), getattr(router_again.balance, buffer))
    assert kept_again < kept / 3


def test_nothing_is_recomputed_without_gradients() -> None:
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3"]))
    randomise(model)
    with torch.no_grad():
        plain = model(IDS, ForwardContext.packed([40]))
        model.recompute = True
        assert torch.equal(plain, model(IDS, ForwardContext.packed([40])))
