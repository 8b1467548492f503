"""compressed-tensors, as llm-compressor writes it: whole numbers packed in int32, plain 8 bits, NVFP4, MXFP4.

O rows, I columns of a matrix, B groups of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.quantised.affine import Affine, Part, ordered
from coterie.checkpoints.quantised.encoded import Parts, Shape, packed_words, unpacked
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp4 import add_fp4
from coterie.checkpoints.quantised.fp8 import FLOATS, NUMBERS, scaled
from coterie.checkpoints.quantised.matching import compiled
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.config import CheckpointError

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision", "dense",
)  # fmt: skip
_ACTIVATIONS = (
    ".input_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".output_zero_point",
    ".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point",
)  # fmt: skip


@dataclass(frozen=True)
class Packed(Affine):
    """`weight` int32 (O, I bits / 32), `scale` (O, B) or one, and perhaps `order` (I,) and `zero`.

    A zero is int32 (O bits / 32, B) or int8 (O, B).
    """

    def unsigned(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) uint8."""
        return unpacked(parts["weight"], self.bits, shape[1])

    def zeros(self, part: Part, shape: Shape) -> Tensor | None:
        """(O, B), packed along the rows; None for a symmetric form."""
        stored = part("zero")
        if stored is None:
            return None
        if stored.dtype == torch.int8:
            return stored.to(torch.int16) + self.middle
        return unpacked(stored.T, self.bits, shape[0]).T

    def scales(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, B)."""
        stored = parts["scale"]
        return stored if stored.numel() > 1 else stored.reshape(1, 1).expand(shape[0], 1)

    def groups(self, part: Part, shape: Shape) -> Tensor | None:
        """Each column's group; -1 everywhere says that there is no order."""
        order = part("order")
        return None if order is None or bool((order == -1).any()) else ordered(order, self.group)


def collect(found: Finder) -> None:
    """`X.weight_packed`, or `X.weight` in 8 bits, with `X.weight_scale` and others encode `X.weight`.

    A module with such parts is read by the first group of the config that names it. Errors: `CheckpointError`
    for other formats, a module that no group names, a missing part and wrong shapes.
    """
    schemes = _Schemes(found.settings)
    found.drop(*_ACTIVATIONS)
    for packed, stem in list(found.ending(".weight_packed")):
        found.matrix(packed)
        if found.entries[packed][1].dtype == "U8":
            add_fp4(found, stem, packed, ".weight_global_scale", "compressed-tensors", divides=True)
        else:
            _add_packed(found, stem, packed, schemes.of(stem))
    for name, stem in list(found.weights("I8", *NUMBERS)):
        _add_scaled(found, name, schemes.of(stem))
    found.drop(".weight_shape")


