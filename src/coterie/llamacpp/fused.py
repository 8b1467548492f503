"""Matrices that a file holds as one tensor: queries, keys and values; gate and up; the two halves of `kv_b`.

Some architectures have no other form, some converters fuse for speed, and old files of DeepSeek's have `kv_b`
as it is. What a file holds decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from coterie.families.mapping import View
from coterie.llamacpp.slot import GgufSlot, Shape

QKV, GATE_UP, EXPERTS, KV_B = "attn_qkv", "ffn_up", "ffn_gate_up_exps", "attn_kv_b"
# The one tensor -> those whose rows it holds, in their order.
_PARTS = {
    QKV: ("attn_q", "attn_k", "attn_v"),
    GATE_UP: ("ffn_gate", "ffn_up"),
    EXPERTS: ("ffn_gate_exps", "ffn_up_exps"),
}
_HALVES = ("attn_k_b", "attn_v_b")


def fused(
    slots: Sequence[GgufSlot], always: Collection[str], present: Collection[str], shapes: Mapping[str, Shape]
) -> list[GgufSlot]:
    """The slots with those that share a tensor of the file put into it.

    `always`: the tensors that the architecture has in place of their parts. `present`: the names in the file
    that is read, whose form decides; none for one that is written. `shapes`: of the parameters by name.
    """
    found = {slot.stored: slot for slot in slots}
    result = []
    for slot in slots:
        layer, _, rest = slot.stored.removeprefix("blk.").partition(".")
        part, _, kind = rest.partition(".")
        whole = next((one for one, parts in _PARTS.items() if part in parts), None)
        if part in _HALVES and f"blk.{layer}.{KV_B}.{kind}" in present:
            if part == _HALVES[0]:
                result.append(GgufSlot(f"blk.{layer}.{KV_B}.{kind}", shapes[slot.name], slot.name))
        elif whole is not None and _is_fused(layer, whole, kind, always, present):
            parts = [found[f"blk.{layer}.{one}.{kind}"] for one in _PARTS[whole]]
            result.append(_inside(slot, f"blk.{layer}.{whole}.{kind}", parts, int(whole == EXPERTS)))
        else:
            result.append(slot)
    return result


def _is_fused(layer: str, whole: str, kind: str, always: Collection[str], present: Collection[str]) -> bool:
    if whole == GATE_UP:  # a name that each file has
        return whole in always
    separate = f"blk.{layer}.{_PARTS[whole][0]}.{kind}" in present
    return f"blk.{layer}.{whole}.{kind}" in present or (whole in always and not separate)


def _inside(slot: GgufSlot, stored: str, parts: Sequence[GgufSlot], dim: int) -> GgufSlot:
    """The slot as rows (dimension `dim`) of the tensor `stored`, which holds all `parts` in turn."""
    sizes = [one.shape[dim] for one in parts]
    first = sum(sizes[: next(n for n, one in enumerate(parts) if one.stored == slot.stored)])

    def rows(theirs: View) -> View:
        return lambda tensor: theirs(tensor.narrow(dim, first, slot.shape[dim]))

    shape = (*slot.shape[:dim], sum(sizes), *slot.shape[dim + 1 :])
    pieces = tuple((rows(theirs), ours) for theirs, ours in slot.pieces)
    return replace(
        slot, stored=stored, shape=shape, pieces=pieces, note=", ".join(filter(None, (slot.note, "fused")))
    )
