"""Write the files of a model: config.json, safetensors with an index, tokenizer, generation config.

Tensors are made and written one at a time, in the order of the family's slots, so a result need not be in
memory: its feed-forwards come layer by layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from coterie.checkpoints.quantise import is_quantised
from coterie.checkpoints.tensor_reader import TYPE_NAMES
from coterie.config import CheckpointError, ConfigError
from coterie.data.progress import Ticker
from coterie.families import Slot, config_to_hf, family
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.stored_experts import refuse
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer

SHARD_BYTES = 5 * 1024**3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name; `ConfigError` names the known ones."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not known; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def write_model_files(
    directory: Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    generation: Mapping[str, Any] | None = None,
    tensors: Callable[[str], Tensor] | None = None,
    written: Callable[[str, Tensor], None] | None = None,
) -> None:
    """Write config, safetensors (in shards of at most `shard_bytes`), tokenizer and generation config.

    `dtype`: of the weights on disk (default: the parameters' own). `generation`: the content of
    generation_config.json (default: the tokenizer's stop tokens). `tensors`: gives a parameter or buffer by
    its name (default: the model's), asked in the order of the slots; `model` may be on the meta device then.
    `written`: called with the name and content of every tensor on disk.
    Errors: `CheckpointError` for a model with an adapter, chosen experts or quantised weights; `ConfigError`
    for an embedding model without a head, and for experts on disk.
    """
    if model.adapter is not None:
        raise CheckpointError(
            f"{directory.name}: the model has an adapter; save the adapter, or merge it first"
        )
    if any(isinstance(module, SubsetExpertLinear) for module in model.modules()):
        raise CheckpointError(
            f"{directory.name}: chosen experts are in training; save the patch, or merge it first"
        )
    if model.store is not None:
        refuse("saving")
    if is_quantised(model):
        raise CheckpointError(
            f"{directory.name}: the weights are quantised in memory; load the base again to save it"
        )
    model.check_head()
    stored = as_dtype(dtype) if dtype is not None else next(model.parameters()).dtype
    config = config_to_hf(model.config) | {"dtype": str(stored).removeprefix("torch.")}
    config |= {"torch_dtype": config["dtype"]}
    if tokenizer is not None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            config[name] = tokenizer.eos_id if config.get(name) is None else config[name]
        tokenizer.save(directory)
        if generation is None:
            generation = {"eos_token_id": sorted(tokenizer.stop_ids)}
    if generation:
        _write_json(directory / "generation_config.json", generation)
    _write_json(directory / "config.json", config)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    pieces = _pieces(model, own, tensors or own.__getitem__, stored)
    write_shards(directory, pieces, shard_bytes, written)


@dataclass(frozen=True)
class TensorToWrite:
    """One tensor of a file: its name, type and shape are known before `make` produces it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(
    directory: Path,
    pieces: Iterable[TensorToWrite],
    shard_bytes: int = SHARD_BYTES,
    written: Callable[[str, Tensor], None] | None = None,
) -> None:
    """Write `model.safetensors`, or shards of at most `shard_bytes` (at least one tensor) and their index.

    Each tensor is made when its turn comes and dropped when it is written. `written`: called with each.
    """
    shards: list[list[TensorToWrite]] = [[]]
    size = total = 0
    for piece in pieces:
        if shards[-1] and size + piece.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.nbytes
        total += piece.nbytes
    count, done = len(shards), 0
    ticker = Ticker("writing: MB")
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        name = "model.safetensors" if count == 1 else f"model-{index:05d}-of-{count:05d}.safetensors"
        ordered = _aligned(shard)
        with open(directory / name, "wb", buffering=0) as file:
            _write_all(file, memoryview(_header(ordered)))
            for piece in ordered:
                tensor = piece.make()
                assert tensor.dtype == piece.dtype and tuple(tensor.shape) == piece.shape, piece.name
                _write_all(file, bytes_of(tensor))
                if written is not None:
                    written(piece.name, tensor)
                del tensor  # before the next one is made
                done += piece.nbytes
                ticker(done // 1_000_000, total // 1_000_000)
        weight_map |= {piece.name: name for piece in shard}
    if count > 1:
        data = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(directory / "model.safetensors.index.json", data)


def _aligned(shard: list[TensorToWrite]) -> list[TensorToWrite]:
    """In their order, unless that would put one where numbers of its type cannot begin."""
    largest = max((piece.dtype.itemsize for piece in shard), default=1)
    if all(piece.nbytes % largest == 0 for piece in shard):
        return shard
    return sorted(shard, key=lambda piece: -piece.dtype.itemsize)


def _header(pieces: Iterable[TensorToWrite]) -> bytes:
    """The head of a safetensors file: its length in 8 bytes, then JSON, padded to a multiple of 8 bytes."""
    data: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for piece in pieces:
        place = [at, at + piece.nbytes]
        data[piece.name] = {
            "dtype": TYPE_NAMES[piece.dtype],
            "shape": list(piece.shape),
            "data_offsets": place,
        }
        at += piece.nbytes
    text = json.dumps(data, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def bytes_of(tensor: Tensor) -> memoryview:
    """The content of a tensor in main memory, in the order of its indices."""
    array: Any = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _write_all(file: IO[bytes], content: memoryview) -> None:
    """One call to the system may write a part only."""
    while len(content):
        content = content[file.write(content) :]


def disk_tensors(model: Transformer) -> dict[str, list[Slot]]:
    """The name of every tensor on disk, with the slots that make it (one, or the parts of a fused tensor).

    Errors: `CheckpointError` where the parts do not fill their tensor.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    made: dict[str, list[Slot]] = {}
    for slot in family(model.config.family).slots(model.config):
        made.setdefault(slot.disk, []).append(slot)
    for name, slots in made.items():
        filled = sum(slot.view(own[slot.name]).numel() for slot in slots)
        if filled != math.prod(slots[0].disk_shape(own[slots[0].name])):
            raise CheckpointError(f"the {model.config.family} layout does not fill '{name}' exactly once")
    return made


def disk_tensor(slots: Sequence[Slot], own: Mapping[str, Tensor], stored: torch.dtype) -> Tensor:
    """One tensor as it is written, on the CPU: a view of its parameter's memory where that is possible.

    `own`: parameters and buffers by name. `stored`: the type of weights; buffers (the selection bias) stay
    float32.
    """
    first = own[slots[0].name]
    dtype = _disk_dtype(slots[0], first, stored)
    if slots[0].within is None:
        return slots[0].view(first.detach()).to("cpu", dtype)
    result = torch.empty(slots[0].within.shape, dtype=dtype)
    for slot in slots:
        slot.part(result).copy_(slot.view(own[slot.name].detach()))
    return result


def _pieces(
    model: Transformer, own: Mapping[str, Tensor], tensors: Callable[[str], Tensor], stored: torch.dtype
) -> list[TensorToWrite]:
    """`own`: types and shapes; `tensors`: gives the contents."""
    pieces = [_piece(name, slots, own, tensors, stored) for name, slots in disk_tensors(model).items()]
    return pieces + [
        TensorToWrite(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in model.carried.items()
    ]


def _piece(
    name: str,
    slots: list[Slot],
    own: Mapping[str, Tensor],
    tensors: Callable[[str], Tensor],
    stored: torch.dtype,
) -> TensorToWrite:
    first = own[slots[0].name]

    def make() -> Tensor:
        return disk_tensor(slots, {slot.name: tensors(slot.name) for slot in slots}, stored)

    return TensorToWrite(name, _disk_dtype(slots[0], first, stored), slots[0].disk_shape(first), make)


def _disk_dtype(slot: Slot, tensor: Tensor, stored: torch.dtype) -> torch.dtype:
    """`stored` for all but selection biases, which keep their type, and what is float32 in any file."""
    if slot.float32:
        return torch.float32
    return tensor.dtype if slot.name.endswith("select_bias") else stored


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
