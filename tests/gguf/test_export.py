"""GGUF files read back with the format's own package: every tensor, every key, every number format, every
refusal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gguf
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.quantised.fp4 import Fp4
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import CheckpointError, ConfigError
from coterie.gguf import export as module
from coterie.gguf.blocks import pack
from coterie.gguf.export import GgufReceipt, PackingError, export_gguf
from tests.gguf.expected import Arrays, expected, unpack
from tests.gguf.models import KINDS, YARN, write


def export(directory: Path, quant: str = "f32") -> tuple[GgufReceipt, gguf.GGUFReader]:
    receipt = export_gguf(directory, directory / "out" / "model.gguf", quant)
    assert receipt.bytes == Path(receipt.file).stat().st_size
    assert {path.name for path in (directory / "out").iterdir()} == {"model.gguf", "model.Modelfile"}
    return receipt, gguf.GGUFReader(receipt.file)


def keys(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_every_architecture(tmp_path: Path, kind: str) -> None:
    directory = write(kind, tmp_path / "m")
    config = json.loads((directory / "config.json").read_text())
    receipt, reader = export(directory)
    assert receipt.architecture == KINDS[kind][2] == keys(reader)["general.architecture"]
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    factors = {name: found.pop(name) for name in list(found) if name.startswith("rope_f")}
    wanted = expected(directory, kind, config)
    turning = wanted.pop("rope_freqs.weight", None)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    scaled = {"rope_freqs.weight"} if kind in ("llama", "llama4_scout") or turning is not None else set()
    long = {f"rope_factors_{length}.weight" for length in ("long", "short")}
    assert set(factors) == (long if kind in ("phi3_long", "phi3_short") else scaled)
    assert turning is None or np.array_equal(factors["rope_freqs.weight"], turning)
    assert (
        receipt.checked == len(reader.tensors) == len(receipt.mapped) and receipt.errors["F32"].largest == 0
    )


def test_the_keys_of_a_llama_with_scaled_positions(tmp_path: Path) -> None:
    found = keys(export(write("llama", tmp_path / "m"))[1])
    wanted = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "m",
        "general.file_type": 0,
        "llama.vocab_size": 320,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.block_count": 4,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 500.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert "llama.rope.scaling.type" not in found  # llama3 scaling is the tensor rope_freqs, not a key


def test_the_factors_of_scaled_positions_by_hand(tmp_path: Path) -> None:
    """llama3 with factor 8 over 16 positions: wavelengths 2 pi 500^(j/4) = 6.3, 29.7, 140, 664 against 4 and
    16.
    """
    reader = export(write("llama", tmp_path / "m"))[1]
    (factors,) = (tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    smooth = (16 / (2 * np.pi) - 1) / 3  # 16 / wavelength - low, over high - low
    np.testing.assert_allclose(factors, [1 / ((1 - smooth) / 8 + smooth), 8, 8, 8], rtol=1e-6)


def test_longrope_is_two_tensors_and_a_gain(tmp_path: Path) -> None:
    receipt, reader = export(write("phi3_long", tmp_path / "m"))
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(tensors["rope_factors_long.weight"], np.float32([1.5, 3.0, 8.0]))
    np.testing.assert_array_equal(tensors["rope_factors_short.weight"], np.float32([1.0, 1.2, 1.7]))
    found = keys(reader)
    wanted = {
        "attention.sliding_window": 0,
        "rope.dimension_count": 6,
        "rope.scaling.original_context_length": 20,
    }
    assert {key: found[f"phi3.{key}"] for key in wanted} == wanted
    # sqrt(1 + ln(128 / 20) / ln(20))
    assert found["phi3.rope.scaling.attn_factor"] == pytest.approx((1 + np.log(6.4) / np.log(20)) ** 0.5)
    # With a factor of the length llama.cpp would divide the positions once more.
    assert "phi3.rope.scaling.factor" not in found
    assert "of more than 20 tokens (LongRoPE)" in receipt.differences[0]


def test_the_keys_of_a_deepseek_v3(tmp_path: Path) -> None:
    found = keys(export(write("deepseek_v3", tmp_path / "m"))[1])
    wanted = {
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 24,
        "attention.value_length": 16,
        "attention.key_length_mla": 16,
        "attention.value_length_mla": 6,
        "attention.q_lora_rank": 12,
        "attention.kv_lora_rank": 16,
        "leading_dense_block_count": 1,
        "feed_forward_length": 40,
        "expert_feed_forward_length": 12,
        "expert_count": 12,
        "expert_used_count": 3,
        "expert_shared_count": 1,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
        "rope.dimension_count": 8,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 8.0,
        "rope.scaling.original_context_length": 256,
    }
    assert {key: found[f"deepseek2.{key}"] for key in wanted} == wanted
    assert found["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)  # 0.1 mscale_all_dim
    assert "deepseek2.rope.scaling.attn_factor" not in found


def test_the_keys_and_the_context_of_a_glm_moe_dsa(tmp_path: Path) -> None:
    directory = write("glm_moe_dsa", tmp_path / "m")
    receipt, reader = export(directory)
    found = keys(reader)
    wanted = {"head_count": 2, "key_length": 64, "top_k": 256, "types": [True, False, True, False]}
    assert {key: found[f"glm-dsa.attention.indexer.{key}"] for key in wanted} == wanted
    assert found["glm-dsa.context_length"] == 900 and not receipt.left_out
    assert found["glm-dsa.attention.q_lora_rank"] == 12
    name = "model.layers.2.self_attn.indexer.k_norm.bias"
    state = load_file(directory / "model.safetensors")
    save_file({one: tensor for one, tensor in state.items() if one != name}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"'{name}' is missing, the sizes of the indexer"):
        export_gguf(directory, tmp_path / "x.gguf", "f32")


def test_the_keys_of_a_gpt_oss(tmp_path: Path) -> None:
    found = keys(export(write("gpt_oss", tmp_path / "a"))[1])
    assert (
        found["gpt-oss.attention.sliding_window"] == 5 and found["gpt-oss.expert_feed_forward_length"] == 32
    )
    assert (
        "gpt-oss.attention.sliding_window_pattern" not in found and found["gpt-oss.rope.scaling.factor"] == 8
    )
    found = keys(export(write("gpt_oss_pattern", tmp_path / "b"))[1])
    assert found["gpt-oss.attention.sliding_window_pattern"] == [False, True, True, False]


def test_yarn_gains_become_the_factor_that_llama_cpp_multiplies_by(tmp_path: Path) -> None:
    full = 0.1 * np.log(8) + 1
    found = keys(export(write("llama_yarn", tmp_path / "a"))[1])
    assert found["llama.rope.scaling.attn_factor"] == pytest.approx(1.4 / full)
    found = keys(export(write("qwen3", tmp_path / "b"))[1])
    gain = (0.13 * np.log(8) + 1) / (0.06 * np.log(8) + 1)
    assert found["qwen3.rope.scaling.attn_factor"] == pytest.approx(gain / full)


def test_tied_embeddings_are_written_twice_only_where_they_must_be(tmp_path: Path) -> None:
    names = {tensor.name for tensor in export(write("llama_tied_bias", tmp_path / "a"))[1].tensors}
    assert "output.weight" not in names
    receipt, reader = export(write("olmoe", tmp_path / "b", tie_word_embeddings=True))
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(tensors["output.weight"], tensors["token_embd.weight"])
    assert "does not share" in receipt.mapped["output.weight"]


REFUSED = [
    ("mixtral", {"sliding_window": 6}, "has no sliding window (sliding_window 6)"),
    ("qwen3_moe", {"mlp_only_layers": [1]}, "has experts in every layer"),
    ("qwen3_moe", {"norm_topk_prob": False}, "always divides"),
    ("olmoe", {"norm_topk_prob": True}, "never divides"),
    ("olmoe", {"clip_qkv": 0.8}, "does not clip"),
    ("olmoe", {"num_key_value_heads": 2}, "as many key heads"),
    ("gpt_oss", {"swiglu_limit": 0.6}, "swiglu_limit 7"),
    ("gpt_oss", {"attention_bias": False}, "always has biases"),
    ("llama4_scout", {"attention_chunk_size": 5}, "chunks of 8192"),
    ("llama4_scout", {"attn_scale": 0.3}, "attn_scale 0.1"),
    ("llama4_scout", {"use_qk_norm": False}, "norms queries and keys"),
    ("llama4_scout", {"no_rope_layers": [1, 0, 1, 1]}, "no_rope_layers"),
    ("llama4_scout", {"moe_layers": [0, 3]}, "every n-th layer"),
    ("deepseek_v3", {"rms_norm_eps": 1e-5}, "the latents need 1e-06"),
    ("deepseek_v3", {"num_hidden_layers": 27}, "27 layers for a model without q_lora_rank"),
    ("deepseek_v2", {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}, "two best"),
    ("llama_yarn", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0}}, "fast 32"),
    ("qwen3", {"rope_parameters": {"rope_type": "llama3", "factor": 4.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 16}}, "no llama3 scaling"),
    ("deepseek_v3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "no linear scaling"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}},
        "no longrope scaling of its positions"),
    ("ministral3", {"sliding_window": 9}, "has no sliding window (sliding_window 9)"),
    ("ministral3", {"rope_parameters": YARN | {"beta_fast": 4.0, "llama_4_scaling_beta": 0.1}}, "fast 32"),
    ("phi3", {"sliding_window": 5}, "has no sliding window (sliding_window 5)"),
    ("olmo2", {"attention_bias": True}, "no biases on queries"),
    ("olmo3", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 9.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 8.0}}}, "has one rope_theta"),
    ("hunyuan_v1_moe", {"moe_topk": [3, 2, 3, 3]}, "the same number of experts in every layer"),
    ("glm_moe_dsa", {"rope_parameters": YARN}, "has no yarn scaling of its positions"),
    ("glm_moe_dsa", {"rms_norm_eps": 1e-5}, "the latents need 1e-06"),
    ("gemma2", {"attn_logit_softcapping": None}, "cannot do without attn_logit_softcapping: it takes 50"),
    ("gemma4_keys_as_values", {"attention_bias": True}, "has no biases in the attention"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED)
def test_what_llama_cpp_cannot_run_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    directory = write(kind, tmp_path / "m", **changes)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        export_gguf(directory, tmp_path / "x.gguf", "f32")
    assert "\n" not in str(error.value) and "cannot be exported to GGUF" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_is_computed_otherwise_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """gpt-oss as published: YaRN without rounding, which llama.cpp always does."""
    directory = write("gpt_oss", tmp_path / "m", rope_parameters=YARN | {"truncate": False})
    with caplog.at_level(logging.INFO, "coterie"):
        receipt = export_gguf(directory, tmp_path / "x.gguf", "f32")
    # 16 ln(256 / (32 * 2 pi)) / (2 ln 10000) = 0.21 and the same with 1 turn 3.22
    assert "dimensions 0 to 4 instead of 0.21 to 3.22" in receipt.differences[0]
    assert f"differs: {receipt.differences[0]}" in caplog.messages


def test_layers_for_further_tokens_are_left_out_and_named(tmp_path: Path) -> None:
    directory = write("deepseek_v3", tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    extra = {
        name.replace(".3.", ".4.", 1): tensor.clone()
        for name, tensor in state.items()
        if ".layers.3." in name
    }
    for name in ("enorm", "hnorm", "shared_head.norm"):
        extra[f"model.layers.4.{name}.weight"] = torch.ones(32)
    extra |= {"model.layers.4.eh_proj.weight": torch.ones(32, 64)}
    save_file(state | extra, directory / "model.safetensors", metadata={"format": "pt"})
    change_json(directory / "config.json", num_nextn_predict_layers=1)
    receipt, reader = export(directory)
    assert receipt.left_out == ("model.layers.4.* (layers that predict further tokens)",)
    assert keys(reader)["deepseek2.block_count"] == 4 and not [
        t for t in reader.tensors if t.name.startswith("blk.4")
    ]


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_checkpoint_that_does_not_fit_its_config_is_refused(tmp_path: Path, change: str) -> None:
    directory = write("qwen3", tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    if change == "missing":
        del state[name]
    elif change == "extra":
        state["model.layers.2.mlp.other.weight"] = torch.ones(2)
    else:
        state[name] = state[name][:-1].clone()
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.(up_proj|other)\.weight"):
        export_gguf(directory, tmp_path / "x.gguf", "f32")


def test_numbers_that_are_not_finite_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    directory = write("qwen3", tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    state["model.layers.3.mlp.down_proj.weight"][1, 1] = float("nan")
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"blk\.3\.ffn_down\.weight.*not finite"):
        export_gguf(directory, tmp_path / "x.gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_file_that_reads_back_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write("qwen3", tmp_path / "m")

    def wrong(rows_RI: Any, kind: str, name: str) -> Any:
        return pack(rows_RI * (1.001 if name == "blk.2.attn_v.weight" else 1), kind, name)

    monkeypatch.setattr(module, "pack", wrong)
    with pytest.raises(CheckpointError, match=r"blk\.2\.attn_v\.weight"):
        export_gguf(directory, tmp_path / "x.gguf", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    directory, out = write("qwen3", tmp_path / "m"), tmp_path / "x.gguf"
    out.write_text("old")
    with pytest.raises(ConfigError, match="use one of f32, f16, bf16"):
        export_gguf(directory, out, "q5_k")
    assert out.read_text() == "old"
    with pytest.raises(CheckpointError, match="is a directory"):
        export_gguf(directory, tmp_path, "f16")
    export_gguf(directory, out, "f16")
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'coterie\[gguf\]'"):
        export_gguf(tmp_path, tmp_path / "x.gguf", "f16")


def test_experts_in_mxfp4_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four-bit experts come through to the last bit, and only one of them is unpacked at a time."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    directory = write("gpt_oss", tmp_path / "m", num_local_experts=3)
    state = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    wanted: Arrays = {}
    for name in [name for name in state if name.endswith("_proj") and "experts" in name]:
        experts, columns, rows = state.pop(name).shape
        blocks = torch.randint(
            0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8, generator=generator
        )
        scales = torch.randint(
            118, 124, (experts, rows, columns // 32), dtype=torch.uint8, generator=generator
        )
        state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        wanted[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).mT.numpy()
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    change_json(directory / "config.json", quantization_config={"quant_method": "mxfp4"})
    unpacked: list[int] = []
    decode = Fp4.decode
    monkeypatch.setattr(
        Fp4, "decode", lambda form, parts, shape: unpacked.append(len(shape)) or decode(form, parts, shape)
    )
    receipt, reader = export(directory, "mxfp4")
    assert set(unpacked) == {2}
    found = {tensor.name: tensor for tensor in reader.tensors}
    for layer in range(4):
        both = wanted[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        down = wanted[f"model.layers.{layer}.mlp.experts.down_proj"]
        for part, tensor in (("gate", both[:, 0::2]), ("up", both[:, 1::2]), ("down", down)):
            written = found[f"blk.{layer}.ffn_{part}_exps.weight"]
            assert written.tensor_type.name == "MXFP4"
            np.testing.assert_array_equal(unpack(np.array(written.data), "MXFP4"), tensor)
    assert receipt.errors["MXFP4"] == PackingError(0.0, 0.0)


def test_a_directory_that_coterie_wrote_in_shards(tmp_path: Path) -> None:
    loaded = load_model(write("mixtral", tmp_path / "m"), dtype="bfloat16")
    save_model(tmp_path / "own", loaded.model, loaded.tokenizer)
    write_model_files(tmp_path / "own", loaded.model, loaded.tokenizer, shard_bytes=20_000)
    assert len(list((tmp_path / "own").glob("*.safetensors"))) > 3
    (tmp_path / "own" / "model.safetensors").unlink()
    (tmp_path / "own" / "coterie.json").unlink()  # it lists the single file
    receipt, reader = export(tmp_path / "own", "bf16")
    gate_up = loaded.model.state_dict()["blocks.1.ffn.experts.gate_up.weight"].float().numpy()
    found = {tensor.name: unpack(np.array(tensor.data), tensor.tensor_type.name) for tensor in reader.tensors}
    np.testing.assert_array_equal(found["blk.1.ffn_gate_exps.weight"], gate_up[:, :32])
    np.testing.assert_array_equal(found["blk.1.ffn_up_exps.weight"], gate_up[:, 32:])
    assert receipt.errors["BF16"].largest == 0
