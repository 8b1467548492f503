"""Verbs on whole models: what one is, whether two are the same. Imports nothing heavy: `--help` stays
fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json, KeyFile, Model

Either = "A directory (model or adapter), hub id (owner/name), GGUF file or address of an OpenAI-compatible server."


def inspect(
    model: Annotated[
        str,
        typer.Argument(help="A directory, a hub id (owner/name) or a published name such as llama-4-scout."),
    ],
    as_json: Json = False,
) -> None:
    """What a model is: architecture, parameters, operations, cache, memory, tokenizer, oddities.

    A config.json is enough; the weights, where they are there, are not read (their headers are).
    """
    from coterie.cli.inspect import inspect as run

    run(model, as_json)


def verify(
    a: Annotated[str, typer.Argument(help=Either)],
    b: Annotated[
        str | None, typer.Argument(help=f"{Either} Without it, A's stored probes are checked.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="What B was tuned from: A must be B, not this.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Texts to compare on instead of the built-in probes.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Mean log-probability difference allowed (nats); given, it decides alone.", min=0),
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="The model's name at the server.")] = None,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check that two models are the same to their users: outputs, routing, tensors, tokenizers.

    Exits with 0 when they are the same, 1 when they differ, 2 when they could not be compared.
    """
    from coterie.cli.verify import verify as run

    run(a, b, base, data, tolerance, model_name, api_key_file, as_json)


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
        typer.Option(help="float32, bfloat16 or float16 (default: as stored; bfloat16 for quantised)."),
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="Of a GGUF file: f32, f16, bf16, q8_0, q4_0 or mxfp4 (default: q8_0).")
    ] = None,
    shard_size: Annotated[str | None, typer.Option(help="Largest file of a directory, such as 5GB.")] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Leave 'vision' or 'mtp' behind where the form cannot carry it.")
    ] = None,
    outputs: Annotated[
        bool, typer.Option(help="Compare the answers of a GGUF file's numbers (needs memory for the model).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a model in another layout, type, sharding or format, with a receipt; refuse what would lose
    anything.

    The result is read back: every tensor, and the answers to the probes.
    """
    from coterie.cli import convert as verb

    directory_only = {"--dtype": dtype, "--shard-size": shard_size, "--drop": drop}
    gguf_only = {"--quant": quant, "--no-outputs": None if outputs else True}
    verb.refuse_options(gguf_only if to != "gguf" else directory_only, to)
    if to == "gguf":
        verb.convert_gguf(model, out, quant or "q8_0", outputs, as_json)
    else:
        verb.convert(model, to, out, dtype, shard_size, drop or [], as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(short_help="Architecture, parameters, memory and oddities of a model.")(inspect)
    app.command(short_help="Write a model in another layout or type, with a receipt.")(convert)
    app.command(short_help="Check that two models are the same to their users.")(verify)
