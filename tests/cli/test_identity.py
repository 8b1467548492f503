"""`coterie identity`, `coterie key` and `coterie ledger` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.evidence.canonical import digest_bytes
from coterie.evidence.keys import read_public_key
from coterie.evidence.ledger import Ledger, LookOutcome
from coterie.identity.tensors import stored_weight_tree
from tests.cli.support import call, fails
from tests.identity.test_tensors import model_of

LAYER = max(index for index, _ in model_of("qwen3_moe").routers())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("identity")
    save_model(root / "one", model_of("qwen3_moe"), dtype="bfloat16")
    model = Checkpoint.open(root / "one").load().model
    with torch.no_grad():
        experts = model.blocks[LAYER].ffn.experts
        experts.down.weight[[0, 2]] = experts.down.weight[[2, 0]]
    save_model(root / "swapped", model, dtype="bfloat16")
    return root


def code(*arguments: object) -> int:
    try:
        call(*map(str, arguments))
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_the_digests_of_a_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("identity", folder / "one") == 0
    out = capsys.readouterr().out
    assert f"weights, tensors   {stored_weight_tree(folder / 'one').root}" in out
    assert "chat template      none" in out and "expert" not in out
    assert code("identity", folder / "one", "--experts") == 0
    assert f"{LAYER}, expert 3" in capsys.readouterr().out
    assert code("identity", folder / "one", "--json", "--tensors") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["weights"]["tensors"]["model.norm.weight"]["dtype"] == "BF16"


def test_swapped_experts_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("identity", folder / "one", "--against", folder / "one") == 0
    assert capsys.readouterr().out.startswith("same model\n")
    assert code("identity", folder / "one", "--against", folder / "swapped") == 1
    out = capsys.readouterr().out
    assert out.startswith("DIFFERENT\n") and f"\nweights differ\n  layer {LAYER}: experts 0 and 2\n" in out
    code("identity", folder / "one", "--json")
    saved = folder / "saved.json"
    saved.write_text(capsys.readouterr().out)
    assert code("identity", folder / "swapped", "--against", saved, "--json") == 1
    assert json.loads(capsys.readouterr().out)["weights"] == [f"layer {LAYER}: experts 0 and 2"]
    saved.write_text(saved.read_text().replace('"0": "sha256:', '"0": "sha256:0', 1))
    assert "its root is not that of its parts" in fails(capsys, "identity", str(saved))
    saved.write_text("{}")
    assert "is not the identity of a model" in fails(capsys, "identity", str(saved))
    assert code("identity", folder / "nothing") == 2


def test_a_key_is_made_once_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "release"
    assert code("key", "new", "-o", file) == 0
    named = read_public_key(tmp_path / "release.pub").key_id
    assert named in capsys.readouterr().out
    assert code("key", "show", file, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"key": named}
    assert "exists already" in fails(capsys, "key", "new", "-o", str(file))


def test_the_ledger_is_shown_and_a_cut_one_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path / "looks.jsonl")
    for number in range(3):
        outcome = LookOutcome(digest=digest_bytes(b"i"), cluster="c", score=number / 2)
        ledger.record(
            digest_bytes(bytes([number])), "sums", digest_bytes(b"i"), digest_bytes(b"p"), [outcome]
        )
    at = ("--ledger", ledger.path)
    assert code("ledger", "show", *at) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["sums", "test", "3", "3"] and out.count("weights") == 3
    assert code("ledger", "head", *at) == 0
    head = capsys.readouterr().out.strip()
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"looks": {"head": head}}))
    assert code("ledger", "check", *at, "--head", head, "--report", report) == 0
    assert "3 looks, the chain is whole, and holds the 2 known heads" in capsys.readouterr().out
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert code("ledger", "check", *at) == 0
    assert "never finished" in capsys.readouterr().out
    assert "was cut" in fails(capsys, "ledger", "check", *map(str, at), "--report", str(report))
    ledger.path.write_bytes(b"".join(lines[1:]))
    assert "line 1 does not continue the start" in fails(capsys, "ledger", "head", *map(str, at))
    assert "no such ledger" in fails(capsys, "ledger", "show", "--ledger", str(tmp_path / "none"))
    report.write_text("{}")
    ledger.path.write_bytes(b"".join(lines))
    assert "keeps no head" in fails(capsys, "ledger", "check", *map(str, at), "--report", str(report))
