"""Deliberate mistakes in mixers with a state: each must move logits that equal those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.checkpoints.directory import load_model
from coterie.config import BlockConfig, ModelConfig, MoEConfig, RopeConfig
from coterie.nn import gated_delta
from coterie.nn.delta_rule import delta_rule
from coterie.nn.gated_delta import GatedDeltaNet
from coterie.nn.mamba2 import Mamba2
from coterie.nn.norm import rms
from coterie.nn.recurrent import RecurrentMixer
from coterie.nn.transformer import Transformer
from tests.families.hf import tiny
from tests.families.test_mistakes import ENOUGH, logits, rebuilt


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path: Path = tmp_path_factory.mktemp("delta")
    tiny("qwen3_5_text").save_pretrained(path)
    return load_model(path).model


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path: Path = tmp_path_factory.mktemp("short")
    tiny("lfm2").save_pretrained(path)
    return load_model(path).model


def _decay_after_the_read(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *rest: Any) -> Any:
    # S k is read before its decay: only the value that replaces it would have to be larger by as much.
    return delta_rule(q, k, v * g.exp().unsqueeze(-1), g, beta, *rest)


def _by_value_rows(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *rest: Any) -> Any:
    tiled = [x[:, [0, 2, 0, 2]] for x in (q, k)]  # value heads that take turns in place of neighbours
    return delta_rule(*tiled, v, g, beta, *rest)


def _never_forgetting(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *rest: Any) -> Any:
    return delta_rule(q, k, v, torch.zeros_like(g), *rest)


def _written_whole(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *rest: Any) -> Any:
    return delta_rule(q, k, v, g, torch.ones_like(beta), *rest)


WRONG_RULES = [_decay_after_the_read, _by_value_rows, _never_forgetting, _written_whole]


@pytest.mark.parametrize("rule", WRONG_RULES)
def test_a_wrong_rule(delta: Transformer, monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Any]) -> None:
    right = logits(delta)
    monkeypatch.setattr(gated_delta, "delta_rule", rule)
    assert (logits(delta) - right).abs().max() > ENOUGH


def test_keys_of_any_length(delta: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    right = logits(delta)
    monkeypatch.setattr(gated_delta, "_unit", lambda x: x)
    assert (logits(delta) - right).abs().max() > ENOUGH


def _changed(model: Transformer, change: Callable[[Any], Any]) -> Tensor:
    """How the logits move where `change` has been made to every mixer."""
    wrong = rebuilt(model, model.config)
    with torch.no_grad():
        for block in wrong.blocks:
            if isinstance(block.attention, RecurrentMixer):
                change(block.attention)
    return (logits(wrong) - logits(model)).abs().max()


def test_the_output_norm_with_one_added(delta: Transformer) -> None:
    assert _changed(delta, lambda mixer: mixer.norm.weight.add_(1)) > ENOUGH


def test_taps_in_the_wrong_order(delta: Transformer) -> None:
    assert _changed(delta, lambda mixer: mixer.conv.copy_(mixer.conv.flip(1))) > ENOUGH


def test_decays_that_are_exponents_already(delta: Transformer) -> None:
    assert _changed(delta, lambda mixer: mixer.A_log.copy_(mixer.A_log.abs().log())) > ENOUGH


def test_other_norms_without_the_one(delta: Transformer) -> None:
    wrong = rebuilt(delta, delta.config.model_copy(update={"norm_plus_one": False}))
    assert (logits(wrong) - logits(delta)).abs().max() > ENOUGH


def test_the_gate_before_the_norm(delta: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(self: GatedDeltaNet, o_THV: Tensor, x_TD: Tensor) -> Tensor:
        return self.norm(o_THV * F.silu(self.z(x_TD).unflatten(-1, o_THV.shape[1:])))

    right = logits(delta)
    monkeypatch.setattr(GatedDeltaNet, "_gated", gated)
    assert (logits(delta) - right).abs().max() > ENOUGH


def test_query_and_gate_exchanged(delta: Transformer) -> None:
    wrong = rebuilt(delta, delta.config)
    with torch.no_grad():
        for block in wrong.blocks:
            if not isinstance(block.attention, GatedDeltaNet):
                query, gate = (p.weight.clone() for p in (block.attention.q, block.attention.gate))
                block.attention.q.weight.copy_(gate)
                block.attention.gate.weight.copy_(query)
    assert (logits(wrong) - logits(delta)).abs().max() > ENOUGH


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_the_thirds_of_a_short_convolution_in_the_wrong_order(
    short: Transformer, order: tuple[int, ...]
) -> None:
    def change(mixer: Any) -> None:
        for part in (mixer.bcx.weight, mixer.bcx.bias):
            thirds = part.clone().chunk(3)
            part.copy_(torch.cat([thirds[index] for index in order]))

    moved = _changed(short, change)
    assert moved < ENOUGH if order == (2, 1, 0) else moved > ENOUGH  # b * x is x * b


def test_the_taps_of_a_short_convolution_in_the_wrong_order(short: Transformer) -> None:
    assert _changed(short, lambda mixer: mixer.conv.copy_(mixer.conv.flip(1))) > ENOUGH


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path: Path = tmp_path_factory.mktemp("mamba")
    tiny("granitemoehybrid").save_pretrained(path)
    return load_model(path).model


def _keys_and_queries_exchanged(mixer: Any) -> None:
    _, keys, queries = mixer.xbc.weight.split((64, 12, 12))
    mixer.xbc.weight[64:].copy_(torch.cat((queries, keys)))


MAMBA_MISTAKES: dict[str, Callable[[Any], Any]] = {
    "no skip": lambda mixer: mixer.skip.zero_(),
    "taps": lambda mixer: mixer.conv.copy_(mixer.conv.flip(1)),
    "decay": lambda mixer: mixer.A_log.copy_(mixer.A_log.exp()),
    "steps": lambda mixer: mixer.dt_bias.zero_(),
    "keys": _keys_and_queries_exchanged,
    "gate": lambda mixer: mixer.z.weight.copy_(mixer.z.weight.roll(8, 0)),
}


@pytest.mark.parametrize("name", MAMBA_MISTAKES)
def test_a_mistake_in_mamba(mamba: Transformer, name: str) -> None:
    assert _changed(mamba, MAMBA_MISTAKES[name]) > ENOUGH


def test_one_norm_over_all_groups_and_the_norm_before_the_gate(
    mamba: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = logits(mamba)

    def whole(self: Mamba2, y_TI: Tensor, x_TD: Tensor) -> Tensor:
        return self.norm(y_TI * F.silu(self.z(x_TD)))

    def before(self: Mamba2, y_TI: Tensor, x_TD: Tensor) -> Tensor:
        normed = rms(y_TI.unflatten(-1, (self.config.groups, -1)), self.norm.eps).flatten(1)
        return normed * self.norm.weight * F.silu(self.z(x_TD))

    for wrong in (whole, before):
        monkeypatch.setattr(Mamba2, "_gated", wrong)
        assert (logits(mamba) - right).abs().max() > ENOUGH


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """Layers that hold one part each."""
    path: Path = tmp_path_factory.mktemp("parts")
    tiny("nemotron_h_moe").save_pretrained(path)
    return load_model(path).model


def _with(config: ModelConfig, part: str, **changes: Any) -> ModelConfig:
    """The config with `changes` to each mixer (`attention`), feed-forward (`ffn`) or router that has them."""

    def changed(block: BlockConfig) -> BlockConfig:
        own = block.ffn if part == "router" else getattr(block, part)
        if part == "router":
            if not isinstance(own, MoEConfig):
                return block
            router = own.router.model_copy(update=changes)
            return block.model_copy(update={"ffn": own.model_copy(update={"router": router})})
        if own is None or not all(hasattr(own, name) for name in changes):
            return block
        return block.model_copy(update={part: own.model_copy(update=changes)})

    return config.model_copy(update={"blocks": tuple(map(changed, config.blocks))})


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("ffn", {"activation": "silu"}),
        ("attention", {"rope": RopeConfig()}),
        ("attention", {"step_low": 0.0}),
        ("router", {"scale": 1.0}),
        ("router", {"num_groups": 1, "top_groups": 1}),
        ("router", {"renormalize": False}),
        ("router", {"score": "softmax"}),
    ],
)
def test_a_setting_of_layers_with_one_part(parts: Transformer, part: str, changes: dict[str, Any]) -> None:
    wrong = rebuilt(parts, _with(parts.config, part, **changes))
    assert (logits(wrong) - logits(parts)).abs().max() > ENOUGH


def test_layers_with_one_part_in_another_order(parts: Transformer) -> None:
    wrong = rebuilt(parts, parts.config)
    wrong.blocks = torch.nn.ModuleList([wrong.blocks[index] for index in (1, 0, 2, 3)])
    assert (logits(wrong) - logits(parts)).abs().max() > ENOUGH
