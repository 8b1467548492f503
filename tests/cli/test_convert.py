"""`coterie convert` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coterie.checkpoints.directory import save_model
from tests.checkpoints.test_convert import make
from tests.cli.support import call, fails
from tests.gguf.models import write


def test_receipt_in_words_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a"
    save_model(source, make("qwen3"))
    call("convert", str(source), "--to", "qwen3_moe", "-o", str(tmp_path / "b"))
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'b'}: qwen3_moe in float32, from qwen3 in float32; lossless\n")
    assert (
        "mapped            nothing -> model.layers.*.mlp.gate.weight (x4)" in out
        and "reading the result" in err
    )
    assert f"receipt           {tmp_path / 'b' / 'receipt.json'}" in out
    command = ["convert", str(source), "--to", "hf", "--dtype", "bfloat16", "--shard-size", "20kb", "--json"]
    call(*command, "-o", str(tmp_path / "c"))
    receipt = json.loads(capsys.readouterr().out)
    assert receipt == json.loads((tmp_path / "c" / "receipt.json").read_text())
    assert not receipt["lossless"] and receipt["rounding"]["tensors"] > 10
    call("verify", str(source), str(tmp_path / "b"))
    assert capsys.readouterr().out.startswith("same: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "qwen33"], "--to qwen33 is not known (did you mean 'qwen3'?)"),
        (["--to", "llama"], "'blocks.0.attention.qk_norm' would be lost"),
        (["--to", "hf", "--dtype", "int8"], "dtype 'int8' is not known"),
        (["--to", "hf", "--shard-size", "many"], "--shard-size many: give a size such as"),
        (["--to", "hf", "--drop", "mtp"], "this has none"),
        (["--to", "hf", "--quant", "q8_0"], "--quant has no meaning with --to hf"),
        (["--to", "gguf", "--dtype", "float16"], "--dtype has no meaning with --to gguf"),
        (["--to", "gguf"], "must be the name of the file to write, such as model.gguf"),
    ],
)
def test_refusals_are_one_line(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "a", make("qwen3"))
    capsys.readouterr()
    assert words in fails(capsys, "convert", str(tmp_path / "a"), "-o", str(tmp_path / "b"), *options)
    assert not (tmp_path / "b").exists()


def test_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file = write("qwen3_moe", tmp_path / "a"), tmp_path / "m.gguf"
    capsys.readouterr()
    call("convert", str(source), "--to", "gguf", "-o", str(file))
    out, err = capsys.readouterr()
    assert out.startswith(f"{file}: qwen3moe in q8_0, ") and "read back and compared" in out and "KL " in out
    assert "routing           " in out and "comparing answers" in err and file.is_file()
    receipt = json.loads((tmp_path / "m.receipt.json").read_text())
    assert receipt["source"] == str(source) and receipt["difference"]["kl"] > 0
    assert "exists already" in fails(capsys, "convert", str(source), "--to", "gguf", "-o", str(file))
    call("convert", str(source), "--to", "gguf", "-o", str(tmp_path / "n.gguf"), "--no-outputs", "--json")
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["difference"] is None and receipt["quant"] == "q8_0"


@pytest.mark.parametrize("verb", [["inspect"], ["convert", "--to", "hf", "-o", "out"], ["verify"]])
def test_an_adapter_is_called_so(verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    words = fails(capsys, verb[0], str(tmp_path), *verb[1:])
    assert ("is an adapter" if verb != ["verify"] else "has no adapter_model.safetensors") in words


def test_a_source_that_fails_its_probes_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "a", make("qwen3"), probes=True)
    other = make("qwen3")
    other.norm.weight.data *= 1.5
    save_model(tmp_path / "other", other)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "a")
    convert = ("convert", str(tmp_path / "a"), "--to", "gguf", "-o", str(tmp_path / "m.gguf"))
    assert "SHA-256 of samples differs" in fails(capsys, *convert)
    (tmp_path / "a" / "coterie.json").unlink()
    words = fails(capsys, *convert)
    assert "is not the model its probes were recorded from" in words and not (tmp_path / "m.gguf").exists()
