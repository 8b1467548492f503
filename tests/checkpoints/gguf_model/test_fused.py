"""Files of other converters, with matrices fused or apart: the same model, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.gguf.export import export_gguf
from tests.checkpoints.gguf_model.conftest import Exported
from tests.gguf.rewritten import rewrite


def _joined(whole: str, *parts: str, axis: int = 0) -> Any:
    """Puts the parts into one tensor, in every layer that has them."""

    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if f".{parts[0]}." in name]:
            found = [tensors.pop(name.replace(parts[0], part)) for part in parts]
            tensors[name.replace(parts[0], whole)] = np.concatenate(found, axis)

    return change


def _apart(tensors: dict[str, Any]) -> None:
    """Phi-3's queries, keys and values in their own tensors: 32 rows and twice 16."""
    for name in [name for name in tensors if ".attn_qkv." in name]:
        parts = np.split(tensors.pop(name), [32, 48])
        tensors |= {name.replace("attn_qkv", f"attn_{one}"): t for one, t in zip("qkv", parts, strict=True)}


def _undivided(tensors: dict[str, Any]) -> None:
    """`kv_b` as DeepSeek has it: of every head the rows of keys, then those of values."""
    for name in [name for name in tensors if ".attn_k_b." in name]:
        keys, values = tensors.pop(name).swapaxes(1, 2), tensors.pop(name.replace("k_b", "v_b"))
        tensors[name.replace("k_b", "kv_b")] = np.concatenate((keys, values), 1).reshape(-1, keys.shape[2])


_QKV = _joined("attn_qkv", "attn_q", "attn_k", "attn_v")
_EXPERTS = _joined("ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps", axis=1)


@pytest.mark.parametrize(
    "kind, change",
    [
        ("qwen3", _QKV),
        ("llama_tied_bias", _QKV),  # rows of rope in pairs, and biases
        ("qwen3_moe", _EXPERTS),
        ("gpt_oss", _EXPERTS),  # biases; here gate and up alternate
        ("mistral4", _EXPERTS),
        ("phi3", _apart),
    ],
)
def test_fused_or_apart_is_one_model(kind: str, change: Any, exported: Exported, tmp_path: Path) -> None:
    _, plain = exported(kind)
    file = rewrite(plain, tmp_path / "m.gguf", change=change)
    wanted, found = Checkpoint.open(plain).load("float32"), Checkpoint.open(file).load("float32")
    assert found.model.config == wanted.model.config
    for name, parameter in wanted.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), parameter), name
    stored, tensors = Checkpoint.open(plain).tensors, Checkpoint.open(file).tensors
    for name in stored:
        assert torch.equal(tensors.read(name), stored.read(name)), name


@pytest.mark.parametrize(
    "kind, change", [("llama_tied_bias", _QKV), ("qwen3_moe", _EXPERTS), ("phi3", _apart)]
)
def test_codes_are_found_in_fused_matrices(
    kind: str, change: Any, exported: Exported, tmp_path: Path
) -> None:
    """Q8_0 and its own blocks of int8: numbers, codes and scales of every matrix."""
    plain = Path(export_gguf(exported(kind)[0], tmp_path / "plain.gguf", "q8_0").file)
    file = rewrite(plain, tmp_path / "m.gguf", change=change)
    wanted, found = Checkpoint.open(plain).tensors, Checkpoint.open(file).tensors
    grids = 0
    for name in wanted:
        assert torch.equal(found.read(name), wanted.read(name)), name
        if wanted.grid(name) is None or found.grid(name) is None:
            continue
        grids += 1
        for ours, theirs in zip(found.codes(name), wanted.codes(name), strict=True):
            assert torch.equal(ours, theirs), name
    assert grids > 4


def test_old_files_have_kv_b_in_one_piece(exported: Exported, tmp_path: Path) -> None:
    """Heads of 8 plain and 8 rotated numbers, values of 6: what the keys meant before `..._mla`."""
    _, plain = exported("deepseek_v3")
    names = {"key_length": 16, "value_length": 6, "head_count_kv": 4, "key_length_mla": None}
    keys = {f"deepseek2.attention.{name}": value for name, value in names.items()}
    keys |= {"deepseek2.attention.value_length_mla": None}
    file = rewrite(plain, tmp_path / "m.gguf", keys, _undivided)
    wanted, found = Checkpoint.open(plain).load("float32"), Checkpoint.open(file).load("float32")
    assert found.model.config == wanted.model.config
    for name, parameter in wanted.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), parameter), name
