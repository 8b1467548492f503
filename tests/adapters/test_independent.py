"""The second reading of an adapter's files sees what a proof by the reader's own answers cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.adapters import merge, peft
from coterie.adapters.attach import Adapter, Factors
from coterie.adapters.files import read_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.config import CheckpointError, ModelConfig
from tests.adapters.test_merge import made

Change = Callable[[Adapter], Adapter]


def _factors(change: Callable[[str, Factors], Factors | None]) -> Change:
    def apply(adapter: Adapter) -> Adapter:
        new = {name: change(name, factors) for name, factors in adapter.factors.items()}
        return Adapter({name: kept for name, kept in new.items() if kept is not None}, adapter.full)

    return apply


def _scaled(name: str, factors: Factors) -> Factors:
    return Factors(factors.a, factors.b, factors.alpha * 1.05, factors.magnitude, factors.chosen)


def _without_one(name: str, factors: Factors) -> Factors | None:
    return None if name == "blocks.1.attention.q" else factors


def _swapped_halves(name: str, factors: Factors) -> Factors:
    if not name.endswith("gate_up"):
        return factors
    return Factors(factors.a, factors.b.roll(1, dims=-2), factors.alpha, factors.magnitude, factors.chosen)


def _transposed(name: str, factors: Factors) -> Factors:
    if name.endswith(".k") and factors.a.shape == factors.b.mT.shape:
        return Factors(factors.b.mT, factors.a.mT, factors.alpha)
    return factors


MISTAKES = {
    "scale": _factors(_scaled),
    "missing module": _factors(_without_one),
    "shifted rows": _factors(_swapped_halves),
    "transposed factor": _factors(_transposed),
    "lost weight": lambda adapter: Adapter(adapter.factors, {}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_reader_that_errs_cannot_prove_its_own_merge(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "qwen3_moe", train={"norm": "full"})
    right = peft.decode

    def wrong(*args: Any, **how: Any) -> Adapter:
        return MISTAKES[mistake](right(*args, **how))

    files = read_adapter(tmp_path / "adapter")
    monkeypatch.setattr("coterie.adapters.files.decode", wrong)
    monkeypatch.setattr(merge, "_check_adapter", lambda *_: None)  # an adapter of another tool has no probes
    with pytest.raises(CheckpointError, match="second reading"):
        merge_checkpoint(tmp_path / "base", files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_tied_by_mistake_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "llama_tied_bias", train={"embedding": "full"})
    right = peft.unties

    def tied(data: Mapping[str, Any], tensors: Mapping[str, Tensor], embedding: str) -> bool:
        right(data, tensors, embedding)
        return False

    files = read_adapter(tmp_path / "adapter")
    head = "base_model.model.lm_head.weight"
    files.tensors[head] = files.tensors[head] + torch.randn_like(files.tensors[head])
    monkeypatch.setattr(peft, "unties", tied)
    monkeypatch.setattr(merge, "_check_adapter", lambda *_: None)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight. is not what its adapter makes"):
        merge_checkpoint(tmp_path / "base", files, tmp_path / "out")
    monkeypatch.setattr(peft, "unties", right)
    result = merge_checkpoint(tmp_path / "base", files, tmp_path / "out")
    assert result.gravity > 0.999 and not _config(tmp_path / "out").tie_embeddings


def _config(path: Path) -> ModelConfig:
    from coterie.checkpoints.checkpoint import Checkpoint

    return Checkpoint.open(path).config


def test_a_tensor_of_another_shape_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "qwen3_moe")
    right = merge.check_weights

    def wrong(*args: Any) -> int:
        *before, actual, stored, where = args
        return right(*before, lambda name: None if actual(name) is None else actual(name)[:1], stored, where)

    monkeypatch.setattr(merge, "check_weights", wrong)
    with pytest.raises(CheckpointError, match=r"has the shape \(1,"):
        merge_checkpoint(tmp_path / "base", read_adapter(tmp_path / "adapter"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
