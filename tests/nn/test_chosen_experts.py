"""Training chosen experts alone: gradients are those of full training, for these experts and no other."""

from __future__ import annotations

import copy

import pytest
import torch

from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.experts import ExpertLinear
from tests.arithmetic import assert_close


def layer(bias: bool, seed: int = 0) -> ExpertLinear:
    made = ExpertLinear(5, 6, 7, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("counts", [(3, 0, 2, 4, 1), (0, 0, 9, 0, 1), (0, 5, 0, 0, 0)])
def test_gradients_are_those_of_full_training(bias: bool, counts: tuple[int, ...]) -> None:
    whole = layer(bias)
    subset = SubsetExpertLinear(copy.deepcopy(whole), [3, 1])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the base, so that reading the base's slice would be seen
        for name, parameter in subset.named_parameters():
            if name.startswith("subset_"):
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        whole.weight[[1, 3]] = subset.subset_weight
        if whole.bias is not None and subset.subset_bias is not None:
            whole.bias[[1, 3]] = subset.subset_bias
    assert torch.equal(subset.effective_weight(), whole.weight)
    x_RI = torch.randn(sum(counts), 6, generator=generator)
    target_RO = torch.randn(sum(counts), 7, generator=generator)
    inputs = [x_RI.clone().requires_grad_() for _ in range(2)]
    for x, module in zip(inputs, (whole, subset), strict=True):
        (module(x, counts) * target_RO).sum().backward()
    assert torch.equal(whole(x_RI, counts), subset(x_RI, counts))
    terms = max(7, sum(counts))
    assert_close(inputs[1].grad, inputs[0].grad, terms)
    assert whole.weight.grad is not None and subset.subset_weight.grad is not None
    assert_close(subset.subset_weight.grad, whole.weight.grad[[1, 3]], terms)
    assert subset.weight.grad is None
    if whole.bias is not None and subset.subset_bias is not None:
        assert whole.bias.grad is not None
        assert_close(subset.subset_bias.grad, whole.bias.grad[[1, 3]], terms)
    merged = subset.merged()
    assert type(merged) is ExpertLinear and torch.equal(merged.weight, whole.weight)
    assert torch.equal(merged(x_RI, counts), whole(x_RI, counts))
