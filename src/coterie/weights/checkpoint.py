"""The checkpoint directory: Hugging Face files plus `coterie.json`; read shard by shard, written whole or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.config import CheckpointError, ModelConfig
from coterie.families import Slot, config_from_hf, config_to_hf, family
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from coterie.weights.commit import MANIFEST, commit_directory, verify_directory

SHARD_BYTES = 5 * 1024**3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. `manifest` is `coterie.json` (empty for directories of other origin)."""

    model: Transformer
    tokenizer: Tokenizer | None
    manifest: dict[str, Any]
    path: Path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `CheckpointError` in one line otherwise."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}; an object was expected")
    return data


def locate(path: str | Path) -> Path:
    """The directory of a checkpoint: a local path, or a hub id `owner/name`, which is downloaded.

    Errors: `CheckpointError` when it is neither, or the hub cannot be reached.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    text = str(path)
    if local.exists():
        raise CheckpointError(f"{path}: is a file; give the checkpoint's directory")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"{path}: no such directory; give a checkpoint directory or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(text, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds; all of them mean "not to be had"
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(
            f"{path}: no such directory, and the hub did not deliver it ({reason}); "
            "check the name and the network, or give a local directory"
        ) from None


def read_config(path: str | Path) -> ModelConfig:
    """The `ModelConfig` of a checkpoint directory."""
    directory = Path(path)
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory}: has no config.json; give a checkpoint directory")
    return config_from_hf(read_json(directory / "config.json"), where=str(directory / "config.json"))


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    compute_dtype: torch.dtype | None = None,
) -> Loaded:
    """Build the model of a directory and fill it, one tensor in memory at a time beside the model.

    `dtype`: of the parameters ("float32", "bfloat16"); activations run in it too unless `compute_dtype` says otherwise.
    Errors: `CheckpointError` naming missing, unexpected or wrongly shaped tensors, pickle files, and weights that are
    not as long as the manifest says (its hashes are checked when training goes on, and by `verify_directory`).
    """
    directory = locate(path)
    config = read_config(directory)
    parameter_dtype = as_dtype(dtype)
    with torch.device("meta"):
        model = Transformer(config, compute_dtype or parameter_dtype)
    materialise(model, parameter_dtype, device)
    if (directory / MANIFEST).is_file():
        verify_directory(directory, full=False, suffix=".safetensors")  # the rest is for people to edit
    load_state_into(model, directory)
    tokenizer = Tokenizer.load(directory) if (directory / "tokenizer.json").is_file() else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: tokenizer.json has {tokenizer.vocab_size} tokens but the model only {config.vocab_size}; "
            "they do not belong together"
        )
    manifest_path = directory / MANIFEST
    return Loaded(model, tokenizer, read_json(manifest_path) if manifest_path.is_file() else {}, directory)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name; `CheckpointError` names the known ones."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype '{dtype}' is not known; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def materialise(model: Transformer, dtype: torch.dtype, device: str | torch.device) -> None:
    """Turn a model built on the meta device into one with (uninitialised) memory; `Balance` and biases start fresh."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.to_empty(device=device)
    for _, router in model.routers():
        router.balance.reset()
        if router.select_bias is not None:
            router.select_bias.data = torch.zeros_like(router.select_bias, dtype=torch.float32)


@torch.no_grad()
def load_state_into(model: Transformer, directory: Path) -> None:
    """Copy a directory's safetensors into an existing model of the same config; every tensor must match."""
    directory = Path(directory)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    slots = {slot.disk: slot for slot in family(model.config.family).slots(model.config)}
    missing = set(slots)
    with ExitStack() as stack:
        for name, handle, file in _tensors(directory, stack):
            if name not in slots:
                _accept_tied_head(model, name, handle, file)
                continue
            target = slots[name].view(own[slots[name].name])
            shape = tuple(handle.get_slice(name).get_shape())
            if shape != tuple(target.shape):
                raise CheckpointError(f"{file}: '{name}' has shape {shape}, the config asks for {tuple(target.shape)}")
            target.copy_(handle.get_tensor(name))
            missing.discard(name)
    if missing:
        raise CheckpointError(f"{directory}: {len(missing)} tensor(s) missing, the first is '{min(missing)}'")
    _check_complete(model, list(slots.values()))


def _accept_tied_head(model: Transformer, name: str, handle: Any, file: Path) -> None:
    """Tied checkpoints sometimes repeat the embedding as `lm_head.weight`; it must really be the same."""
    if name.endswith("rotary_emb.inv_freq"):
        return
    if name == "lm_head.weight" and model.config.tie_embeddings:
        for candidate in _weight_files(file.parent):
            with safe_open(candidate, "pt") as other:
                embedding = "model.embed_tokens.weight"
                if embedding not in other.keys():  # noqa: SIM118
                    continue
                if torch.equal(other.get_tensor(embedding), handle.get_tensor(name)):
                    return
        raise CheckpointError(
            f"{file}: config.json ties the embeddings, but 'lm_head.weight' differs from the embedding"
        )
    raise CheckpointError(f"{file}: unexpected tensor '{name}'; it is no part of a {model.config.family} model")


