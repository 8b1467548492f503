"""Which files of a model on the hub are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config import CheckpointError
from coterie.hub.cache import obtain
from coterie.hub.listing import Listing, RemoteFile, needed_files
from coterie.hub.names import HubName
from tests.hub.fake import FakeHub

GGUFS = [
    "model-Q4_K_M.gguf",
    "model-Q4_K_S.gguf",
    "model-UD-Q4_K_XL.gguf",
    "BF16/model-BF16-00002-of-00002.gguf",
    "BF16/model-BF16-00001-of-00002.gguf",
    "mmproj-F16.gguf",
    "imatrix_unsloth.gguf",
    "config.json",
    "LICENSE",
]


def chosen(text: str, names: list[str], files: tuple[str, ...] = (), weights: bool = True) -> list[str]:
    name = HubName.parse(text)
    assert name is not None
    listing = Listing(name, "0" * 40, [RemoteFile(file, 1000, "0" * 64) for file in names])
    return [file.name for file in needed_files(listing, files, weights)]


@pytest.mark.parametrize(
    ("quant", "files"),
    [
        ("Q4_K_M", ["model-Q4_K_M.gguf"]),
        ("q4_k_s", ["model-Q4_K_S.gguf"]),
        ("UD-Q4_K_XL", ["model-UD-Q4_K_XL.gguf"]),
        ("bf16", ["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"]),
    ],
)
def test_one_quantisation_of_a_gguf_repository(quant: str, files: list[str]):
    assert chosen(f"a/b:{quant}", GGUFS) == [*files, "LICENSE"]


def test_a_file_by_its_name_brings_its_other_parts():
    parts = ["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"]
    assert chosen("a/b", GGUFS, (parts[1],)) == [*parts, "LICENSE"]
    with pytest.raises(CheckpointError, match=r"a/b: has no GGUF file 'x\.gguf'; choose with :TYPE from"):
        chosen("a/b", GGUFS, ("x.gguf",))


def test_a_choice_is_asked_for_with_types_and_sizes():
    with pytest.raises(CheckpointError) as error:
        chosen("a/b", GGUFS)
    assert str(error.value) == (
        "a/b: has 4 GGUF files; choose with :TYPE from BF16 (2 kB), Q4_K_M (1 kB), Q4_K_S (1 kB), "
        "UD-Q4_K_XL (1 kB)"
    )
    with pytest.raises(CheckpointError, match=r"has no GGUF file of type Q4_K; choose with :TYPE from BF16"):
        chosen("a/b:Q4_K", GGUFS)
    with pytest.raises(CheckpointError, match="it has no GGUF files at all"):
        chosen("a/b:Q4_K_M", ["model.safetensors"])
    with pytest.raises(CheckpointError, match=r"choose with --file from one-q8\.gguf \(1 kB\), two\.gguf"):
        chosen("a/b", ["one-q8.gguf", "two.gguf"])


def test_the_only_gguf_file_needs_no_choice_and_safetensors_come_first():
    assert chosen("a/b", ["only.gguf", "mmproj-only.gguf"]) == ["only.gguf"]
    assert chosen("a/b", ["only.gguf", "model.safetensors"]) == ["model.safetensors"]


def test_pickles_are_never_chosen():
    names = ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "optimizer.pt"]
    assert chosen("a/b", names) == ["model.safetensors"]


def test_probes_of_coterie_are_small_files():
    names = ["config.json", "probes/probes.safetensors", "model.safetensors", "README.md"]
    assert chosen("a/b", names, weights=False) == ["config.json", "probes/probes.safetensors"]


def test_a_release_comes_with_its_evidence():
    evidence = ["claims.jsonl", "ABOUT.md", "samples/arithmetic.jsonl", "index/pretrain.index"]
    names = ["config.json", "report.json", "model.safetensors", "notes.md", *evidence]
    assert set(chosen("a/b", names)) == {*names} - {"notes.md"}
    assert set(chosen("a/b", names, weights=False)) == {"config.json", "report.json"}
    assert set(chosen("a/b", [name for name in names if name != "claims.jsonl"])) == set(names[:3])


def test_a_gguf_model_is_its_first_file(hub: FakeHub, cache: Path):
    commit = hub.put("a/b", {name: name.encode() for name in GGUFS})
    with pytest.raises(
        CheckpointError, match=r"a/b:BF16: a GGUF file has no small parts; fetch it first: co"
    ):
        obtain(HubName("a/b", quant="BF16"), weights=False)
    assert hub.requests("resolve") == []
    path = obtain(HubName("a/b", quant="BF16"))
    assert path == cache / "models--a--b/snapshots" / commit / "BF16/model-BF16-00001-of-00002.gguf"
    assert obtain(HubName("a/b", quant="BF16"), weights=False) == path
    assert path.read_bytes() == b"BF16/model-BF16-00001-of-00002.gguf"


def test_names_that_leave_the_directory_are_not_fetched(hub: FakeHub, cache: Path):
    hub.put("a/b", {"../evil.json": b"{}", "/etc/evil.json": b"{}", "model.safetensors": b"x"})
    path = obtain(HubName("a/b"))
    assert [file.name for file in path.iterdir()] == ["model.safetensors"]
    assert not list(cache.rglob("evil*"))
