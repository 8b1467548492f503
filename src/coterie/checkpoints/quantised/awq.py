"""AWQ in its GEMM form: codes and zeros packed along the output, in an unusual order.

The scaling of activations is already part of the neighbouring weights. O outputs, I inputs, B groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from coterie.checkpoints.quantised.affine import Affine, Part
from coterie.checkpoints.quantised.encoded import Parts, Shape, unpacked
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp8 import FLOATS

# A word holds eight neighbouring outputs in the order 0, 2, 4, 6, 1, 3, 5, 7: where each of them is in it.
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


@dataclass(frozen=True)
class Awq(Affine):
    """`weight` int32 (I, O / 8), `zero` int32 (B, O / 8), `scale` (B, O)."""

    def unsigned(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) uint8."""
        return _in_order(parts["weight"])

    def zeros(self, part: Part, shape: Shape) -> Tensor | None:
        """(O, B), as they are stored."""
        stored = part("zero")
        assert stored is not None
        return _in_order(stored)

    def scales(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, B)."""
        return parts["scale"].T


def _in_order(words: Tensor) -> Tensor:
    """(O, N) from words (N, O / 8)."""
    return unpacked(words, 4, words.shape[1] * 8).unflatten(1, (-1, 8))[..., _PLACES].flatten(1).T


def collect(found: Finder) -> None:
    """`X.qweight`, `X.qzeros` and `X.scales` encode `X.weight`.

    Errors: `CheckpointError` for other versions than gemm, other bits than 4, missing parts and wrong shapes.
    """
    settings = found.settings
    version = settings.word("version") or settings.word("format") or "gemm"
    if version != "gemm" or settings.word("backend") == "llm-awq":
        version = version if version != "gemm" else "llm-awq"
        raise settings.refused(f"the AWQ version '{version}' is not read here (gemm is)")
    bits = settings.number("bits", settings.number("w_bit", 4))
    group = settings.number("group_size", settings.number("q_group_size", 128))
    if bits != 4 or (group != -1 and group < 1):
        raise settings.refused(f"{bits} bits in groups of {group} are not read here (AWQ has 4 bits)")
    for codes, stem in list(found.ending(".qweight")):
        name = f"{stem}.weight"
        columns, eighth = found.matrix(found.checked(name, codes, ("I32",)))
        size = columns if group == -1 else group
        count = -(-columns // size)
        found.add(
            name,
            (eighth * 8, columns),
            Awq("awq", bits, size),
            weight=codes,
            scale=found.checked(name, f"{stem}.scales", FLOATS, (count, eighth * 8)),
            zero=found.checked(name, f"{stem}.qzeros", ("I32",), (count, eighth)),
        )
