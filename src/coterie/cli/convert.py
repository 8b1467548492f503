"""`coterie convert`: write a model in another layout or format, and print its receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json, Model, parse_bytes
from coterie.cli.output import answer, note
from coterie.cli.verify import difference_lines

if TYPE_CHECKING:
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.checkpoints.convert import ConversionReceipt
    from coterie.proof.difference import Difference


_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Read a key of the file as this value: deepseek2.expert_group_count=8 (null: as absent).",
        rich_help_panel="Only with a GGUF file",
    ),
]
_Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="A directory whose tokenizer is taken instead of the file's.",
        rich_help_panel="Only with a GGUF file",
    ),
]


def convert(
    model: Model,
    to: Annotated[str, typer.Option(help="hf (its own layout), another family such as mixtral, or gguf.")],
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="What to write: a directory, or a file such as model.gguf. Must be new."
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16 (default: as stored; bfloat16 for quantised).",
            rich_help_panel="Only with a directory",
        ),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(
            help="f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q3_k_m, q2_k, q4_0 or mxfp4 (default: q8_0).",
            rich_help_panel="Only with --to gguf",
        ),
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(help="Largest file, such as 5GB.", rich_help_panel="Only with a directory"),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave 'vision' or 'mtp' behind where the form cannot carry it.",
            rich_help_panel="Only with a directory",
        ),
    ] = None,
    outputs: Annotated[
        bool,
        typer.Option(
            help="Compare the answers of the file's numbers (needs memory for the model).",
            rich_help_panel="Only with --to gguf",
        ),
    ] = True,
    settings: _Settings = None,
    tokenizer: _Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Write a model in another layout, type, sharding or format, with a receipt.

    A conversion that would lose anything is refused. The result is read back: every tensor, and the answers
    to the probes.
    """
    source = _source(model, settings or [], tokenizer)
    if to == "gguf":
        _refuse({"--dtype": dtype, "--shard-size": shard_size, "--drop": drop}, to)
        _to_gguf(source, Path(out), quant or "q8_0", outputs, as_json)
    else:
        _refuse({"--quant": quant, "--no-outputs": None if outputs else True}, to)
        _to_directory(source, to, out, dtype, shard_size, drop or [], as_json)


def _source(model: str, settings: list[str], tokenizer: str | None) -> Checkpoint:
    """The opened model; what a GGUF file cannot say is taken from the options."""
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.checkpoints.gguf_model.form import GgufModel
    from coterie.config import ConfigError

    checkpoint = Checkpoint.open(model)
    if not settings and tokenizer is None:
        return checkpoint
    if checkpoint.gguf is None:
        raise ConfigError("convert: --set and --tokenizer are for models in a GGUF file; leave them out")
    given = None if tokenizer is None else Path(tokenizer).expanduser()
    form = GgufModel(checkpoint.path, dict(_setting(text) for text in settings), given)
    return Checkpoint(checkpoint.path, model, form)


def _setting(text: str) -> tuple[str, Any]:
    """A key and its value: JSON, or else the text itself."""
    from coterie.config import ConfigError

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"convert: --set {text}: give a key and a value, such as llama.context_length=4096")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _refuse(options: Mapping[str, Any], to: str) -> None:
    """Options that have no meaning for a target are errors, not ignored."""
    from coterie.config import ConfigError

    for name, value in options.items():
        if value:
            raise ConfigError(f"convert: {name} has no meaning with --to {to}; leave it out")


def _to_directory(
    model: Checkpoint,
    to: str,
    out: str,
    dtype: str | None,
    shard_size: str | None,
    drop: list[str],
    as_json: bool,
) -> None:
    from coterie.checkpoints.convert import convert_directory
    from coterie.checkpoints.tensor_writer import SHARD_BYTES
    from coterie.config import ConfigError, suggest
    from coterie.families import FAMILIES

    if to != "hf" and to not in FAMILIES:
        known = ["hf", "gguf", *FAMILIES]
        raise ConfigError(
            f"convert: --to {to} is not known{suggest(to, known) or '; use ' + ', '.join(known)}"
        )
    shard_bytes = SHARD_BYTES if shard_size is None else parse_bytes(shard_size, "--shard-size")
    receipt = convert_directory(model, Path(out), None if to == "hf" else to, dtype, shard_bytes, drop)
    answer(receipt.to_dict(), as_json, _receipt_lines(receipt))


