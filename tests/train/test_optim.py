"""Roles, groups, Muon against a slow reference, and state as plain tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.adapters.attach import attach
from coterie.config import AdapterConfig, CheckpointError
from coterie.config.run import OptimiserConfig
from coterie.families import config_from_hf
from coterie.nn.experts import Experts
from coterie.nn.transformer import Transformer
from coterie.train import Muon, build_optimiser, parameter_roles
from coterie.train.optim import orthogonalise
from tests.arithmetic import approx, assert_close, tolerance
from tests.train.support import tiny_model


def test_roles_of_a_small_model():
    roles = parameter_roles(tiny_model())
    assert roles["embed.weight"] == "embedding" and roles["head.weight"] == "head"
    assert roles["blocks.1.ffn.router.weight"] == "router"
    assert roles["blocks.1.ffn.experts.gate_up.weight"] == roles["blocks.0.attention.q.weight"] == "matrix"
    assert roles["norm.weight"] == roles["blocks.0.ffn_norm.weight"] == "vector"
    assert set(roles) == {name for name, _ in tiny_model().named_parameters()}


def test_roles_and_rates_of_an_adapter():
    model = tiny_model()
    attach(model, AdapterConfig(dora=True, train={"router": "lora", "norm": "full"}))
    roles = parameter_roles(model)
    assert not any(name.endswith("q.weight") for name in roles) and roles["norm.weight"] == "vector"
    assert roles["blocks.1.ffn.router.lora_A"] == roles["blocks.1.ffn.router.lora_B"] == "router"
    for layer in ("attention.q", "ffn.experts.gate_up"):
        assert roles[f"blocks.1.{layer}.lora_A"] == roles[f"blocks.1.{layer}.lora_B"] == "matrix"
        assert roles[f"blocks.1.{layer}.lora_magnitude"] == "vector"
    for name in ("adamw", "muon"):
        optimiser = build_optimiser(
            model, OptimiserConfig(name=name, expert_lr=3.0, router_lr=0.1, weight_decay=0.5)
        )
        groups = {
            id(p): group for part in optimiser.parts for group in part.param_groups for p in group["params"]
        }
        rates = {n: groups[id(p)]["lr_factor"] for n, p in optimiser.parameters.items()}
        assert {n for n, rate in rates.items() if rate == 3.0} == {n for n in rates if ".experts." in n}
        assert {n for n, rate in rates.items() if rate == 0.1} == {
            n for n in rates if ".router." in n and roles[n] == "router"
        }
        decays = {n: groups[id(p)]["weight_decay"] for n, p in optimiser.parameters.items()}
        assert {n for n, decay in decays.items() if decay == 0} == {n for n in roles if roles[n] == "vector"}
        for parameter in optimiser.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step(0.01)


@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_only_matrices_head_router_and_chosen_embeddings_decay(decay_embeddings):
    model = tiny_model()
    model.norm.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in ("adamw", "muon"):
        optimiser = build_optimiser(
            model, OptimiserConfig(name=name, weight_decay=0.5, decay_embeddings=decay_embeddings)
        )
        for parameter in optimiser.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step(0.1)
        roles = parameter_roles(model)
        for key, parameter in model.named_parameters():
            decays = roles.get(key) in ("matrix", "head", "router") or (
                decay_embeddings and key == "embed.weight"
            )
            assert_close(parameter.detach(), before[key] * (0.95 if decays else 1.0), terms=1)
            assert parameter.grad is None
            parameter.data.copy_(before[key])


def newton_schulz_tolerance(longest: int, steps: int) -> float:
    """Three products in each step; no step multiplies an error by more than the slope of the quintic at 0."""
    return tolerance(1.0, terms=longest, depth=3 * steps + 1) * 3.4445**steps


def newton_schulz_by_singular_values(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The same quintic applied to each singular value: x -> 3.4445 x - 4.775 x^3 + 2.0315 x^5."""
    if not matrix.any():
        return matrix
    u, s, vt = torch.linalg.svd(matrix.double() / matrix.double().norm(), full_matrices=False)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 10**6))
