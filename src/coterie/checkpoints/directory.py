"""The checkpoint directory: Hugging Face files plus `coterie.json`; read shard by shard, written whole or
not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.checkpoints.commit import MANIFEST, commit_directory, verify_directory
from coterie.checkpoints.quantise import quantise_model, quantised_parts, read_quantised
from coterie.checkpoints.tensor_reader import StoredTensors
from coterie.checkpoints.tensor_writer import as_dtype, write_model_files
from coterie.config import AdapterConfig, CheckpointError, ModelConfig, files
from coterie.families import Slot, config_from_hf, family
from coterie.nn.transformer import Transformer
from coterie.proof.records import check_probes, default_sequences, record, rounded, save_probes
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. `manifest` is `coterie.json` (empty for directories of other origin)."""

    model: Transformer
    tokenizer: Tokenizer | None
    manifest: dict[str, Any]
    path: Path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `CheckpointError` in one line otherwise."""
    return files.read_json(path, error=CheckpointError)


def locate(path: str | Path, weights: bool = True) -> Path:
    """The directory of a checkpoint: a local path, or a hub id `owner/name`, which is downloaded (without
    `weights`: the small files alone).

    Errors: `CheckpointError` when it is neither, or the hub cannot be reached.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    text = str(path)
    if local.exists():
        raise CheckpointError(f"{path}: is a file; give the checkpoint's directory")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{path}: no such directory; give a checkpoint directory or a hub id such as owner/name"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.txt", "*.model"] + (["*.safetensors"] if weights else [])
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
        if (directory / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{directory}: is an adapter; merge it with its base first, or name the base"
            )
        raise CheckpointError(f"{directory}: has no config.json; give a checkpoint directory")
    return config_from_hf(read_json(directory / "config.json"), where=str(directory / "config.json"))


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    compute_dtype: torch.dtype | None = None,
    check: bool = False,
    quantise: AdapterConfig | None = None,
) -> Loaded:
    """Build the model of a directory and fill it, one tensor in memory at a time beside the model.

    `dtype`: of the parameters ("float32", "bfloat16"); activations run in it too unless `compute_dtype` says
    otherwise. `check`: run the probes that the directory holds, and fail unless the model answers as
    recorded. `quantise`: round the matrices that its `quant` names while they are read, so that the wide
    model is never in memory. Errors: `CheckpointError` naming missing, unexpected or wrongly shaped tensors,
    pickle files, and weights that are not as long as the manifest says (its hashes are checked when training
    goes on, and by `verify_directory`).
    """
    directory = locate(path)
    parameter_dtype = as_dtype(dtype)
    stored = open_tensors(directory)
    config = _without_absent_layers(read_config(directory), stored)
    if stored.quantised:
        _log.warning(
            "NOTE: %s is stored quantised; read as %s, and saved so",
            directory,
            str(parameter_dtype).split(".")[-1],
        )
    with torch.device("meta"):
        model = Transformer(config, compute_dtype or parameter_dtype)
        if quantise is not None:
            quantise_model(model, quantise)
    materialise(model, parameter_dtype, device)
    if (directory / MANIFEST).is_file():
        verify_directory(directory, full=False, suffix=".safetensors")  # the rest is for people to edit
    _fill(model, directory, stored)
    tokenizer = Tokenizer.load(directory) if (directory / "tokenizer.json").is_file() else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: tokenizer.json has {tokenizer.vocab_size} tokens but the model only {config.vocab_size}; "
            "they do not belong together"
        )
    if check:
        check_probes(directory, model, tokenizer)
    manifest_path = directory / MANIFEST
    return Loaded(model, tokenizer, read_json(manifest_path) if manifest_path.is_file() else {}, directory)


def materialise(model: Transformer, dtype: torch.dtype, device: str | torch.device) -> None:
    """Turn a model built on the meta device into one with (uninitialised) memory; `Balance` and biases start
    fresh.
    """
    for module in model.modules():  # `to_empty` would do, but imports a symbolic algebra system on its way
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
    for _, router in model.routers():
        router.balance.reset()
        if router.select_bias is not None:
            router.select_bias.data = torch.zeros_like(router.select_bias, dtype=torch.float32)


def load_state_into(model: Transformer, directory: Path) -> None:
    """Copy a directory's safetensors into an existing model of the same config; every tensor must match."""
    directory = Path(directory)
    _fill(model, directory, open_tensors(directory))


def open_tensors(directory: Path) -> StoredTensors:
    """The tensors of a checkpoint directory, headers checked, nothing read yet."""
    config = directory / "config.json"
    quantisation = read_json(config).get("quantization_config") if config.is_file() else None
    return StoredTensors(_weight_files(directory), quantisation)


def stored_dtype(directory: Path, config: ModelConfig) -> torch.dtype:
    """The type all weights of a directory are stored in; float32 where they are mixed or quantised."""
    stored = open_tensors(directory)
    names = [slot.disk for slot in family(config.family).slots(config) if slot.disk in stored]
    weights = {stored.dtype(name) for name in names if not name.endswith("e_score_correction_bias")}
    only = weights.pop() if len(weights) == 1 else torch.float32
    return only if only in (torch.bfloat16, torch.float16) else torch.float32


