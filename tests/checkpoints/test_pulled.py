"""Models of the hub as plain directories: whole or not at all, resumed, and known by their revision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, read_manifest, travelling
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.pulled import check_origin, pull_to, staging_of
from coterie.config import CheckpointError
from coterie.hub.cache import obtain
from coterie.hub.fetch import partial_of
from coterie.hub.listing import Listing, list_files, needed_files
from coterie.hub.names import HubName, HubRevision
from tests.hub.fake import FakeHub
from tests.hub.fixtures import cache, hub
from tests.proof.test_records import make

__all__ = ["cache", "hub"]
NAME = HubName("some/model")


def put(hub: FakeHub, folder: Path, probes: bool = False) -> str:
    """Let the hub hold a tiny model; returns its commit."""
    save_model(folder / "source", make(), probes=probes, extra={"note": "kept"})
    files = [path for path in (folder / "source").rglob("*") if path.is_file()]
    contents = {path.relative_to(folder / "source").as_posix(): path.read_bytes() for path in files}
    if not probes:
        del contents[MANIFEST]
    return hub.put(NAME.repo, contents)


def pull(to: Path) -> Listing:
    listing = list_files(NAME)
    pull_to(listing, needed_files(listing), to)
    return listing


def test_a_directory_is_whole_and_names_its_revision(hub: FakeHub, cache: Path, tmp_path: Path):
    commit = put(hub, tmp_path)
    pull(tmp_path / "m")
    assert not staging_of(tmp_path / "m").exists() and not cache.exists()
    opened = Checkpoint.open(tmp_path / "m")
    assert opened.origin == HubRevision("some/model", commit)
    assert check_origin(tmp_path / "m") == len(list((tmp_path / "m").rglob("*"))) - 1
    assert "pulled" not in travelling(opened.manifest)
    with pytest.raises(CheckpointError, match="m: exists already; choose another --to or remove it"):
        pull(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged"):
        check_origin(tmp_path / "m")


def test_the_facts_of_a_directory_of_coterie_stay(hub: FakeHub, cache: Path, tmp_path: Path):
    commit = put(hub, tmp_path, probes=True)
    pull(tmp_path / "m")
    manifest = read_manifest(tmp_path / "m")
    assert manifest["note"] == "kept" and manifest["pulled"] == {"repo": "some/model", "commit": commit}
    assert check_origin(tmp_path / "m") > 2
    assert Checkpoint.open(tmp_path / "m").load(check=True)
    assert Checkpoint.open(obtain(NAME)).origin == HubRevision("some/model", commit)


def test_a_stopped_pull_goes_on_and_takes_what_the_cache_has(hub: FakeHub, cache: Path, tmp_path: Path):
    put(hub, tmp_path)
    obtain(NAME, weights=False)
    weights = (tmp_path / "source" / "model.safetensors").read_bytes()
    partial = partial_of(staging_of(tmp_path / "m") / "model.safetensors")
    partial.parent.mkdir()
    partial.write_bytes(weights[:1234])
    hub.seen.clear()
    pull(tmp_path / "m")
    assert hub.requests("/config.json") == [] and hub.requests("/model.safetensors") == ["bytes=1234-"]
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == weights


def test_nothing_is_there_after_a_failure(hub: FakeHub, cache: Path, tmp_path: Path):
    put(hub, tmp_path)
    hub.stated["model.safetensors"] = "0" * 64
    with pytest.raises(CheckpointError, match=r"the hash of model\.safetensors is not the one"):
        pull(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (tmp_path / "m").mkdir()
    hub.stated.clear()
    pull(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["model_type"]
