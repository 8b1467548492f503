"""`coterie pull` and what the other verbs say about a model of the hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coterie.text.tokenizer import Tokenizer
from tests.checkpoints.test_pulled import put
from tests.cli.support import call, fails
from tests.hub.fake import FakeHub
from tests.hub.fixtures import cache, hub

__all__ = ["cache", "hub"]


def test_a_dry_run_fetches_nothing(
    hub: FakeHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    commit = put(hub, tmp_path)
    call("pull", "some/model", "--dry-run")
    text = capsys.readouterr().out
    assert f"model        some/model, revision {commit}" in text and "model.safetensors" in text
    assert "to fetch     " in text and "free disk    " in text
    call("pull", "some/model", "--dry-run", "--to", str(tmp_path / "m"), "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == facts["bytes_to_fetch"] > 0 and facts["directory"] == str(tmp_path / "m")
    assert hub.requests("resolve") == [] and not cache.exists() and not (tmp_path / "m").exists()


def test_pull_inspect_and_verify(
    hub: FakeHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    commit = put(hub, tmp_path)
    for name, options in (("some/model", []), (str(tmp_path / "m"), ["--to", str(tmp_path / "m")])):
        call("pull", "some/model", "--revision", "main", *options)
        text = capsys.readouterr().out
        assert "by the hashes of the hub" in text and "next         coterie inspect " in text
        call("inspect", name)
        text = capsys.readouterr().out
        assert f"pulled       some/model of the hub, revision {commit}" in text
        call("inspect", name, "--json")
        assert json.loads(capsys.readouterr().out)["hub"] == {"repo": "some/model", "commit": commit}
        call("verify", name)
        assert f"have the hashes that the hub states for some/model@{commit}" in capsys.readouterr().out
    call("pull", "some/model", "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["bytes_to_fetch"] == 0


def test_mistakes_are_one_line(hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]):
    assert "model: is no name on the hub; write owner/name" in fails(capsys, "pull", "model")
    assert "give one of them" in fails(capsys, "pull", "a/b@one", "--revision", "two")
    assert "a/b: the hub has no model of that name" in fails(capsys, "pull", "a/b")
    error = fails(capsys, "inspect", "a/b")
    assert "a/b: the hub has no model of that name" in error and "nor is it a directory here" in error


def test_an_adapter_names_its_base_on_the_hub(hub: FakeHub, cache: Path, tmp_path: Path):
    from coterie.adapters.attach import attach
    from coterie.adapters.files import adapter_base, save_adapter
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config import AdapterConfig

    commit = put(hub, tmp_path)
    base = Checkpoint.open("some/model")
    model = base.load(dtype="float32").model
    attach(model, AdapterConfig(rank=2))
    save_adapter(tmp_path / "adapter", model, base, probes=False)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "some/model" and written["revision"] == commit
    assert adapter_base(tmp_path / "adapter") == f"some/model@{commit}"
    assert Checkpoint.open(adapter_base(tmp_path / "adapter")).path == base.path


def test_an_adapter_of_the_hub_is_applied_and_served_at_its_revision(
    hub: FakeHub,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """For `chat` and `serve`; offline from the cache, and one line for one that is not there."""
    from huggingface_hub import constants

    from coterie.adapters.attach import attach
    from coterie.adapters.files import save_adapter
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.cli.served import Loading, host_of, wanted_models
    from coterie.config import AdapterConfig
    from coterie.hosting.settings import ServeSettings
    from coterie.infer.model import load
    from tests.adapters.test_attach import randomise_factors

    put(hub, tmp_path)
    base = Checkpoint.open("some/model")
    commits = []
    for number in range(2):
        model = base.load(dtype="float32").model
        attach(model, AdapterConfig(rank=2 + number))
        randomise_factors(model)
        folder = tmp_path / f"adapter{number}"
        save_adapter(folder, model, base, probes=False)
        kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        commits.append(hub.put("an/adapter", kept, mark=str(number)))
        hub.models["an/adapter"].setdefault("v1", hub.models["an/adapter"]["main"])
    pinned = f"an/adapter@{commits[0]}"
    ids = [5, 6, 7, 8]
    plain = load("some/model", "float32", "cpu").logits(ids)
    for name, local in (("an/adapter", "adapter1"), (pinned, "adapter0"), ("an/adapter@v1", "adapter0")):
        found = load("some/model", "float32", "cpu", adapter=name).logits(ids)
        assert found.equal(load("some/model", "float32", "cpu", adapter=tmp_path / local).logits(ids))
        assert not found.equal(plain)
    (wanted,) = wanted_models(["some/model"], None, [], ["an/adapter", f"old={pinned}"], [])
    host = host_of([wanted], ServeSettings(port=0, page=False), Loading("float32"), None)
    paths = host.default.adapter_paths
    assert {name: path.name for name, path in paths.items()} == {"adapter": commits[1], "old": commits[0]}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (
        load("some/model", "float32", "cpu", adapter=pinned)
        .logits(ids)
        .equal(load("some/model", "float32", "cpu", adapter=tmp_path / "adapter0").logits(ids))
    )
    capsys.readouterr()
    error = fails(capsys, "chat", "some/model", "--adapter", "no/adapter")
    assert "no/adapter: HF_HUB_OFFLINE is set; unset it, or give a local directory" in error
    assert "leave out --adapter" in fails(capsys, "chat", "http://127.0.0.1:1", "--adapter", "an/adapter")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_pull_resumes_after_a_signal(hub: FakeHub, tmp_path: Path, number: signal.Signals):
    weights = bytes(range(256)) * 200_000
    hub.put("big/model", {"config.json": b"{}", "model.safetensors": weights})
    hub.pace = 0.05
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "c"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "coterie.cli.main", "pull", "big/model"]
    environment = os.environ | settings
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    blobs = tmp_path / "c" / "models--big--model" / "blobs"
    while not any(path.stat().st_size > 10**7 for path in blobs.glob("*.coterie.incomplete")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (-9, 130, 143) and "Traceback" not in errors
    hub.seen.clear()
    hub.pace = 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (ranged,) = hub.requests("/model.safetensors")
    assert ranged is not None and int(ranged.removeprefix("bytes=").rstrip("-")) > 10**7
    snapshot = next((blobs.parent / "snapshots").iterdir())
    assert (snapshot / "model.safetensors").read_bytes() == weights


def test_tokenizers_of_the_hub_are_read(hub: FakeHub, cache: Path, tmp_path: Path):
    from coterie.checkpoints.locate import locate

    Tokenizer.train(["a text of few words"], 270).save(tmp_path)
    hub.put("a/b", {"tokenizer.json": (tmp_path / "tokenizer.json").read_bytes()})
    assert Tokenizer.load(locate("a/b@main", weights=False)).vocab_size >= 257
