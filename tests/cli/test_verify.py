"""`coterie verify` as a user types it: exit codes, words, JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from coterie.checkpoints.directory import save_model
from tests.adapters.test_merge import made
from tests.cli.support import call
from tests.proof.test_records import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    save_model(root / "one", make(), probes=True)
    save_model(root / "two", make(1))
    return root


def code(*arguments: object) -> int:
    try:
        call("verify", *map(str, arguments))
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_two_directories(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(folder / "one", folder / "one") == 0
    out, err = capsys.readouterr()
    assert out.startswith("same: ") and "top-1 agreement   100.00%" in out and "16 probes" in err
    assert "the same experts in every layer" in out
    assert code(folder / "one", folder / "two") == 1
    out, _ = capsys.readouterr()
    assert (
        out.startswith("DIFFERENT\n  because log-probabilities differ") and "routing           lowest" in out
    )
    assert code(folder / "one", folder / "two", "--tolerance", "100") == 0
    assert code(folder / "one", folder / "two", "--tolerance", "100", "--base", folder / "one") == 1
    assert "A is the base" in capsys.readouterr().out


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(folder / "one", folder / "two", "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["same"] is False and facts["tensors"]["first"] == "model.embed_tokens.weight"
    assert facts["difference"]["routing"]["1"] < 1 and facts["difference"]["positions"] > 500


def test_stored_probes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(folder / "one") == 0 and "answers its probes" in capsys.readouterr().out
    assert code(folder / "one", "--json") == 0 and json.loads(capsys.readouterr().out)["same"] is True
    assert code(folder / "two") == 2 and "holds no probes" in capsys.readouterr().err
    save_model(tmp_path / "three", make(2), probes=True)
    other = make(2)
    other.norm.weight.data *= 1.1
    save_model(tmp_path / "other", other)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "three")
    assert code(tmp_path / "three") == 1 and "its SHA-256 differs" in capsys.readouterr().err
    (tmp_path / "three" / "coterie.json").unlink()
    assert (
        code(tmp_path / "three") == 1
        and "is not the model its probes were recorded" in capsys.readouterr().err
    )


def test_an_adapter_against_its_own_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    assert code(tmp_path / "adapter") == 0 and "answers its probes" in capsys.readouterr().out
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: 2 * value if "lora_B" in name else value for name, value in tensors.items()}, file)
    (tmp_path / "adapter" / "coterie.json").unlink()
    assert code(tmp_path / "adapter") != 0


@pytest.mark.parametrize("second", ["/no/such", "http://127.0.0.1:9", "http://"])
def test_what_cannot_be_compared_is_no_difference(
    folder: Path, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(folder / "one", second) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("coterie: ")]
    assert second in line
