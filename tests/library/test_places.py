"""Where models are: revisions and GGUF files of the cache, directories, and what is damaged there."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config import CheckpointError
from coterie.hub.cache import obtain
from coterie.hub.names import HubName
from coterie.library.places import cached_places, local_places, remove_cached
from tests.hub.fake import FakeHub
from tests.hub.fixtures import cache, hub

__all__ = ["cache", "hub"]
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 2000}


def fill(hub: FakeHub) -> dict[str, str]:
    """Two revisions of one model and a repository of GGUF files in the cache; name -> commit."""
    old = hub.put("a/model", FILES, "v1")
    new = hub.put("a/model", FILES | {"config.json": b"{ }"}, mark="two")
    for name in (HubName("a/model", "v1"), HubName("a/model")):
        obtain(name)
    files = {"m-Q4_K_M-00001-of-00002.gguf": b"1", "m-Q4_K_M-00002-of-00002.gguf": b"2", "LICENSE": b"free"}
    ggufs = hub.put("b/ggufs", files)
    obtain(HubName("b/ggufs", quant="Q4_K_M"))
    return {"a/model@v1": old, "a/model": new, "b/ggufs:Q4_K_M": ggufs}


def test_the_cache_lists_revisions_and_gguf_files(hub: FakeHub, cache: Path):
    commits = fill(hub)
    places = {place.name: place for place in cached_places()}
    assert {name: place.commit for name, place in places.items()} == commits
    assert places["a/model"].size == 2003 and places["b/ggufs:Q4_K_M"].size == 2
    first = places["b/ggufs:Q4_K_M"].path
    assert first is not None and first.name == "m-Q4_K_M-00001-of-00002.gguf"


def test_damage_is_an_entry(hub: FakeHub, cache: Path):
    fill(hub)
    blobs = cache / "models--c--stopped" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.coterie.incomplete").write_bytes(b"123")
    (cache / "models--d--empty").mkdir()
    (cache / "models--gpt2" / "snapshots").mkdir(parents=True)
    (cache / "models--a--model" / "refs" / "bad").write_bytes(b"\xff\xfe")
    (cache / "models--a--model" / "refs" / "v1").unlink()
    (cache / "datasets--x--y").mkdir()
    (cache / "rubbish").write_text("")
    for blob in (cache / "models--b--ggufs" / "blobs").iterdir():
        blob.unlink()
    places = {place.name: place for place in cached_places()}
    assert places["c/stopped"].problem == "its download was stopped; run coterie pull"
    assert places["c/stopped"].size == 3 and places["d/empty"].problem == "holds no revision"
    assert "is no name that commands take" in places["gpt2"].problem
    assert len(places) == 6 and sum(name.startswith("a/model") for name in places) == 2
    assert any(name.startswith("b/ggufs") for name in places)


def test_no_cache_is_an_empty_list(cache: Path):
    assert list(cached_places()) == []


def test_directories_and_files(tmp_path: Path):
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "config.json").write_bytes(b"{}")
    (tmp_path / "two" / "x-Q8_0.gguf").write_bytes(b"GGUF")
    names = [place.name for place in local_places(tmp_path)]
    assert names == [str(tmp_path / "one"), str(tmp_path / "two" / "x-Q8_0.gguf")]
    assert [place.size for place in local_places(tmp_path / "two" / "x-Q8_0.gguf")] == [4]
    with pytest.raises(CheckpointError, match="none: holds no model, nor do the directories inside it"):
        list(local_places(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="missing: no such directory"):
        list(local_places(tmp_path / "missing"))


def test_removing_frees_the_disk(hub: FakeHub, cache: Path):
    fill(hub)
    assert remove_cached(HubName("a/model", "v1")) > 0
    assert [place.name for place in cached_places()] == ["a/model", "b/ggufs:Q4_K_M"]
    assert remove_cached(HubName("a/model")) >= 2000
    with pytest.raises(CheckpointError, match="a/model: is not in the cache, or damaged there"):
        remove_cached(HubName("a/model"))
    assert [place.name for place in cached_places()] == ["b/ggufs:Q4_K_M"]
