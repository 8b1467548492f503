"""Deliberate mistakes: each changes one setting of a model that equals transformers, and must move its
logits.

A mistake that moved nothing would mean that the parity tests cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.checkpoints.directory import load_model
from coterie.config import ModelConfig
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Router, Routing
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.families.hf import CONFIGS, VOCAB, tiny

LENGTHS = (23, 17)
ENOUGH = 0.05


def edited(config: ModelConfig, path: str, value: Any) -> ModelConfig:
    """Set `path` (below a block) in every block that has it with another value (windows: where there is
    one). Paths from `model.` on are settings of the whole model.
    """
    data, hits = config.to_dict(), 0
    if path.startswith("model."):
        assert data[path.removeprefix("model.")] != value
        return ModelConfig.from_dict(data | {path.removeprefix("model."): value})
    *parents, last = path.split(".")
    for block in data["blocks"]:
        node: Any = block
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node or node[last] == value:
            continue
        if last in ("mask", "window") and node["window"] is None:
            continue
        node[last] = value
        hits += 1
        if last == "select_bias":  # nothing left to adjust
            block["ffn"]["balance"]["bias_rate"] = 0.0
    assert hits, f"{path} is {value!r} or absent in every block"
    return ModelConfig.from_dict(data)


def logits(model: Transformer) -> Tensor:
    ids = torch.randint(0, VOCAB, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.logits(model(ids, ForwardContext.packed(LENGTHS)))


def rebuilt(model: Transformer, config: ModelConfig) -> Transformer:
    """The same weights under another config (parameters that the mistake has no place for are left out)."""
    other = Transformer(config)
    missing, _ = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return other


_YARN = "attention.rope.scaling"
MISTAKES: list[tuple[str, str, Any]] = [
    ("llama", "attention.rope.style", "pairs"),
    ("llama", "attention.rope.scaling", None),
    ("llama", "attention.rope.theta", 10000.0),
    ("llama4_maverick", "attention.rope.style", "half"),
    ("deepseek_v3", "attention.rope.style", "half"),
    ("deepseek_v2", "attention.rope.style", "half"),
    ("gpt_oss", "attention.rope.style", "pairs"),
    ("llama4_scout", "ffn.router.apply_to", "output"),
    ("mixtral", "ffn.router.apply_to", "input"),
    ("llama4_maverick", "ffn.router.score", "softmax"),
    ("qwen3_moe", "ffn.router.renormalize", False),
    ("olmoe", "ffn.router.renormalize", True),
    ("deepseek_v3", "ffn.router.renormalize", False),
    ("deepseek_v3", "ffn.router.scale", 1.0),
    ("deepseek_v3", "ffn.router.score", "softmax"),
    ("deepseek_v3", "ffn.router.select_bias", False),
    ("deepseek_v3", "ffn.router.group_fill", "zero"),
    ("deepseek_v3", "ffn.router.group_score", "max"),
    ("deepseek_v3", "ffn.router.top_groups", 4),
    ("deepseek_v2", "ffn.router.group_score", "top2sum"),
    ("deepseek_v2", "ffn.router.num_groups", 2),
    ("deepseek_v2", "ffn.shared_width", None),
    ("gpt_oss", "ffn.router.score_after_topk", False),
    ("qwen3", "attention.qk_norm", "none"),
    ("olmoe", "attention.qk_norm", "none"),
    ("olmoe", "attention.qkv_clip", None),
    ("llama4_scout", "attention.qk_norm", "none"),
    ("llama4_scout", "attention.mask", "sliding"),
    ("gpt_oss", "attention.window", 4),
    ("mixtral", "attention.window", 7),
    ("llama4_scout", "attention.window", 6),
    ("llama4_scout", "attention.temperature", None),
    ("deepseek_v3", f"{_YARN}.truncate", False),
    ("gpt_oss", f"{_YARN}.truncate", True),
    ("gpt_oss", f"{_YARN}.attention_factor", 1.0),
    ("deepseek_v3", f"{_YARN}.mscale_all_dim", None),
    ("deepseek_v2", f"{_YARN}.mscale", None),
    ("mistral", "attention.window", 7),
    ("mistral_full", "attention.rope.scaling", None),
    ("qwen2", "attention.qkv_bias", False),
    ("qwen2", "attention.rope.style", "pairs"),
    ("smollm3", "attention.rope", None),
    ("smollm3", "attention.output_bias", False),
    ("smollm3", "ffn.bias", False),
    ("seed_oss", "attention.qkv_bias", False),
    ("seed_oss_output_bias", "attention.output_bias", False),
    ("ernie4_5", "attention.rope.style", "half"),
    ("ernie4_5", "ffn.bias", False),
    ("ernie4_5_moe", "attention.rope.style", "half"),
    ("ernie4_5_moe", "ffn.router.score", "sigmoid"),
    ("ernie4_5_moe", "ffn.router.select_bias", False),
    ("ernie4_5_moe", "ffn.router.renormalize", False),
    ("ernie4_5_moe", "ffn.shared_width", None),
    ("ernie4_5_moe_every_second", "ffn.router.renormalize_min", 0.0),
    ("glm4_moe_lite", "attention.rope.style", "half"),
    ("glm4_moe_lite", "ffn.router.scale", 1.0),
    ("dots1", "attention.qk_norm", "none"),
    ("dots1", "ffn.router.score", "softmax"),
    ("dots1", "ffn.router.select_bias", False),
    ("dots1", "ffn.shared_width", None),
    ("hy_v3", "attention.qk_norm", "head_after"),
    ("hy_v3", "ffn.router.renormalize", False),
    ("hy_v3", "ffn.router.scale", 1.0),
    ("phi3", "attention.window", 7),
    ("phi3_longrope", "attention.rope.scaling", None),
    ("phi3_longrope", f"{_YARN}.long_factors", [1.0, 1.2, 1.7]),
    ("phi3_longrope", f"{_YARN}.short_factors", [1.5, 3.0, 8.0]),
    ("phi3_longrope", f"{_YARN}.attention_factor", 1.0),
    ("phi3_longrope", f"{_YARN}.original_max_positions", 30),
    ("glm4", "attention.rope.style", "half"),
    ("glm4", "attention.rope.rotated", None),
    ("glm4", "norms", "pre"),
    ("glm", "attention.qkv_bias", False),
    ("gemma2", "attention.scale", None),
    ("gemma2", "attention.score_cap", None),
    ("gemma2", "attention.window", 6),
    ("gemma2", "ffn.activation", "silu"),
    ("gemma2", "model.norm_plus_one", False),
    ("gemma2", "model.logit_cap", None),
    ("gemma2", "model.embed_scale", 1.0),
    ("gemma3_text", "attention.scale", None),
    ("gemma3_text", "attention.qk_norm", "none"),
    ("gemma3_text", "attention.rope.theta", 50.0),
    ("gemma3_text", "attention.rope.scaling", None),
    ("gemma3_text", "model.norm_plus_one", False),
    ("gemma4_text", "attention.scale", None),
    ("gemma4_text", "attention.value_norm", False),
    ("gemma4_text", "attention.qk_norm", "none"),
    ("gemma4_text", "attention.window", 6),
    ("gemma4_text", "attention.rope.proportional", False),
    ("gemma4_text", "attention.rope.theta", 50.0),
    ("gemma4_text", "output_scale", False),
    ("gemma4_text", "per_layer_width", None),
    ("gemma4_text", "ffn.activation", "silu"),
    ("gemma4_text", "model.norm_plus_one", True),
    ("gemma4_text", "model.embed_scale", 1.0),
    ("gemma4_text", "model.logit_cap", None),
    ("gemma4_text_keys_as_values", "attention.value_norm", False),
    ("gemma4_text_keys_as_values", "attention.rope.rotated", 12),
    ("gemma4_text_moe", "ffn.expert_norms", False),
    ("gemma4_text_moe", "ffn.router.input_norm_eps", None),
    ("gemma4_text_moe", "ffn.router.input_norm_eps", 1.0),
    ("gemma4_text_moe", "ffn.router.expert_scale", False),
    ("gemma4_text_moe", "ffn.router.renormalize", False),
    ("gemma4_text_moe", "ffn.router.score", "sigmoid"),
    ("gemma4_text_moe", "ffn.activation", "silu"),
    ("deepseek_v32", "ffn.router.select_bias", False),
    ("glm_moe_dsa", "attention.rope.style", "half"),
    ("gpt_oss", "attention.sinks", False),
    ("gpt_oss", "ffn.clamped.limit", 7.0),
    ("gpt_oss", "ffn.clamped.alpha", 1.0),
    ("qwen3_next", "attention.rope.rotated", None),
    ("qwen3_5_moe_text", "attention.rope.rotated", 8),
    ("qwen3_5_text", "attention.gate", "none"),
    ("qwen3_next", "ffn.shared_gate", False),
    ("qwen3_next", "ffn.router.renormalize", True),
    ("qwen3_5_moe_text", "ffn.router.renormalize", False),
    ("granite", "attention.scale", None),
    ("granitemoe", "ffn.router.renormalize", False),
    ("granitemoe", "attention.scale", None),
    ("granitemoeshared", "ffn.shared_width", None),
    ("olmo2", "attention.qk_norm", "none"),
    ("olmo3", "attention.window", 7),
    ("olmo3", "attention.rope.theta", 300.0),
    ("olmo3", f"{_YARN}.attention_factor", None),
    ("flex_olmo", "ffn.router.top_k", 2),
    ("flex_olmo", "model.norm_eps", 1e-1),
    ("granite", "model.embed_scale", 1.0),
    ("granite", "model.residual_scale", 1.0),
    ("granitemoe", "model.logit_scale", 1.0),
    ("hunyuan_v1_dense", "attention.qk_norm", "head"),
    ("hunyuan_v1_dense", "attention.rope.theta", 10.0),
    ("hunyuan_v1_dense", "attention.rope.theta", 300.0),
    ("hunyuan_v1_moe", "attention.qk_norm", "none"),
    ("hunyuan_v1_moe", "ffn.router.top_k", 3),
    ("hunyuan_v1_moe", "ffn.router.renormalize", False),
    ("glm4_moe", "attention.rope.rotated", None),
    ("glm4_moe", "attention.rope.style", "pairs"),
    ("glm4_moe", "attention.rope.proportional", True),
    ("glm4_moe", "attention.qk_norm", "none"),
    ("glm4_moe", "attention.qk_norm", "head_after"),
    ("glm4_moe", "attention.qkv_bias", False),
    ("glm4_moe", "ffn.router.select_bias", False),
    ("glm4_moe", "ffn.router.top_groups", 4),
    ("glm4_moe_air", "attention.rope.rotated", 12),
    ("glm4_moe_air", "ffn.router.renormalize", True),
    ("minimax_m2", "attention.rope.rotated", None),
    ("minimax_m2", "attention.qk_norm", "none"),
    ("minimax_m2", "ffn.router.renormalize", False),
    ("minimax_m2", "ffn.router.renormalize_eps", 1.0),
    ("minimax_m2", "ffn.router.select_bias", False),
    ("minimax_m2", "ffn.router.score", "softmax"),
    ("ministral3", "attention.temperature", None),
    ("ministral3", "attention.temperature.offset", 1),
    ("ministral3", "attention.temperature.floor_scale", 9),
    ("ministral3", "attention.window", 10),
    ("ministral3", f"{_YARN}.mscale", None),
    ("qwen2_moe", "ffn.shared_gate", False),
    ("qwen2_moe", "ffn.router.renormalize", True),
    ("qwen2_moe", "attention.qkv_bias", False),
    ("qwen2_moe_every_second", "ffn.router.renormalize", False),
    ("lfm2", "attention.qk_norm", "none"),
    ("lfm2", "attention.bias", False),
    ("lfm2_moe", "ffn.router.select_bias", False),
    ("lfm2_moe", "ffn.router.scale", 1.0),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Transformer]:
    """Our models of transformers' saved directories, each made once."""
    made: dict[str, Transformer] = {}

    def get(name: str) -> Transformer:
        if name not in made:
            path: Path = tmp_path_factory.mktemp(name)
            tiny(name).save_pretrained(path)
            made[name] = load_model(path).model
        return made[name]

    return get


