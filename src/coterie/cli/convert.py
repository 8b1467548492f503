"""`coterie convert`: the work behind the verb, and how its receipt reads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from coterie.cli.verify import difference_lines
from coterie.config import ConfigError, suggest
from coterie.families import FAMILIES
from coterie.weights.convert import RECEIPT, Receipt, convert_directory
from coterie.weights.write import SHARD_BYTES

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def convert(
    model: str, to: str, out: str, dtype: str | None, shard_size: str | None, drop: list[str], as_json: bool
) -> None:
    """Write the model in another form and print the receipt. Errors: `CoterieError`, one line; nothing is written."""
    if to != "hf" and to not in FAMILIES:
        known = ["hf", *FAMILIES]
        raise ConfigError(f"convert: --to {to} is not known{suggest(to, known) or '; use ' + ', '.join(known)}")
    shard_bytes = SHARD_BYTES if shard_size is None else parse_size(shard_size)
    receipt = convert_directory(model, Path(out), None if to == "hf" else to, dtype, shard_bytes, drop, _tell)
    print(json.dumps(receipt.to_dict()) if as_json else "\n".join(receipt_lines(receipt)))


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB` or `200MB`. Errors: `ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(kb|mb|gb)", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"convert: --shard-size '{text}' is no size; write it as 5GB or 200MB")
    return int(float(match[1]) * _UNITS[match[2]])


def receipt_lines(receipt: Receipt) -> list[str]:
    """The receipt in words."""
    old, new = receipt.family
    kind = "lossless" if receipt.lossless else "not lossless"
    lines = [f"{receipt.out}: {new} in {receipt.dtype[1]}, from {old} in {receipt.dtype[0]}; {kind}"]
    names = [(_names(row["from"]), _names(row["to"])) for row in receipt.mapped]
    renamed = [(before, after) for before, after in names if before != after]
    lines.append(f"tensors           {receipt.tensors} written, read back and compared bit for bit")
    lines += [f"mapped            {before or 'nothing'} -> {after or 'nothing'}" for before, after in renamed]
    lines += [f"changed           {change}" for change in receipt.changes]
    rounding = receipt.rounding
    if rounding.tensors:
        lines.append(
            f"rounded           {rounding.numbers:,} numbers in {rounding.tensors} tensors, by {rounding.relative:.2g} "
            f"of their size at most" + (f"; {rounding.vanished:,} became 0" if rounding.vanished else "")
        )
    lines += [f"copied            {', '.join(receipt.copied)}"] if receipt.copied else []
    lines += [f"left out          {', '.join(receipt.left_out)}"] if receipt.left_out else []
    lines += difference_lines(receipt.difference)
    return [*lines, f"receipt           {Path(receipt.out) / RECEIPT}"]


def _names(patterns: dict[str, int]) -> str:
    return ", ".join(f"{name} (x{count})" if count > 1 else name for name, count in patterns.items())


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
