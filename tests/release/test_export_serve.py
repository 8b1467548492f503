"""What is written for other servers: the same model, commands that a shell reads as meant, refusals in one
line.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

import coterie
from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model
from coterie.config import AdapterConfig, CheckpointError, ConfigError
from coterie.release.export_serve import ENGINES, PORTS, REASONING, TOOLS, export_serve, reply_parsers
from coterie.text.reply_formats import formats
from tests.adapters.test_attach import randomise_factors
from tests.agents.models import chat_model
from tests.cli.support import call, fails


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "Tiny Model"
    coterie.save(chat_model(), path)
    return path


def adapter(model: Path, out: Path, train: dict[str, Any], rank: int = 3, **more: Any) -> Path:
    loaded = load_model(model)
    attach(loaded.model, AdapterConfig(rank=rank, alpha=6, train=train, **more))
    randomise_factors(loaded.model)
    save_adapter(out, loaded.model, model, loaded.tokenizer)
    return out


ALONE = {"attention": "lora", "experts": "freeze", "shared": "freeze", "dense": "freeze"}


def arguments_of(script: Path, tmp_path: Path, *programs: str) -> list[list[str]]:
    """Run a script with stand-ins for its programs, which note what they are given."""
    bin = tmp_path / "bin"
    bin.mkdir(exist_ok=True)
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    for program in programs:
        (bin / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "{program}" "$@" "" >> "{log}"\n')
        (bin / program).chmod(0o755)
    environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}"}
    subprocess.run(
        [str(script), *(["--more", "a b"] if script.name == "start.sh" else [])], env=environment, check=True
    )
    return [block.split("\n") for block in log.read_text().strip().split("\n\n")]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_directory_with_adapters(engine: str, model: Path, tmp_path: Path) -> None:
    added = adapter(model, tmp_path / "ad", ALONE)
    out = tmp_path / "out put"
    exported = export_serve(str(model), out, engine, {"poet": str(added)})
    ids = torch.tensor([5, 6, 7, 8])
    assert torch.equal(coterie.load(out / "model").logits(ids), coterie.load(model).logits(ids))
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "config.json"):
        assert (out / "model" / name).is_file(), name
    from safetensors.torch import load_file

    ours = load_file(added / "adapter_model.safetensors")
    theirs = load_file(out / "adapters/poet/adapter_model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert json.loads((out / "serve.json").read_text()) == exported.to_dict()
    assert exported.name == "tiny-model"
    started = arguments_of(out / "start.sh", tmp_path, "vllm", "python")[0]
    shape = " ".join(started)
    assert (
        started[-2:] == ["--more", "a b"]
        and f"poet={out}/adapters/poet" in started
        and f"{out}/model" in started
    )
    assert f"--host 127.0.0.1 --port {PORTS[engine]}" in shape and "--served-model-name tiny-model" in shape
    rank = {"vllm": "--max-lora-rank 8", "sglang": "--max-lora-rank 3"}[engine]
    assert "--tool-call-parser hermes" in shape and "--enable-lora" in shape and rank in shape
    assert ("--enable-auto-tool-choice" in started) is (engine == "vllm")
    assert ("--reasoning-parser qwen3" in shape) is (engine == "sglang")
    assert any("no reasoning parser" in note for note in exported.parsers.notes) is (engine == "vllm")
    url = f"http://127.0.0.1:{PORTS[engine]}"
    assert arguments_of(out / "verify.sh", tmp_path, "coterie") == [
        ["coterie", "verify", str(model), url, "--model-name", "tiny-model"],
        ["coterie", "doctor", url],
    ]


def test_a_file(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for engine, program in (("llama.cpp", "llama-server"), ("ollama", "ollama")):
        out = tmp_path / engine
        exported = export_serve(str(model), out, engine, name="mine", quant="f32")
        assert exported.gguf is not None and exported.gguf.architecture == "qwen3moe"
        assert json.loads((out / "serve.json").read_text()) == exported.to_dict()
        assert (out / "model.gguf").is_file()
        started = arguments_of(out / "start.sh", tmp_path, program)[0]
        if engine == "ollama":
            assert started[:5] == ["ollama", "create", "mine", "-f", f"{out}/model.Modelfile"]
            assert (out / "model.Modelfile").is_file()
            assert any("no tools" in note for note in exported.parsers.notes)
        else:
            assert started[:6] == ["llama-server", "-m", f"{out}/model.gguf", "--alias", "mine", "--jinja"]
        verified = arguments_of(out / "verify.sh", tmp_path, "coterie")[0]
        assert verified[:-1] == ["coterie", "verify", str(model), f"{out}/model.gguf", "--tolerance"]
        assert 0 < float(verified[-1]) < 1e-3 and exported.gguf.difference.mean_logprob < 1e-6


@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
def test_a_rounded_file_is_proved_by_what_its_rounding_costs(
    quant: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tolerance is what was measured: the file passes, one of other numbers does not."""
    pytest.importorskip("gguf")
    exported = export_serve(str(model), tmp_path / "out", "llama.cpp", quant=quant)
    assert exported.gguf is not None
    proof = [part.replace("$here", str(tmp_path / "out")) for part in exported.verify[0]]
    assert float(proof[-1]) >= exported.gguf.difference.mean_logprob > 0
    call(*proof[1:])
    other = coterie.load(model)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.3)
    coterie.save(other, tmp_path / "other")
    with pytest.raises(SystemExit) as raised:
        call("verify", str(tmp_path / "other"), *proof[3:])
    assert raised.value.code == 1 and "DIFFERENT" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("llama-server") is None, reason="llama.cpp's llama-server is not on the PATH"
)
def test_a_real_llama_server_answers_as_the_model(model: Path, tmp_path: Path) -> None:
    """Started by the written command: next-token log-probabilities in fp32 and greedy tokens are
    coterie's.
    """
    export_serve(str(model), tmp_path / "out", "llama.cpp", name="mine", quant="f32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen(
        [tmp_path / "out" / "start.sh", "--port", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=40) as client:
            ours, prompt = coterie.load(model), [3, 40, 41, 50, 60]
            given: Any = {"model": "mine", "prompt": prompt, "temperature": 0}
            answer = client.completions.create(**given, max_tokens=8, logprobs=5).model_dump()["choices"][0]
            told = answer["logprobs"]["content"]
            logprobs_V = ours.logits(torch.tensor(prompt))[-1].log_softmax(-1)
            for one in told[0]["top_logprobs"]:
                assert abs(one["logprob"] - float(logprobs_V[one["id"]])) < 2e-3
            greedy = ours.generate(prompt, temperature=0, max_tokens=8)
            assert [one["id"] for one in told] == greedy.ids[: len(told)]
    finally:
        started.terminate()
        started.wait()


@pytest.mark.parametrize(
    ("train", "more", "said"),
    [
        ({"attention": "lora"}, {}, "changes experts"),
        (ALONE | {"router": "full"}, {}, "whole weights"),
        (ALONE, {"dora": True}, "DoRA"),
    ],
)
def test_adapters_that_are_refused(
    train: dict[str, Any], more: dict[str, Any], said: str, model: Path, tmp_path: Path
) -> None:
    added = adapter(model, tmp_path / "ad", train, **more)
    with pytest.raises(ConfigError, match=f"{said}.*merge it first"):
        export_serve(str(model), tmp_path / "out", "vllm", {"a": str(added)})
    assert not (tmp_path / "out").exists()


def test_refusals(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'vllm'|use vllm"):
        export_serve(str(model), tmp_path / "out", "vlm")
    with pytest.raises(ConfigError, match="adapters are not written for ollama; merge it first"):
        export_serve(str(model), tmp_path / "out", "ollama", {"a": "x"})
    with pytest.raises(ConfigError, match="give a name"):
        export_serve(str(model), tmp_path / "out", "vllm", {"a b": "x"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="exists already"):
        export_serve(str(model), tmp_path / "full", "vllm")
    strange = tmp_path / "strange"
    shutil.copytree(model, strange)
    (strange / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    )
    with pytest.raises(ConfigError, match="no known parser of vllm"):
        export_serve(str(strange), tmp_path / "out", "vllm")
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_late(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coterie.release.export_serve._write", fails_late)
    with pytest.raises(OSError):
        export_serve(str(model), tmp_path / "out", "vllm")
    assert not (tmp_path / "out").exists()


TEMPLATES = {
    "plain": ("{{ messages }}", "chatml", None, None, None),
    "qwen": ("{{ tools }}<tool_call>{% if enable_thinking %}<think>", "chatml", "hermes", "qwen3", "qwen3"),
    "llama3": ("<|start_header_id|>{{ tools }}", "llama3", "llama3_json", None, None),
    "mistral": ("[INST][TOOL_CALLS]{{ tools }}", "mistral", "mistral", None, None),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_parsers_by_template(kind: str, model: Path, tmp_path: Path) -> None:
    template, form, tools, vllm, sglang = TEMPLATES[kind]
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text(template)
    checkpoint = Checkpoint.open(tmp_path / "m")
    found = reply_parsers(checkpoint, "vllm")
    assert (found.format, found.tool_parser, found.reasoning_parser) == (form, tools, vllm)
    assert reply_parsers(checkpoint, "sglang").reasoning_parser == sglang


def test_every_format_has_its_parsers() -> None:
    for engine in ("vllm", "sglang"):
        assert set(TOOLS[engine]) == set(formats())
        assert set(REASONING[engine]) <= {"switch", "marks", *formats()}
    assert set(PORTS) == set(ENGINES)


def test_the_verb(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("export-serve", str(model), "-o", str(tmp_path / "out"), "--for", "vllm")
    out = capsys.readouterr().out
    assert str(tmp_path / "out" / "start.sh") in out and "hermes" in out
    call("export-serve", str(model), "-o", str(tmp_path / "two"), "--for", "sglang", "--name", "x", "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "x"
    assert "NAME=PATH" in fails(
        capsys, "export-serve", str(model), "-o", "o", "--for", "vllm", "--adapter", "x"
    )
    assert "no meaning" in fails(
        capsys, "export-serve", str(model), "-o", "o", "--for", "vllm", "--quant", "q8_0"
    )
