"""Options and arguments that several verbs share. Imports nothing heavy: `--help` stays fast."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Model = Annotated[str, typer.Argument(help="A checkpoint directory or a hub id (owner/name).")]
Sources = Annotated[list[str], typer.Argument(help="Files, directories, 'primer' or hf://owner/name.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the most likely token.", min=0)]
MaxTokens = Annotated[int, typer.Option(help="Longest reply, in tokens.", min=1)]
Longest = Annotated[
    int | None, typer.Option("--max-tokens", help="Longest reply, in tokens (default: what fits).", min=1)
]
TopP = Annotated[float, typer.Option(help="Keep the fewest tokens that hold this share of probability.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same reply.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Target = Annotated[
    str, typer.Argument(help="A checkpoint directory, a hub id (owner/name) or a server's http address.")
]
KeyFile = Annotated[
    str | None,
    typer.Option("--api-key-file", help="File with the server's key (default: COTERIE_API_KEY, or no key)."),
]
Served = Annotated[str | None, typer.Option(help="Which of a server's models (default: its first).")]
System = Annotated[str | None, typer.Option(help="System message.")]
