"""Layouts of expert factors in files. A file states its layout; the shapes of its tensors do not show it.

All fused layouts hold one layer's experts as `lora_A (E r, in)`, experts slowest, and `lora_B (out, r E)`,
experts fastest. They differ in which side of the weight they call `in`:

* `peft` (PEFT 0.19.1 and later): the true input side, except for Llama 4, whose parameters `(E, in, out)`
  PEFT takes for `(E, out, in)`;
* `peft019` (PEFT 0.19.0 only): swapped for every family but Llama 4;
* `peft018` (PEFT 0.17 and 0.18): the second dimension of the parameter in transformers, so swapped for
  weights `(E, out, in)` and true for gpt-oss and Llama 4;
* `vllm3d` (vLLM's fused experts): the true input side for all.

`per-expert` has one module per expert and projection, like adapters made with transformers 4.
E experts, r rank, I input, O output features, F expert width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from coterie.adapters.attach import Factors
from coterie.adapters.peft_names import Names, Place
from coterie.config import CheckpointError, ModelConfig
from coterie.config.feed_forward import MoEConfig
from coterie.families import family

Layout = Literal["peft", "peft019", "peft018", "vllm3d", "per-expert"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def is_swapped(model_type: str, layout: Layout) -> bool:
    """Whether a fused layout calls the output side of this family's experts `in`."""
    fused = family(model_type).fused
    return {
        "peft": fused == "in-out unmarked",
        "peft019": fused != "in-out unmarked",
        "peft018": fused == "out-in",
        "vllm3d": False,
        "per-expert": False,
    }[layout]


def fuse(a_ErI: Tensor, b_EOr: Tensor, swapped: bool) -> tuple[Tensor, Tensor]:
    """`lora_A.weight` and `lora_B.weight` of one layer's experts."""
    if swapped:
        a_ErI, b_EOr = b_EOr.mT, a_ErI.mT
    return a_ErI.flatten(0, 1).contiguous(), b_EOr.permute(1, 2, 0).flatten(1).contiguous()


def unfuse(a: Tensor, b: Tensor, num_experts: int, swapped: bool) -> tuple[Tensor, Tensor]:
    """`(E, r, I)` and `(E, O, r)` from what `fuse` wrote."""
    a_ErI = a.reshape(num_experts, -1, a.shape[-1])
    b_EOr = b.reshape(b.shape[0], -1, num_experts).permute(2, 0, 1)
    return (b_EOr.mT.contiguous(), a_ErI.mT.contiguous()) if swapped else (a_ErI, b_EOr.contiguous())


def write_fused(place: Place, factors: Factors, config: ModelConfig, layout: Layout) -> dict[str, Tensor]:
    """The tensors of one layer's experts; experts without factors are zeros."""
    num_experts = num_experts_of(config, place.name)
    a_ErI, b_EOr, magnitude = factors.a, factors.b, factors.magnitude
    if factors.chosen is not None:
        index = torch.tensor(factors.chosen, device=a_ErI.device)
        a_ErI = a_ErI.new_zeros(num_experts, *a_ErI.shape[1:]).index_copy(0, index, a_ErI)
        b_EOr = b_EOr.new_zeros(num_experts, *b_EOr.shape[1:]).index_copy(0, index, b_EOr)
    a, b = fuse(a_ErI, b_EOr, is_swapped(config.family, layout))
    tensors = {f"{place.stem}.lora_A.weight": a, f"{place.stem}.lora_B.weight": b}
    # PEFT has no DoRA magnitudes for experts. The name follows its style; the config makes PEFT refuse it.
    return tensors | ({f"{place.stem}.lora_magnitude_vector": magnitude} if magnitude is not None else {})


def read_fused(
    tensors: Mapping[str, Tensor],
    stem: str,
    num_experts: int,
    swapped: bool,
    alpha: float,
    rank: int,
    where: str,
) -> Factors:
    """The factors of one layer's experts. Errors: `CheckpointError` where the rank is not the stated one."""
    a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
    if a.shape[0] != num_experts * rank or b.shape[1] != num_experts * rank:
        raise CheckpointError(
            f"{where}: '{stem}' has {a.shape[0]} and {b.shape[1]} rows of factors; {num_experts} experts of "
            f"rank {rank} have {num_experts * rank}"
        )
    a_ErI, b_EOr = unfuse(a, b, num_experts, swapped)
    return Factors(a_ErI, b_EOr, alpha, tensors.get(f"{stem}.lora_magnitude_vector"))


