"""`coterie serve --print-config`: a client's settings for this server, without starting it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import coterie
from tests.agents.models import PLAIN, chat_model
from tests.cli.support import call, fails


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory without its weights."""
    path = tmp_path_factory.mktemp("described") / "tiny" / "model"
    coterie.save(chat_model(PLAIN), path)
    for file in path.glob("*.safetensors"):
        file.unlink()
    return path


def test_the_settings_are_those_of_the_server(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("a-secret-of-ours\n")
    options = ["--port", "8123", "--alias", "gpt-4o", "--api-key-file", str(key)]
    call("serve", str(model), "--print-config", "codex", *options)
    printed = capsys.readouterr()
    settings = tomllib.loads(printed.out)
    assert settings["model"] == "tiny" and settings["model_context_window"] == 256
    provider = settings["model_providers"]["coterie"]
    assert provider["base_url"] == "http://127.0.0.1:8123/v1" and provider["env_key"] == "COTERIE_API_KEY"
    assert "config.toml" in printed.err and "takes: gpt-4o." in printed.err
    assert "of tiny shows no tools" in printed.err
    assert "secret" not in printed.out + printed.err


def test_the_clients_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    call("serve", "--print-config", "list")
    assert {"codex", "claude-code", "ollama"} <= set(capsys.readouterr().out.split())


def test_what_cannot_be_printed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'aider'?" in fails(capsys, "serve", str(model), "--print-config", "aidr")
    assert "give --port" in fails(capsys, "serve", str(model), "--print-config", "aider", "--port", "0")
    assert "no/model" in fails(capsys, "serve", "no/model/here", "--print-config", "aider")
