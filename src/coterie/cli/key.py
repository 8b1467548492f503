"""`coterie key`: make and name the keys that sign statements."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer


def new(
    out: Annotated[str, typer.Option("--out", "-o", help="File of the private key; FILE.pub is the other.")],
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key. The private file is for you alone; give FILE.pub to whoever checks."""
    from coterie.evidence.keys import SigningKey

    key = SigningKey.new()
    public = key.write(out)
    facts = {"private": out, "public": str(public), "key": key.key_id}
    lines = [f"private key   {out}  (keep it; nobody else may read it)", f"public key    {public}"]
    answer(facts, as_json, [*lines, f"named         {key.key_id}"])


def show(
    file: Annotated[str, typer.Argument(help="A private or public key's file.")], as_json: Json = False
) -> None:
    """Print the digest that names a key in reports and statements."""
    from coterie.evidence.keys import read_public_key

    key = read_public_key(file)
    answer({"key": key.key_id}, as_json, [key.key_id])