def test_newton_schulz_moves_singular_values_only(batch, rows, columns, steps, seed):
    x = torch.randn(batch, rows, columns, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    got = orthogonalise(x, steps)
    assert got.shape == x.shape and not got[0].any()
    for index in range(batch):
        expected = newton_schulz_by_singular_values(x[index], steps).float()
        bound = newton_schulz_tolerance(max(rows, columns), steps)
        torch.testing.assert_close(got[index], expected, rtol=0, atol=bound)


def slow_muon(weight, grads, pieces, lr, momentum=0.95, decay=0.1):
    """Every expert and every half on its own, step by step in float64."""
    weight, buffer = weight.double(), torch.zeros_like(weight.double())
    for grad in grads:
        buffer = momentum * buffer + (1 - momentum) * grad.double()
        direction = (1 - momentum) * grad.double() + momentum * buffer
        update = torch.empty_like(weight)
        for expert in range(weight.shape[0]):
            for target, part in zip(
                update[expert].chunk(pieces), direction[expert].chunk(pieces), strict=True
            ):
                target.copy_(newton_schulz_by_singular_values(part, 5) * 0.2 * math.sqrt(max(part.shape)))
        weight = weight * (1 - lr * decay) - lr * update
    return weight


def test_muon_treats_each_expert_and_each_half_as_its_own_matrix():
    torch.manual_seed(3)
    experts = Experts(4, 6, 5)
    start = {name: p.detach().clone() for name, p in experts.named_parameters()}
    optimiser = build_optimiser(experts, OptimiserConfig(name="muon"))
    grads = {name: [torch.randn_like(p) for _ in range(3)] for name, p in experts.named_parameters()}
    for value in grads.values():
        for grad in value:
            grad[2] = 0  # an expert that never got a token
    for step in range(3):
        for name, parameter in experts.named_parameters():
            parameter.grad = grads[name][step].clone()
        optimiser.step(0.01)
    for name, pieces in (("gate_up.weight", 2), ("down.weight", 1)):
        expected = slow_muon(start[name], grads[name], pieces, 0.01)
        found = dict(experts.named_parameters())[name].detach()
        # Three updates; singular values of random matrices are not so near 0 that their errors grow.
        update = 0.01 * 0.2 * math.sqrt(6) * tolerance(1.0, terms=6, depth=3 * 5 + 1)
        bound = 3 * update + tolerance(expected, terms=3)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)
        assert (expected - slow_muon(start[name], grads[name], 3 - pieces, 0.01)).abs().max() > 1e-3


def test_muon_update_has_the_size_of_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(96, 48))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    assert 0.14 < float(weight.detach().square().mean().sqrt()) < 0.26


def test_muon_refuses_what_is_no_matrix():
    for shape, pieces in (((3,), 1), ((3, 2), 2), ((2, 2, 2, 2), 1)):
        with pytest.raises(ValueError, match="Muon takes"):
            Muon([{"params": [torch.nn.Parameter(torch.zeros(shape))], "pieces": pieces}], lr=1.0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_round_trip_continues_bit_for_bit(name):
    def advance(model, optimiser, first, steps):
        for step in range(first, first + steps):
            torch.manual_seed(step)
            for parameter in optimiser.parameters.values():
                parameter.grad = torch.randn_like(parameter)
            optimiser.step(0.01)

    model = tiny_model()
    optimiser = build_optimiser(model, OptimiserConfig(name=name))
    advance(model, optimiser, 0, 2)
    state = {key: value.clone() for key, value in optimiser.state_tensors().items()}
    copy = tiny_model(seed=1)
    copy.load_state_dict(model.state_dict())
    other = build_optimiser(copy, OptimiserConfig(name=name))
    other.load_state_tensors(state)
    advance(model, optimiser, 2, 2)
    advance(copy, other, 2, 2)
    for a, b in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
    key = next(key for key in state if not key.startswith("step"))
    with pytest.raises(CheckpointError, match="shape"):
        other.load_state_tensors({key: torch.zeros(1, 2, 3, 4)})


EXPERT_MODEL = {
    "model_type": "qwen3_moe",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "moe_intermediate_size": 4,
    "num_experts": 3,
    "num_experts_per_tok": 1,
}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_experts_and_routers_have_their_own_rates(name: str) -> None:
    moved = {}
    for factor in (1.0, 3.0):
        model = Transformer(config_from_hf(EXPERT_MODEL))
        model.initialise(0)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimiser = build_optimiser(
            model, OptimiserConfig(name=name, weight_decay=0.0, expert_lr=factor, router_lr=1 / factor)
        )
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step(1e-3)
        moved[factor] = {n: float((p.detach() - before[n]).norm()) for n, p in model.named_parameters()}
    for parameter, distance in moved[1.0].items():
        size = float(before[parameter].norm()) + distance
        expected = 3.0 if ".experts." in parameter else 1 / 3 if ".router." in parameter else 1.0
        # each weight is rounded at its size, which is much more than its way
        assert moved[3.0][parameter] == approx(expected * distance, terms=1, size=size), parameter
