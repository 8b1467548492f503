"""`coterie verify --sign` joins a derived model to its source by a statement, and signs for no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import CoterieError
from coterie.evidence.claims import verified_claims
from coterie.evidence.statements import EQUIVALENCE
from coterie.identity.files import weights_files
from coterie.identity.tensors import stored_weight_tree
from coterie.verify.equivalence import sign_equivalence
from coterie.verify.identity import compare, open_side
from coterie.verify.known import known_identity
from tests.cli.support import call, fails
from tests.evidence.keys import ALICE, MALLORY
from tests.proof.test_records import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "source", make())
    save_model(tmp_path / "rounded", make(), dtype="bfloat16")
    ALICE.write(tmp_path / "key")
    return tmp_path


def test_a_converted_model_is_joined_to_its_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("verify", str(folder / "rounded"), str(folder / "source"), "--sign", str(folder / "key"))
    claims = folder / "rounded" / "claims.jsonl"
    assert f"signed            {claims}" in capsys.readouterr().out
    (found,) = verified_claims(claims, [ALICE.public])
    derived, source = stored_weight_tree(folder / "rounded"), stored_weight_tree(folder / "source")
    assert found.predicate_type == EQUIVALENCE and found.signers == (ALICE.key_id,)
    assert found.subjects["weights_tensors"] == derived.root != source.root
    assert found.subjects["weights_files"] == weights_files(folder / "rounded")
    said = found.predicate
    assert said["source"]["weights_tensors"] == source.root
    assert 0 < float(said["kl"]) < 0.05 and 0.9 < float(said["item_agreement"]) <= 1
    assert said["probes"]["positions"] > 50 and said["probes"]["digest"].startswith("sha256:")
    with pytest.raises(CoterieError, match="line 1: was signed by the key"):
        verified_claims(claims, [MALLORY.public])
    Checkpoint.open(folder / "rounded").verify()  # a claim next to a model is no change of it


def test_another_model_is_not_signed_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Checkpoint.open(folder / "source").load().model
    with torch.no_grad():
        model.blocks[-1].ffn.experts.down.weight[0] += 0.3
    save_model(folder / "other", model)
    claims = folder / "claims.jsonl"
    with pytest.raises(SystemExit) as stopped:
        call("verify", str(folder / "other"), str(folder / "source"), "--sign", str(folder / "key"), "--json")
    assert stopped.value.code == 1 and "signed" not in json.loads(capsys.readouterr().out)
    assert not claims.exists() and not (folder / "other" / "claims.jsonl").exists()
    verdict = compare(open_side(str(folder / "other")), open_side(str(folder / "source")))
    sides = [known_identity(str(folder / name)) for name in ("other", "source")]
    with pytest.raises(CoterieError, match="differ, and nothing was signed"):
        sign_equivalence(ALICE, verdict, *sides)


def test_bad_options_are_refused_before_the_comparison(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ("verify", str(folder / "rounded"), str(folder / "source"))
    assert "give --sign KEY" in fails(capsys, *pair, "--claims", "x")
    assert "give the one that A was made from" in fails(capsys, *pair[:2], "--sign", str(folder / "key"))
    assert "is a public key" in fails(capsys, *pair, "--sign", str(folder / "key.pub"))
    assert "cannot be read" in fails(capsys, *pair, "--sign", str(folder / "none"))
