"""Which tensors on disk are the parameters of mixers with a state, and of attention whose gate is fused.

Several of our matrices may be one tensor on disk, in which the rows of each head stand together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from coterie.config import AttentionConfig, ConfigError
from coterie.config.mixers import DeltaNetConfig, Mamba2Config, ShortConvConfig, StateMixer
from coterie.families.mapping import Slot, View, Within, rows_within


def by_head(num_heads: int, first: int = 0, end: int | None = None) -> View:
    """Rows `first` to `end` of a matrix or vector as (heads, rows of each, ...)."""

    def view(parameter: Tensor) -> Tensor:
        return parameter[first:end].unflatten(0, (num_heads, -1))

    return view


def within_heads(shape: tuple[int, ...], num_heads: int, first: int, end: int) -> Within:
    """Rows `first` to `end` of each head in a tensor on disk of `shape`, (heads, end - first, ...)."""

    def view(stored: Tensor) -> Tensor:
        return stored.unflatten(0, (num_heads, -1))[:, first:end]

    return Within(shape, view)


def interleaved(
    disk: str, num_heads: int, columns: int, parts: list[tuple[str, int, int, int]]
) -> list[Slot]:
    """Slots of one tensor on disk that holds the parts of each head one after another.

    `parts`: (our name, its first and last row, its rows per head), in the order on disk.
    """
    shape = (num_heads * sum(rows for *_, rows in parts), columns)
    slots, at = [], 0
    for name, first, end, rows in parts:
        within = within_heads(shape, num_heads, at, at + rows)
        slots.append(Slot(disk, name, by_head(num_heads, first, end), within=within))
        at += rows
    return slots


def gated_query_slots(disk: str, ours: str, attention: AttentionConfig, width: int) -> list[Slot]:
    """A query projection whose rows are, head by head, those of the query and of the gate."""
    heads, rows = attention.num_heads, attention.head_dim
    parts = [(f"{ours}.{part}.weight", 0, heads * rows, rows) for part in ("q", "gate")]
    return interleaved(f"{disk}.weight", heads, width, parts)


def mixer_slots(disk: str, ours: str, mixer: StateMixer, width: int, names: Mapping[str, str]) -> list[Slot]:
    """A mixer with a state. `names`: its kind -> the name of its module on disk.

    Errors: `ConfigError` for a kind that the family does not have.
    """
    if mixer.kind not in names:
        raise ConfigError(f"a layer is a {mixer.words.split(',')[0]}, which this family does not have")
    disk = f"{disk}.{names[mixer.kind]}"
    if isinstance(mixer, ShortConvConfig):
        return short_conv_slots(disk, ours, mixer)
    if isinstance(mixer, Mamba2Config):
        return mamba_slots(disk, ours, mixer, width)
    return delta_slots(disk, ours, mixer, width, "attention.qkvz" in names)


def short_conv_slots(disk: str, ours: str, mixer: ShortConvConfig) -> list[Slot]:
    """A gated short convolution."""
    parts = {"in_proj": "bcx", "out_proj": "o"}
    kinds = ("weight", "bias") if mixer.bias else ("weight",)
    slots = _named(disk, ours, {f"{a}.{kind}": f"{b}.{kind}" for a, b in parts.items() for kind in kinds})
    slots.append(Slot(f"{disk}.conv.weight", f"{ours}.conv", one_channel))
    return slots + (_named(disk, ours, {"conv.bias": "conv_bias"}) if mixer.bias else [])


def mamba_slots(disk: str, ours: str, mixer: Mamba2Config, width: int) -> list[Slot]:
    """A Mamba-2 layer, whose input projections are one tensor: gate, what is written with its keys, steps."""
    rows = {"z": mixer.output_width, "xbc": mixer.channels, "dt": mixer.num_heads}
    total, at, slots = sum(rows.values()), 0, []
    for part, count in rows.items():
        for kind in ("weight", "bias") if mixer.bias else ("weight",):
            shape = (total, width) if kind == "weight" else (total,)
            within = rows_within(shape, at, at + count)
            slots.append(Slot(f"{disk}.in_proj.{kind}", f"{ours}.{part}.{kind}", within=within))
        at += count
    slots.append(Slot(f"{disk}.conv1d.weight", f"{ours}.conv", one_channel))
    names = {"out_proj.weight": "o.weight"}
    names |= {"out_proj.bias": "o.bias"} if mixer.bias else {}
    names |= {"conv1d.bias": "conv_bias"} if mixer.conv_bias else {}
    exact = {"A_log": "A_log", "dt_bias": "dt_bias", "D": "skip", "norm.weight": "norm.weight"}
    return slots + _named(disk, ours, names) + _named(disk, ours, exact, float32=True)


def delta_slots(disk: str, ours: str, mixer: DeltaNetConfig, width: int, by_key_head: bool) -> list[Slot]:
    """A Gated DeltaNet; `by_key_head`: the input projections are two tensors, key head after key head."""
    heads, copies = mixer.num_key_heads, mixer.num_value_heads // mixer.num_key_heads
    if by_key_head:
        keys, values = mixer.key_dim, copies * mixer.value_dim
        qkv = f"{ours}.qkv.weight"
        starts = [0, heads * keys, 2 * heads * keys, mixer.channels]
        rows = [keys, keys, values]
        parts = [(qkv, starts[i], starts[i + 1], rows[i]) for i in range(3)]
        parts.append((f"{ours}.z.weight", 0, mixer.output_width, values))
        slots = interleaved(f"{disk}.in_proj_qkvz.weight", heads, width, parts)
        pair = [(f"{ours}.{part}.weight", 0, mixer.num_value_heads, copies) for part in "ba"]
        slots += interleaved(f"{disk}.in_proj_ba.weight", heads, width, pair)
    else:
        slots = _named(disk, ours, {f"in_proj_{part}.weight": f"{part}.weight" for part in ("qkv", *"zba")})
    slots += _named(disk, ours, {"out_proj.weight": "o.weight"})
    slots.append(Slot(f"{disk}.conv1d.weight", f"{ours}.conv", one_channel))
    exact = {"A_log": "A_log", "dt_bias": "dt_bias", "norm.weight": "norm.weight"}
    return slots + _named(disk, ours, exact, float32=True)


def one_channel(taps: Tensor) -> Tensor:
    """The taps (C, K) of a convolution of single channels as (C, 1, K)."""
    return taps.unsqueeze(1)


def _named(disk: str, ours: str, names: Mapping[str, str], float32: bool = False) -> list[Slot]:
    return [Slot(f"{disk}.{theirs}", f"{ours}.{own}", float32=float32) for theirs, own in names.items()]
