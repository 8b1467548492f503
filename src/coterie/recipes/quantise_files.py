"""Write a model's tensors in codes, one matrix in memory at a time, as compressed-tensors lays them out.

`X.weight_packed`, `X.weight_scale` and `X.weight_shape` take the place of `X.weight`. The codes and scales
are those that loading with the same `Precision` makes. What is not in codes is written as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.fill import Skeleton
from coterie.checkpoints.quantise import (
    MatrixRounding,
    of_rows,
    quantised_parts,
    read_quantised,
    types_of,
)
from coterie.checkpoints.quantised.encoded import packed, packed_words
from coterie.checkpoints.tensor_source import TensorSource
from coterie.checkpoints.tensor_writer import TensorToWrite
from coterie.config import ConfigError, Precision
from coterie.families import Slot, family
from coterie.nn.quantised_tensor import QuantisedTensor

_FORMAT = "pack-quantized"
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class FilesToWrite:
    """The tensors of a quantised directory, made one by one, and what config.json says of them.

    `description`: the `quantization_config`. `rounding`: counts what becomes of the matrices as they are
    made. `left_out`: tensors that repeat or follow from others. `one_dense_form`: whether all that is not a
    routed expert has the same bits. `targets`: our names of what is in codes; `slots`: where each lies on
    disk. `ready`: words and scales of tensors on disk that are made otherwise than by rounding each number
    alone; they may be added until the tensor is written.
    """

    pieces: list[TensorToWrite]
    description: dict[str, Any]
    rounding: MatrixRounding
    left_out: tuple[str, ...]
    one_dense_form: bool
    targets: dict[str, QuantisedTensor]
    slots: tuple[Slot, ...]
    ready: dict[str, tuple[Tensor, Tensor]]


@dataclass
class _Coded:
    """A matrix on disk on its way into codes; both parts come from one rounding."""

    source: TensorSource
    name: str
    bits: int
    block: int
    rounding: MatrixRounding
    ready: dict[str, tuple[Tensor, Tensor]]
    made: dict[str, Tensor] = field(default_factory=dict)

    def pieces(self, stem: str) -> list[TensorToWrite]:
        """The three tensors that take the place of `stem`.weight."""
        rows, columns = self.source.shape(self.name)
        shape = torch.tensor([rows, columns])
        words, blocks = (rows, packed_words(columns, self.bits)), (rows, columns // self.block)
        return [
            TensorToWrite(f"{stem}.weight_packed", torch.int32, words, partial(self._take, "packed")),
            TensorToWrite(f"{stem}.weight_scale", torch.bfloat16, blocks, partial(self._take, "scale")),
            TensorToWrite(f"{stem}.weight_shape", torch.int64, (2,), lambda: shape),
        ]

    def _take(self, part: str) -> Tensor:
        if self.name in self.ready:
            self.made = dict(zip(("packed", "scale"), self.ready.pop(self.name), strict=True))
        if part not in self.made:
            codes = QuantisedTensor(self.source.shape(self.name), self.bits, self.block)
            read_quantised(self.source, Slot(self.name, self.name), codes, self.rounding)
            self.made = {"packed": packed(codes.signed(), self.bits), "scale": codes.scales}
        return self.made.pop(part)


def plan_files(checkpoint: Checkpoint, precision: Precision) -> FilesToWrite:
    """Decide the form of every tensor of a checkpoint; nothing is read but headers.

    Errors: `ConfigError` naming a class or tensor that cannot be written so: blocks that do not fill a row,
    experts that are one tensor on disk, a head that is the embedding; `CheckpointError` as for loading.
    """
    made = checkpoint.skeleton(checkpoint.stored_dtype, None, precision)
    source, rounding, ready = checkpoint.tensors, MatrixRounding(), dict[str, tuple[Tensor, Tensor]]()
    _check_head(made, precision)
    _check_experts(made.placement.slots, source)
    by_disk: dict[str, list[Slot]] = {}
    for slot in (*made.placement.slots, *made.placement.copies):
        by_disk.setdefault(slot.disk, []).append(slot)
    names = _output_names(checkpoint, [*by_disk, *made.placement.carried])
    parts, types = quantised_parts(made.model), types_of(made.model, precision)
    pieces: list[TensorToWrite] = []
    coded: dict[str, int] = {}
    plain: list[str] = []
    for name in source:
        if name not in names:
            continue
        bits = _bits(name, by_disk.get(name, ()), parts, source)
        stem = names[name].removesuffix(".weight")
        if bits is None:
            wanted = {types[slot.name] for slot in by_disk.get(name, ()) if slot.name in types}
            dtype = wanted.pop() if len(wanted) == 1 else source.dtype(name)
            make = partial(_plain, source, name, dtype)
            pieces.append(TensorToWrite(names[name], dtype, source.shape(name), make))
            if names[name].endswith(".weight") and len(source.shape(name)) == 2 and name in by_disk:
                plain += [stem] if by_disk[name][0].name != "embed.weight" else []
            continue
        _check_blocks(name, source.shape(name)[1], precision.block)
        pieces += _Coded(source, name, bits, precision.block, rounding, ready).pieces(stem)
        coded[stem] = bits
    if not coded:
        raise ConfigError(f"quantise: {precision} puts no weight in codes; name int8 or int4")
    chosen = family(checkpoint.config.family)
    ignored = [*plain, *([] if "lm_head" in (*plain, *coded) else ["lm_head"])]
    description = _description(
        coded, ignored, chosen.carries(made.model.config), chosen.memory_names, precision
    )
    dense = {bits for stem, bits in coded.items() if not _EXPERT.search(stem)}
    return FilesToWrite(
        pieces,
        description,
        rounding,
        made.placement.ignored,
        len(dense) < 2,
        parts,
        (*made.placement.slots, *made.placement.copies),
        ready,
    )


def _plain(source: TensorSource, name: str, dtype: torch.dtype) -> Tensor:
    return source.read(name).to(dtype)


def _output_names(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """Tensors by their family's names -> what the result calls them.

    That is what the files call them, unless several are parts of one tensor there.
    """
    stored = {name: checkpoint.tensors.stored_name(name) for name in names}
    if max(Counter(stored.values()).values(), default=0) > 1:
        return dict(zip(names, names, strict=True))
    return stored


def _check_head(made: Skeleton, precision: Precision) -> None:
    if precision.bits("head") is None:
        return
    if made.model.config.tie_embeddings:
        raise ConfigError("quantise: the head is the embedding, which stays as it is; leave head out")
    if made.placement.copies:
        raise ConfigError(
            "quantise: layers for multi-token prediction repeat the head; leave head out, or leave them "
            "behind first (coterie convert --drop mtp)"
        )


def _check_experts(slots: Iterable[Slot], source: TensorSource) -> None:
    """Refuse experts that are one tensor on disk, even where they stay plain.

    Readers build the model of a compressed-tensors directory with experts one by one.
    """
    for slot in slots:
        if ".experts." in slot.name and len(source.shape(slot.disk)) > 2:
            raise ConfigError(
                f"quantise: '{slot.disk}' is one tensor of all experts, which compressed-tensors has no form "
                "for; hold them so while serving (coterie serve --quant)"
            )


def _bits(
    name: str, slots: Sequence[Slot], parts: Mapping[str, QuantisedTensor], source: TensorSource
) -> int | None:
    """The bits of a tensor on disk; None for a plain one. Errors: `ConfigError`, see `plan_files`."""
    targets = [parts.get(slot.name) for slot in slots]
    bits = {None if target is None else target.bits for target in targets}
    if bits <= {None}:
        return None
    if len(bits) > 1:
        raise ConfigError(f"quantise: '{name}' holds weights of several classes; give them one form")
    for slot, target in zip(slots, targets, strict=True):
        if target is None or not of_rows(slot, target.shape, source) or not name.endswith(".weight"):
            raise ConfigError(f"quantise: '{name}' is not stored row by row; leave its class out")
    return bits.pop()


def _check_blocks(name: str, columns: int, block: int) -> None:
    if columns % block == 0 and block % 2 == 0:
        return
    fitting = [size for size in (128, 64, 32, 16, 8, 4, 2) if columns % size == 0 and size <= block]
    what = f"; give block={fitting[0]}" if fitting else "; leave its class out"
    raise ConfigError(
        f"quantise: '{name}' has rows of {columns}, which blocks of {block} do not fill evenly{what}"
    )


def _description(
    coded: Mapping[str, int],
    ignored: Iterable[str],
    carried: Sequence[str],
    memory: Sequence[tuple[str, str]],
    precision: Precision,
) -> dict[str, Any]:
    """The `quantization_config`: one group of modules for each number of bits, those of experts first.

    Readers take a module's group by its name, and experts that they hold as one tensor by the first group
    that speaks of experts or of every linear layer. `memory`: how transformers calls parts of names.
    """
    forms = sorted(set(coded.values()), key=lambda bits: not _of_experts(coded, bits))
    groups = {}
    for number, bits in enumerate(forms):
        targets = _patterns((stem for stem, own in coded.items() if own == bits), memory)
        if len(forms) == 1:
            targets = ["Linear"]
        elif number == 0 and _of_experts(coded, bits):
            targets.append("Linear")
        groups[f"group_{number}"] = {
            "targets": targets,
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": precision.block,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": _FORMAT,
        }
    outside = [f"re:.*{re.escape(prefix)}.*" for prefix in carried if "layers." not in prefix]
    return {
        "quant_method": "compressed-tensors",
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [*_patterns(ignored, memory), *outside],
    }


def _of_experts(coded: Mapping[str, int], bits: int) -> bool:
    return any(own == bits and _EXPERT.search(stem) for stem, own in coded.items())


def _patterns(stems: Iterable[str], memory: Sequence[tuple[str, str]]) -> list[str]:
    """Rules for the names of modules, any number of a layer or expert, also as transformers calls them."""
    found: dict[str, None] = {}
    for stem in stems:
        for name in (stem, *(stem.replace(ours, theirs) for theirs, ours in memory if ours in stem)):
            place = name.find("layers.")
            if place < 0:
                found[name] = None
                continue
            text = re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name[place:]))
            # transformers takes a group that says "experts" for that of the routed ones.
            found[f"re:.*{text.replace('shared_experts', 'shared_expert[s]')}$"] = None
    return list(found)
