"""Merges of a SentencePiece-like vocabulary, which a GGUF file gives as scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coterie.checkpoints.gguf_model.token_types import NORMAL


def piece_merges(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[list[str]]:
    """Every way to cut a piece into two pieces, best score of the whole first, then the longest parts.

    This is the order in which transformers converts SentencePiece's models, so ids are those of its
    `tokenizer.json`.
    """
    pieces = {token: number for number, token in enumerate(tokens) if types[number] == NORMAL}
    found: list[tuple[float, int, int, str, str]] = []
    for piece, number in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                found.append((-scores[number], -cut, cut - len(piece), left, right))
    found.sort(key=lambda one: one[:3])
    return [[left, right] for *_, left, right in found]


def equally_scored(merges: Iterable[Sequence[str]], scores: Mapping[str, float]) -> tuple[str, str] | None:
    """Two results of merges with one score, of which no order is right; None where there are none.

    Runs of one character are left out: they may have equal scores (Mixtral's spaces).
    """
    seen: dict[float, str] = {}
    for left, right in merges:
        result = left + right
        if len(set(result)) > 1 and seen.setdefault(scores[result], result) != result:
            return seen[scores[result]], result
    return None
