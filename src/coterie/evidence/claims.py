"""`claims.jsonl`: the signed statements about a model, one envelope a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coterie.config import CoterieError
from coterie.config.json_text import JsonError, parse_json_object
from coterie.evidence.canonical import canonical
from coterie.evidence.keys import PublicKey
from coterie.evidence.lines import append_line, whole_lines
from coterie.evidence.statements import Envelope, Statement, signers_of, verify_statement

CLAIMS = "claims.jsonl"


def append_claim(path: Path, envelope: Envelope) -> None:
    """Add a signed statement to the file, whole or not at all; several processes may do so at once.

    Errors: `CoterieError` for something else than an envelope, and where the file cannot be written.
    """
    signers_of(envelope)
    line = canonical(envelope)
    append_line(path, lambda last: line)


def read_claims(path: Path) -> list[Envelope]:
    """The envelopes of the file, in order; no signature is checked.

    Errors: `CoterieError` naming the first line that is not an envelope in its one form.
    """
    lines, torn = whole_lines(path)
    if torn:
        raise CoterieError(f"{path}: line {len(lines) + 1} was never finished; remove it")
    envelopes = []
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            envelope = parse_json_object(line)
        except JsonError as error:
            raise CoterieError(f"{where} {error}") from None
        signers_of(envelope, where)
        if canonical(envelope) != line:
            raise CoterieError(f"{where}: is not in canonical form; it was edited")
        envelopes.append(envelope)
    return envelopes


def verified_claims(path: Path, keys: Sequence[PublicKey]) -> list[Statement]:
    """The statements of the file. Errors: `CoterieError` naming the first whose signature does not hold."""
    return [
        verify_statement(envelope, keys, f"{path}: line {number}")
        for number, envelope in enumerate(read_claims(path), 1)
    ]
