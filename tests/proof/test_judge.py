"""Judging a result: each ruling, the threshold, and records that a checkpoint must still answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError
from coterie.proof.judge import FAITHFUL, judge
from coterie.proof.records import ProbeRecord, record
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.proof.test_records import SEQUENCES, make


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text * 3 for text in TEXTS], 320)


@pytest.fixture(scope="module")
def shares() -> dict[float, ProbeRecord]:
    """Records of a base (0), of a tuned model (1), and of models that hold a share of the change."""
    base, tuned = make(0), make(0)
    change = {name: 0.02 * torch.randn_like(p) for name, p in tuned.named_parameters() if "experts" in name}
    answers = {}
    for share in (0.0, 0.02, 0.5, 0.85, 0.99, 1.0):
        for (name, parameter), (_, origin) in zip(
            tuned.named_parameters(), base.named_parameters(), strict=True
        ):
            parameter.data = origin.data + share * change.get(name, torch.zeros(()))
        answers[share] = record(tuned, SEQUENCES)
    return answers


@pytest.mark.parametrize(
    ("share", "ruling", "reason"),
    [
        (1.0, "faithful", "is the tuned model"),
        (0.99, "faithful", "is the tuned model"),
        (0.85, "between", "lies between"),  # most of the change is there, and not enough
        (0.5, "between", "lies between"),
        (0.02, "base", "is still the base"),
        (0.0, "base", "is still the base"),
    ],
)
def test_rulings_by_the_share_of_the_change(
    shares: dict[float, ProbeRecord], share: float, ruling: str, reason: str
) -> None:
    found = judge(shares[0.0], shares[1.0], shares[share], tolerance=0.05)
    assert found.ruling == ruling and found.faithful is (ruling == "faithful") and reason in found.reason
    assert found.gravity == pytest.approx(share, abs=0.1) and "\n" not in found.reason
    assert (found.gravity >= FAITHFUL) is found.faithful


def test_gravity_alone_is_not_enough(shares: dict[float, ProbeRecord]) -> None:
    found = judge(shares[0.0], shares[1.0], shares[0.99], tolerance=1e-6)
    assert found.ruling == "different" and found.gravity > FAITHFUL and "tolerance 1e-06" in found.reason
    assert judge(shares[0.0], shares[1.0], shares[1.0]).gravity == 1.0


def test_a_tuned_model_that_answers_as_its_base_is_refused_first(shares: dict[float, ProbeRecord]) -> None:
    found = judge(shares[0.0], shares[0.0], shares[0.0])
    assert found.ruling == "unchanged" and not found.faithful


def test_a_changed_copy_fails_the_check(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "model"
    save_model(path, make(vocab_size=320, max_position_embeddings=128), tokenizer, probes=True)
    file = path / "model.safetensors"
    tensors = load_file(file)
    one, two = (f"model.layers.1.mlp.experts.0.{part}_proj.weight" for part in ("gate", "up"))
    tensors[one], tensors[two] = tensors[two], tensors[one]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(path)
    (path / "coterie.json").unlink()  # nothing is left that names the old bytes but the probes
    load_model(path)
    with pytest.raises(CheckpointError, match="is not the model its probes were recorded from"):
        load_model(path, check=True)
    path = tmp_path / "second"
    save_model(path, make(vocab_size=320), Tokenizer.train([TEXTS[0]], 300), probes=True)
    tokenizer.save(path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not the one"):
        load_model(path, check=True)
