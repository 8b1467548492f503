"""Parameters of mixers with a state, and of gated attention, as llama.cpp's tensors.

R rows, I numbers in a row, C channels, K taps, H heads, G groups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from coterie.config import AttentionConfig
from coterie.config.mixers import DeltaNetConfig, Mamba2Config, ShortConvConfig, StateMixer
from coterie.families.mapping import View, whole
from coterie.llamacpp.slot import GgufSlot, Shape, StoredAs

Pieces = tuple[tuple[View, View], ...]


def _decays(logarithms: Tensor) -> Tensor:
    return -logarithms.double().exp().float()


def _logarithms(decays: Tensor) -> Tensor:
    """What `_decays` was given, to within 2^-24 times 1 plus its magnitude; exactly, where it was bfloat16.

    Several numbers of float32 have the same exponential: of those, one that bfloat16 holds was meant.
    """
    found = (-decays).double().log().float()
    short = found.bfloat16().float()
    return torch.where(_decays(short) == decays, short, found)


NEGATED_EXPONENTIAL = StoredAs("minus the exponential", _decays, _logarithms, slack=2.0**-22)


@dataclass(frozen=True)
class MixedLayers:
    """How an architecture has layers that keep a state of the `kind` of their config.

    `counted`: the number of key heads is stated layer by layer, 0 where a state is kept; otherwise every n-th
    layer attends, n in a key. `rope_switch`: a key says whether there are positions. `sections`: states which
    angles are those of time, height and width. `any_width`: Mamba-2 may be of another width than twice the
    model's. `usual_step`: the lower limit of Mamba-2's time steps in published models. llama.cpp applies
    none, and its converters write none (None: no model of the architecture has one).

    Tensors. `gated`: the matrix of the queries holds their gate, head by head. `tiled`: value heads of the
    delta rule stand copy by copy, each with all key heads; otherwise the copies of a key head stand together.
    `pair`: strength and decay of the delta rule are one tensor, key head by key head.
    """

    kind: Literal["short_conv", "gated_delta", "mamba2"]
    counted: bool = False
    rope_switch: bool = False
    sections: bool = False
    any_width: bool = False
    usual_step: float | None = None
    gated: bool = False
    tiled: bool = False
    pair: bool = False


def mixer_slots(
    mixer: StateMixer,
    mixed: MixedLayers | None,
    prefix: str,
    ours: str,
    shapes: Mapping[str, Shape],
    present: Collection[str] = (),
) -> list[GgufSlot]:
    """The mixer named `ours`, as tensors whose names begin with `prefix`; none without a place there.

    `present`: the names in the file that is read, which may be of an older form.
    """
    if mixed is None or mixer.kind != mixed.kind:
        return []
    if isinstance(mixer, ShortConvConfig):
        slots = [GgufSlot(f"shortconv.{name}.weight", (), part) for part, name in _SHORT_CONV.items()]
    elif isinstance(mixer, Mamba2Config):
        slots = _mamba_slots(mixer, shapes[f"{ours}.z.weight"][1])
    else:
        width = shapes[f"{ours}.z.weight"][1]
        slots = _delta_slots(mixer, mixed, width)
        if f"{prefix}{_JOINED}" in present:
            slots = [*(slot for slot in slots if slot.name not in _PROJECTIONS), *_joined(mixer, width)]
    placed = [replace(slot, stored=prefix + slot.stored, name=f"{ours}.{slot.name}") for slot in slots]
    return [replace(slot, shape=slot.shape or shapes[slot.name]) for slot in placed if slot.name in shapes]


def gated_query(
    name: str, stored: str, attention: AttentionConfig, width: int, part: Literal["q", "gate"]
) -> GgufSlot:
    """The queries or their gate, in one matrix whose rows are those of both, head by head."""
    heads, rows = attention.num_heads, attention.head_dim
    first = 0 if part == "q" else rows

    def theirs(matrix: Tensor) -> Tensor:
        return matrix.unflatten(0, (heads, 2 * rows))[:, first : first + rows]

    pieces = ((theirs, _by(heads)),)
    return GgufSlot(stored, (2 * heads * rows, width), name, pieces, note="queries and gates, head by head")


_PROJECTIONS, _JOINED = ("qkv.weight", "z.weight"), "ssm_in.weight"
_SHORT_CONV = {"bcx.weight": "in_proj", "conv": "conv", "o.weight": "out_proj"}


def _mamba_slots(mixer: Mamba2Config, width: int) -> list[GgufSlot]:
    rows = {"z": mixer.output_width, "xbc": mixer.channels, "dt": mixer.num_heads}
    total, at, slots = sum(rows.values()), 0, []
    for part, count in rows.items():
        pieces = ((_rows(at, at + count), whole),)
        slots.append(GgufSlot("ssm_in.weight", (total, width), f"{part}.weight", pieces))
        at += count
    column, groups = (mixer.num_heads, 1), (mixer.groups, mixer.output_width // mixer.groups)
    decays = GgufSlot("ssm_a", column, "A_log", ((_flat, whole),), change=NEGATED_EXPONENTIAL)
    return [
        *slots,
        GgufSlot("ssm_conv1d.weight", (), "conv"),
        GgufSlot("ssm_conv1d.bias", (), "conv_bias"),
        GgufSlot("ssm_dt.bias", (), "dt_bias"),
        decays,
        GgufSlot("ssm_d", column, "skip", ((_flat, whole),)),
        GgufSlot("ssm_norm.weight", groups, "norm.weight", ((_flat, whole),)),
        GgufSlot("ssm_out.weight", (), "o.weight"),
    ]


def _delta_slots(mixer: DeltaNetConfig, mixed: MixedLayers, width: int) -> list[GgufSlot]:
    keys = 2 * mixer.num_key_heads * mixer.key_dim
    pieces = _tiled(mixer, keys, mixer.value_dim) if mixed.tiled else ((whole, whole),)
    values = _tiled(mixer, 0, mixer.value_dim) if mixed.tiled else ((whole, whole),)
    heads = _tiled(mixer, 0, 1) if mixed.tiled else ((whole, whole),)
    note = "value heads copy by copy" if heads != ((whole, whole),) else ""
    slots = [
        GgufSlot("attn_qkv.weight", (), "qkv.weight", pieces),
        GgufSlot("attn_gate.weight", (), "z.weight", values),
        GgufSlot("ssm_conv1d.weight", (), "conv", pieces),
        GgufSlot("ssm_dt.bias", (), "dt_bias", heads),
        GgufSlot("ssm_a", (), "A_log", heads, change=NEGATED_EXPONENTIAL),
        GgufSlot("ssm_out.weight", (), "o.weight", _columns(values)),
    ]
    if mixed.pair:
        slots += [_half_of_pair(mixer, width, part) for part in ("b", "a")]
    else:
        slots.append(GgufSlot("ssm_beta.weight", (), "b.weight", heads))
        slots.append(GgufSlot("ssm_alpha.weight", (), "a.weight", heads))
    slots = [replace(slot, note=slot.note or note) for slot in slots]
    return [*slots, GgufSlot("ssm_norm.weight", (), "norm.weight")]


def _joined(mixer: DeltaNetConfig, width: int) -> list[GgufSlot]:
    """Projections as Qwen3-Next's first files have them: queries, keys, values and gates of each key head."""
    heads, keys = mixer.num_key_heads, mixer.key_dim
    values = mixer.value_dim * mixer.num_value_heads // heads
    ends = [0, keys, 2 * keys, 2 * keys + values, 2 * (keys + values)]
    places = [lambda stored, i=i: _by(heads)(stored)[:, ends[i] : ends[i + 1]] for i in range(4)]
    rows = [_rows(heads * ends[i], heads * ends[i + 1]) for i in range(3)]
    parts = tuple((place, _then(chosen, _by(heads))) for place, chosen in zip(places[:3], rows, strict=True))
    shape, note = (heads * ends[-1], width), "key head by key head"
    return [
        GgufSlot(_JOINED, shape, "qkv.weight", parts, note=note),
        GgufSlot(_JOINED, shape, "z.weight", ((places[3], _by(heads)),), note=note),
    ]


