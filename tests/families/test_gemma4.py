"""Gemma 4: both spellings of its layers, what files hold beyond the model, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from coterie.checkpoints.directory import load_model, save_model
from coterie.config import AttentionConfig, ConfigError, ModelConfig
from coterie.families import config_from_hf, config_to_hf
from coterie.gguf.export import export_gguf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.steering import LayerControl, RouterControl, make_steers
from coterie.nn.transformer import Transformer
from coterie.plan import count_parameters
from coterie.recipes.vocabulary import extend_vocabulary
from coterie.surgery.densify import densify
from coterie.surgery.grow import add_experts
from coterie.surgery.shrink import merge_experts, prune
from coterie.text.tokenizer import Tokenizer
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, tiny
from tests.families.test_mistakes import ENOUGH, logits, rebuilt
from tests.families.test_published import CONFIGS as PUBLISHED
from tests.surgery.common import SEQUENCES

E2B_LIKE = _BASE | CONFIGS["gemma4_text"]
UNIFIED = _BASE | CONFIGS["gemma4_unified_text"]
EQUAL = _BASE | CONFIGS["gemma4_text_keys_as_values"]
MOE = _BASE | CONFIGS["gemma4_text_moe"]


def logits_of(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(ids, ForwardContext.packed([len(ids)])))


def attentions(config: ModelConfig) -> list[AttentionConfig]:
    return [block.attention for block in config.blocks if isinstance(block.attention, AttentionConfig)]


def test_layers_take_keys_of_the_last_layer_of_their_type() -> None:
    config = config_from_hf(E2B_LIKE)
    assert [a.keys_of for a in attentions(config)] == [None, None, None, None, 1, 3, 1]
    assert [a.head_dim for a in attentions(config)] == [8, 16, 8, 8, 16, 8, 16]
    assert [block.ffn.width for block in config.blocks] == [40] * 4 + [80] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["gemma4_text", "gemma4_text_keys_as_values", "gemma4_unified_text"])
def test_both_spellings_of_layers_are_one(name: str) -> None:
    written = tiny(name).config.to_dict()
    assert "per_layer_config" in written
    ours = config_from_hf(_BASE | CONFIGS[name])
    assert config_from_hf(written).blocks == ours.blocks
    assert config_from_hf(config_to_hf(ours)).blocks == ours.blocks


def test_keys_of_another_layer_move_the_logits(tmp_path: Path) -> None:
    tiny("gemma4_text").save_pretrained(tmp_path)
    model = load_model(tmp_path).model
    data = model.config.to_dict()
    data["blocks"][5]["attention"]["keys_of"] = 2
    wrong = rebuilt(model, ModelConfig.from_dict(data))
    assert (logits(wrong) - logits(model)).abs().max() > ENOUGH


def test_projections_that_no_layer_uses_travel_and_bfloat16_comes_back(tmp_path: Path) -> None:
    tiny("gemma4_text").to(torch.bfloat16).save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    tensors = load_file(file)
    assert tensors["model.layers.3.layer_scalar"].dtype == torch.bfloat16
    unused = {
        f"model.layers.{layer}.self_attn.{part}.weight": torch.randn(3, dtype=torch.bfloat16)
        for layer in (4, 5, 6)
        for part in ("k_proj", "v_proj", "k_norm")
    }
    before = tensors | unused
    save_file(before, file, {"format": "pt"})
    save_model(tmp_path / "b", load_model(tmp_path / "a", dtype=torch.bfloat16).model)
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (E2B_LIKE, {"enable_moe_block": True, "num_experts": 4}, "'top_k_experts' is missing"),
        (MOE, {"top_k_experts": 7}, "top_k 7"),
        (E2B_LIKE, {"use_bidirectional_attention": "all"}, "'use_bidirectional_attention'"),
        (E2B_LIKE, {"vocab_size_per_layer_input": 90}, "'vocab_size_per_layer_input' is 90"),
        (E2B_LIKE, {"num_kv_shared_layers": 6}, "'num_kv_shared_layers' is 6"),
        (E2B_LIKE, {"num_kv_shared_layers": 7}, "'num_kv_shared_layers' is 7"),
        (EQUAL, {"layer_types": ["full_attention"] * 5 + ["sliding_attention"]}, "'layer_types' ends"),
        (EQUAL, {"per_layer_config": {"5": {"head_dim": 8, "sliding_window": 3}}}, "'per_layer_config'"),
        (EQUAL, {"per_layer_config": {"4": {"head_dim": 8}}}, "'per_layer_config'"),
        (UNIFIED, {"hidden_size_per_layer_input": 8}, "'hidden_size_per_layer_input' is 8"),
        (UNIFIED, {"enable_moe_block": True}, "'enable_moe_block'"),
        (EQUAL, {"hidden_activation": "silu"}, "'hidden_activation'"),
    ],
)
def test_what_would_change_the_model_is_refused(
    base: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        config_from_hf(base | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0}, "rope_type 'linear'"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 9.0}, "partial_rotary_factor"),
    ],
)
def test_positions_that_transformers_takes_otherwise_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    ropes = {"rope_parameters": {"full_attention": settings}}
    with pytest.raises(ConfigError, match=words):
        config_from_hf(EQUAL | ropes)


def test_tokens_cannot_be_added_where_each_has_inputs_for_layers(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["one text of a few words"], vocab_size=270)
    rows = tokenizer.vocab_size
    config = config_from_hf(E2B_LIKE | {"vocab_size": rows, "vocab_size_per_layer_input": rows})
    save_model(tmp_path / "a", Transformer(config), tokenizer)
    with pytest.raises(ConfigError, match="hidden_size_per_layer_input"):
        extend_vocabulary(tmp_path / "a", tmp_path / "b", ["<new>"])
    assert not (tmp_path / "b").exists()


def test_the_published_sizes_are_those_that_the_config_gives() -> None:
    counts = count_parameters(config_from_hf(PUBLISHED["gemma-4-26b-a4b-text"]))
    assert round(counts.total / 1e9, 1) == 25.2 and round(counts.active_all / 1e9, 1) == 3.8


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    path = tmp_path_factory.mktemp("moe")
    tiny("gemma4_text_moe").save_pretrained(path)
    return load_model(path).model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ffn_norm", "ffn.expert_norm"),
        ("ffn.expert_post_norm", "ffn.shared_post_norm"),
        ("ffn_post_norm", "ffn.expert_post_norm"),
    ],
)
def test_norms_in_each_others_place_move_the_logits(moe: Transformer, one: str, other: str) -> None:
    wrong = rebuilt(moe, moe.config)
    state = wrong.state_dict()
    for layer in range(moe.config.num_layers):
        a, b = (f"blocks.{layer}.{name}.weight" for name in (one, other))
        state[a], state[b] = state[b].clone(), state[a].clone()
    wrong.load_state_dict(state)
    assert (logits(wrong) - logits(moe)).abs().max() > ENOUGH


def test_a_pruned_model_is_one_that_never_chooses_the_others(moe: Transformer, tmp_path: Path) -> None:
    pruned, kept = prune(moe, 0.6, "random")
    control = RouterControl(
        tuple(
            (layer, LayerControl(masked=tuple(set(range(6)) - set(experts))))
            for layer, experts in kept.items()
        )
    )
    ids = torch.arange(24)
    steers = make_steers(moe.routers(), [(control, len(ids))], ids.device)
    with torch.no_grad():
        context = replace(ForwardContext.packed([len(ids)]), steers=steers)
        expected = moe.logits(moe(ids, context))
        found = pruned.logits(pruned(ids, ForwardContext.packed([len(ids)])))
        save_model(tmp_path, pruned)
        theirs = AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
        assert theirs.config.num_experts == 4
        assert_model_close(moe.config, theirs(ids[None]).logits[0], found, len(ids))
    assert (found - logits_of(moe, ids)).abs().max() > ENOUGH
    assert_model_close(moe.config, found, expected, len(ids))


def test_an_added_expert_changes_nothing_and_reads_what_the_router_reads(moe: Transformer) -> None:
    model = rebuilt(moe, moe.config)
    with torch.no_grad():  # as in trained models: what routers read has a common direction
        model.embed.weight[:, 0] = 3.0
        for _, router in model.routers():
            assert router.input_scale is not None
            router.input_scale[0] = 8.0
    grown = add_experts(model, SEQUENCES, source=2)
    router = grown.routers()[0][1]
    assert router.expert_scale is not None and router.expert_scale[6] == router.expert_scale[2]
    ids = torch.tensor(SEQUENCES[0])
    assert_model_close(moe.config, logits_of(grown, ids), logits_of(model, ids), len(ids))


def test_merged_experts_keep_their_norms_and_dense_forms_are_refused(moe: Transformer) -> None:
    merged, _ = merge_experts(moe, 0.5, SEQUENCES)
    assert logits(merged).isfinite().all()
    before, after = (model.blocks[0].ffn.expert_norm for model in (moe, merged))
    assert before is not None and after is not None and torch.equal(before.weight, after.weight)
    with pytest.raises(ConfigError, match="densify: the experts of layer 0 have norms around them") as caught:
        densify(moe, SEQUENCES)
    assert "\n" not in str(caught.value)


def test_keys_of_layers_that_llama_cpp_would_not_find_are_not_exported(tmp_path: Path) -> None:
    tiny("gemma4_text").save_pretrained(tmp_path / "a")
    with pytest.raises(ConfigError, match="takes shared keys of the last layers before"):
        export_gguf(tmp_path / "a", tmp_path / "a.gguf", "f16")
