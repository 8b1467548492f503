"""Adapters and patches on one resident base: replies in one batch equal those of each adapted model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from coterie.adapters.apply import apply_in_place, apply_shared
from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.adapters.patch import attach_subset, save_patch
from coterie.config import CheckpointError, ConfigError, ExpertSelection
from coterie.families import config_from_hf
from coterie.hosting.host import Host
from coterie.infer.engine import Engine
from coterie.infer.model import LanguageModel, load, save
from coterie.infer.request import Reply, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.serve.server import ServerThread
from tests.adapters.test_attach import ALL, config, randomise_factors
from tests.arithmetic import approx_model
from tests.checkpoints.opens import count_opens, of_directory
from tests.families.hf import _BASE, CONFIGS, randomise
from tests.serve.support import ASK, call, service, tokenizer

NAMES = ["lora", "dora-and-full", "patch"]
PARAMS = SamplingParams(temperature=0.9, seed=3, max_tokens=10)


def base_model() -> Transformer:
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3_moe"] | {"vocab_size": tokenizer().vocab_size}))
    randomise(model, 0)
    return model.eval()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A base, two adapters and a patch on disk."""
    folder = tmp_path_factory.mktemp("served")
    save(LanguageModel(base_model(), tokenizer()), folder / "base")
    for name, changes in {
        "lora": {"train": {"experts": "lora", "attention": "lora"}},
        "dora-and-full": {
            "dora": True,
            "train": {**dict.fromkeys(ALL, "lora"), "norm": "full", "embedding": "full"},
        },
    }.items():
        model = load(folder / "base").model
        attach(model, config(**changes))
        randomise_factors(model)
        save_adapter(folder / "adapters" / name, model, folder / "base")
    model = load(folder / "base").model
    layer = model.routers()[0][0]
    attach_subset(
        model, ExpertSelection(experts={layer: (1, 0)}, shared_experts=False, non_expert_modules=False)
    )
    randomise_factors(model, size=0.5)
    save_patch(folder / "adapters" / "patch", model, folder / "base")
    return folder


def alone(directory: Path, name: str) -> LanguageModel:
    """The adapted model by itself, as `weights` loads it."""
    loaded = load(directory / "base")
    if name == "patch":
        apply_in_place(loaded.model, directory / "adapters" / name)
    elif name:
        apply_in_place(loaded.model, directory / "adapters" / name, directory / "base")
    return loaded


