"""`coterie convert`: the work behind the verb, and how its receipt reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.checkpoints.convert import RECEIPT, Receipt, convert_directory
from coterie.checkpoints.directory import load_model, locate, read_config, stored_dtype
from coterie.checkpoints.tensor_writer import SHARD_BYTES
from coterie.cli.verify import difference_lines, tell
from coterie.config import CheckpointError, ConfigError, suggest
from coterie.config.files import write_json
from coterie.families import FAMILIES
from coterie.proof.difference import Difference
from coterie.proof.records import load_probes

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def convert(
    model: str, to: str, out: str, dtype: str | None, shard_size: str | None, drop: list[str], as_json: bool
) -> None:
    """Write the model in another directory and print the receipt. Errors: `CoterieError`; nothing is written
    then.
    """
    if to != "hf" and to not in FAMILIES:
        known = ["hf", "gguf", *FAMILIES]
        raise ConfigError(
            f"convert: --to {to} is not known{suggest(to, known) or '; use ' + ', '.join(known)}"
        )
    shard_bytes = SHARD_BYTES if shard_size is None else parse_size(shard_size)
    receipt = convert_directory(model, Path(out), None if to == "hf" else to, dtype, shard_bytes, drop, tell)
    print(json.dumps(receipt.to_dict()) if as_json else "\n".join(receipt_lines(receipt)))


def refuse_options(options: Mapping[str, Any], to: str) -> None:
    """Options that have no meaning for a target are errors, not ignored."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"convert: {name} has no meaning with --to {to}; leave it out")


def convert_gguf(model: str, out: str, quant: str, outputs: bool, as_json: bool) -> None:
    """Write one GGUF file and print the receipt, which stands beside it as `NAME.receipt.json`.

    `outputs`: put the file's numbers back into the model and compare its answers (needs the model in
    float32).
    """
    from coterie.gguf.export import export_gguf

    file = Path(out)
    if file.suffix != ".gguf":
        raise ConfigError(f"convert: --out {out} must be the name of the file to write, such as model.gguf")
    if file.exists():
        raise CheckpointError(f"{file}: exists already; choose another --out or remove it")
    directory = locate(model)
    if load_probes(directory) is not None:
        loaded = load_model(directory, dtype=stored_dtype(directory, read_config(directory)), check=True)
        del loaded
    written = export_gguf(directory, file, quant, tell)
    found = None
    if outputs:
        from coterie.gguf.readback import gguf_difference

        tell("comparing answers")
        found = gguf_difference(directory, file)
    receipt = {"source": model, **written.to_dict(), "difference": None if found is None else found.to_dict()}
    beside = file.with_suffix(".receipt.json")
    write_json(beside, receipt, indent=2)
    print(
        json.dumps(receipt)
        if as_json
        else "\n".join([*_gguf_lines(receipt, found), f"receipt           {beside}"])
    )


def _gguf_lines(receipt: dict[str, Any], found: Difference | None) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in receipt["tensors"].items())
    lines = [
        f"{receipt['file']}: {receipt['architecture']} in {receipt['quant']}, {receipt['bytes'] / 1e6:,.1f} MB",
        f"tensors           {kinds}; {receipt['checked']} read back and compared",
    ]
    for kind, error in receipt["errors"].items():
        if error["largest"]:
            lines.append(
                f"rounded           {kind}: {error['relative_rms']:.2g} of their size (root mean square)"
            )
    lines += [
        f"kept in {kept['type']:<10}{len(kept['tensors'])} tensors: {kept['reason']}"
        for kept in receipt["kept"]
    ]
    lines += [f"Ollama            {receipt['modelfile']}"] if receipt.get("modelfile") else []
    lines += [f"left out          {name}" for name in receipt["left_out"]]
    lines += [f"differs           {line}" for line in receipt["differences"]]
    if found is None:
        return [*lines, "answers           not compared, as asked"]
    return [*lines, "answers of the file's numbers against the model's:", *difference_lines(found)]


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
