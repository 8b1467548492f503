"""The walk over two directories: order, what counts as missing, and the words for what happened to a
tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import CheckpointError
from coterie.verify.tensors import compare_tensors
from tests.checkpoints.test_convert import make
from tests.families.test_mtp import with_mtp
from tests.families.test_wrapper import whole

Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.feed_forward.experts.down_proj"
BOTH = "model.layers.1.feed_forward.experts.gate_up_proj"


def edit(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "a"
    save_model(path, make("llama4_scout"))
    return path


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (DOWN, lambda t: torch.zeros_like(t), "is all zeros in B"),
        (DOWN, lambda t: t.roll(1, 0), "holds A's experts in another order in B"),
        (
            DOWN,
            lambda t: t * torch.tensor([1.0, 0, 1, 1])[:, None, None],
            "differs in expert(s) 1 of 4, all zeros in B",
        ),
        (DOWN, lambda t: t + torch.tensor([0.0, 0, 1, 1])[:, None, None], "differs in expert(s) 2, 3 of 4"),
        (DOWN, lambda t: t * 2, "is A's times 2"),
        (DOWN, lambda t: t.transpose(1, 2).contiguous(), "has shape (4, 24, 32) in A and (4, 32, 24) in B"),
        (BOTH, lambda t: torch.cat(t.chunk(2, -1)[::-1], -1), "has its halves (gate and up) exchanged in B"),
        (BOTH, lambda t: torch.stack(t.chunk(2, -1), -1).flatten(-2), "is interleaved in B"),
        ("model.layers.1.self_attn.q_proj.weight", lambda t: t.T.contiguous(), "is transposed in B"),
        ("model.norm.weight", lambda t: t + 1e-6, "differs by "),
    ],
)
def test_words(original: Path, tmp_path: Path, name: str, change: Callable, words: str) -> None:
    save_model(tmp_path / "b", make("llama4_scout"))
    edit(tmp_path / "b", lambda tensors: tensors.update({name: change(tensors[name]).clone()}))
    walk = compare_tensors(Checkpoint.open(original), Checkpoint.open(tmp_path / "b"))
    assert (walk.first, walk.differing) == (name, 1) and walk.what.startswith(words)


def test_another_tensors_values_and_the_order_of_the_walk(original: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "b", make("llama4_scout"))
    one, two = (f"model.layers.2.self_attn.{part}_proj.weight" for part in "kv")

    def change(tensors: Tensors) -> None:
        tensors[one], tensors[two] = tensors[two], tensors[one]
        tensors["lm_head.weight"] += 1
        tensors["model.layers.10.extra"] = torch.zeros(1)

    edit(tmp_path / "b", change)
    walk = compare_tensors(Checkpoint.open(original), Checkpoint.open(tmp_path / "b"))
    assert (walk.first, walk.what, walk.differing) == (one, f"holds in B what A calls '{two}'", 3)


def test_missing_and_repeated(tmp_path: Path) -> None:
    """A copy that only one side stores is no difference; a tensor that the model needs is one."""
    with_mtp(tmp_path / "a")
    with_mtp(tmp_path / "b")
    edit(tmp_path / "b", lambda tensors: tensors.pop("model.layers.4.embed_tokens.weight"))
    assert compare_tensors(Checkpoint.open(tmp_path / "a"), Checkpoint.open(tmp_path / "b")).differing == 0
    edit(tmp_path / "b", lambda tensors: tensors.pop("model.layers.4.hnorm.weight"))
    walk = compare_tensors(Checkpoint.open(tmp_path / "a"), Checkpoint.open(tmp_path / "b"))
    assert (walk.first, walk.what) == ("model.layers.4.hnorm.weight", "is missing in B")
    assert (
        compare_tensors(Checkpoint.open(tmp_path / "b"), Checkpoint.open(tmp_path / "a")).what
        == "is missing in A"
    )
    for name in "cd":
        save_model(tmp_path / name, make("llama_tied_bias"))
    edit(tmp_path / "d", lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    walk = compare_tensors(Checkpoint.open(tmp_path / "c"), Checkpoint.open(tmp_path / "d"))
    assert walk.differing == 0 and walk.first is None


def test_carried_tensors_count_and_types_are_rounded(tmp_path: Path) -> None:
    for name in "ab":
        whole("llama4", tmp_path / name)
    key = next(
        name for name in load_file(tmp_path / "a" / "model.safetensors") if name.startswith("vision_model.")
    )
    edit(tmp_path / "b", lambda tensors: tensors.pop(key))
    assert (
        compare_tensors(Checkpoint.open(tmp_path / "a"), Checkpoint.open(tmp_path / "b")).what
        == "is missing in B"
    )
    save_model(tmp_path / "c", make("qwen3"))
    save_model(tmp_path / "d", make("qwen3"), dtype="bfloat16")
    walk = compare_tensors(Checkpoint.open(tmp_path / "c"), Checkpoint.open(tmp_path / "d"))
    assert walk.differing == 0 and walk.rounded == walk.compared > 10
    with pytest.raises(
        CheckpointError, match=r"is qwen3 and .* is llama: their tensors have no common names"
    ):
        save_model(tmp_path / "e", make("llama"))
        compare_tensors(Checkpoint.open(tmp_path / "c"), Checkpoint.open(tmp_path / "e"))
