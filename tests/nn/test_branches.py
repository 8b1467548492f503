"""Prompts that replies share are computed once: the same results and gradients as when each has a copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.data.rows import Row
from coterie.families import config_from_hf
from coterie.nn.branches import branches_of, can_branch
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.train.batch import collate, shared_prompts, shared_tokens
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise

# Rounding of float32 in sums of at most a few hundred terms of size 1, through 4 layers.
CLOSE = 300 * 4 * torch.finfo(torch.float32).eps


def rows(seed: int, prompts: list[int], replies: list[int]) -> list[Row]:
    """A row for each prompt length and reply length; what the prompt's last token predicts is learnt."""
    random = np.random.default_rng(seed)
    found = []
    for length in prompts:
        prompt = random.integers(1, VOCAB, length)
        for more in replies:
            whole = np.concatenate([prompt, random.integers(1, VOCAB, more)]).astype(np.int32)
            weights = np.zeros(len(whole) - 1, dtype=np.float32)
            weights[length - 1 :] = random.uniform(0.5, 2, len(weights) - length + 1)
            streams = {"sample": np.zeros(len(weights), dtype=np.int64), "advantage": weights * 2}
            found.append(Row(whole[:-1], whole[1:], weights, (len(weights),), streams=streams))
    return found


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_computes_the_same(family: str) -> None:
    config = config_from_hf(_BASE | CONFIGS[family])
    if not can_branch(config):
        states = any(type(block.attention).__name__ in STATES for block in config.blocks)
        assert states or config.rope_switch is not None
        return
    model = Transformer(config)
    randomise(model)
    given = rows(0, [23, 2, 40], [1, 7, 30]) + rows(1, [12], [5])
    losses, gradients = [], []
    for share in (False, True):
        batch = collate(given, share_prompts=share)
        model.zero_grad(set_to_none=True)
        h_TD = model(batch.ids_T, batch.context)
        logp_T = torch.log_softmax(model.logits(h_TD), -1).gather(1, batch.targets_T[:, None])[:, 0]
        learnt = batch.weights_T > 0
        losses.append((logp_T.detach()[learnt], batch.targets_T[learnt], batch.streams["sample"][learnt]))
        (logp_T * batch.weights_T).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert batch.num_tokens == batch.num_valid == sum(batch.context.lengths)
    assert torch.equal(losses[0][1], losses[1][1]) and torch.equal(losses[0][2], losses[1][2])
    torch.testing.assert_close(losses[1][0], losses[0][0], rtol=CLOSE, atol=CLOSE)
    assert gradients[0].keys() == gradients[1].keys()
    # A gradient that is 0 but for cancelling (a router's whose one weight is normed) is rounding of others.
    noise = 10 * torch.finfo(torch.float32).eps * max(float(grad.norm()) for grad in gradients[0].values())
    for name, grad in gradients[0].items():
        assert (gradients[1][name] - grad).norm() <= CLOSE * grad.norm() + noise, name


STATES = {"DeltaNetConfig", "Mamba2Config", "ShortConvConfig"}


def test_what_is_shared() -> None:
    same = rows(0, [9], [3, 4, 5])
    other = rows(1, [9, 1], [2, 2])
    assert shared_prompts([*same, *other]) == [(0, 3, 8), (3, 5, 8)]  # a prompt of one token has none before
    assert shared_tokens([*same, *other]) == 2 * 8 + 8
    assert shared_prompts(same[:1]) == [] and shared_prompts([same[0], other[0], same[1]]) == []
    batch = collate([*same, *other], share_prompts=True)
    whole = collate([*same, *other])
    assert batch.context.continues == (-1, 0, 0, 0, -1, 4, 4, -1, -1)
    assert batch.num_tokens == whole.num_tokens - 24 and batch.weight == whole.weight
    assert batch.counts == whole.counts and batch.num_rows == whole.num_rows


def test_unlearnt_tokens_are_counted_once() -> None:
    given = rows(0, [9], [3, 4])
    assert collate(given, share_prompts=True).num_counted == 8 + 3 + 4
    learnt = collate(given, balance_prompts=False, share_prompts=True)
    assert learnt.num_counted == 7 and int(learnt.context.counted_T.sum()) == 7


def test_gradients_add_up_in_a_fixed_order() -> None:
    context = ForwardContext.packed([3, 2, 2, 4], [0, 3, 3, 0])
    branches = branches_of(ForwardContext(context.positions_T, context.lengths, continues=(-1, 0, 0, -1)))
    x_TD = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(branches.gather_P), 5, dtype=torch.float64)
    assert branches.context.lengths == (5, 5, 4)
    assert branches.gather_P.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert torch.equal(branches.collect(branches.spread(x_TD)), x_TD)
    assert torch.autograd.gradcheck(lambda x: branches.spread(x) * weight, x_TD)
