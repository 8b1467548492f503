"""Layers with a state in the native step: like the module, alone and together, after forks and failures."""

from __future__ import annotations

import pytest
import torch

from coterie.config import BlockConfig, CoterieError
from coterie.config.mixers import DeltaNetConfig, Mamba2Config
from coterie.infer.cache import SequenceCache
from coterie.native.plan import NativePlan
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.infer.models import CAUSAL, DENSE, tiny_model

IDS = torch.randint(0, 61, (60,), generator=torch.Generator().manual_seed(3)).tolist()
# Widths that fill whole vectors and widths that do not, limits of time steps, heads in groups.
WIDE = [
    BlockConfig(
        attention=DeltaNetConfig(num_key_heads=2, num_value_heads=6, key_dim=18, value_dim=35), ffn=DENSE
    ),
    BlockConfig(
        attention=Mamba2Config(
            num_heads=6,
            head_dim=20,
            state=17,
            groups=3,
            conv_bias=False,
            bias=True,
            step_low=0.5,
            step_high=0.9,
        ),
        ffn=DENSE,
    ),
    BlockConfig(attention=CAUSAL, ffn=DENSE),
]


def randomised(kind: str | list[BlockConfig]) -> Transformer:
    model = tiny_model(kind)
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def read(model: Transformer, ids: list[int], cache: SequenceCache) -> torch.Tensor:
    """Scores (T, V) by the module."""
    context = ForwardContext.packed([len(ids)], [cache.length])
    return model.logits(model(torch.tensor(ids), context, caches=[cache]))


def stepped(plan: NativePlan, ids: list[int], cache: SequenceCache) -> torch.Tensor:
    return torch.cat([plan.step([token], [cache]) for token in ids])


@pytest.mark.parametrize("blocks", ["short_conv", WIDE], ids=["conv", "wide"])
def test_from_the_first_token_on(blocks: str | list[BlockConfig]) -> None:
    model = randomised(blocks)
    ours = stepped(NativePlan(model), IDS, SequenceCache(model.config))
    theirs = read(model, IDS, SequenceCache(model.config))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_together_equals_alone_and_threads_change_nothing() -> None:
    model = randomised(WIDE)
    answers = []
    for rows, threads in (([0, 1, 2, 3, 4], 1), ([0, 1, 2, 3, 4], 2), ([1], 1), ([4], 1)):
        plan = NativePlan(model)
        plan.threads.choose = lambda num_tokens, threads=threads: threads  # type: ignore[method-assign,misc]
        caches = [SequenceCache(model.config) for _ in rows]
        for row, cache in zip(rows, caches, strict=True):
            read(model, IDS[row : 2 * row + 1], cache)
        found = [plan.step([IDS[row + at] for row in rows], caches) for at in range(12)]
        answers.append((rows, torch.stack(found)))
    whole = answers[0][1]
    for rows, found in answers[1:]:
        assert torch.equal(found, whole[:, rows])


def test_copies_of_a_state_do_not_change_with_it() -> None:
    """A step turns the state in place; what is kept for going back, and what a fork has, stays."""
    model = randomised(WIDE)
    plan, cache = NativePlan(model), SequenceCache(model.config, snapshots=2)
    read(model, IDS[:32], cache)
    expected = stepped(plan, IDS[32:40], cache)
    assert cache.can_go_back(32) and cache.can_go_back(40) and not cache.can_go_back(36)
    fork, later = cache.fork(32), cache.fork()
    after = stepped(plan, IDS[40:44], cache)
    assert torch.equal(stepped(plan, IDS[32:40], fork), expected)
    assert torch.equal(stepped(plan, IDS[40:44], fork), after)
    assert torch.equal(stepped(plan, IDS[40:44], later), after)
    cache.truncate(32)
    assert torch.equal(stepped(plan, IDS[32:40], cache), expected)


def test_the_module_goes_on_from_native_steps() -> None:
    model = randomised(WIDE)
    cache, whole = SequenceCache(model.config), SequenceCache(model.config)
    read(model, IDS[:9], cache)
    stepped(NativePlan(model), IDS[9:20], cache)
    theirs = read(model, IDS, whole)[20:]
    found = read(model, IDS[20:], cache)
    assert torch.allclose(found, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_a_step_that_was_interrupted_leaves_no_wrong_state(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(WIDE)
    plan, cache = NativePlan(model), SequenceCache(model.config, snapshots=2)
    read(model, IDS[:16], cache)
    stepped(plan, IDS[16:20], cache)
    with monkeypatch.context() as patch:
        patch.setattr(SequenceCache, "advance", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            plan.step([1], [cache])
    for go_on in (lambda: plan.step([1], [cache]), lambda: read(model, [1], cache)):
        with pytest.raises(CoterieError, match="interrupted after 20 tokens; run the prompt again"):
            go_on()
    cache.truncate(16)
    assert torch.equal(
        stepped(plan, IDS[16:20], cache),
        stepped(plan, IDS[16:20], _again(model, SequenceCache(model.config))),
    )


def _again(model: Transformer, cache: SequenceCache) -> SequenceCache:
    read(model, IDS[:16], cache)
    return cache