@pytest.mark.parametrize(("name", "path", "value"), MISTAKES, ids=lambda value: str(value))
def test_a_wrong_setting_moves_the_logits(
    models: Callable[[str], Transformer], name: str, path: str, value: Any
) -> None:
    model = models(name)
    wrong = rebuilt(model, edited(model.config, path, value))
    assert (logits(wrong) - logits(model)).abs().max() > ENOUGH


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_same_settings_move_nothing(models: Callable[[str], Transformer], name: str) -> None:
    model = models(name)
    again = logits(rebuilt(model, model.config))
    assert_model_close(model.config, again, logits(model), max(LENGTHS))


def test_the_selection_bias_used_as_a_weight(
    models: Callable[[str], Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("deepseek_v3")
    right = logits(model)
    original = Router.route

    def biased(self: Router, logits_TE: Tensor, steer: Any = None) -> Routing:
        routing = original(self, logits_TE, steer)
        assert self.select_bias is not None
        weights_TK = (routing.scores_TE + self.select_bias).gather(-1, routing.ids_TK)
        return routing._replace(weights_TK=weights_TK / weights_TK.sum(-1, keepdim=True) * self.config.scale)

    monkeypatch.setattr(Router, "route", biased)
    assert (logits(model) - right).abs().max() > ENOUGH


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe", "llama4_scout"])
def test_gate_and_up_in_the_wrong_order(models: Callable[[str], Transformer], name: str) -> None:
    model = models(name)
    wrong = rebuilt(model, model.config)
    with torch.no_grad():
        for parameter in (p for n, p in wrong.named_parameters() if ".experts.gate_up." in n):
            if name == "gpt_oss":  # alternating rows read as halves
                parameter.copy_(parameter.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2).clone())
            else:
                parameter.copy_(parameter.unflatten(1, (2, -1)).flip(1).flatten(1, 2).clone())
    assert (logits(wrong) - logits(model)).abs().max() > ENOUGH
