"""`coterie ledger`: show and check the chain of looks at test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.evidence.ledger import Ledger, LedgerEntry

LedgerFile = Annotated[
    str | None, typer.Option("--ledger", help="The ledger's file (default: coterie's in your state folder).")
]


def show(
    ledger: LedgerFile = None,
    task: Annotated[str | None, typer.Option(help="Only looks at this task.")] = None,
    last: Annotated[int, typer.Option(help="How many looks to list, the latest last.", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """List the latest looks, and for each task how many looks at how many checkpoints there were."""
    from coterie.evidence.statements import short

    opened = _opened(ledger)
    entries = [one for one in opened.entries() if task in (None, one.task)]

    def lines() -> Iterator[str]:
        if not entries:
            yield f"{opened.path}: no look yet"
            return
        yield f"{'task':<24} {'split':<7} {'looks':>6} {'checkpoints':>12}"
        for (name, split), count in sorted(Counter((one.task, one.split) for one in entries).items()):
            seen = {one.tensor_digest for one in entries if (one.task, one.split) == (name, split)}
            yield f"{name:<24} {split:<7} {count:>6} {len(seen):>12}"
        yield ""
        for one in entries[-last:] if last else []:
            yield f"{one.time}  {one.task:<24} {one.split:<7} weights {short(one.tensor_digest)}"

    shown = [one.to_dict() for one in (entries[-last:] if last else [])]
    answer({"ledger": str(opened.path), "looks": len(entries), "entries": shown}, as_json, lines())


def head(ledger: LedgerFile = None, as_json: Json = False) -> None:
    """Print the digest of the last look. Publish it, and the looks before it cannot be taken back."""
    opened = _opened(ledger)
    found = opened.head()
    answer({"ledger": str(opened.path), "head": found}, as_json, [found])


def check(
    ledger: LedgerFile = None,
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="A head that was published; may be repeated.")
    ] = None,
    report: Annotated[
        list[str] | None, typer.Option(help="A report.json whose head the ledger must hold; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that the chain is whole, that its results are those it names, and that it holds known heads."""
    opened = _opened(ledger)
    known = [*(heads or []), *(_head_of(one) for one in report or [])]
    entries = opened.check(known)
    answer(
        {"ledger": str(opened.path), "looks": len(entries), "whole": True, "torn": opened.torn},
        as_json,
        _checked(opened, entries, len(known)),
    )


def _checked(ledger: Ledger, entries: Sequence[LedgerEntry], known: int) -> Iterator[str]:
    heads = f", and holds the {known} known head{'s' * (known != 1)}" if known else ""
    yield f"{ledger.path}: {len(entries):,} look{'s' * (len(entries) != 1)}, the chain is whole{heads}"
    if ledger.torn:
        yield "its last line was never finished and counts for nothing; the next look removes it"


def _opened(path: str | None) -> Ledger:
    from coterie.config import CoterieError
    from coterie.evidence.ledger import Ledger, user_ledger

    found = Ledger(user_ledger() if path is None else path)
    if path is not None and not found.path.exists():
        raise CoterieError(f"{path}: no such ledger; the first look makes one")
    return found


def _head_of(report: str) -> str:
    from coterie.config import CoterieError
    from coterie.config.files import read_json

    looks = read_json(report, "give a report.json of coterie eval").get("looks")
    if not isinstance(looks, dict) or not isinstance(looks.get("head"), str):
        raise CoterieError(f"{report}: keeps no head of a ledger; score with one to have it")
    return str(looks["head"])
