"""A native step equals the module: every family, every kind of weight, alone, together and on two threads."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from coterie.config.feed_forward import FeedForwardConfig, MoEConfig, RouterConfig
from coterie.config.model import AttentionConfig, BlockConfig, ModelConfig
from coterie.families.registry import config_from_hf
from coterie.infer.cache import SequenceCache
from coterie.native.plan import NativePlan
from coterie.native.program import CannotPlan, check_known
from coterie.nn.experts import ExpertLinear
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear
from coterie.nn.quantised_layers import plain_with, quantise_layer, quantised_of
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise

STEPS, SEQUENCES = 24, 3  # beyond every window and chunk of the small configs


def made(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Transformer:
    """A model whose parameters and buffers are all random."""
    model = Transformer(config, dtype)
    randomise(model, seed)
    return model.to(dtype).eval().requires_grad_(False)


def family(name: str) -> ModelConfig:
    return config_from_hf(copy.deepcopy(_BASE | CONFIGS[name]))


@dataclass
class Answers:
    """Logits (STEPS, SEQUENCES, V) and chosen experts by step and layer."""

    logits: Tensor
    chosen: list[dict[int, Tensor]]


def prompts(model: Transformer, num: int) -> tuple[list[SequenceCache], Tensor]:
    """Caches that hold prompts of different lengths, and the tokens (STEPS, num) that follow."""
    ids = torch.randint(VOCAB, (num, STEPS + num), generator=torch.Generator().manual_seed(5))
    caches = [SequenceCache(model.config) for _ in range(num)]
    for row, cache in enumerate(caches):
        model(ids[row, : row + 1], ForwardContext.packed([row + 1]), caches=[cache])
    return caches, torch.stack([ids[row, row + 1 : row + 1 + STEPS] for row in range(num)], dim=1)


@torch.inference_mode()
def by_module(model: Transformer, num: int = SEQUENCES) -> Answers:
    caches, tokens = prompts(model, num)
    logits, chosen = [], []
    for ids in tokens:
        recorder = Recorder()
        starts = [cache.length for cache in caches]
        context = ForwardContext.packed([1] * num, starts, recorder=recorder)
        logits.append(model.logits(model(ids, context, caches=caches)))
        chosen.append({layer: routing.ids_TK for layer, routing in recorder.routing.items()})
    return Answers(torch.stack(logits), chosen)


@torch.inference_mode()
def by_plan(
    model: Transformer, num: int = SEQUENCES, rows: list[int] | None = None, threads: int = 1
) -> Answers:
    """`rows`: only these sequences, with a plan of their own."""
    plan = NativePlan(model)
    plan.threads.choose = lambda num_tokens: threads  # type: ignore[method-assign]
    caches, tokens = prompts(model, num)
    rows = rows or list(range(num))
    logits, chosen = [], []
    for ids in tokens:
        logits.append(plan.step(ids[rows].tolist(), [caches[row] for row in rows]))
        chosen.append({layer: routing.ids_TK for layer, routing in plan.routing(len(rows)).items()})
    return Answers(torch.stack(logits), chosen)


def equal(ours: Answers, model: Transformer, num: int = SEQUENCES) -> None:
    """The module chooses the same experts, and its logits differ by float32 sums in another order.

    For a few hundred numbers that is 2e-5 of the largest logit, unless the model amplifies roundings.
    """
    theirs = by_module(model, num)
    for one, other in zip(ours.chosen, theirs.chosen, strict=True):
        for layer, ids in other.items():
            assert torch.equal(one[layer].sort(-1).values, ids.sort(-1).values), layer
    apart = float((ours.logits - theirs.logits).abs().max())
    if apart > 2e-5 * float(theirs.logits.abs().max()):
        assert apart <= 4 * reach_of_a_rounding(model, theirs, num)


def reach_of_a_rounding(model: Transformer, answers: Answers, num: int) -> float:
    """How far the module's own logits move when each weight moves by its last bit, up or down.

    A sum of n numbers in another order is the sum of weights that are off by about sqrt(n) / 2 last bits
    (Higham, Accuracy and Stability, 3.1), so a few times this is what an order of sums can do. A recurrent
    state carries a rounding from token to token; a norm of few numbers near 0 enlarges it.
    """
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in moved.parameters():
            up = torch.rand(weight.shape, generator=generator) < 0.5
            towards = torch.where(up, torch.inf, -torch.inf).to(weight.dtype)
            weight.copy_(torch.nextafter(weight, towards))
    return float((by_module(moved, num).logits - answers.logits).abs().max())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "phi3_longrope"])
def test_every_family(name: str) -> None:
    model = made(family(name))
    equal(by_plan(model), model)


def test_blocks_of_one_part_and_experts_without_gates_in_a_latent_space() -> None:
    experts = MoEConfig(
        expert_width=24,
        router=RouterConfig(num_experts=5, top_k=2, score="sigmoid", select_bias=True, renormalize=True),
        shared_width=16, activation="relu2", gated=False, latent_width=20,
    )  # fmt: skip
    dense = FeedForwardConfig(width=40, activation="relu2", gated=False, bias=True)
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=12)
    blocks = (
        BlockConfig(attention=attention, ffn=None),
        BlockConfig(attention=None, ffn=experts),
        BlockConfig(attention=None, ffn=dense),
        BlockConfig(attention=attention, ffn=experts),
    )
    model = made(ModelConfig(family="test", vocab_size=VOCAB, width=36, blocks=blocks, max_positions=64))
    equal(by_plan(model), model)


@torch.inference_mode()
def in_runs(model: Transformer, counts: list[list[int]]) -> Tensor:
    """Logits as `by_plan`: `counts[step][row]` tokens of a sequence at once, then three taken back."""
    plan = NativePlan(model)
    caches, tokens = prompts(model, SEQUENCES)
    done, logits = [0] * SEQUENCES, torch.full((STEPS, SEQUENCES, VOCAB), float("nan"))
    for each in counts:
        rows = [(done[row] + i, row) for row, count in enumerate(each) for i in range(count)]
        found = plan.step([int(tokens[at]) for at in rows], [caches[row] for _, row in rows])
        for at, result in zip(rows, found, strict=True):
            logits[at] = result
        done = [before + count for before, count in zip(done, each, strict=True)]
        plan.step([3, 1, 2], [caches[0]] * 3)  # a draft that was wrong
        caches[0].truncate(caches[0].length - 3)
    return logits


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss", "llama4_scout", "gemma2"])
def test_several_tokens_of_one_sequence_are_what_single_steps_give(name: str) -> None:
    model = made(family(name))
    counts = [[1, 1, 1], [5, 1, 0], [3, 2, 7], [8, 1, 1], [7, 3, 6], [0, 8, 8], [0, 8, 1]]
    assert [sum(of) for of in zip(*counts, strict=True)] == [STEPS] * SEQUENCES
    assert torch.equal(in_runs(model, counts), by_plan(model).logits)


def widened(model: Transformer) -> Transformer:
    """The same model in float32: bfloat16 and quantised weights keep their numbers."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if quantised_of(module) is not None:
            parent, _, own = name.rpartition(".")
            assert isinstance(module, Linear | ExpertLinear)
            setattr(plain.get_submodule(parent), own, plain_with(module, module.effective_weight()))
    plain = plain.float()
    plain.compute_dtype = torch.float32
    return plain