def _to_gguf(source: Checkpoint, file: Path, quant: str, outputs: bool, as_json: bool) -> None:
    """Write one GGUF file, and its receipt next to it as `NAME.receipt.json`.

    `outputs`: put the file's numbers back into the model and compare its answers (needs memory for the model
    in float32).
    """
    from coterie.checkpoints.commit import require_free
    from coterie.config import CheckpointError, ConfigError
    from coterie.config.files import write_json
    from coterie.config.temporaries import replace_with, temporary
    from coterie.gguf.export import export_gguf
    from coterie.gguf.readback import gguf_difference

    if file.suffix != ".gguf":
        raise ConfigError(f"convert: --out {file} must be the name of the file to write, such as model.gguf")
    require_free(file, "--out")
    if source.probes is not None:
        # A damaged source would export well: every number of the file would equal the damaged one.
        source.load(source.stored_dtype, check=True)
    receipt_file = file.with_suffix(".receipt.json")
    # All three appear together and the model last, so that no kill leaves a model without its receipt.
    with temporary(file, directory=True) as folder:
        try:
            written = export_gguf(source, folder / file.name, quant)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(folder / file.name), str(file))) from None
        found = None
        if outputs:
            note("comparing answers")
            found = gguf_difference(source, folder / file.name)
        difference = None if found is None else found.to_dict()
        receipt = {"source": source.name, **written.to_dict(), "difference": difference}
        receipt |= {"file": str(file), "modelfile": str(file.with_suffix(".Modelfile"))}
        write_json(folder / receipt_file.name, receipt, indent=2)
        for name in (receipt_file.name, Path(written.modelfile).name, file.name):
            replace_with(folder / name, file.with_name(name))
    answer(receipt, as_json, _gguf_lines(receipt, found, receipt_file))


def _gguf_lines(receipt: Mapping[str, Any], found: Difference | None, receipt_file: Path) -> Iterator[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in receipt["tensors"].items())
    size = f"{receipt['bytes'] / 1e6:,.1f} MB"
    yield f"{receipt['file']}: {receipt['architecture']} in {receipt['quant']}, {size}"
    yield f"tensors           {kinds}; {receipt['checked']} read back and compared"
    for kind, error in receipt["errors"].items():
        if error["largest"]:
            rms = error["relative_rms"]
            yield f"rounded           {kind}: {rms:.2g} of their size (root mean square)"
    for kept in receipt["kept"]:
        yield f"kept in {kept['type']:<10}{len(kept['tensors'])} tensors: {kept['reason']}"
    if receipt.get("modelfile"):
        yield f"Ollama            {receipt['modelfile']}"
    yield from (f"left out          {name}" for name in receipt["left_out"])
    yield from (f"differs           {line}" for line in receipt["differences"])
    if found is None:
        yield "answers           not compared, as asked"
    else:
        yield "answers of the file's numbers against the model's:"
        yield from difference_lines(found)
    yield f"receipt           {receipt_file}"


def _receipt_lines(receipt: ConversionReceipt) -> Iterator[str]:
    from coterie.checkpoints.convert import RECEIPT

    old, new = receipt.family
    kind = "lossless" if receipt.lossless else "not lossless"
    yield f"{receipt.out}: {new} in {receipt.dtype[1]}, from {old} in {receipt.dtype[0]}; {kind}"
    yield f"tensors           {receipt.tensors} written, read back and compared bit for bit"
    for before, after in ((_names(row["from"]), _names(row["to"])) for row in receipt.mapped):
        if before != after:
            yield f"mapped            {before or 'nothing'} -> {after or 'nothing'}"
    yield from (f"changed           {change}" for change in receipt.changes)
    rounding = receipt.rounding
    if rounding.tensors:
        vanished = f"; {rounding.vanished:,} became 0" if rounding.vanished else ""
        yield (
            f"rounded           {rounding.numbers:,} numbers in {rounding.tensors} tensors, "
            f"by {rounding.relative:.2g} of their size at most{vanished}"
        )
    if receipt.copied:
        yield f"copied            {', '.join(receipt.copied)}"
    if receipt.left_out:
        yield f"left out          {', '.join(receipt.left_out)}"
    yield from difference_lines(receipt.difference)
    yield f"receipt           {Path(receipt.out) / RECEIPT}"


def _names(patterns: Mapping[str, int]) -> str:
    return ", ".join(f"{name} (x{count})" if count > 1 else name for name, count in patterns.items())