def write_single(names: Names, layer: str, factors: Factors) -> dict[str, Tensor]:
    """One module per expert and projection; gate and up of an expert share their A."""
    chosen = factors.chosen if factors.chosen is not None else range(num_experts_of(names.config, layer))
    slots = {expert: slot for slot, expert in enumerate(chosen)}
    tensors = {}
    for path, (name, expert, half) in names.expert_modules.items():
        if name != layer or expert not in slots:
            continue
        rows = half_rows(names.config, layer, half)
        slot = slots[expert]
        tensors[f"{path}.lora_A.weight"] = factors.a[slot].clone()
        tensors[f"{path}.lora_B.weight"] = factors.b[slot][rows].clone()
        if factors.magnitude is not None:
            tensors[f"{path}.lora_magnitude_vector"] = factors.magnitude[slot][rows].clone()
    return tensors


def half_rows(config: ModelConfig, layer: str, half: int) -> slice:
    """Which output rows of our layer are the gate's (0) or the up's (1); all of them for `down` (2)."""
    ffn = _moe(config, layer)
    if half == 2 or not ffn.gated:
        return slice(None)
    if ffn.clamped is not None:
        return slice(half, None, 2)
    return slice(half * ffn.expert_width, (half + 1) * ffn.expert_width)


def read_single(names: Names, layer: str, parts: Mapping[tuple[int, int], Factors], where: str) -> Factors:
    """One of our layers from its experts' modules: `parts` by (expert, half).

    Gate and up with different A become one pair of twice the rank; with the same A they share it.
    Errors: `CheckpointError` where experts have different projections, ranks or alphas.
    """
    experts = sorted({expert for expert, _ in parts})
    halves = sorted({half for _, half in parts})
    if len(parts) != len(experts) * len(halves) or len({(p.rank, p.alpha) for p in parts.values()}) != 1:
        raise CheckpointError(
            f"{where}: the experts of '{layer}' are not adapted alike; give all the same projections"
        )
    every = len(experts) == num_experts_of(names.config, layer)
    first = next(iter(parts.values()))
    whole = halves == [2] or not _moe(names.config, layer).gated
    if len(halves) == 1 and not whole and first.magnitude is not None:
        raise CheckpointError(
            f"{where}: DoRA on only one of gate and up of '{layer}' is not supported; merge it first"
        )
    if whole:
        joined = [parts[expert, halves[0]] for expert in experts]
        alpha = first.alpha
    else:
        shared = len(halves) == 1 or all(torch.equal(parts[e, 0].a, parts[e, 1].a) for e in experts)
        joined = [_join(names.config, layer, {h: parts[e, h] for h in halves}, shared) for e in experts]
        alpha = first.alpha * (1 if shared else len(halves))
    if any(factors.magnitude is None for factors in joined):
        magnitude = None
    else:
        magnitude = torch.stack([factors.magnitude for factors in joined])  # type: ignore[misc]
    a, b = torch.stack([factors.a for factors in joined]), torch.stack([factors.b for factors in joined])
    return Factors(a, b, alpha, magnitude, None if every else tuple(experts))


def _join(config: ModelConfig, layer: str, halves: Mapping[int, Factors], shared: bool) -> Factors:
    rank = next(iter(halves.values())).rank
    total = rank if shared else rank * len(halves)
    width = 2 * _moe(config, layer).expert_width
    first = next(iter(halves.values()))
    b = first.b.new_zeros(width, total)
    magnitude = None if first.magnitude is None or len(halves) < 2 else first.magnitude.new_empty(width)
    for number, (half, part) in enumerate(halves.items()):
        columns = slice(None) if shared else slice(number * rank, (number + 1) * rank)
        b[half_rows(config, layer, half), columns] = part.b
        if magnitude is not None and part.magnitude is not None:
            magnitude[half_rows(config, layer, half)] = part.magnitude
    a = first.a if shared else torch.cat([part.a for part in halves.values()])
    return Factors(a, b, first.alpha, magnitude)


def num_experts_of(config: ModelConfig, layer: str) -> int:
    """Number of routed experts of the layer that one of our names belongs to."""
    return _moe(config, layer).router.num_experts


def _moe(config: ModelConfig, layer: str) -> MoEConfig:
    return dict(config.moe_layers())[int(layer.split(".")[1])]
