"""The Modelfile for Ollama: its settings, and its template against the one that the model was taught with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.gguf.modelfile import _CHATML, modelfile
from coterie.text import Message, render
from coterie.text.tokenizer import CHATML
from tests.gguf.models import describe, tokenizer

GO = """package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type Message struct{ Role, Content, Thinking string }

func main() {
	var conversation struct {
		Template string
		Messages []Message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conversation); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Parse(conversation.Template))
	if err := parsed.Execute(os.Stdout, conversation); err != nil {
		panic(err)
	}
}
"""
CONVERSATIONS = {
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n": [Message("user", "hi")],
    "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\na\n b <|im_end|>\n<|im_start|>assistant\n"
    "<think>\nhm\nso\n</think>\n\nx {{ y }}<|im_end|>\n<|im_start|>user\nz<|im_end|>\n"
    "<|im_start|>assistant\n": [
        Message("system", "be good"),
        Message("user", "a\n b "),
        Message("assistant", "x {{ y }}", reasoning="hm\nso"),
        Message("user", "z"),
    ],
}


def test_the_modelfile_for_ollama(tmp_path: Path) -> None:
    directory = tmp_path
    tokenizer().save(directory)
    (directory / "generation_config.json").write_text('{"eos_token_id": [0, 2, 3], "temperature": 0.6}')
    text = modelfile(Checkpoint.open(describe(directory, 400)), "Model.gguf", 256)
    lines = text.splitlines()
    assert lines[:7] == [
        "# ollama create model -f Model.Modelfile",
        "FROM ./Model.gguf",
        "PARAMETER num_ctx 256",
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<think>"',
        "PARAMETER temperature 0.6",
    ]
    assert 'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n' in text and text.count('"""') == 2
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    text = modelfile(Checkpoint.open(directory), "Model.gguf", 100_000)
    assert "TEMPLATE" not in text and "PARAMETER num_ctx 32768" in text and "up to 100000" in text


def test_the_shipped_template_says_what_ollama_s_was_written_for() -> None:
    """If this fails, the shipped template has changed and `_CHATML` must follow (see the next test)."""
    for text, messages in CONVERSATIONS.items():
        assert render(messages, CHATML.read_text(), add_generation_prompt=True) == text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_ollama_s_template_language_gives_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    for text, messages in CONVERSATIONS.items():
        said = [{"Role": m.role, "Content": m.text, "Thinking": m.reasoning or ""} for m in messages]
        result = subprocess.run(
            ["go", "run", "main.go"],
            input=json.dumps({"Template": _CHATML, "Messages": said}),
            cwd=tmp_path,
            env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == text