def _add_packed(found: Finder, stem: str, packed: str, scheme: QuantSettings) -> None:
    name, bits = f"{stem}.weight", scheme.number("num_bits")
    found.checked(name, packed, ("I32",))
    if not 1 <= bits <= 8 or scheme.word("type", "int") != "int":
        raise scheme.refused(f"num_bits {bits} of type {scheme.word('type')} is not read here")
    file, entry = found.entries[packed]
    rows, columns = _shape(found, name, f"{stem}.weight_shape")
    wanted = (rows, packed_words(columns, bits))
    if entry.shape != wanted:
        raise CheckpointError(
            f"{file}: '{packed}' has shape {entry.shape}; {(rows, columns)} in {bits} bits needs {wanted}"
        )
    group = _group(scheme, columns)
    count = -(-columns // group)
    shapes = [(rows, count), *([(), (1,), (1, 1)] if count == 1 else [])]
    parts = {"weight": packed, "scale": found.checked(name, f"{stem}.weight_scale", FLOATS, *shapes)}
    zero, order = f"{stem}.weight_zero_point", f"{stem}.weight_g_idx"
    if zero in found.entries or scheme.values.get("symmetric") is False:
        plain = found.place(name, zero)[1].dtype == "I8"
        size = rows if plain else packed_words(rows, bits)
        parts["zero"] = found.checked(name, zero, ("I32", "I8"), (size, count))
    if order in found.entries:
        parts["order"] = found.checked(name, order, ("I32", "I64"), (columns,))
        found_groups = found.files.tensor(order, found.entries[order])
        if not -1 <= int(found_groups.min()) <= int(found_groups.max()) < count:
            raise CheckpointError(f"{file}: '{order}' names groups that '{stem}.weight_scale' lacks")
    found.add(name, (rows, columns), Packed("compressed-tensors", bits, group), **parts)


def _shape(found: Finder, name: str, stored: str) -> tuple[int, int]:
    found.checked(name, stored, ("I64", "I32"), (2,))
    rows, columns = found.files.tensor(stored, found.entries[stored]).tolist()
    if not (0 < rows < 2**31 and 0 < columns < 2**31):
        raise CheckpointError(f"{found.entries[stored][0]}: '{stored}' says {rows, columns}")
    return rows, columns


def _group(scheme: QuantSettings, columns: int) -> int:
    """How many numbers of a row share a scale."""
    if scheme.word("strategy") not in ("group", "tensor_group") and not scheme.values.get("group_size"):
        return columns
    group = scheme.number("group_size")
    if group != -1 and group < 1:
        raise CheckpointError(f"{scheme.where}: group_size is {group}; -1 or a positive number is expected")
    return columns if group == -1 else group


def _add_scaled(found: Finder, name: str, scheme: QuantSettings) -> None:
    stem = name.removesuffix(".weight")
    rows, columns = found.matrix(name)
    bits = scheme.number("num_bits", 8) if found.entries[name][1].dtype == "I8" else 0
    block: tuple[int, int] | None = None
    if scheme.word("strategy") == "block":
        sizes = scheme.values.get("block_structure")
        if not isinstance(sizes, list) or len(sizes) != 2 or not all(type(n) is int and n > 0 for n in sizes):
            raise CheckpointError(f"{scheme.where}: block_structure is {sizes!r}; two sizes are expected")
        block = sizes[0], sizes[1]
    elif scheme.word("strategy") in ("group", "tensor_group"):
        block = 1, _group(scheme, columns)
    kind = f"compressed-tensors int{bits}" if bits else "compressed-tensors fp8"
    form = scaled(found, name, f"{stem}.weight_scale", (rows, columns), block, kind, bits)
    parts = {"weight": name, "scale": f"{stem}.weight_scale"}
    zero = f"{stem}.weight_zero_point"
    if zero in found.entries or scheme.values.get("symmetric") is False:
        shape = found.entries[parts["scale"]][1].shape
        parts["zero"] = found.checked(name, zero, ("I8", *NUMBERS, *FLOATS), shape)
    found.add(name, (rows, columns), form, **parts)


class _Schemes:
    """How each module is quantised: the `weights` of the group whose `targets` name it."""

    def __init__(self, settings: QuantSettings) -> None:
        inner = settings.values.get("quantization_config")
        if "config_groups" not in settings.values and isinstance(inner, dict):
            settings = QuantSettings({**settings.values, **inner}, settings.where)
        self._settings = settings
        sparsity = QuantSettings(settings.table("sparsity_config"), settings.where).word("format", "dense")
        if sparsity != "dense":
            raise settings.refused(f"the sparse format '{sparsity}' is not read here")
        self._groups = [self._group(key, value) for key, value in settings.table("config_groups").items()]
        self._check_format(settings.word("format", "dense"))

    def _check_format(self, text: str) -> None:
        if text not in _FORMATS:
            raise self._settings.refused(f"the format '{text}' is not read here ({', '.join(_FORMATS)} are)")

    def _group(self, key: str, value: Any) -> tuple[list[Any], QuantSettings]:
        where = f"{self._settings.where}.config_groups.{key}"
        group = QuantSettings(value if isinstance(value, Mapping) else {}, where)
        self._check_format(group.word("format", "dense"))
        targets = group.values.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise CheckpointError(f"{where}: targets is {targets!r}; a list of texts is expected")
        named = [
            compiled(target[3:], group) if target.startswith("re:") else target
            for target in targets
        ]  # fmt: skip
        return named, QuantSettings(group.table("weights"), f"{where}.weights")

    def of(self, module: str) -> QuantSettings:
        """The scheme of a module: by its name, then by its class, then the only one there is."""
        for targets, scheme in self._groups:
            for target in targets:
                if target == module or (not isinstance(target, str) and target.match(module)):
                    return scheme
        for targets, scheme in self._groups:
            if "Linear" in targets:
                return scheme
        if len(self._groups) == 1:
            return self._groups[0][1]
        raise CheckpointError(f"{self._settings.where}: no group names '{module}', which is stored quantised")
