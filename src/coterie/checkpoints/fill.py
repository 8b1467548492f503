"""Fill a model from a source of tensors: which tensor belongs where, decided before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from coterie.checkpoints.quantise import quantised_parts, read_quantised
from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import CheckpointError, ModelConfig
from coterie.families import Slot, family
from coterie.nn.transformer import Transformer


@dataclass(frozen=True)
class Placement:
    """What every tensor of a source is to a model.

    `slots`: one per tensor to read, in the source's order. `copies`: tensors that must equal what another
    slot defines. `carried`: names of tensors that are not part of the Transformer and are kept as they are.
    `ignored`: names of tensors that repeat or follow from others.
    """

    slots: tuple[Slot, ...]
    copies: tuple[Slot, ...]
    carried: tuple[str, ...]
    ignored: tuple[str, ...]


def place_tensors(source: TensorSource, model: Transformer, where: Path) -> Placement:
    """Assign every tensor of `source` to the model, which may be on the meta device. Reads headers only,
    except where tied embeddings are stored twice: both must be equal.

    `where`: the directory, for messages. Errors: `CheckpointError` naming the first tensor that is
    unexpected, has the wrong shape, or is missing.
    """
    chosen = family(model.config.family)
    slots = {slot.disk: slot for slot in chosen.slots(model.config)}
    parameters = _shaped(model)
    found: list[Slot] = []
    carried: list[str] = []
    ignored: list[str] = []
    for name in source:
        if name.startswith(chosen.carried):
            carried.append(name)
        elif name in slots:
            _check_shape(source, slots[name], parameters[slots[name].name])
            found.append(slots[name])
        else:
            _check_repeated(source, name, model.config, slots)
            ignored.append(name)
    missing = {slot.disk for slot in slots.values() if not slot.copy} - {slot.disk for slot in found}
    if missing:
        raise CheckpointError(f"{where}: {len(missing)} tensor(s) missing, the first is '{min(missing)}'")
    if chosen.carried and not carried:
        raise CheckpointError(f"{where}: has no tensor beginning with {' or '.join(chosen.carried)}")
    covered = {slot.name for slot in slots.values()}
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
def fill_model(source: TensorSource, model: Transformer, where: Path) -> Placement:
    """Read every tensor of `source` into the model, one in memory at a time in addition to the model.

    Errors: `CheckpointError` as for `place_tensors`, for a damaged file, and for a copy that differs.
    """
    placement = place_tensors(source, model, where)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    quantised = quantised_parts(model)
    for name in placement.carried:
        model.carried[name] = source.read(name)
    for slot in placement.slots:
        codes = quantised.get(slot.name)
        if codes is not None:
            read_quantised(source, slot, codes)
        else:
            source.read_into(slot.disk, slot.view(own[slot.name]))
    for slot in placement.copies:
        if not torch.equal(slot.view(own[slot.name]), source.read(slot.disk).to(own[slot.name].dtype)):
            raise CheckpointError(
                f"{source.file(slot.disk)}: '{slot.disk}' differs from the tensor it is a copy of, "
                "and only one is used"
            )
    source.release()
    return placement


def materialise(model: Transformer, dtype: torch.dtype, device: str | torch.device) -> None:
    """Give a model that was built on the meta device memory, uninitialised; router statistics start fresh."""
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


def without_absent_layers(config: ModelConfig, source: TensorSource) -> ModelConfig:
    """The config without layers for multi-token prediction where `source` holds none.

    transformers drops these layers when it saves a model but keeps their number in config.json.
    """
    prefix = f"model.layers.{config.num_layers}."
    if config.num_mtp_layers and not any(name.startswith(prefix) for name in source):
        return config.model_copy(update={"num_mtp_layers": 0})
    return config


def _shaped(model: Transformer) -> dict[str, Tensor]:
    """Every parameter and buffer by name; quantised weights as meta tensors of the shape they stand for."""
    own: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    return own | {
        name: torch.empty(codes.shape, device="meta") for name, codes in quantised_parts(model).items()
    }


def _check_shape(source: TensorSource, slot: Slot, parameter: Tensor) -> None:
    wanted, found = tuple(slot.view(parameter).shape), source.shape(slot.disk)
    if found != wanted:
        raise CheckpointError(
            f"{source.file(slot.disk)}: '{slot.disk}' has shape {found}, the config asks for {wanted}"
        )


def _check_repeated(source: TensorSource, name: str, config: ModelConfig, slots: dict[str, Slot]) -> None:
    """Accept rotary frequencies, and a tied head that really equals the embedding; refuse everything else."""
    if name.endswith("rotary_emb.inv_freq"):
        return
    if name.endswith("lm_head.weight") and config.tie_embeddings:
        embedding = next(
            slot.disk for slot in slots.values() if slot.name == "embed.weight" and not slot.copy
        )
        if embedding in source and torch.equal(source.read(embedding), source.read(name)):
            return
        raise CheckpointError(
            f"{source.file(name)}: config.json ties the embeddings, but '{name}' differs from the embedding"
        )
    raise CheckpointError(
        f"{source.file(name)}: unexpected tensor '{name}'; it is not part of a {config.family} model"
    )