def roomy(name: str) -> ModelConfig:
    """A family with layers that are wide enough for blocks of 32."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 64,
        "num_attention_heads": 4,
    }
    latent = {"q_lora_rank": 32, "kv_lora_rank": 32, "v_head_dim": 16}
    sizes |= latent if "deepseek" in name else {"head_dim": 32}
    return config_from_hf(copy.deepcopy(_BASE | CONFIGS[name] | sizes))


def held_as(kind: str, name: str = "qwen3_moe", block: int = 32) -> Transformer:
    """A model whose weights are of a kind, with float32 keys and values."""
    model = made(roomy(name))
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    elif kind != "f32":
        for module_name, module in list(model.named_modules()):
            if type(module) in (Linear, ExpertLinear) and module is not model.head:
                parent, _, own = module_name.rpartition(".")
                coded = quantise_layer(module, 8 if "int8" in kind else 4, block)
                if kind.endswith("f32"):
                    coded.quantised.scales = coded.quantised.scales.float() * 1.01
                setattr(model.get_submodule(parent), own, coded)
    return model.eval().requires_grad_(False)


# Those with float32 scales differ from the others in how a scale is read.
_SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8_f32", "int4_f32")]
KINDS = ["f32", "bf16", "int8", "int4", *_SLOW]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weight_is_exact(kind: str) -> None:
    model = held_as(kind)
    equal(by_plan(model), widened(model))


@pytest.mark.parametrize("kind", KINDS)
def test_together_equals_alone_and_threads_change_nothing(kind: str) -> None:
    """To the last bit: a batch of seven, each alone, one thread and two."""
    model = held_as(kind)
    whole = by_plan(model, 7).logits
    for row in (0, 3, 6):
        assert torch.equal(by_plan(model, 7, [row]).logits[:, 0], whole[:, row])
    assert torch.equal(by_plan(model, 7, threads=2).logits, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "name", ["qwen3_next", "granitemoehybrid", "lfm2_moe", "gemma4_text", "nemotron_h_latent"]
)
def test_layers_with_a_state_and_inputs_of_every_kind(name: str, kind: str) -> None:
    model = held_as(kind, name)
    whole = by_plan(model)
    equal(whole, widened(model))
    assert torch.equal(by_plan(model, SEQUENCES, [1], threads=2).logits[:, 0], whole.logits[:, 1])


_ODD = [
    pytest.param(kind, block, marks=pytest.mark.slow)
    for kind, block in (("int8_f32", 12), ("int8", 18), ("int4_f32", 34))
]


@pytest.mark.parametrize(("kind", "block"), [("int4", 20), *_ODD])
def test_blocks_of_any_size(kind: str, block: int) -> None:
    """Blocks that 32 does not divide, and rows that end in the middle of one."""
    model = held_as(kind, block=block)
    whole = by_plan(model, 4)
    equal(whole, widened(model), 4)
    assert torch.equal(by_plan(model, 4, [2], threads=2).logits[:, 0], whole.logits[:, 2])


def test_latent_attention_with_bfloat16_weights_and_a_quantised_projection() -> None:
    for kind in ("bf16", "int4"):
        model = held_as(kind, "deepseek_v3")
        equal(by_plan(model), widened(model))


_OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_oss", "qwen3_moe")]


@pytest.mark.parametrize("name", ["deepseek_v3", *_OTHERS])
def test_a_bfloat16_cache_is_read_as_it_is(name: str) -> None:
    """Keys and values are rounded on their way into the cache and nowhere else."""
    model = made(family(name), torch.bfloat16)
    ours = by_plan(model).logits
    theirs = by_module(model).logits
    exact = by_module(widened(model)).logits
    # The native step rounds less than the module, which rounds every activation.
    assert (ours - exact).abs().mean() < (theirs.float() - exact).abs().mean()


@pytest.mark.parametrize("kind", ["f32", "int4"])
@torch.inference_mode()
def test_scores_of_some_tokens_are_those_of_all(kind: str) -> None:
    """A piece of a prompt: scores after none of its tokens, some, and all, and other tokens meanwhile."""
    model = held_as(kind)
    ids = torch.randint(VOCAB, (30,), generator=torch.Generator().manual_seed(3)).tolist()
    found = []
    for wanted in (None, [7, 29], []):
        plan, cache, other = NativePlan(model), SequenceCache(model.config), SequenceCache(model.config)
        logits = plan.step(ids, [cache] * 30, wanted)
        found.append((logits, plan.step([5], [cache]), plan.step([4, 6], [other, cache], [1])))
    whole = found[0]
    for (logits, one, two), rows in zip(found[1:], ([7, 29], []), strict=True):
        assert torch.equal(logits, whole[0][rows])
        assert torch.equal(one, whole[1]) and torch.equal(two, whole[2])


def test_a_step_of_too_many_sequences_is_refused() -> None:
    plan = NativePlan(made(family("llama")))
    caches = [SequenceCache(family("llama")) for _ in range(plan.most + 1)]
    with pytest.raises(AssertionError, match="a few tokens"):
        plan.step([1] * len(caches), caches)


def test_a_plan_notices_other_weights() -> None:
    model = made(family("llama"))
    plan = NativePlan(model)
    assert plan.is_current()
    with torch.no_grad():
        model.norm.weight.mul_(2)
    assert plan.is_current(), "weights are read in place"
    equal(by_plan(model), model)
    model.norm.weight = torch.nn.Parameter(model.norm.weight * 2)
    assert not plan.is_current()


def test_a_copy_that_is_out_of_date_is_noticed() -> None:
    model = held_as("int4", "deepseek_v3")
    plan = NativePlan(model)
    latent = model.blocks[0].attention.kv_b
    latent.quantised.scales.mul_(2)
    assert not plan.is_current()


def test_an_unknown_setting_is_refused() -> None:
    """A field that the lowering has not heard of must not be ignored."""

    class More(RouterConfig):
        novelty: bool = False

    check_known(More(num_experts=2, top_k=1), "router", RouterConfig.model_fields)
    with pytest.raises(CannotPlan, match="router with novelty True"):
        check_known(More(num_experts=2, top_k=1, novelty=True), "router", RouterConfig.model_fields)
