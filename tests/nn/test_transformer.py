"""The whole model: gradients, initialisation, what must never mix."""

from __future__ import annotations

import pytest
import torch

from coterie.config import ModelConfig
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.norm import RMSNorm
from coterie.nn.rope import rotate
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_close, model_tolerance

SMALL = {
    "model_type": "qwen3_moe",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
}


def small(**changes: object) -> Transformer:
    model = Transformer(config_from_hf(SMALL | changes))
    model.initialise(seed=3)
    return model


def test_tokens_never_see_the_future_or_another_document() -> None:
    model = small()
    ids = torch.arange(20) % 50
    context = ForwardContext.packed([8, 12])
    with torch.no_grad():
        before = model(ids, context)
        changed = ids.clone()
        changed[5] = 49
        after = model(changed, context)
    # An expert's rows are other ones, so that its products may round differently.
    moved = (before - after).abs().amax(-1) > model_tolerance(model.config, before, 12)
    assert moved[5:8].all() and not moved[:5].any() and not moved[8:].any()


def test_gradients_equal_finite_differences() -> None:
    model = small().double()
    model.compute_dtype = torch.float64
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    ids = torch.randint(0, 50, (9,))
    context = ForwardContext.packed([4, 5])

    def loss() -> torch.Tensor:
        return model(ids, context).square().mean() + model(ids, context).sin().sum()

    loss().backward()
    for name in (
        "blocks.0.attention.q.weight",
        "blocks.1.ffn_norm.weight",
        "blocks.0.ffn.experts.down.weight",
    ):
        parameter = dict(model.named_parameters())[name]
        direction = torch.randn_like(parameter)
        analytic = float((parameter.grad * direction).sum())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-3 * direction
                values.append(float(loss()))
                parameter -= sign * 1e-3 * direction
        # Norms and the router compute in fp32 by design, so the difference quotient has their noise.
        assert analytic == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2), name


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    first, again, other = small(), small(), small(num_hidden_layers=3)
    shared = dict(other.named_parameters())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name])
        if not name.endswith(("o.weight", "down.weight")):  # these scale with depth
            assert torch.equal(parameter, shared[name]), name
    first.initialise(seed=4)
    assert not torch.equal(first.embed.weight, again.embed.weight)


def test_norm_gradient_equals_autograd() -> None:
    norm = RMSNorm(8, 1e-5).double()
    norm.weight.data = torch.randn(8).double()
    x = torch.randn(5, 3, 8).double().requires_grad_()
    plain = x.detach().float().requires_grad_()
    weight = norm.weight.detach().float().requires_grad_()
    direction = torch.randn(5, 3, 8)
    (norm(x) * direction).sum().backward()
    (plain * torch.rsqrt(plain.square().mean(-1, keepdim=True) + 1e-5) * weight * direction).sum().backward()
    assert_close(x.grad.float(), plain.grad, terms=8, depth=3)
    assert_close(norm.weight.grad.float(), weight.grad, terms=15, depth=2)


@pytest.mark.parametrize("style", ["half", "pairs"])
def test_rotation_keeps_length_depends_on_distance_and_turns_back(style: str) -> None:
    rope = (
        ModelConfig.model_validate(small().config.to_dict())
        .blocks[0]
        .attention.rope.model_copy(update={"style": style})
    )
    q, k = torch.randn(1, 2, 8), torch.randn(1, 2, 8)

    def at(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, ForwardContext.packed([1], starts=[position]), rope)

    assert_close(at(q, 7).norm(dim=-1), q.norm(dim=-1), terms=8, depth=2)
    # Angles grow with positions, and so does their rounding.
    near, far = (at(q, 9) * at(k, 4)).sum(-1), (at(q, 25) * at(k, 20)).sum(-1)
    assert_close(near, far, terms=25, depth=2, size=float(q.norm(dim=-1).max() * k.norm(dim=-1).max()))
    leaf = q.clone().requires_grad_()
    direction = torch.randn_like(q)
    (at(leaf, 5) * direction).sum().backward()
    basis = torch.eye(16).view(16, 1, 2, 8)
    numeric = torch.stack([(at(e, 5) * direction).sum() for e in basis]).view_as(q)
    assert_close(leaf.grad, numeric, terms=2, depth=2)


def test_after_step_reports_all_layers() -> None:
    model = small()
    model(torch.arange(30), ForwardContext.packed([30], balance_tokens=30.0))
    stats = model.after_step()
    assert set(stats) == {"dead_experts", "worst_overload", "balance_loss", "z_loss", "load_entropy"}
    assert stats["worst_overload"] >= 1.0 and 0 < stats["load_entropy"] <= 1.0
    assert model.after_step() == {}