def _half_of_pair(mixer: DeltaNetConfig, width: int, part: str) -> GgufSlot:
    """Strengths (`b`) or decays (`a`) in a tensor that holds those of each key head together."""
    heads, copies = mixer.num_key_heads, mixer.num_value_heads // mixer.num_key_heads
    first = 0 if part == "b" else copies

    def theirs(stored: Tensor) -> Tensor:
        return stored.unflatten(0, (heads, 2 * copies))[:, first : first + copies]

    shape, note = (2 * mixer.num_value_heads, width), "strengths and decays, key head by key head"
    return GgufSlot("ssm_ba.weight", shape, f"{part}.weight", ((theirs, _by(heads)),), note=note)


def _tiled(mixer: DeltaNetConfig, first: int, rows: int) -> Pieces:
    """Rows from `first` on are those of value heads, `rows` each; the others stay where they are."""
    heads, copies = mixer.num_key_heads, mixer.num_value_heads // mixer.num_key_heads
    if copies == 1 or heads == 1:
        return ((whole, whole),)

    def theirs(stored: Tensor) -> Tensor:
        return stored[first:].unflatten(0, (copies, heads, rows))

    def ours(parameter: Tensor) -> Tensor:
        return parameter[first:].unflatten(0, (heads, copies, rows)).transpose(0, 1)

    tiled = ((theirs, ours),)
    return tiled if first == 0 else ((_rows(0, first), _rows(0, first)), *tiled)


def _columns(pieces: Pieces) -> Pieces:
    """Pieces of rows as pieces of columns."""
    if pieces == ((whole, whole),):
        return pieces
    return tuple((_transposed(theirs), _transposed(ours)) for theirs, ours in pieces)


def _transposed(view: View) -> View:
    return lambda matrix: view(matrix.T)


def _then(first: View, second: View) -> View:
    return lambda tensor: second(first(tensor))


def _rows(first: int, end: int) -> View:
    return lambda tensor: tensor[first:end]


def _by(heads: int) -> View:
    return lambda tensor: tensor.unflatten(0, (heads, -1))


def _flat(stored: Tensor) -> Tensor:
    return stored.view(-1)
