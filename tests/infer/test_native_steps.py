"""An engine on native steps gives the replies of one on the module, whatever the requests ask for."""

from __future__ import annotations

import copy

import pytest
import torch

from coterie.adapters.attach import attach
from coterie.config import AdapterConfig, BlockConfig, RopeConfig, RopeScaling
from coterie.config.selection import ExpertSelection
from coterie.infer.engine import Engine, Reply
from coterie.infer.request import RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.steering import LayerControl, RouterControl
from coterie.nn.transformer import Transformer
from tests.infer.models import CAUSAL, DENSE, KINDS, MOE, tiny_model
from tests.infer.test_engine import prompts_of

GREEDY = SamplingParams(temperature=0, max_tokens=24, stop_ids=(), logprobs=2)


def both(model: Transformer, **settings: object) -> tuple[Engine, Engine]:
    """An engine on native steps, and one on the module."""
    native, plain = (Engine(model, kernels=kind, **settings) for kind in ("native", "torch"))  # type: ignore[arg-type]
    assert native.kernels_used.startswith("native (")
    return native, plain


def same(ours: list[Reply], theirs: list[Reply]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.ids == other.ids and one.finish_reason == other.finish_reason
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)


@pytest.mark.parametrize("kind", ["dense", "moe", "sliding", "chunked", "short_conv", "delta", "parts"])
def test_the_same_replies(kind: str) -> None:
    """Prompts of one token and of many, more sequences than one step takes, prompts read beside replies."""
    native, plain = both(tiny_model(kind), prefill_chunk=16, max_batch=40)
    prompts = prompts_of([1, 2, 30, 17, *range(1, 33)], seed=2)
    same(native.generate(prompts, GREEDY), plain.generate(prompts, GREEDY))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sixty_four_greedy_tokens(kind: str) -> None:
    native, plain = both(tiny_model(kind))
    greedy = SamplingParams(temperature=0, max_tokens=64, stop_ids=())
    same(native.generate(prompts_of([4]), greedy), plain.generate(prompts_of([4]), greedy))


@pytest.mark.parametrize("kind", ["moe", "delta"])
def test_prefixes_are_reused_and_chosen_experts_are_reported(kind: str) -> None:
    model = tiny_model(kind)
    native, plain = both(model, prefix_bytes=1 << 20)
    first = prompts_of([40])[0]
    replies = []
    for engine in (native, plain):
        engine.count_experts()
        ends = []
        for prompt in (first, [*first, 3, 4], [*first[:30], 9]):
            engine.add(prompt, GREEDY, RequestOptions(routing=True))
            events = []
            while engine.busy:
                events += engine.step()
            ends.append(events)
        replies.append(ends)
    for one, other in zip(*replies, strict=True):
        assert [event.token for event in one] == [event.token for event in other]
        assert one[0].cached == other[0].cached
        for ours, theirs in zip(one, other, strict=True):
            assert ours.routing is not None and theirs.routing is not None
            chosen = [(layer, ids) for layer, ids, _ in ours.routing.layers]
            assert chosen == [(layer, ids) for layer, ids, _ in theirs.routing.layers]
    assert native.expert_counts is not None and plain.expert_counts is not None
    for layer, counts in native.expert_counts.items():
        assert torch.equal(counts, plain.expert_counts[layer])


def test_a_deterministic_reply_does_not_depend_on_others() -> None:
    model = tiny_model("moe")
    prompts = prompts_of([3, 20, 1, 33, 8], seed=4)
    sampled = [SamplingParams(temperature=0.9, seed=row, max_tokens=20, stop_ids=()) for row in range(5)]
    together = Engine(model, deterministic=True, prefill_chunk=8, kernels="native").generate(prompts, sampled)
    for prompt, params, reply in zip(prompts, sampled, together, strict=True):
        alone = Engine(model, deterministic=True, prefill_chunk=8, kernels="native").generate(
            [prompt], params
        )
        assert alone[0].ids == reply.ids and alone[0].logprobs == reply.logprobs


def test_steered_and_scored_requests_run_beside_native_ones() -> None:
    model = tiny_model("moe")
    masked = RouterControl(layers=((0, LayerControl(masked=(1, 2))),))
    wanted = [RequestOptions(), RequestOptions(control=masked), RequestOptions(prompt_logprobs=1)]
    found = []
    for engine in both(model):
        tokens: dict[int, list[int]] = {}
        scores = {}
        for prompt, options in zip(prompts_of([5, 6, 1]), wanted, strict=True):
            tokens[engine.add(prompt, GREEDY, options)] = []
        while engine.busy:
            for event in engine.step():
                tokens[event.request].append(event.token)
                if event.prompt is not None:
                    scores[event.request] = event.prompt.logprobs
        found.append((list(tokens.values()), list(scores.values())))
    assert found[0] == found[1]


