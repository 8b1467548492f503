"""`coterie identity`: which weights a model has, and in which experts two models differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import CONNECTION, Json, KeyFile
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.verify.known import IdentityDifference, KnownIdentity


def identity(
    model: Annotated[
        str,
        typer.Argument(help="A directory (model or adapter), hub id, GGUF file or address of coterie serve."),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="Another model, or a file that --json wrote: say what differs; 1 if anything."),
    ] = None,
    experts: Annotated[bool, typer.Option("--experts", help="List the digest of every expert.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="With --json: of every tensor too.")] = False,
    model_name: Annotated[
        str | None, typer.Option(help="The model's name at the server.", rich_help_panel=CONNECTION)
    ] = None,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Print the digests that name a model: of its tensors, files, tokenizer, template and settings.

    The digest of the tensors is the same however they are spread over files, and for the model that a server
    runs. With --against, exits with 0 for the same model, 1 for another, 2 where nobody can say.
    """
    from coterie.config import CoterieError
    from coterie.remote.client import read_key
    from coterie.verify.known import identity_difference, known_identity

    try:
        key = read_key(api_key_file)
        found = known_identity(model, model_name, key)
        other = None if against is None else known_identity(against, model_name, key)
    except CoterieError as error:
        error.exit_code = 2
        raise
    if other is None:
        answer(found.to_dict(tensors), as_json, _lines(found, experts))
        return
    difference = identity_difference(found, other)
    facts = {
        "a": found.identity.to_dict(), "b": other.identity.to_dict(), "same": difference.same,
        "weights": difference.weights, "besides": difference.besides,
    }  # fmt: skip
    answer(facts, as_json, _compared(found, other, difference))
    if not difference.same:
        raise SystemExit(1)


def _lines(found: KnownIdentity, experts: bool) -> Iterator[str]:
    its = found.identity
    yield f"model              {its.name}"
    yield f"weights, tensors   {its.weights_tensors}"
    yield f"weights, files     {its.weights_files or 'not known of a server'}"
    yield f"config.json        {its.config or 'none'}"
    yield f"tokenizer          {its.tokenizer or 'none'}"
    yield f"chat template      {its.chat_template or 'none'}"
    yield f"generation config  {its.generation_config or 'none'}"
    yield from (f"made from          {root}" for root in its.lineage)
    if found.profile is not None:
        runs = found.profile
        held = f", {runs.kernels}" if runs.kernels else ""
        yield f"runs on            {runs.engine} {runs.version}, {runs.dtype}, {runs.device}{held}"
    yield from (f"note               {line}" for line in found.tree.notes)
    for layer, parts in found.tree.layers.items() if experts else ():
        for part in parts:
            name = f"{layer}, expert {part.expert}" if part.expert >= 0 else layer
            yield f"{name:<18} {found.tree.parts[part]}"


def _compared(a: KnownIdentity, b: KnownIdentity, difference: IdentityDifference) -> Iterator[str]:
    yield "same model" if difference.same else "DIFFERENT"
    yield f"A  {a.identity.weights_tensors}  {a.identity.name}"
    yield f"B  {b.identity.weights_tensors}  {b.identity.name}"
    yield "weights differ" if difference.weights else "the weights are the same"
    yield from (f"  {line}" for line in difference.weights)
    yield from difference.besides
    if b.identity.weights_tensors in a.identity.lineage:
        yield "A was made from B"
    if a.identity.weights_tensors in b.identity.lineage:
        yield "B was made from A"
    for side, known in (("A", a), ("B", b)):
        yield from (f"note  {side}: {line}" for line in known.tree.notes)
