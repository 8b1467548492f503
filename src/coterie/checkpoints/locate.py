"""Where the files of a checkpoint are: a directory or a hub id, and the weight files inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.checkpoints.gguf_file.recognise import is_gguf
from coterie.config import CheckpointError, files
from coterie.hub.cache import cached_revision, obtain
from coterie.hub.failures import HubError
from coterie.hub.names import HubName

INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `CheckpointError` in one line otherwise."""
    return files.read_json(path, error=CheckpointError)


def locate(path: str | Path, weights: bool = True) -> Path:
    """The directory or GGUF file of a checkpoint: a local path, or a hub id, which is downloaded.

    A hub id is `owner/name`, `owner/name@revision` or, for a GGUF file, `owner/name:Q4_K_M`. `weights`:
    whether to download the weights too, or only the small files. Where the hub cannot be reached, the
    revision in the cache is used, and a message says so.
    Errors: `CheckpointError` when `path` is neither, or the hub does not deliver it.
    """
    local = Path(path).expanduser()
    if local.is_dir() or (local.is_file() and (local.suffix == ".gguf" or is_gguf(local))):
        return local
    if local.exists():
        raise CheckpointError(f"{path}: is neither a checkpoint's directory nor a GGUF file")
    name = HubName.parse(str(path))
    if name is None:
        raise CheckpointError(
            f"{path}: no such directory; give a checkpoint directory or a hub id such as owner/name"
        )
    try:
        return obtain(name, weights)
    except HubError as error:
        if name == HubName(name.repo):  # it may be meant as a path
            raise CheckpointError(f"{error} (nor is it a directory here)") from None
        raise


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory: `model.safetensors`, or the shards that its index names.

    Errors: `CheckpointError` for a damaged index, a missing shard, pickle weights, no weights at all, and for
    a single file next to the index of other ones.
    """
    index = directory / INDEX
    single = directory / "model.safetensors"
    if files.present(index, CheckpointError):
        shards = _shards(directory, index)
        if single.is_file() and single not in shards:
            raise CheckpointError(
                f"{directory}: has model.safetensors and the shards of {INDEX}, which may be two models; "
                "remove one of them"
            )
        return shards
    if files.present(single, CheckpointError):
        return [single]
    pickles = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(pattern)
    )
    if pickles:
        raise CheckpointError(
            f"{directory}: only pickle weights ({pickles[0]}); they can run code and are refused; "
            "convert them"
        )
    revision = cached_revision(directory)
    if revision is not None:
        raise CheckpointError(
            f"{directory}: holds small files alone; run coterie pull {revision} for the weights"
        )
    raise CheckpointError(f"{directory}: has no model.safetensors and no index of shards{nearest(directory)}")


def check_index(directory: Path, found: Mapping[str, Path]) -> None:
    """Check that the index of shards, if there is one, agrees with the files. `found`: tensor -> its file.

    Errors: `CheckpointError` naming the first tensor that is in another file, or in none.
    """
    index = directory / INDEX
    if not index.is_file():
        return
    for name, file in read_json(index)["weight_map"].items():
        if name not in found:
            raise CheckpointError(f"{index}: names the tensor '{name}', which no file holds; fetch it again")
        if found[name].name != file:
            raise CheckpointError(
                f"{index}: says that '{name}' is in {file}, but {found[name].name} holds it"
            )


def nearest(directory: Path) -> str:
    """The end of an error about a directory that is not a checkpoint; it names one inside it, if any."""
    if (directory / "params.json").is_file() or any(directory.glob("consolidated*")):
        return (
            ", only Mistral's own form (params.json, consolidated*); fetch config.json, model*.safetensors "
            "and tokenizer.json of this repository, or of one converted for transformers"
        )
    inside = sorted(
        str(path.parent) for pattern in ("*", "*/*") for path in directory.glob(f"{pattern}/config.json")
    )
    return f"; did you mean {inside[0]}?" if inside else "; give the directory that holds a model's weights"


def _shards(directory: Path, index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no 'weight_map'")
    shards = sorted({directory / str(name) for name in weight_map.values()})
    for file in shards:
        if file.suffix != ".safetensors":
            raise CheckpointError(f"{index}: names '{file.name}'; only safetensors files are read")
        if file.parent != directory or not file.is_file():
            revision = cached_revision(directory)
            advice = "" if revision is None else f"; run coterie pull {revision}"
            raise CheckpointError(f"{index}: names '{file.name}', which is not in the directory{advice}")
    return shards
