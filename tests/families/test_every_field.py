"""Every field of the config classes of transformers is used, refused, or known to change nothing.

The table is walked in the default run: a field that a new version adds has to be decided here. The slow walk
edits each field of each family in turn and compares logits: the same as transformers, or a refusal.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from coterie.checkpoints.directory import load_model
from coterie.config import CoterieError
from coterie.families import FAMILIES
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import assert_model_close
from tests.families.hf import CONFIGS, VOCAB, tiny

NAMES = (
    "mistral",
    "qwen2",
    "smollm3",
    "seed_oss",
    "ernie4_5",
    "ernie4_5_moe",
    "glm4_moe_lite",
    "dots1",
    "hy_v3",
    "llama",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "olmoe",
    "llama4_scout",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "glm4_moe",
    "minimax_m2",
    "ministral3",
    "qwen2_moe",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "olmo2",
    "olmo3",
    "flex_olmo",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "lfm2",
    "lfm2_moe",
    "gemma4_text",
    "gemma4_text_keys_as_values",
    "gemma4_text_moe",
    "gemma4_unified_text",
    "granitemoehybrid",
    "nemotron_h_moe",
)
IDS = torch.randint(0, VOCAB, (24,), generator=torch.Generator().manual_seed(1))

NO_EFFECT = {
    "mamba_chunk_size": "how the scan is divided",
    "chunk_size": "how the scan is divided",
    "expand": "the heads of Mamba-2 say how wide it is inside",
    "mamba_ssm_cache_dtype": "the state is float32 here",
    "use_mamba_kernels": "how the scan is computed",
    "time_step_max": "fresh weights",
    "time_step_floor": "fresh weights",
    "rescale_prenorm_residual": "fresh weights",
    "num_logits_to_keep": "what a call returns",
    "moe_shared_expert_overlap": "the order of work",
    "hidden_dropout": "training of transformers; trained here without dropout",
    "num_nextn_predict_layers": "layers for multi-token prediction are carried",
    "mtp_layers_block_type": "layers for multi-token prediction are carried",
    "architectures": "model_type decides; a contradiction is named",
    "transformers_version": "says who wrote the file",
    "dtype": "the weights have their types; the type to compute in is an argument",
    "output_hidden_states": "what a call returns",
    "output_router_logits": "what a call returns; the loss of training is asked for by its weight",
    "return_dict": "what a call returns",
    "use_cache": "speed of generation",
    "chunk_size_feed_forward": "memory of a call",
    "is_encoder_decoder": "decoders only",
    "id2label": "heads of classifiers, whose tensors are refused",
    "label2id": "heads of classifiers, whose tensors are refused",
    "problem_type": "heads of classifiers, whose tensors are refused",
    "bos_token_id": "checkpoints.token_facts",
    "eos_token_id": "checkpoints.token_facts",
    "pad_token_id": "checkpoints.token_facts",
    "eod_token_id": "a token of the original tools",
    "sep_token_id": "a token of the original tools",
    "attention_dropout": "training of transformers; trained here without dropout",
    "residual_dropout": "training of transformers; trained here without dropout",
    "enable_moe_fp32_combine": "how one sum is rounded in types below float32",
    "router_jitter_noise": "training of transformers; trained here without noise",
    "pretraining_tp": "transformers 5 ignores it",
    "max_window_layers": "without effect while use_sliding_window is off, and on is refused",
}
REFUSED = {
    "use_sliding_window": "Reader.expect",
    "sliding_window": "Reader.refuse_unread, or read with use_sliding_window off",
    "layer_types": "Reader.refuse_unread",
    "attention_bias": "Reader.expect",
    "mlp_bias": "Reader.expect",
    "head_dim": "latent attention derives it",
    "norm_topk_prob": "Reader.expect in deepseek_v2",
    "num_mtp_layers": "another name of num_nextn_predict_layers",
}
EXTRA: dict[str, list[Any]] = {
    "is_causal": [False],
    "per_layer_config": [{"1": {"sliding_window": 3}}],
    "layer_types": [["sliding_attention"] * 4, ["chunked_attention"] * 4, ["full_attention"] * 4],
    "rope_theta": [777.0],
    "partial_rotary_factor": [0.5],
    "attention_chunk_size": [4],
    "sliding_window": [3],
    "original_max_position_embeddings": [17],
    "use_bidirectional_attention": [True],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_decided(name: str) -> None:
    cls = type(tiny(name).config)
    used = FAMILIES[CONFIGS[name]["model_type"]].keys
    fields = {field.name for field in dataclasses.fields(cls)}
    assert len(fields) > 25
    assert sorted(fields - used - NO_EFFECT.keys() - REFUSED.keys()) == []
    for alias, name_ in cls.attribute_map.items():
        assert {alias, name_} & used, (alias, name_)


def _values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, max(1, value // 2), None]
    if isinstance(value, float):
        return [value * 1.5 + 0.1, None]
    if isinstance(value, str):
        return ["gelu", "softmax", "greedy", None]
    if isinstance(value, list):
        return [[], value[::-1], None]
    return [True, 3, 0.5] if value is None else [{}, None]


def _edits(raw: dict[str, Any], config: Any) -> Iterator[dict[str, Any]]:
    names = {field.name for field in dataclasses.fields(type(config))} | raw.keys() | EXTRA.keys()
    usual = type(config)().to_dict()
    for name in sorted(names - {"model_type", "architectures", "transformers_version", "return_dict"}):
        if name in raw:
            yield {key: value for key, value in raw.items() if key != name}
        for value in [*_values(raw.get(name, usual.get(name))), *EXTRA.get(name, [])]:
            yield raw | {name: value}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_edit_of_a_field_changes_transformers_alone(name: str, tmp_path: Path) -> None:
    reference = tiny(name)
    reference.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text())
    compared = refused = 0
    for data in _edits(raw, reference.config):
        file.write_text(json.dumps(data))
        changed = {
            key: data.get(key) for key in raw.keys() | data.keys() if raw.get(key, "") != data.get(key, "")
        }
        try:
            model = load_model(tmp_path).model
        except CoterieError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        try:
            theirs, info = AutoModelForCausalLM.from_pretrained(
                tmp_path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
            )
            with torch.no_grad():
                wanted = theirs.eval()(IDS[None]).logits[0]
        except Exception:  # transformers rejects the value in one of many ways
            continue
        if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            continue
        with torch.no_grad():
            ours = model.logits(model(IDS, ForwardContext.packed([len(IDS)])))
        compared += 1
        try:
            assert_model_close(model.config, ours, wanted, len(IDS))
        except AssertionError:
            raise AssertionError(f"{name}: {changed} changes transformers otherwise") from None
    assert compared > 20 and refused > 5