def _check_complete(model: Transformer, slots: list[Slot]) -> None:
    covered = {slot.name for slot in slots}
    for name, _ in model.named_parameters():
        if name not in covered:
            raise CheckpointError(f"parameter '{name}' is stored nowhere in the {model.config.family} layout")


def _tensors(directory: Path, stack: ExitStack) -> Iterator[tuple[str, Any, Path]]:
    """(name, open file, path) of every tensor on disk, file by file."""
    seen: set[str] = set()
    for file in _weight_files(directory):
        try:
            handle = stack.enter_context(safe_open(file, "pt"))
            names = list(handle.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: is not a readable safetensors file ({error})") from None
        for name in names:
            if name in seen:
                raise CheckpointError(f"{file}: tensor '{name}' stands in another shard too")
            seen.add(name)
            yield name, handle, file


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: has no 'weight_map'")
        files = sorted({directory / str(name) for name in weight_map.values()})
        for file in files:
            if file.parent != directory or not file.is_file():
                raise CheckpointError(f"{index}: names '{file.name}', which is not in the directory")
        return files
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory}: only pickle weights ({pickles[0]}); they can run code and are refused; convert them"
        )
    raise CheckpointError(f"{directory}: has no model.safetensors and no index of shards")


def write_model_files(
    directory: Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    stop_ids: Iterable[int] | None = None,
) -> None:
    """Write config, safetensors (sharded with an index beyond `shard_bytes`), tokenizer and generation config."""
    parameters = dict(model.named_parameters()) | dict(model.named_buffers())
    stored = as_dtype(dtype) if dtype is not None else next(model.parameters()).dtype
    config = config_to_hf(model.config) | {"dtype": str(stored).removeprefix("torch.")}
    config |= {"torch_dtype": config["dtype"]}
    if tokenizer is not None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            config[name] = tokenizer.eos_id if config.get(name) is None else config[name]
        tokenizer.save(directory)
        stops = sorted(tokenizer.stop_ids if stop_ids is None else stop_ids)
        _write_json(directory / "generation_config.json", {"eos_token_id": stops})
    _write_json(directory / "config.json", config)
    slots = family(model.config.family).slots(model.config)
    shards = _plan_shards(slots, parameters, stored, shard_bytes)
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i in range(len(shards))
    ]
    for name, shard in zip(names, shards, strict=True):
        tensors = {slot.disk: _disk_tensor(slot, parameters, stored) for slot in shard}
        save_file(tensors, directory / name, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {slot.disk: name for name, shard in zip(names, shards, strict=True) for slot in shard}
        total = sum(_disk_bytes(slot, parameters, stored) for slot in slots)
        _write_json(
            directory / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )


def save_model(
    path: str | Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
    stop_ids: Iterable[int] | None = None,
) -> None:
    """Write a complete checkpoint directory, committed by rename after its manifest is on disk.

    `stop_ids`: the tokens of `generation_config.json` that end a reply (default: the tokenizer's).
    """

    def write(target: Path) -> None:
        write_model_files(target, model, tokenizer, dtype, stop_ids=stop_ids)

    final = Path(path)
    occupied = final.exists() and not (final.is_dir() and not any(final.iterdir()))
    if occupied and not (final / MANIFEST).is_file():
        raise CheckpointError(f"{final}: exists and is no checkpoint of coterie; remove it or choose another path")
    commit_directory(final, write, dict(extra or {}))


def _plan_shards(
    slots: list[Slot], parameters: Mapping[str, Tensor], stored: torch.dtype, limit: int
) -> list[list[Slot]]:
    shards: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        nbytes = _disk_bytes(slot, parameters, stored)
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(slot)
        size += nbytes
    return shards


def _stored_dtype(tensor: Tensor, stored: torch.dtype) -> torch.dtype:
    """Buffers (the selection bias) stay fp32 whatever the weights are stored in."""
    return stored if isinstance(tensor, torch.nn.Parameter) else tensor.dtype


def _disk_bytes(slot: Slot, parameters: Mapping[str, Tensor], stored: torch.dtype) -> int:
    tensor = parameters[slot.name]
    return slot.view(tensor).numel() * _stored_dtype(tensor, stored).itemsize


def _disk_tensor(slot: Slot, parameters: Mapping[str, Tensor], stored: torch.dtype) -> Tensor:
    tensor = parameters[slot.name]
    return slot.view(tensor.detach()).to("cpu", _stored_dtype(tensor, stored)).contiguous()


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
