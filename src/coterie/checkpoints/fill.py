"""Fill a model from a source of tensors: which tensor belongs where, decided before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.quantise import MatrixRounding, quantised_parts, read_quantised
from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import CheckpointError, ModelConfig
from coterie.data.progress import Ticker
from coterie.families import Slot, family
from coterie.families.mapping import Held
from coterie.machine.system import memory_bytes
from coterie.nn.transformer import Transformer

# Buffers that old versions of transformers stored although they follow from config.json.
_FOLLOWING = tuple(
    f"rotary_emb.{name}" for name in ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached")
)


@dataclass(frozen=True)
class Placement:
    """What every tensor of a source is to a model.

    `slots`: what to read, in the source's order; several slots may share one tensor. `copies`: tensors that
    must equal what another slot defines. `carried`: names of tensors that are not part of the Transformer and
    are kept as they are. `ignored`: names of tensors that repeat or follow from others.
    """

    slots: tuple[Slot, ...]
    copies: tuple[Slot, ...]
    carried: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device. `dtype`: of its parameters, but for those that `types` names."""

    model: Transformer
    placement: Placement
    dtype: torch.dtype
    types: dict[str, torch.dtype]


def place_tensors(
    source: TensorSource, model: Transformer, where: Path, held: Mapping[str, Held] | None = None
) -> Placement:
    """Assign every tensor of `source` to the model, which may be on the meta device.

    Only headers are read, except where tied embeddings are stored twice: both must be equal. `where`: the
    directory, for messages. `held`: for a model that holds parts of some parameters, which parts, by name.
    Errors: `CheckpointError` naming the first tensor that is unexpected, has the wrong shape, or is missing.
    """
    chosen = family(model.config.family)
    slots: dict[str, list[Slot]] = {}
    for slot in chosen.slots(model.config):
        slots.setdefault(slot.disk, []).append(slot)
    parameters = _shaped(model, held or {})
    found: list[Slot] = []
    prefixes = chosen.carries(model.config)
    carried: list[str] = []
    ignored: list[str] = []
    for name in source:
        if name.startswith(prefixes):
            carried.append(name)
        elif name in slots:
            for slot in slots[name]:
                _check_shape(source, slot, parameters[slot.name])
            found += slots[name]
        else:
            _check_repeated(source, name, model.config, slots)
            ignored.append(name)
    present = {slot.disk for slot in found}
    missing = {slot.disk for slot in _flat(slots) if not slot.copy} - present
    if missing:
        raise CheckpointError(f"{where}: {len(missing)} tensor(s) missing, the first is '{min(missing)}'")
    if chosen.texts and not carried:
        raise CheckpointError(f"{where}: has no tensor beginning with {' or '.join(prefixes)}")
    covered = {slot.name for slot in _flat(slots)}
    for name, _ in model.named_parameters():
        if name not in covered:
            raise CheckpointError(f"parameter '{name}' is stored nowhere in the {model.config.family} layout")
    return Placement(
        tuple(slot for slot in found if not slot.copy),
        tuple(slot for slot in found if slot.copy),
        tuple(carried),
        tuple(ignored),
    )


@torch.no_grad()
def fill_model(
    source: TensorSource,
    model: Transformer,
    where: Path,
    held: Mapping[str, Held] | None = None,
    placement: Placement | None = None,
    rounding: MatrixRounding | None = None,
) -> Placement:
    """Read every tensor of `source` into the model, one in memory at a time in addition to the model.

    `held`: as for `place_tensors`; only the held parts are read. `placement`: what `place_tensors` found, if
    it was asked already. `rounding`: counts what becomes of quantised matrices. Errors: `CheckpointError` as
    there, for a damaged file, and for a copy that differs.
    """
    held, rounding = held or {}, rounding or MatrixRounding()
    placement = placement if placement is not None else place_tensors(source, model, where, held)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    quantised = quantised_parts(model)
    for name in placement.carried:
        model.carried[name] = source.read(name)
    ticker = Ticker("reading: tensors")
    for number, slot in enumerate(placement.slots, 1):
        ticker(number, len(placement.slots))
        if slot.name in quantised:
            read_quantised(source, slot, quantised[slot.name], rounding)
        else:
            read_slot(source, slot, own[slot.name], held.get(slot.name))
    for slot in placement.copies:
        if slot.name in quantised:  # what is held is rounded, so the files are compared
            first = next(other.disk for other in placement.slots if other.name == slot.name)
            ours, copied = source.read(first), source.read(slot.disk)
        else:
            ours = own[slot.name]
            copied = torch.empty_like(ours).copy_(ours)
            read_slot(source, slot, copied, held.get(slot.name))
        if not torch.equal(ours, copied):
            raise CheckpointError(
                f"{source.file(slot.disk)}: '{slot.disk}' differs from the tensor it is a copy of, "
                "and only one is used"
            )
    source.release()
    return placement


