"""`GET /v1/identity`: the digests of the weights that answer, of the base and of each adapter."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.config import AdapterConfig, CoterieError
from coterie.hosting import identities
from coterie.hosting.host import Host
from coterie.identity.tensors import stored_weight_tree
from coterie.infer.model import LanguageModel, load, save
from coterie.serve.server import ServerThread
from coterie.verify.known import identity_difference, known_identity
from tests.api.admin.test_adapters import base_model
from tests.serve.support import call, service, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("identity")
    save(LanguageModel(base_model(), tokenizer()), root / "base", dtype="bfloat16")
    model = load(root / "base").model
    attach(model, AdapterConfig(rank=2, train={"experts": "lora"}))
    for _, module in model.named_modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.normal_(module.lora_B)
    save_adapter(root / "adapter", model, root / "base")
    return root


def test_a_server_names_the_weights_of_its_files_and_of_its_adapters(folder: Path) -> None:
    serving = service(load(folder / "base", dtype="float32"))
    serving.add_adapter("mine", folder / "adapter")
    with ServerThread(Host.of(serving)) as server:
        status, _, base = call(server.url, "GET", "/v1/identity")
        assert status == 200 and base["object"] == "identity" and base["model"] == "tiny"
        stored = stored_weight_tree(folder / "base")
        assert base["identity"]["weights_tensors"] == base["weights"]["root"] == stored.root
        assert base["notes"] == [] and base["exec_profile"]["dtype"] == "float32"
        adapted = call(server.url, "GET", "/v1/identity?model=tiny:mine&weights=0")[2]
        assert "weights" not in adapted and adapted["identity"]["name"] == "tiny:mine"
        assert adapted["identity"]["weights_tensors"] != stored.root
        assert stored.root in adapted["identity"]["lineage"]
        alias = call(server.url, "GET", "/v1/identity?model=small")[2]
        assert alias["identity"] == base["identity"]
        files = known_identity(str(folder / "base"))
        served = known_identity(server.url)
        assert identity_difference(files, served).same and served.profile is not None
        changed = identity_difference(files, known_identity(server.url, "tiny:mine"))
        assert changed.weights and all(": " in line for line in changed.weights)
        missing = call(server.url, "GET", "/v1/identity?model=none")
        assert (missing[0], missing[2]["error"]["code"]) == (404, "model_not_found")
        assert call(server.url, "GET", "/v1/identity?weights=2")[0] == 400
        with pytest.raises(CoterieError, match="does not exist here"):
            known_identity(server.url, "none")


def test_a_changed_weight_of_a_served_model_shows(folder: Path) -> None:
    """What is hashed is what answers: the file is right and the memory is not."""
    model = load(folder / "base")
    with torch.no_grad():
        model.model.blocks[model.model.routers()[0][0]].ffn.experts.down.weight[1] *= 1.5
    with ServerThread(Host.of(service(model))) as server:
        found = identity_difference(known_identity(str(folder / "base")), known_identity(server.url))
    assert found.weights == [f"layer {model.model.routers()[0][0]}: expert 1"] and not found.besides


def test_it_needs_the_key_that_the_models_need(folder: Path) -> None:
    with ServerThread(Host.of(service(load(folder / "base"), api_key="secret-of-the-test"))) as server:
        assert call(server.url, "GET", "/v1/identity")[0] == 401
        headers = {"authorization": "Bearer secret-of-the-test"}
        assert call(server.url, "GET", "/v1/identity", headers=headers)[0] == 200


def test_the_tensors_are_hashed_once_and_the_server_answers_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, go = list[str](), threading.Event()
    tree = identities.weight_tree

    def slow(model, checkpoint):  # type: ignore[no-untyped-def]
        hashed.append(threading.current_thread().name)
        assert go.wait(30)
        return tree(model, checkpoint)

    monkeypatch.setattr(identities, "weight_tree", slow)
    with ServerThread(Host.of(service(load(folder / "base")))) as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(call, server.url, "GET", "/v1/identity") for _ in range(3)]
        answered = call(
            server.url, "POST", "/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 3}
        )
        assert answered[0] == 200, answered
        assert not any(one.done() for one in asked)
        go.set()
        roots = {one.result()[2]["identity"]["weights_tensors"] for one in asked}
    assert len(roots) == 1 and len(hashed) == 1
