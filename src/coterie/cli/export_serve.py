"""`coterie export-serve`: a directory that another server can serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model, Quant, named_paths
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.release.export_serve import ServeExport


def export_serve(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="Directory to write; must not exist.")],
    engine: Annotated[str, typer.Option("--for", help="vllm, sglang, llama.cpp or ollama.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of an adapter to serve with it (repeatable)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model (default: its directory).")
    ] = None,
    quant: Quant = None,
    as_json: Json = False,
) -> None:
    """Write what another server needs: weights, template, adapters, and commands to start it and to check it.

    Refuses what that server cannot serve as it is.
    """
    from coterie.config import ConfigError
    from coterie.release.export_serve import export_serve as write

    adapters = named_paths(adapter or [], "--adapter")
    if quant is not None and engine in ("vllm", "sglang"):
        raise ConfigError(
            f"--quant has no meaning for {engine}, which is given the weights as they are; leave it out"
        )
    written = write(model, Path(out), engine, adapters, name, quant or "q8_0")
    answer(written.to_dict(), as_json, _lines(written, Path(out)))


def _lines(written: ServeExport, out: Path) -> Iterator[str]:
    parsers, file = written.parsers, written.gguf
    yield f"{out}: {written.name} for {written.engine}"
    yield f"tool calls     {parsers.tool_parser or 'no parser'} (replies in the {parsers.format} form)"
    yield f"reasoning      {parsers.reasoning_parser or 'no parser'}"
    yield from (f"adapter        {name}" for name in written.adapters)
    yield from (f"note           {text}" for text in parsers.notes)
    if file is not None:
        found = file.difference
        top1 = "" if found.top1 is None else f", the same best token at {found.top1:.1%}"
        mean = f"{found.mean_logprob:.2g} nats off on average"
        yield f"answers        {file.quant}: log-probabilities {mean}{top1}"
    yield f"start          {out / 'start.sh'}"
    yield f"check          {out / 'verify.sh'}"