def adapted(model: Transformer, experts: ExpertSelection | None = None, **settings: object) -> Transformer:
    """The model with an adapter whose factors are not zero."""
    other = copy.deepcopy(model)
    groups = ("attention", "shared", "experts", "router", "head")
    whole = {"rank": 3, "train": dict.fromkeys(groups, "lora")} | settings
    attach(other, AdapterConfig.from_dict(whole), experts)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in other.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.data = parameter.data * 1.1 + noise
    return other.eval().requires_grad_(False)


def patched(model: Transformer) -> Transformer:
    """The model with two experts of each layer replaced."""
    other = copy.deepcopy(model).requires_grad_(False)
    for block in other.blocks:
        for name in ("gate_up", "down"):
            layer = SubsetExpertLinear(getattr(block.ffn.experts, name), [1, 4])
            layer.subset_weight.data.mul_(1.5)
            setattr(block.ffn.experts, name, layer)
    return other.eval()


def test_adapters_and_patches_share_a_step_with_their_base() -> None:
    model = tiny_model("moe").requires_grad_(False)
    variants = {"lora": adapted(model), "patch": patched(model)}
    prompts = prompts_of([4, 9, 2, 7], seed=8)
    replies = []
    for engine in both(model):
        tokens: dict[int, list[int]] = {}
        for name, other in variants.items():
            engine.add_variant(name, other)
        for prompt, name in zip(prompts, ("", "lora", "patch", "lora"), strict=True):
            tokens[engine.add(prompt, GREEDY, RequestOptions(variant=name))] = []
        while engine.busy:
            for event in engine.step():
                tokens[event.request].append(event.token)
        replies.append(list(tokens.values()))
    assert replies[0] == replies[1]
    assert len({tuple(tokens) for tokens in replies[0]}) == 4


def test_dora_runs_natively() -> None:
    """On plain layers, on experts and on some of them, with a bias and without."""
    model = tiny_model([BlockConfig(attention=CAUSAL, ffn=DENSE), BlockConfig(attention=CAUSAL, ffn=MOE)])
    for experts in (None, ExpertSelection(experts={1: (1, 4)})):
        adapted_model = adapted(model, experts, dora=True)
        for name in ("gate_up", "down"):
            layer = getattr(adapted_model.blocks[1].ffn.experts, name)
            if experts is not None:
                noise = torch.randn(layer.weight.shape[:2], generator=torch.Generator().manual_seed(1))
                layer.bias = torch.nn.Parameter(noise, requires_grad=False)
        native, plain = both(adapted_model)
        same(native.generate(prompts_of([5, 1]), GREEDY), plain.generate(prompts_of([5, 1]), GREEDY))


@pytest.mark.parametrize("kind", ["short_conv", "delta", "mamba2"])
def test_factors_on_layers_with_a_state(kind: str) -> None:
    model = tiny_model(kind)
    groups = {"train": {"attention": "lora"}}
    native, plain = both(adapted(model, **groups))
    prompts = prompts_of([5, 1, 9])
    ours = native.generate(prompts, GREEDY)
    same(ours, plain.generate(prompts, GREEDY))
    assert [reply.ids for reply in ours] != [reply.ids for reply in Engine(model).generate(prompts, GREEDY)]


def test_a_sequence_that_grows_long_is_read_again() -> None:
    scaling = RopeScaling(
        kind="longrope", factor=4, original_max_positions=12, short_factors=(1.0, 1.2, 1.4, 2.0),
        long_factors=(2.0, 3.0, 4.0, 5.0),
    )  # fmt: skip
    attention = CAUSAL.model_copy(update={"rope": RopeConfig(scaling=scaling)})
    native, plain = both(tiny_model([BlockConfig(attention=attention, ffn=MOE)] * 2))
    prompts = prompts_of([3, 9, 20])
    same(native.generate(prompts, GREEDY), plain.generate(prompts, GREEDY))


def test_weights_that_change_between_requests_are_used() -> None:
    model = tiny_model("dense").requires_grad_(False)
    native, plain = both(model)
    prompts = prompts_of([6])
    before = native.generate(prompts, GREEDY)
    model.norm.weight = torch.nn.Parameter(model.norm.weight * torch.rand(32))  # elsewhere
    model.blocks[0].ffn.up.weight.mul_(-1)  # in place
    after = native.generate(prompts, GREEDY)
    assert before[0].ids != after[0].ids
    same(after, plain.generate(prompts, GREEDY))