def kept_dtype(directory: Path) -> torch.dtype:
    """The type to hold and write a directory's weights in: its own, bfloat16 where they are quantised."""
    return (
        torch.bfloat16
        if open_tensors(directory).quantised
        else stored_dtype(directory, read_config(directory))
    )


@torch.no_grad()
def _fill(model: Transformer, directory: Path, stored: StoredTensors) -> None:
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    chosen = family(model.config.family)
    quantised = quantised_parts(model)
    slots = {slot.disk: slot for slot in chosen.slots(model.config)}
    missing = {slot.disk for slot in slots.values() if not slot.copy}
    for name in stored:
        if name.startswith(chosen.carried):
            model.carried[name] = stored.read(name)
            continue
        if name not in slots:
            _accept_tied_head(model, name, stored)
            continue
        slot = slots[name]
        codes = quantised.get(slot.name)
        target = slot.view(own[slot.name] if codes is None else torch.empty(codes.shape, device="meta"))
        if stored.shape(name) != tuple(target.shape):
            raise CheckpointError(
                f"{stored.file(name)}: '{name}' has shape {stored.shape(name)}, the config asks for "
                f"{tuple(target.shape)}"
            )
        if codes is not None:
            read_quantised(stored, slot, codes)
        elif not slot.copy:
            stored.read_into(name, target)
        missing.discard(name)
    if missing:
        raise CheckpointError(f"{directory}: {len(missing)} tensor(s) missing, the first is '{min(missing)}'")
    for slot in (slot for slot in slots.values() if slot.copy and slot.disk in stored):
        if not torch.equal(slot.view(own[slot.name]), stored.read(slot.disk).to(own[slot.name].dtype)):
            raise CheckpointError(
                f"{stored.file(slot.disk)}: '{slot.disk}' differs from the tensor it is a copy of, and only one is used"
            )
    if chosen.carried and not model.carried:
        raise CheckpointError(f"{directory}: has no tensor beginning with {' or '.join(chosen.carried)}")
    _check_complete(model, list(slots.values()))


def _without_absent_layers(config: ModelConfig, stored: StoredTensors) -> ModelConfig:
    """The config without layers for multi-token prediction where the files hold none (transformers leaves
    them out).
    """
    prefix = f"model.layers.{config.num_layers}."
    if config.num_mtp_layers and not any(name.startswith(prefix) for name in stored):
        return config.model_copy(update={"num_mtp_layers": 0})
    return config


def _accept_tied_head(model: Transformer, name: str, stored: StoredTensors) -> None:
    """Tied checkpoints sometimes repeat the embedding as `lm_head.weight`; it must really be the same."""
    if name.endswith("rotary_emb.inv_freq"):
        return
    if name.endswith("lm_head.weight") and model.config.tie_embeddings:
        embedding = "model.embed_tokens.weight"
        if embedding in stored and torch.equal(stored.read(embedding), stored.read(name)):
            return
        raise CheckpointError(
            f"{stored.file(name)}: config.json ties the embeddings, but 'lm_head.weight' differs from the embedding"
        )
    raise CheckpointError(
        f"{stored.file(name)}: unexpected tensor '{name}'; it is no part of a {model.config.family} model"
    )


def _check_complete(model: Transformer, slots: list[Slot]) -> None:
    covered = {slot.name for slot in slots}
    for name, _ in model.named_parameters():
        if name not in covered:
            raise CheckpointError(f"parameter '{name}' is stored nowhere in the {model.config.family} layout")


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: has no 'weight_map'")
        files = sorted({directory / str(name) for name in weight_map.values()})
        for file in files:
            if file.suffix != ".safetensors":
                raise CheckpointError(f"{index}: names '{file.name}'; only safetensors files are read")
            if file.parent != directory or not file.is_file():
                raise CheckpointError(f"{index}: names '{file.name}', which is not in the directory")
        return files
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(pattern)
    )
    if pickles:
        raise CheckpointError(
            f"{directory}: only pickle weights ({pickles[0]}); they can run code and are refused; convert them"
        )
    inside = sorted(
        str(p.parent) for pattern in ("*", "*/*") for p in directory.glob(f"{pattern}/config.json")
    )
    hint = f"; did you mean {inside[0]}?" if inside else "; give the directory that holds a model's weights"
    raise CheckpointError(f"{directory}: has no model.safetensors and no index of shards{hint}")


def save_model(
    path: str | Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
    stop_ids: Iterable[int] | None = None,
    probes: bool = False,
) -> None:
    """Write a complete checkpoint directory, committed by rename after its manifest is on disk.

    `stop_ids`: the tokens of `generation_config.json` that end a reply (default: the tokenizer's). `probes`:
    record what the model says to the default probes, weights rounded as they are stored, for
    `load_model(check=True)`.
    """

    def write(target: Path) -> None:
        write_model_files(target, model, tokenizer, dtype, stop_ids=stop_ids)
        if probes:
            sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
            with rounded(model, as_dtype(dtype) if dtype is not None else next(model.parameters()).dtype):
                save_probes(target, record(model, sequences, tokenizer))

    final = Path(path)
    occupied = final.exists() and not (final.is_dir() and not any(final.iterdir()))
    if occupied and not (final / MANIFEST).is_file():
        raise CheckpointError(
            f"{final}: exists and is no checkpoint of coterie; remove it or choose another path"
        )
    commit_directory(final, write, dict(extra or {}))
