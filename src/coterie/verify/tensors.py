"""Compare two checkpoints tensor by tensor: name the first that differs and guess what happened to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import CheckpointError, ModelConfig
from coterie.families import family


@dataclass(frozen=True)
class TensorWalk:
    """The result of comparing all tensors of two checkpoints.

    `first`: name of the first tensor that differs, in the family's order; `what`: how, in words ("" for
    none). Tensors stored in different types are compared after rounding to the coarser one; `rounded` counts
    those.
    """

    compared: int
    differing: int
    rounded: int
    first: str | None
    what: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def compare_tensors(a: Checkpoint, b: Checkpoint) -> TensorWalk:
    """Compare all tensors of two checkpoints of one family, one pair in memory at a time.

    Errors: `CheckpointError` when the families differ (their tensors have no common names), or a file is
    damaged.
    """
    config, other = a.config, b.config
    if config.family != other.family:
        raise CheckpointError(
            f"{a.path} is {config.family} and {b.path} is {other.family}: their tensors have no common "
            "names; compare outputs"
        )
    ours, theirs = a.tensors, b.tensors
    slots = family(config.family).slots(config)
    needed = {slot.disk for slot in slots if not slot.copy}
    in_order = [slot.disk for slot in slots if slot.disk in ours or slot.disk in theirs]
    compared = differing = rounded = 0
    first, what = None, ""
    for name in sorted(dict.fromkeys([*in_order, *ours, *theirs]), key=_depth):
        if (
            not (name in ours and name in theirs)
            and name not in needed
            and not name.startswith(_carried(config))
        ):
            continue  # a copy that one side repeats; loading has shown that it is one
        compared += 1
        pair = _pair(name, ours, theirs)
        rounded += pair is not None and ours.dtype(name) != theirs.dtype(name)
        if pair is not None and torch.equal(*pair):
            continue
        differing += 1
        if first is None:
            first, what = name, _explain(name, pair, ours, theirs)
    return TensorWalk(compared, differing, rounded, first, what)


def _carried(config: ModelConfig) -> tuple[str, ...]:
    return family(config.family).carries(config) or ("\0",)


def _depth(name: str) -> int:
    """The place of a tensor in the model: embedding, then layers in order, then everything after them."""
    layer = re.search(r"\blayers\.(\d+)\.", name)
    return int(layer[1]) if layer else -1 if "embed" in name else 1 << 30


def _pair(name: str, ours: TensorSource, theirs: TensorSource) -> tuple[Tensor, Tensor] | None:
    """Both tensors in the coarser of their types, or None where one is missing or of another shape."""
    if name not in ours or name not in theirs or ours.shape(name) != theirs.shape(name):
        return None
    a, b = ours.read(name), theirs.read(name)
    coarser = min(a.dtype, b.dtype, key=_precision)
    return a.to(coarser), b.to(coarser)


def _precision(dtype: torch.dtype) -> float:
    return -torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _explain(name: str, pair: tuple[Tensor, Tensor] | None, ours: TensorSource, theirs: TensorSource) -> str:
    """A simple change that turns A's tensor into B's, in words; the relative difference if there is none."""
    if pair is None:
        for side, stored in (("A", ours), ("B", theirs)):
            if name not in stored:
                return f"is missing in {side}"
        return f"has shape {ours.shape(name)} in A and {theirs.shape(name)} in B"
    a, b = (tensor.float() for tensor in pair)
    for side, tensor in (("A", a), ("B", b)):
        if not bool(tensor.any()):
            return f"is all zeros in {side}"
    for change, candidate in _changes(a):
        if candidate.shape == b.shape and torch.equal(candidate, b):
            return change
    for other in _neighbours(name, a, ours):
        if torch.equal(ours.read(other).float(), b):
            return f"holds in B what A calls '{other}'"
    if a.dim() == 3 and (found := _experts(a, b)):
        return found
    scale = float((a * b).double().sum() / (a * a).double().sum())
    if abs(scale - 1) > 0.01 and torch.allclose(a * scale, b, rtol=1e-2, atol=1e-6 * float(b.abs().max())):
        return f"is A's times {scale:.4g}"
    share = float((a - b).double().norm() / a.double().norm())
    return f"differs by {share:.2g} of its size, {float((a - b).abs().max()):.3g} at most"


def _experts(a_EXY: Tensor, b_EXY: Tensor) -> str:
    """Which experts of a stacked tensor differ, if not all do, or that only their order differs; else ""."""
    wrong = [e for e, (x, y) in enumerate(zip(a_EXY, b_EXY, strict=True)) if not torch.equal(x, y)]
    starts = a_EXY.flatten(1)[:, :256]
    if all(bool((starts == b_EXY[expert].flatten()[:256]).all(1).any()) for expert in wrong):
        return "holds A's experts in another order in B"
    if len(wrong) == len(a_EXY):
        return ""
    listed = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
    zero = not any(bool(b_EXY[expert].any()) for expert in wrong)
    return f"differs in expert(s) {listed} of {len(a_EXY)}" + (", all zeros in B" if zero else "")


def _changes(a: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Common mistakes of conversions, applied to A's tensor."""
    if a.dim() < 2:
        return
    yield "is transposed in B", a.transpose(-1, -2)
    for axis in (-1, -2):
        if a.shape[axis] % 2 == 0:
            one, two = a.chunk(2, axis)
            yield "has its halves (gate and up) exchanged in B", torch.cat((two, one), axis)
    if a.shape[-1] % 2 == 0:
        yield "is interleaved in B", torch.stack(a.chunk(2, -1), -1).flatten(-2)


def _neighbours(name: str, a: Tensor, ours: TensorSource) -> Iterator[str]:
    """Other tensors of the same layer and shape, which a wrong name could have picked."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    prefix = ".".join(parts[: place + 1]) + "." if place is not None else ""
    for other in ours:
        if other != name and other.startswith(prefix) and ours.shape(other) == tuple(a.shape):
            yield other