def test_variants_share_the_base_and_leave_it_as_it_was(directory):
    model = load(directory / "base").model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    addresses = {parameter.data_ptr() for parameter in model.parameters()}
    for name in NAMES:
        variant = apply_shared(model, directory / "adapters" / name, directory / "base")
        own = sum(p.numel() for p in variant.parameters() if p.data_ptr() not in addresses)
        shared = sum(p.numel() for p in variant.parameters() if p.data_ptr() in addresses)
        assert shared > 0 and own > 0 and (name != "lora" or own < shared / 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_mixed_in_one_batch_each_is_what_it_is_alone(directory):
    model = load(directory / "base")
    engine = Engine(model.model, tokenizer(), prefix_bytes=1 << 22)
    for name in NAMES:
        engine.add_variant(name, apply_shared(model.model, directory / "adapters" / name, directory / "base"))
    prompt = model.render(ASK)
    for turn in range(2):  # the second time prompts come from the prefix cache, each variant's own
        replies = {
            engine.add(prompt, PARAMS, RequestOptions(variant=name)): (name, Reply())
            for name in ["", *NAMES] * 2
        }
        while engine.busy:
            for event in engine.step():
                replies[event.request][1].add(event)
        texts = set()
        for name, reply in replies.values():
            expected = alone(directory, name).generate(prompt, PARAMS)
            assert reply.ids == expected.ids, name
            tokens = len(prompt) + len(expected.ids)
            assert reply.logprobs == approx_model(model.config, expected.logprobs, tokens)
            texts.add(tuple(reply.ids))
        assert len(texts) == 4
        assert all(reply.cached == len(prompt) - 1 for _, reply in replies.values()) or turn == 0


def test_served_by_name_added_and_removed(directory, tmp_path):
    key = "operator-key"
    headers = {"authorization": f"Bearer {key}"}
    made = service(load(directory / "base"), api_key=key, adapter_dir=directory / "adapters")
    made.directory = directory / "base"
    made.add_adapter("lora", directory / "adapters" / "lora")
    body = {"messages": ASK, "max_tokens": 10, "temperature": 0.9, "seed": 3}

    def ask(name: str):
        return call(url, "POST", "/v1/chat/completions", {"model": name, **body}, headers)

    with ServerThread(Host.of(made)) as server:
        url = server.url
        listed = call(url, "GET", "/v1/models", headers=headers)[2]["data"]
        assert {entry["id"]: entry["parent"] for entry in listed}["tiny:lora"] == "tiny"
        assert ask("patch")[0] == 404
        assert call(url, "PUT", "/v1/adapters/patch", headers=headers)[0] == 200
        assert call(url, "PUT", "/v1/adapters/patch", {}, headers)[0] == 200
        moved = call(url, "PUT", "/v1/adapters/patch", {"lora_path": "/tmp"}, headers)
        assert moved[0] == 400 and moved[2]["error"]["param"] == "/lora_path"
        names = ["tiny", "lora", "tiny:lora", "small:lora", "patch", "tiny:patch"]
        with ThreadPoolExecutor(6) as pool:
            answers = dict(zip(names, pool.map(ask, names), strict=True))
        for name, (status, _, answer) in answers.items():
            own = name.partition(":")[2] or (name if name != "tiny" else "")
            expected = alone(directory, own).chat(ASK, PARAMS)
            assert status == 200 and answer["model"] == name
            assert answer["choices"][0]["message"]["content"] == expected.text.strip()
        prints = {name: answer["system_fingerprint"] for name, (_, _, answer) in answers.items()}
        assert (
            prints["lora"] == prints["tiny:lora"] == prints["small:lora"]
            and prints["patch"] == prints["tiny:patch"]
        )
        assert len(set(prints.values())) == 3, "a fingerprint stands for other weights"
        assert call(url, "DELETE", "/v1/adapters/lora", headers=headers)[2]["deleted"]
        assert ask("tiny:lora")[0] == 404 and ask("tiny")[0] == 200
        assert call(url, "GET", "/v1/adapters", headers=headers)[2]["data"] == ["patch"]
        for name in ("..", "%2e%2e%2fbase", "nothing", "a%00b"):
            assert call(url, "PUT", f"/v1/adapters/{name}", headers=headers)[0] in (404, 405)
        assert call(url, "PUT", "/v1/adapters/lora")[0] == 401
        assert json.loads(json.dumps(ask("tiny")[2]))["choices"]


def test_operators_need_a_key(directory, server):
    assert call(server.url, "PUT", "/v1/adapters/lora")[2]["error"]["code"] == "key_needed"


def test_another_base_is_refused(directory):
    other = base_model()
    randomise(other, 1)
    with pytest.raises((CheckpointError, ConfigError)):
        apply_shared(other, directory / "adapters" / "patch")


def test_a_server_opens_its_base_once_and_refuses_adapters_of_other_weights(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = base_model()
    randomise(other, 1)
    save(LanguageModel(other, tokenizer()), tmp_path / "other")
    opened = count_opens(monkeypatch)
    served = service(load(directory / "base"))
    for name in NAMES:
        served.add_adapter(name, directory / "adapters" / name)
    base = of_directory(opened, directory / "base")
    assert set(base.values()) == {1} and {"config.json", "coterie.json", "model.safetensors"} <= base.keys()
    with pytest.raises(CheckpointError, match="was made for other weights"):
        service(load(tmp_path / "other")).add_adapter("lora", directory / "adapters" / "lora")
