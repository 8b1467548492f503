"""GPTQ: codes packed along the input, zeros along the output, and an order of the columns.

O outputs, I inputs, B groups of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coterie.checkpoints.quantised.affine import Affine, Part, ordered
from coterie.checkpoints.quantised.encoded import Parts, Shape, packed_words, unpacked
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp8 import FLOATS
from coterie.checkpoints.quantised.matching import compiled
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.config import CheckpointError

BITS = (2, 3, 4, 8)
_FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero
_OVERRIDES = {"bits", "group_size", "desc_act", "sym", "mse", "damp_percent", "static_groups", "adapter"}


@dataclass(frozen=True)
class Gptq(Affine):
    """`weight` int32 (I bits / 32, O), `zero` int32 (B, O bits / 32), `scale` (B, O), `order` int32 (I,).

    `added`: 1 in the first format, whose files hold zeros less one.
    """

    added: int

    def unsigned(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) uint8."""
        return unpacked(parts["weight"].T, self.bits, shape[1])

    def zeros(self, part: Part, shape: Shape) -> Tensor | None:
        """(O, B). The first format wraps: a stored 2^bits - 1 means 0."""
        stored = part("zero")
        assert stored is not None
        return ((unpacked(stored, self.bits, shape[0]) + self.added) & (2**self.bits - 1)).T

    def scales(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, B)."""
        return parts["scale"].T

    def groups(self, part: Part, shape: Shape) -> Tensor | None:
        """Each input's group, in any order where the weights were quantised by activation."""
        return ordered(part("order"), self.group)


def collect(found: Finder) -> None:
    """`X.qweight`, `X.qzeros`, `X.scales` and perhaps `X.g_idx` encode `X.weight`.

    Errors: `CheckpointError` for other formats, bits that are not 2, 3, 4 or 8, a missing part, wrong shapes
    and groups that do not exist.
    """
    settings = found.settings
    file_format = settings.word("checkpoint_format") or settings.word("format") or "gptq"
    if file_format not in _FORMATS:
        raise settings.refused(
            f"the GPTQ format '{file_format}' is not read here ({', '.join(_FORMATS)} are)"
        )
    rules = _ModuleRules(settings)
    for codes, stem in list(found.ending(".qweight")):
        name = f"{stem}.weight"
        bits, group = rules.of(stem)
        words, rows = found.matrix(found.checked(name, codes, ("I32",)))
        file, columns = found.entries[codes][0], words * 32 // bits
        if words * 32 % bits:
            raise CheckpointError(
                f"{file}: '{codes}' has {words} words, which are not whole codes of {bits} bits"
            )
        group = columns if group == -1 else group
        count = -(-columns // group)
        parts = {
            "weight": codes,
            "scale": found.checked(name, f"{stem}.scales", FLOATS, (count, rows)),
            "zero": found.checked(name, f"{stem}.qzeros", ("I32",), (count, packed_words(rows, bits))),
        }
        if f"{stem}.g_idx" in found.entries:
            parts["order"] = found.checked(name, f"{stem}.g_idx", ("I32", "I64"), (columns,))
            order = found.files.tensor(parts["order"], found.entries[parts["order"]])
            if columns and not 0 <= int(order.min()) <= int(order.max()) < count:
                raise CheckpointError(f"{file}: '{parts['order']}' names groups that '{stem}.scales' lacks")
        found.add(name, (rows, columns), Gptq("gptq", bits, group, _FORMATS[file_format]), **parts)


class _ModuleRules:
    """Bits and group of each module: those of the settings, or of the first rule of `dynamic` that fits."""

    def __init__(self, settings: QuantSettings) -> None:
        self._settings = settings
        self._rules = [
            (compiled(text.removeprefix("+:").removeprefix("-:"), settings), text, self._checked(text, rule))
            for text, rule in settings.table("dynamic").items()
        ]

    def _checked(self, text: str, rule: Any) -> Mapping[str, Any]:
        rule = {} if text.startswith("-:") else rule
        if not isinstance(rule, dict) or not rule.keys() <= _OVERRIDES:
            raise self._settings.refused(f"dynamic rule {text!r} changes more than bits and groups")
        return rule

    def of(self, module: str) -> tuple[int, int]:
        values = self._settings
        for pattern, text, rule in self._rules:
            if pattern.match(module):
                if text.startswith("-:"):
                    raise CheckpointError(
                        f"{values.where}: rule {text!r} leaves out '{module}', which is quantised"
                    )
                values = QuantSettings({**values.values, **rule}, values.where)
                break
        bits, group = values.number("bits"), values.number("group_size", -1)
        if bits not in BITS:
            raise values.refused(f"bits is {bits}; GPTQ is read here with 2, 3, 4 or 8")
        if group != -1 and group < 1:
            raise CheckpointError(
                f"{values.where}: group_size is {group}; -1 or a positive number is expected"
            )
        return bits, group
