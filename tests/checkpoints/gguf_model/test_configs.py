"""config.json from a file's keys: the config that was written, and one line for what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_model.configs import ARCHITECTURES
from coterie.config import CoterieError
from coterie.families.registry import first_difference
from coterie.llamacpp.targets import TARGETS
from tests.checkpoints.gguf_model.conftest import Exported
from tests.gguf.models import KINDS
from tests.gguf.rewritten import rewrite

# What a file cannot say, and need not: how a model was trained, two spellings of one scaling, layers that an
# export leaves out, two names of one decoder, and the order of the rows of rope, which is that of the file.
_UNSAID = {
    "qwen3": {"scaling"},
    "granite_hybrid_no_state": {"family"},  # a plain Granite
    "mistral": {"family"},  # a Llama, without a window
    "glm4_moe": {"num_mtp_layers"},
    "glm4_moe_air": {"num_mtp_layers"},
    "glm4_moe_lite": {"family", "num_mtp_layers"},  # DeepSeek-V3's decoder
    "deepseek_v3": {"num_mtp_layers"},
    "deepseek_v3_plain_yarn": {"num_mtp_layers", "scaling"},
    "deepseek_v3_half": {"num_mtp_layers", "style"},
    "mistral4_gains": {"scaling"},
    "hunyuan_v1_dense": {"theta"},  # stretched: the file has it in 32 bits
}


def said(config: Any, unsaid: set[str]) -> Any:
    """A config without what a file cannot say."""
    if isinstance(config, dict):
        return {key: said(value, unsaid) for key, value in config.items() if key not in unsaid}
    return [said(one, unsaid) for one in config] if isinstance(config, list | tuple) else config


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_comes_back(kind: str, exported: Exported) -> None:
    directory, file = exported(kind)
    unsaid = {"balance", "extra", "init_std"} | set(_UNSAID.get(kind, ()))
    wanted, found = (said(Checkpoint.open(path).config.to_dict(), unsaid) for path in (directory, file))
    assert not first_difference(wanted, found)
    assert wanted == found


def test_every_architecture_that_is_written_is_read() -> None:
    assert {target.name for target in TARGETS.values()} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    "kind, keys, message",
    [
        ("llama", {"general.architecture": "lama"}, "its architecture 'lama' is not read here (did you mean"),
        ("llama", {"general.architecture": "grok"}, "its architecture 'grok' is not read here; read here: "),
        ("llama", {"llama.context_length": None}, "has no key 'llama.context_length', which the model needs"),
        ("llama", {"llama.block_count": 0}, "'llama.block_count' is 0; from 1 to 10,000 layers can be read"),
        ("llama", {"llama.embedding_length": "wide"}, "m.gguf"),
        ("llama", {"llama.attention.head_count": 0}, "num_heads': Input should be greater than 0"),
        (
            "llama",
            {"llama.attention.head_count": [4, 4, 2, 4]},
            "'llama.attention.head_count' is [4, 4, 2, 4]",
        ),
        (
            "llama",
            {"llama.attention.value_length": 9},
            "'llama.attention.value_length' 9, which must be equal",
        ),
        ("llama", {"llama.attention.causal": False}, "'llama.attention.causal' is False; True can be read"),
        ("llama", {"llama.logit_scale": 0.25}, "'llama.logit_scale' is 0.25, which is not read here and may"),
        ("llama_linear", {"llama.rope.scaling.type": "longrope"}, "none, linear or yarn can be read here"),
        (
            "llama_yarn",
            {"llama.rope.scaling.yarn_ext_factor": 0.5},
            "yarn_ext_factor' is 0.5; 1.0 can be read",
        ),
        ("llama", {"llama.rope.scaling.type": "yarn"}, "none next to the tensor rope_freqs can be read here"),
        ("deepseek_v3", {"deepseek2.expert_gating_func": 4}, "expert_gating_func' is 4; one of 1, 2 can be"),
        ("deepseek_v3", {"deepseek2.attention.key_length_mla": None}, "take another file of the model"),
        ("phi3_long", {"phi3.rope.scaling.type": "yarn"}, "'phi3' models without another scaling"),
        ("phi3_long", {"phi3.rope.scaling.factor": 4.0}, "rope.scaling.factor' is 4.0; 1.0 can be read"),
        ("qwen3_moe", {"qwen3moe.expert_used_count": 0}, "top_k"),
        ("granite", {"granite.rope.scaling.finetuned": False}, "finetuned' is False; True can be read here"),
        ("granite", {"granite.attention.scale": None}, "has no key 'granite.attention.scale', which the"),
        (
            "mistral4",
            {"mistral4.attention.temperature_scale": None},
            "'mistral4.attention.temperature_scale',",
        ),
        (
            "olmo3",
            {"olmo2.rope.freq_base_swa": 7.0},
            "'olmo2.rope.freq_base_swa' is 7.0; 10000.0 can be read",
        ),
        (
            "glm_moe_dsa",
            {"glm-dsa.attention.indexer.top_k": None},
            "has no key 'glm-dsa.attention.indexer.top_k'",
        ),
        (
            "glm_moe_dsa",
            {"glm-dsa.attention.indexer.types": [1, 2, 0, 1]},
            "is [1, 2, 0, 1]; true or false for",
        ),
        (
            "glm_moe_dsa",
            {"glm-dsa.attention.indexer.kpool": 4},
            "indexer.kpool' is 4, which is not read here",
        ),
        (
            "glm_moe_dsa",
            {"glm-dsa.rope.scaling.type": "yarn"},
            "rope.scaling.type' is yarn; none can be read",
        ),
        ("glm_moe_dsa", {"glm-dsa.expert_gating_func": 1}, "expert_gating_func' is 1; 2 can be read here"),
        (
            "deepseek_v32",
            {"deepseek32.attention.indexer.types": [1, 1, 1, 1]},
            "types' is [1, 1, 1, 1], which",
        ),
        ("hunyuan_v1_moe", {"hunyuan-moe.expert_shared_count": 2}, "expert_shared_count' is 2; 1 can be"),
    ],
)
def test_keys_that_cannot_be_read(
    kind: str, keys: dict[str, Any], message: str, exported: Exported, tmp_path: Path
) -> None:
    file = rewrite(exported(kind)[1], tmp_path / "m.gguf", keys)
    with pytest.raises(CoterieError, match=re.escape(message)) as error:
        _ = Checkpoint.open(file).config
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_key_may_state_every_layer(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("qwen3")
    keys = {"qwen3.attention.head_count_kv": [2, 2, 2, 2], "qwen3.feed_forward_length": [48] * 4}
    found = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", keys)).config
    assert found.blocks == Checkpoint.open(file).config.blocks


def test_sliding_layers_may_be_stated_as_a_period(exported: Exported, tmp_path: Path) -> None:
    """One number: every n-th layer attends to all, as in llama.cpp; 0 stands for none."""
    _, file = exported("gpt_oss_pattern")
    for period, full in ((3, [2]), (0, [])):
        keys = {"gpt-oss.attention.sliding_window_pattern": period}
        found = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", keys)).config
        assert [n for n, one in enumerate(found.attentions) if one.mask == "causal"] == full


def test_a_mistral3_whose_queries_do_not_grow_is_a_mistral(exported: Exported, tmp_path: Path) -> None:
    keys = dict.fromkeys(
        ("mistral3.attention.temperature_scale", "mistral3.rope.scaling.original_context_length")
    )
    found = Checkpoint.open(rewrite(exported("ministral3_tied")[1], tmp_path / "m.gguf", keys))
    assert found.config.family == "mistral" and found.load().model is not None


def test_mistral_large_3_has_the_name_of_deepseek(exported: Exported, tmp_path: Path) -> None:
    _, plain = exported("mistral4")
    stated = GgufTensors.open(plain).keys
    keys: dict[str, Any] = {"general.architecture": "deepseek2"}
    for name, value in stated.items():
        if name.startswith("mistral4."):
            keys |= {name: None, name.replace("mistral4", "deepseek2"): value}
    assert Checkpoint.open(rewrite(plain, tmp_path / "m.gguf", keys)).config == Checkpoint.open(plain).config
    keys["deepseek2.rope.scaling.yarn_log_multiplier"] = 0.05
    with pytest.raises(CoterieError, match=r"yarn_log_multiplier' is 0\.05; 0\.1 can be read here"):
        _ = Checkpoint.open(rewrite(plain, tmp_path / "m.gguf", keys)).config


def test_old_files_state_less(exported: Exported, tmp_path: Path) -> None:
    """The width of heads and of experts then follows from other keys and tensors."""
    _, file = exported("mixtral")
    names = ("attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size")
    keys = dict.fromkeys(f"llama.{name}" for name in names)
    found = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", keys)).config
    assert found.blocks == Checkpoint.open(file).config.blocks and found.vocab_size == 320


def test_groups_of_experts_are_asked_for(exported: Exported, tmp_path: Path) -> None:
    """Old files of DeepSeek-V3 do not state them, and its size tells that it has some."""
    keys = {"deepseek2.block_count": 61, "deepseek2.expert_count": 256}
    keys |= {"deepseek2.expert_group_count": None, "deepseek2.expert_group_used_count": None}
    file = rewrite(exported("deepseek_v3")[1], tmp_path / "m.gguf", keys)
    with pytest.raises(CoterieError, match=r"--set deepseek2\.expert_group_count=8"):
        _ = Checkpoint.open(file).config


def test_which_layers_have_an_indexer(exported: Exported, tmp_path: Path) -> None:
    """Files may lack the key, and may hold an indexer in every layer: GLM-5.2's do both."""

    def everywhere(tensors: dict[str, Any]) -> None:
        tensors |= {
            name.replace(before, after): tensor
            for before, after in (("blk.0.", "blk.1."), ("blk.2.", "blk.3."))
            for name, tensor in tensors.items()
            if name.startswith(f"{before}indexer.")
        }

    directory, file = exported("glm_moe_dsa")
    extra = Checkpoint.open(directory).config.extra
    kept = {"index_n_heads": 2, "index_head_dim": 64, "index_topk": 256, "max_position_embeddings": 900}
    kinds, silent = ["full", "shared", "full", "shared"], {"glm-dsa.attention.indexer.types": None}
    for keys, wanted in (
        ({}, kinds),
        (silent, ["full"] * 4),
        (silent | {"glm-dsa.context_length": 1 << 20}, ["full", "full", "full", "shared"]),
    ):
        found = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", keys, everywhere))
        assert found.config.extra["indexer_types"] == wanted and found.config.max_positions == 256
        carried = {name.split(".")[2] for name in found.load().model.carried}
        assert carried == {str(layer) for layer, kind in enumerate(wanted) if kind == "full"}
        spare = [str(layer) for layer, kind in enumerate(wanted) if kind == "shared"]
        notes = [line for line in found.notes if "indexers" in line]
        assert len(notes) == bool(spare) and all(f"({', '.join(spare)})" in line for line in notes)
    stated = Checkpoint.open(file).config.extra
    assert {name: extra[name] for name in kept} == kept == {name: stated[name] for name in kept}
