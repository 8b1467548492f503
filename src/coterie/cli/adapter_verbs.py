"""Verbs on adapters: merge, inspect, convert, compare. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json

Base = Annotated[str, typer.Argument(help="The checkpoint that the adapter was made for.")]
Adapter = Annotated[str, typer.Argument(help="An adapter's directory, ours or PEFT's.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Where to write; must not exist.")]
OfBase = Annotated[str | None, typer.Option("--base", help="The base (default: the one the adapter names).")]
Assume = Annotated[
    str | None,
    typer.Option(
        help="Layout of the experts where the files do not say: peft, peft019, peft018, vllm3d, per-expert."
    ),
]

adapter_app = typer.Typer(
    help="LoRA adapters: what they are, other layouts, whole models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def merge(
    base: Base,
    adapter: Adapter,
    out: Out,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 (default: the base's own).")] = None,
    assume_layout: Assume = None,
    as_json: Json = False,
) -> None:
    """Write base plus adapter as a whole checkpoint, and prove that it is the tuned model; else write
    nothing.
    """
    from coterie.cli.adapters import merge as run

    run(base, adapter, out, dtype, assume_layout, as_json)


@adapter_app.command("inspect", short_help="What an adapter is and how far it moves its base.")
def adapter_inspect(
    adapter: Adapter, base: OfBase = None, assume_layout: Assume = None, as_json: Json = False
) -> None:
    """What an adapter is: layout and how that is known, base, groups with ranks and sizes, who can load
    it.
    """
    from coterie.cli.adapters import inspect as run

    run(adapter, base, assume_layout, as_json)


@adapter_app.command("convert", short_help="The same adapter in another layout, or as a whole model.")
def adapter_convert(
    adapter: Annotated[str, typer.Argument(help="An adapter's directory, or a merged model with --base.")],
    to: Annotated[str, typer.Option(help="peft, peft019, peft018, vllm3d, per-expert or merged.")],
    out: Out,
    base: OfBase = None,
    assume_layout: Assume = None,
    max_rank: Annotated[int, typer.Option(help="Highest rank taken out of a merged model.", min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Write an adapter in another layout; every number it adds to the base stays the same."""
    from coterie.cli.adapters import convert as run

    run(adapter, to, out, base, assume_layout, max_rank, as_json)


@adapter_app.command("diff", short_help="How far two adapters of one base are apart.")
def adapter_diff(
    a: Adapter,
    b: Annotated[str, typer.Argument(help="Another adapter of the same base.")],
    base: OfBase = None,
    assume_layout: Assume = None,
    as_json: Json = False,
) -> None:
    """Compare what two adapters do to each weight of their base; exits with 1 when they differ."""
    from coterie.cli.adapters import diff as run

    run(a, b, base, assume_layout, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    short = "Write base plus adapter as a whole checkpoint, verified."
    app.command(short_help=short)(merge)
    adapter_app.command("merge", short_help=short)(merge)
    app.add_typer(adapter_app, name="adapter")
