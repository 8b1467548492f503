"""`coterie serve`: wrong options are one line before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from coterie.cli.served import Loading, host_of, wanted_models
from coterie.config import ConfigError
from coterie.config.expert_place import ExpertPlace
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.infer.model import LanguageModel, save
from coterie.infer.sampling import SamplingParams
from coterie.serve.app import create_app
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
        (["--quant", "int5"], "quant: int5: 'int5' is no form of weights"),
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


def test_what_weights_are_held_in_and_the_memory_of_it(model: Path) -> None:
    def served(quant: str, memory: int | None = None) -> Service:
        wanted = wanted_models([str(model)], None, [], [], [])
        return host_of(wanted, ServeSettings(), Loading("float32", quant=quant), memory).default

    plain, rounded = served("stored"), served("experts=int4,attention=bf16,block=8")
    assert set(plain.held.values()) == {"f32"}
    assert rounded.held == plain.held | {"attention": "bf16", "experts": "int4 in blocks of 8"}
    assert rounded.num_bytes < plain.num_bytes and rounded.fingerprints != plain.fingerprints
    served("int4,head=int4,embedding=bf16", memory=plain.num_bytes - 1)
    with pytest.raises(ConfigError, match="more than --memory"):
        served("none", memory=plain.num_bytes - 1)
    with TestClient(create_app(Host.of(rounded)), base_url="http://localhost") as client:
        health = client.get("/health").json()
        said = {"weights": [rounded.held], "dtypes": [rounded.dtype], "kernels": [rounded.kernels]}
        assert health == {"status": "ok"} | said and rounded.dtype == "float32 (asked for)"
        assert rounded.kernels.startswith("torch: the model is small")


def test_experts_on_disk_and_what_reading_them_takes(model: Path) -> None:
    wanted = wanted_models([str(model)], None, [], [], [])
    plain = host_of(wanted, ServeSettings(), Loading("float32"), None).default
    place = ExpertPlace("auto", memory=plain.num_bytes - ServeSettings().prefix_cache_mb * 2**20 - 1)
    service = host_of(wanted, ServeSettings(), Loading("float32", experts=place), plain.num_bytes - 1).default
    assert service.num_bytes < plain.num_bytes and service.model.num_parameters == plain.model.num_parameters
    params = SamplingParams(max_tokens=6, temperature=0, stop_ids=())
    assert service.model.generate([1, 2, 3], params).ids == plain.model.generate([1, 2, 3], params).ids
    with TestClient(create_app(Host.of(service)), base_url="http://localhost") as client:
        facts = client.get("/v1/moe/stats").json()["on_disk"]
    assert facts["hits"] + facts["reads"] == facts["uses"] > 0 and facts["bytes_read"] > 0
    assert facts["bytes_in_memory"] < facts["bytes_on_disk"] and facts["page_faults"].keys() == {
        "major",
        "minor",
    }
