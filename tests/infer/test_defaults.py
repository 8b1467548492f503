"""Settings of generation_config.json: used as defaults, kept by saving, named where they are not applied."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

import coterie
from coterie.checkpoints.directory import save_model
from coterie.config import ConfigError
from coterie.infer.defaults import sampling_defaults
from coterie.infer.sampling import SamplingParams
from coterie.proof.texts import TEXTS
from coterie.protocol.requests import ChatRequest
from coterie.text.tokenizer import Tokenizer
from tests.checkpoints.test_convert import make

SETTINGS = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.05,
    "max_new_tokens": 7,
    "stop_strings": ["END"],
    "pad_token_id": 0,
    "bos_token_id": 0,
    "transformers_version": "5.23.0",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    tokenizer = Tokenizer.train(TEXTS, 300)
    save_model(path, make("qwen3_moe", vocab_size=tokenizer.vocab_size), tokenizer)
    ends = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps(ends | SETTINGS))
    return path


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {}),
        ({"temperature": None, "top_k": None}, {}),
        ({"temperature": 0.3}, {"temperature": 0.3}),
        ({"do_sample": False, "temperature": 0.3}, {"temperature": 0.0}),
        ({"do_sample": None, "top_k": -1}, {}),
        ({"max_new_tokens": 9, "max_length": 20}, {"max_tokens": 9}),
        ({"top_k": 5, "top_p": 0.5, "min_p": 0.1}, {"top_k": 5, "top_p": 0.5, "min_p": 0.1}),
    ],
)
def test_settings_become_defaults(generation: dict[str, Any], expected: dict[str, Any]) -> None:
    assert asdict(sampling_defaults(generation)) == asdict(SamplingParams(**expected))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("top_p", 2),
        ("top_k", 1.5),
        ("max_new_tokens", [5]),
        ("min_p", True),
    ],
)
def test_a_setting_that_cannot_be_used_names_the_file(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^dir/generation_config.json: sampling: ") as caught:
        sampling_defaults({key: value}, (), "dir/generation_config.json")
    assert "\n" not in str(caught.value)


def test_calls_and_requests_use_the_directorys_settings_unless_they_say_otherwise(directory: Path) -> None:
    model = coterie.load(directory, device="cpu")
    wanted = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}
    own = model._params(None, {})
    assert own == SamplingParams(**wanted, max_tokens=7, stop=("END",), stop_ids=model.stop_ids)
    assert model._params(None, {"temperature": 0.0, "stop": ()}).temperature == 0.0
    assert model._params(SamplingParams(), {}).temperature == 1.0
    assert len(model.generate("a b", seed=1).ids) <= 7 == model.reply_limit
    request = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])
    assert {key: getattr(request.sampling(model, 5, 0), key) for key in wanted} == wanted
    assert request.sampling(model, 5, 0).stop == ("END",)
    asked = ChatRequest(
        model="m", messages=[{"role": "user", "content": "hi"}], temperature=0, top_k=-1, top_p=1, min_p=0,
        stop="x", repetition_penalty=1,
    )  # fmt: skip
    found = asked.sampling(model, 5, 0)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0, 0, 1, 0)
    assert (found.repetition_penalty, found.stop) == (1, ("x",))


def test_saving_keeps_what_every_file_says(directory: Path, tmp_path: Path) -> None:
    coterie.save(coterie.load(directory, device="cpu"), tmp_path / "again")
    before, after = (GenerationConfig.from_pretrained(path) for path in (directory, tmp_path / "again"))
    assert before.to_dict() == after.to_dict() and after.temperature == 0.6 and after.stop_strings == ["END"]
    for file in ("generation_config.json", "config.json", "tokenizer.json", "tokenizer_config.json"):
        sides = [json.loads((path / file).read_text()) for path in (directory, tmp_path / "again")]
        assert sides[0] == sides[1], file
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (directory, tmp_path / "again")]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    configs = [AutoConfig.from_pretrained(path).to_dict() for path in (directory, tmp_path / "again")]
    assert [data.pop("_name_or_path", None) is not None for data in configs] and configs[0] == configs[1]


def test_loading_names_what_is_not_applied(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coterie.save(coterie.load(directory, device="cpu"), tmp_path / "beams")
    file = tmp_path / "beams" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_beams": 4, "eos_token_id": [0, 99999]}))
    with caplog.at_level(logging.WARNING, logger="coterie"):
        model = coterie.load(tmp_path / "beams", device="cpu")
    assert "'num_beams' is 4, which is not applied here" in caplog.text
    assert "'eos_token_id' names token 99999" in caplog.text and max(model.stop_ids) < 300
