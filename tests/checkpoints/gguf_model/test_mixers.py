"""Layers that keep a state: each change that the file makes to their numbers is undone, and matters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.llamacpp.mixers import NEGATED_EXPONENTIAL
from tests.checkpoints.gguf_model.conftest import Exported
from tests.checkpoints.gguf_model.test_source import logits
from tests.gguf.rewritten import Arrays, rewrite


def test_every_bfloat16_comes_back_from_its_exponential() -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(torch.bfloat16)
    numbers = numbers[numbers.abs() <= 87]  # beyond, exponentials leave the normal numbers of float32
    found = NEGATED_EXPONENTIAL.read(NEGATED_EXPONENTIAL.written(numbers))
    # Numbers near 0 share their exponential; there any of them is the same model.
    apart = numbers.abs() >= 2**-15
    assert torch.equal(found[apart], numbers[apart].float())
    assert (found[~apart].abs() <= 2**-15).all()


def test_a_float32_comes_back_to_the_rounding_of_its_exponential() -> None:
    numbers = torch.empty(200_000).uniform_(-20, 20, generator=torch.Generator().manual_seed(0))
    stored = NEGATED_EXPONENTIAL.written(numbers)
    found = NEGATED_EXPONENTIAL.read(stored)
    assert ((found.double() - numbers.double()).abs() <= 2**-24 * (1 + numbers.double().abs()) * 1.001).all()
    assert (found != numbers).any()  # so the bound is needed


def _change(part: str, change: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    def apply(tensors: Arrays) -> None:
        for name in [name for name in tensors if name.endswith(part)]:
            tensors[name] = np.ascontiguousarray(change(tensors[name]), np.float32)

    return apply


def _grouped(tensor: Any) -> Any:
    """Value heads as transformers has them, as if they had never been tiled (3 copies, 2 key heads)."""
    return np.concatenate([np.split(tensor, 6)[copy * 2 + key] for key in range(2) for copy in range(3)])


def _swapped(parts: int, first: int, second: int) -> Callable[[Any], Any]:
    def swap(tensor: Any) -> Any:
        found = np.split(tensor, parts)
        found[first], found[second] = found[second], found[first]
        return np.concatenate(found)

    return swap


# What a reader or a writer could forget, as it would look in the file.
MISTAKES: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("qwen3_5", "ssm_a", lambda a: -np.exp(a)),
    ("qwen3_5", "ssm_a", _grouped),
    ("qwen3_5", "ssm_dt.bias", _grouped),
    ("qwen3_5", "attn_gate.weight", _grouped),
    ("qwen3_5", "ssm_alpha.weight", _grouped),
    ("qwen3_5", "ssm_beta.weight", _grouped),
    ("qwen3_5", "ssm_out.weight", lambda out: _grouped(out.T).T),
    ("qwen3_5", "attn_qkv.weight", lambda qkv: np.concatenate((qkv[:32], _grouped(qkv[32:])))),
    ("qwen3_5", "ssm_conv1d.weight", lambda conv: np.concatenate((conv[:32], _grouped(conv[32:])))),
    ("qwen3_5", "ssm_norm.weight", lambda norm: norm + 1),
    ("qwen3_5", "post_attention_norm.weight", lambda norm: norm - 1),
    ("qwen3_5", "attn_q.weight", _swapped(8, 1, 2)),
    ("qwen3_next", "ssm_ba.weight", _swapped(4, 1, 2)),
    ("lfm2", "shortconv.in_proj.weight", _swapped(3, 0, 1)),
    ("lfm2", "shortconv.conv.weight", lambda conv: conv[:, ::-1]),
    ("granite_hybrid", "ssm_in.weight", lambda rows: np.roll(rows, 64, axis=0)),
    ("granite_hybrid", "ssm_norm.weight", lambda norm: norm.reshape(-1, 2).T.reshape(2, -1)),
    ("granite_hybrid", "ssm_d", lambda skip: skip * 0),
    ("nemotron_h", "ssm_in.weight", lambda rows: np.roll(rows, 48, axis=0)),
    ("nemotron_h", "ssm_norm.weight", lambda norm: norm.reshape(-1, 2).T.reshape(2, -1)),
    ("nemotron_h", "ffn_up.bias", lambda bias: bias * 0),
    ("nemotron_h_moe", "ffn_up_exps.weight", lambda experts: np.roll(experts, 1, axis=0)),
    ("nemotron_h_moe", "exp_probs_b.bias", lambda bias: -bias),
    ("nemotron_h_latent", "ffn_latent_down.weight", lambda rows: rows[::-1]),
    ("nemotron_h_latent", "ffn_latent_up.weight", lambda rows: rows[:, ::-1]),
]


@pytest.mark.parametrize(("kind", "part", "change"), MISTAKES, ids=[f"{k}-{p}" for k, p, _ in MISTAKES])
def test_a_mistake_changes_the_answers(
    kind: str, part: str, change: Callable[[Any], Any], exported: Exported, tmp_path: Path
) -> None:
    """So that the tests that compare answers and tensors would notice it."""
    directory, file = exported(kind)
    wrong = rewrite(file, tmp_path / "m.gguf", change=_change(part, change))
    found, wanted = (logits(Checkpoint.open(path).load().model) for path in (wrong, directory))
    assert (found - wanted).abs().max() > 0.02


def test_decays_that_grow(exported: Exported, tmp_path: Path) -> None:
    """As in a file that holds the logarithms themselves."""
    change = _change("ssm_a", lambda a: np.abs(a))
    file = rewrite(exported("granite_hybrid")[1], tmp_path / "m.gguf", change=change)
    with pytest.raises(CheckpointError, match=r"'blk\.0\.ssm_a' holds a number that is not minus the"):
        Checkpoint.open(file).load()


def first_form(tensors: Arrays) -> None:
    """Qwen3-Next as llama.cpp wrote it at first: rows of each key head together (2 heads, 8 and 16 rows)."""
    for name in [name for name in tensors if name.endswith("attn_qkv.weight")]:
        qkv, gate = tensors.pop(name), tensors.pop(name.replace("qkv", "gate"))
        queries, keys, values = np.split(qkv, (16, 32))
        parts = [np.split(one, 2) for one in (queries, keys, values, gate)]
        joined = [part[head] for head in range(2) for part in parts]
        tensors[name.replace("attn_qkv", "ssm_in")] = np.concatenate(joined)


def test_the_first_form_of_qwen3_next(exported: Exported, tmp_path: Path) -> None:
    file = exported("qwen3_next")[1]
    old = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", change=first_form))
    found, wanted = dict(old.load().model.named_parameters()), Checkpoint.open(file).load().model
    for name, parameter in wanted.named_parameters():
        assert torch.equal(found[name], parameter), name


def test_first_dimensions_of_one_may_be_missing(exported: Exported, tmp_path: Path) -> None:
    """llama.cpp's quantiser leaves them out: here that of a norm with one group."""
    directory, file = exported("granite_hybrid_dense")
    flat = _change("ssm_norm.weight", lambda norm: norm.reshape(-1))
    found = Checkpoint.open(rewrite(file, tmp_path / "m.gguf", change=flat)).load().model
    assert torch.equal(logits(found), logits(Checkpoint.open(file).load().model))
    assert torch.allclose(logits(found), logits(Checkpoint.open(directory).load().model), atol=1e-5)
