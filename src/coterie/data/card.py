"""The data card: what a corpus holds, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from coterie.data.shards import Shards


@dataclass(frozen=True)
class SliceCount:
    """Documents, UTF-8 bytes of text and tokens (leading end-of-text included) of one slice."""

    documents: int
    num_bytes: int
    tokens: int


@dataclass(frozen=True)
class DataCard:
    """What `prepare` read, left out and wrote.

    `train` counts a document as often as an epoch shows it (mixture weights); `heldout` counts each once.
    """

    read_documents: int
    read_bytes: int
    dropped: dict[str, int]
    train: dict[str, SliceCount]
    heldout: dict[str, SliceCount]
    vocab_size: int
    tokenizer_sha256: str
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def total(self, side: str) -> SliceCount:
        """Sum over the slices of `train` or `heldout`."""
        counts = (self.train if side == "train" else self.heldout).values()
        return SliceCount(
            sum(c.documents for c in counts), sum(c.num_bytes for c in counts), sum(c.tokens for c in counts)
        )

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token, on held-out text (on which the tokenizer was not trained)."""
        heldout = self.total("heldout")
        return heldout.num_bytes / heldout.tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, derived numbers included."""
        totals = {side: asdict(self.total(side)) for side in ("train", "heldout")}
        return {
            **asdict(self),
            "notes": list(self.notes),
            "totals": totals,
            "bytes_per_token": self.bytes_per_token,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DataCard:
        """The inverse of `to_dict`."""
        values = {name: data[name] for name in DataCard.__dataclass_fields__}
        for side in ("train", "heldout"):
            values[side] = {name: SliceCount(**count) for name, count in data[side].items()}
        return DataCard(**{**values, "notes": tuple(data["notes"])})

    def to_text(self) -> str:
        """A table for people."""
        lines = [f"read     {self.read_documents:>9,} documents  {self.read_bytes:>13,} bytes"]
        lines += [f"dropped  {count:>9,} {reason}" for reason, count in sorted(self.dropped.items()) if count]
        for side in ("train", "heldout"):
            total = self.total(side)
            lines.append(
                f"{side:<8} {total.documents:>9,} documents  {total.num_bytes:>13,} bytes  "
                f"{total.tokens:>12,} tokens"
            )
            counts = self.train if side == "train" else self.heldout
            for name, count in sorted(counts.items(), key=lambda item: (-item[1].num_bytes, item[0])):
                share = count.num_bytes / max(total.num_bytes, 1)
                lines.append(
                    f"  {name:<24} {count.documents:>9,} {count.num_bytes:>13,} {count.tokens:>12,} "
                    f"{share:>6.1%}"
                )
        lines.append(
            f"tokenizer {self.vocab_size:,} ids, {self.bytes_per_token:.2f} bytes per token on held-out text"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def count_slices(shards: Shards) -> dict[str, SliceCount]:
    """Documents, bytes and tokens of every slice in `shards`."""
    tokens = shards.starts[1:] - shards.starts[:-1]
    counts = {}
    for number, name in enumerate(shards.slice_names):
        chosen = shards.slices == number
        counts[name] = SliceCount(
            int(chosen.sum()), int(shards.num_bytes[chosen].sum(dtype="int64")), int(tokens[chosen].sum())
        )
    return counts
