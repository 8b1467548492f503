"""`coterie serve`: wrong options are one line before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.infer.model import LanguageModel, save
from tests.api.admin.test_adapters import base_model
from tests.cli.support import fails
from tests.serve.support import tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model"
    save(LanguageModel(base_model(), tokenizer()), path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter-dir", "{tmp}"], "--adapter-dir needs a key"),
        (["--adapter-dir", "{tmp}/no", "--api-key-file", "{tmp}/key"], "no: no such directory"),
        (["--api-key-file", "{tmp}/short"], "short is too short; take at least 8 characters"),
        (["--api-key-file", "{tmp}/words"], "its first line holds spaces"),
        (["--adapter", "a={tmp}", "--adapter", "a={tmp}"], "the name a is given more than once"),
        (["--profile", "p=x", "--profile", "p=y"], "the name p is given more than once"),
        (["--adapter", "a"], "write NAME=PATH"),
        (["--profile", "p={tmp}/profile"], "/profile: /moe: layer 9 has no experts"),
        (["--profile", "p={tmp}/key"], "/key: it is not valid JSON"),
        (["--host", "0.0.0.0"], "there is no key"),
    ],
)
def test_wrong_options(
    options: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COTERIE_API_KEY", raising=False)
    for name, text in {
        "key": "long-enough-key\n",
        "short": "short\n",
        "words": "two long-words\n",
        "profile": '{"mask": {"9": [0]}}',
    }.items():
        (tmp_path / name).write_text(text)
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    said = fails(capsys, "serve", str(model), "--port", "0", *given)
    assert message in said and "\n" not in said.strip(), said


def test_a_short_key_of_the_environment(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_API_KEY", "short")
    assert "the key of COTERIE_API_KEY is too short" in fails(capsys, "serve", str(model), "--port", "0")


def test_the_directory_above_a_model_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"did you mean {model}?" in fails(capsys, "serve", str(model.parent), "--port", "0")
