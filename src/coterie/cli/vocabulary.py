"""`coterie surgery add-tokens`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.recipes.vocabulary import VocabularyReceipt


def add_tokens(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")],
    token: Annotated[list[str] | None, typer.Option(help="A token to add; may be given again.")] = None,
    tokens: Annotated[str | None, typer.Option(help="A file with one token in each line.")] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Control tokens, which text from users never becomes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add tokens to a model and its tokenizer. A new row begins as the mean of the token's pieces."""
    from coterie.config import DataError
    from coterie.recipes.vocabulary import extend_vocabulary

    try:
        listed = Path(tokens).read_text(encoding="utf-8").splitlines() if tokens is not None else []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--tokens {tokens}: cannot be read ({error})") from None
    wanted = [*(token or ()), *(line for line in listed if line.strip())]
    receipt = extend_vocabulary(model, out, wanted, special)
    answer(receipt.to_dict(), as_json, _receipt(receipt, out))


def _receipt(receipt: VocabularyReceipt, out: str) -> Iterator[str]:
    before, after = receipt.rows
    kind = "special tokens" if receipt.special else "tokens"
    yield f"add-tokens: {receipt.source} -> {out}"
    first, last = receipt.tokens[0].id, receipt.tokens[-1].id
    yield f"tokens       {len(receipt.tokens)} {kind}, ids {first} to {last}"
    tables = "embedding, which is the head" if receipt.tied else "embedding and head"
    yield f"rows         {before:,} -> {after:,} of the {tables}"
    yield f"probability  the new tokens have {receipt.largest_share:.2g} at most on the built-in texts"
    yield f"next         coterie train or tune {out}, with text that holds the tokens"