def read_slot(source: TensorSource, slot: Slot, parameter: Tensor, held: Held | None = None) -> None:
    """Copy a slot's numbers from disk into the parameter, or into the block of it that `parameter` is."""
    if held is None:
        part = None if slot.within is None else slot.part
        source.read_into(slot.disk, slot.view(parameter), part)
        return
    found = slot.block(parameter, held)
    if found is not None:
        target, index = found
        source.read_into(slot.disk, target, lambda stored: slot.part(stored)[index])


def require_memory(
    model: Transformer,
    dtype: torch.dtype,
    device: str | torch.device,
    where: Path,
    types: Mapping[str, torch.dtype],
) -> None:
    """Refuse a model on the meta device that the whole machine could not hold, before anything is allocated.

    `types`: as for `materialise`. Errors: `CheckpointError` with both numbers.
    """
    needed = weight_bytes(model, dtype, types)
    kind = torch.device(device).type
    free = memory_bytes() if kind == "cpu" else torch.cuda.mem_get_info(device)[1] if kind == "cuda" else None
    if free is not None and needed > free:
        raise CheckpointError(
            f"{where}: its weights need {needed / 2**30:,.1f} GiB as {dtype}, and "
            f"this machine has {free / 2**30:,.1f} GiB; use a smaller type or a larger machine"
        )


def weight_bytes(model: Transformer, dtype: torch.dtype, types: Mapping[str, torch.dtype]) -> int:
    """Bytes of a model on the meta device once it has memory. `types`: as for `materialise`."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    own = sum(size * types.get(name, dtype).itemsize for name, size in sizes.items())
    return own + sum(buffer.numel() * buffer.dtype.itemsize for buffer in model.buffers())


def as_stored(config: ModelConfig, source: TensorSource) -> ModelConfig:
    """The config of what `source` holds, where config.json says something else and the files decide.

    transformers drops layers for multi-token prediction when it saves a model but keeps their number. Of a
    model around a text model it says that the embeddings are tied unless told otherwise, and takes the head
    that the files have: so a head unlike the embedding means that they are not.
    """
    chosen = family(config.family)
    further = {slot.disk for slot in chosen.slots(config) if slot.name.startswith("mtp.")}
    if further.isdisjoint(source):
        config = config.model_copy(update={"num_mtp_layers": 0})
    if not (chosen.texts and config.tie_embeddings):
        return config
    untied = config.model_copy(update={"tie_embeddings": False})
    names = {slot.name: slot.disk for slot in chosen.slots(untied) if not slot.copy}
    embedding, head = names["embed.weight"], names["head.weight"]
    if (
        head not in source
        or embedding not in source
        or torch.equal(source.read(embedding), source.read(head))
    ):
        return config
    return untied


def _flat(slots: Mapping[str, Iterable[Slot]]) -> list[Slot]:
    return [slot for several in slots.values() for slot in several]


def _shaped(model: Transformer, held: Mapping[str, Held]) -> dict[str, Tensor]:
    """Every parameter and buffer by name; a meta tensor of the whole shape for quantised and partial ones."""
    own: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    shapes = {name: tuple(codes.shape) for name, codes in quantised_parts(model).items()}
    shapes |= {name: part.shape for name, part in held.items()}
    return own | {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _check_shape(source: TensorSource, slot: Slot, parameter: Tensor) -> None:
    wanted, found = slot.disk_shape(parameter), source.shape(slot.disk)
    if found != wanted:
        raise CheckpointError(
            f"{source.file(slot.disk)}: '{slot.disk}' has shape {found}, the config asks for {wanted}"
        )
    stored = source.dtype(slot.disk)
    if not stored.is_floating_point:
        kind = str(stored).removeprefix("torch.")
        raise CheckpointError(
            f"{source.file(slot.disk)}: '{slot.disk}' is stored as {kind}, and weights are floating-point "
            "numbers; quantised weights need a quantization_config in config.json that is read here"
        )


def _check_repeated(
    source: TensorSource, name: str, config: ModelConfig, slots: Mapping[str, Iterable[Slot]]
) -> None:
    """Accept rotary frequencies, biases of zeros and a tied head that really equals the embedding."""
    if name.endswith(_FOLLOWING):
        return
    if name.endswith(".bias") and not bool(source.read(name).any()):
        return  # GPTQ's tools store zeros for layers that have no bias
    if name.endswith("lm_head.weight") and config.tie_embeddings:
        embedding = next(slot.disk for slot in _flat(slots) if slot.name == "embed.weight" and not slot.copy)
        if embedding in source and torch.equal(source.read(embedding), source.read(name)):
            return
        raise CheckpointError(
            f"{source.file(name)}: config.json ties the embeddings, but '{name}' differs from the embedding"
        )
    raise CheckpointError(
        f"{source.file(name)}: unexpected tensor '{name}'; it is not part of a {config.family} model"
    )
