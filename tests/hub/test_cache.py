"""Models of the hub in the cache: fetched whole, resumed, pinned, checked, and used without the hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from coterie.config import CheckpointError
from coterie.hub.cache import cached_revision, check_cached, obtain
from coterie.hub.fetch import partial_of
from coterie.hub.names import HubName
from tests.hub.fake import FakeHub

WEIGHTS = bytes(range(256)) * 40
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 800,
    "chat_template.jinja": b"hello",
    "LICENSE": b"free",
    "README.md": b"# a model",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 500,
    "consolidated.safetensors": b"again" * 500,
    "original/params.json": b"{}",
    ".gitattributes": b"",
}
KEPT = {"config.json", "tokenizer.json", "chat_template.jinja", "LICENSE", "README.md", "model.safetensors"}


def get(text: str, weights: bool = True) -> Path:
    name = HubName.parse(text)
    assert name is not None
    return obtain(name, weights)


def blob(snapshot: Path, name: str = "model.safetensors") -> Path:
    return Path(os.path.abspath(snapshot / os.readlink(snapshot / name)))


def test_the_needed_files_come_whole_and_stay(hub: FakeHub, cache: Path):
    commit = hub.put("some/model", FILES)
    path = get("some/model")
    assert path == cache / "models--some--model" / "snapshots" / commit
    assert {file.name for file in path.rglob("*")} == KEPT
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert (path.parents[1] / "refs" / "main").read_text() == commit
    assert cached_revision(path) is not None and check_cached(path) == len(KEPT)
    hub.seen.clear()
    assert get("some/model") == path
    assert [seen[1] for seen in hub.seen] == ["/api/models/some/model"]


def test_small_files_alone(hub: FakeHub, cache: Path):
    hub.put("some/model", FILES)
    path = get("some/model", weights=False)
    assert {file.name for file in path.iterdir()} == {"config.json", "tokenizer.json", "chat_template.jinja"}


def test_a_connection_that_ends_is_resumed_within_a_call(hub: FakeHub, cache: Path):
    hub.put("some/model", FILES)
    hub.broken["model.safetensors"] = 4000
    path = get("some/model")
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.requests("resolve") and len(hub.requests("model.safetensors")) > 1
    assert all(ranged for ranged in hub.requests("/model.safetensors")[1:])


def test_a_download_that_failed_is_resumed_by_the_next_one(hub: FakeHub, cache: Path):
    commit = hub.put("some/model", {"model.safetensors": WEIGHTS})
    hub.broken["model.safetensors"] = 4000
    hub.last = "model.safetensors"
    with pytest.raises(CheckpointError, match=r"some/model: the hub answered 503 .*; try again later"):
        get("some/model")
    storage = cache / "models--some--model"
    assert not (storage / "refs" / "main").exists()
    partial = partial_of(storage / "blobs" / hub._etag("model.safetensors", WEIGHTS))
    kept = partial.stat().st_size
    assert kept == 4000
    hub.down, hub.last = False, None
    hub.broken.clear()
    hub.seen.clear()
    path = get("some/model")
    assert hub.requests("/model.safetensors") == [f"bytes={kept}-"]
    assert path.name == commit and (path / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(storage.rglob("*.incomplete"))


def test_a_file_larger_than_one_answer_comes_in_pieces_and_is_resumed(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 4000)
    hub.put("some/model", {"model.safetensors": WEIGHTS})
    hub.most, hub.broken["model.safetensors"], hub.last = 4000, 1500, "model.safetensors"
    with pytest.raises(CheckpointError, match="the hub answered 503"):
        get("some/model")
    hub.down, hub.last = False, None
    hub.broken.clear()
    hub.seen.clear()
    assert (get("some/model") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.requests("/model.safetensors") == ["bytes=1500-5499", "bytes=5500-9499", "bytes=9500-"]


def test_another_process_that_fetches_the_same_file_is_named(hub: FakeHub, cache: Path):
    from coterie.config.temporaries import locked

    hub.put("some/model", FILES)
    target = cache / "models--some--model" / "blobs" / hub._etag("model.safetensors", WEIGHTS)
    target.parent.mkdir(parents=True)
    with partial_of(target).open("ab") as stream:
        assert locked(stream.fileno())
        with pytest.raises(CheckpointError, match=r"another process is fetching model\.safetensors; wait"):
            get("some/model")


def test_a_wrong_hash_is_refused_and_removed(hub: FakeHub, cache: Path):
    hub.put("some/model", FILES)
    hub.stated["model.safetensors"] = "0" * 64
    with pytest.raises(CheckpointError, match=r"some/model: the hash of model\.safetensors is not the one"):
        get("some/model")
    assert not list(cache.rglob("0" * 64 + "*"))


def test_a_changed_file_of_the_cache_is_found(hub: FakeHub, cache: Path):
    hub.put("some/model", FILES)
    path = get("some/model")
    blob(path).write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its hash is not the hub's"):
        check_cached(path)
    (path / "config.json").unlink()
    (path / "config.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"config\.json: is no link to a file with a hash"):
        check_cached(path)


def test_revisions_are_pinned(hub: FakeHub, cache: Path, caplog: pytest.LogCaptureFixture):
    first = hub.put("some/model", FILES)
    hub.put("some/model", FILES, "v1")
    second = hub.put("some/model", FILES | {"config.json": b"{}"}, mark="two")
    assert get("some/model").name == second
    assert get("some/model@v1").name == get(f"some/model@{first}").name == first
    assert (get("some/model@v1") / "config.json").read_bytes() == FILES["config.json"]
    with pytest.raises(CheckpointError, match=r"some/model@v3: it has no revision 'v3'; see its branches"):
        get("some/model@v3")


def test_without_a_network_the_cache_serves_and_says_so(
    hub: FakeHub, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import close_session, constants

    commit = hub.put("some/model", FILES)
    path = get("some/model")
    caplog.set_level(logging.INFO, "coterie")
    caplog.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get("some/model") == get(f"some/model@{commit[:8]}") == path
    offline = f"some/model: HF_HUB_OFFLINE is set; using revision {commit[:12]} from the cache"
    assert caplog.messages[0] == offline
    with pytest.raises(CheckpointError, match=r"other/model: HF_HUB_OFFLINE is set; unset it"):
        get("other/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.close()
    close_session()
    caplog.clear()
    assert get("some/model") == path
    assert "the hub cannot be reached" in caplog.messages[0] and commit[:12] in caplog.messages[0]
    with pytest.raises(CheckpointError, match=r"other/model: the hub cannot be reached .*check the network"):
        get("other/model")


def test_models_that_the_hub_keeps_back(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
    hub.put("big/gated", FILES)
    hub.put("my/private", FILES)
    hub.gated.add("big/gated")
    hub.private.add("my/private")
    page = f"{hub.url}/big/gated"
    with pytest.raises(CheckpointError) as error:
        get("big/gated")
    assert (
        str(error.value) == f"big/gated: it is gated; ask for access on its page ({page}), then set HF_TOKEN"
    )
    no_such = "no/such: the hub has no model of that name; check the name, or it is private: set HF_TOKEN"
    for name in ("no/such", "my/private"):
        with pytest.raises(CheckpointError) as error:
            get(name)
        assert str(error.value) == no_such.replace("no/such", name)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match=r"it is gated, and your token has no access; ask for access"):
        get("big/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (get("big/gated") / "model.safetensors").is_file()
    assert (get("my/private") / "model.safetensors").is_file()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    from coterie.hub import fetch

    hub.put("some/model", FILES)
    monkeypatch.setattr(fetch, "free_bytes", lambda folder: 5000)
    with pytest.raises(CheckpointError, match=r"needs 11\.9 kB more, and the disk of .* has 5 kB free"):
        get("some/model")
    assert hub.requests("resolve") == []


def test_a_disk_that_fills_up(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
    import errno

    from huggingface_hub import file_download

    hub.put("some/model", FILES)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(CheckpointError, match=r"some/model: the disk is full; free space and run it again"):
        get("some/model")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"p"}, r"only pickle weights \(pytorch_model\.bin\)"),
        ({"config.json": b"{}"}, "has neither safetensors nor GGUF weights"),
    ],
)
def test_models_without_readable_weights(hub: FakeHub, cache: Path, files: dict[str, bytes], reason: str):
    hub.put("some/model", files)
    with pytest.raises(CheckpointError, match=reason):
        get("some/model")
    assert (get("some/model", weights=False) / "config.json").is_file()
