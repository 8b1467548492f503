"""SentencePiece-like tokenizers (Llama 1 and 2, Mixtral) in a GGUF file, where scores order the merges.

`tokenizer.json` lists merges in order; llama.cpp merges the pair whose result has the highest score, whatever
the pair. The two agree if the merges are grouped by their result, every way to cut a piece into two is among
them, and all characters of the pieces are pieces too.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from coterie.config import CheckpointError


def sentencepiece_scores(
    path: Path, content: Mapping[str, Any], tokens: list[str], differences: list[str]
) -> dict[str, Any]:
    """Keys for the scores of all tokens, and for whether a text gets a space in front.

    Errors: `CheckpointError` where no scores order the merges in the same way.
    """
    model = content["model"]
    merges = _merges(path, model)
    together: set[str] = set()
    rank, unordered = _ranks(merges, together)
    while unordered and len(set(unordered)) == 1 and unordered[0] not in together:
        together.add(unordered[0])
        rank, unordered = _ranks(merges, together)
    unordered = unordered or _run_that_differs(merges, together, model["vocab"])
    if unordered:
        raise _unordered(path, unordered)
    _check_cuts(path, content, set(merges))
    scores = [-float(rank[token]) if token in rank else 0.0 for token in tokens]
    prefix = _space_before(path, content, differences)
    return {"tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": prefix}


def sentencepiece_merges(path: Path, content: Mapping[str, Any], differences: list[str]) -> dict[str, Any]:
    """Keys for the merges in order, as files of Gemma 4 have them.

    Before merging, llama.cpp cuts text into line breaks and what is between them, and takes a run of line
    breaks whole where that is a piece. Errors: `CheckpointError` where that makes a difference.
    """
    merges = _merges(path, content["model"])
    added = {token["content"] for token in content.get("added_tokens") or []}
    for left, right in merges:
        if "\n" in left + right and set(left + right) != {"\n"}:
            raise CheckpointError(
                f"{path}: the piece {left + right!r:.60} goes on behind a line break, where llama.cpp cuts "
                "text; it would give other ids, so nothing was written"
            )
    order = {
        (len(pair[0]), len(pair[1])): place for place, pair in enumerate(merges) if pair[0].startswith("\n")
    }
    for piece in content["model"]["vocab"]:
        if set(piece) == {"\n"} and piece not in added and _merged(len(piece), order) != [len(piece)]:
            raise _unordered(path, piece)
    if _space_before(path, content, differences):
        raise CheckpointError(
            f"{path}: puts a space before every text, which llama.cpp does not do here; it would give other "
            "ids, so nothing was written"
        )
    joined = [" ".join(pair) for pair in merges]
    return {"tokenizer.ggml.merges": joined, "tokenizer.ggml.add_space_prefix": False}


def _merges(path: Path, model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The merges in order. Errors: `CheckpointError` for a byte without a piece."""
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in model["vocab"]]
    if missing:
        raise CheckpointError(f"{path}: falls back to bytes but has no piece '<0x{missing[0]:02X}>'")
    return [
        tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]
    ]


def _ranks(merges: list[tuple[str, ...]], together: set[str]) -> tuple[dict[str, int], str]:
    """Each result's place, and the first result whose merges are not grouped ("" if all are).

    All runs of a character in `together` count as one result.
    """
    rank: dict[str, int] = {}
    place, last = -1, ""
    seen: set[str] = set()
    for left, right in merges:
        result = left + right
        key = result[:2] if result[0] in together and len(set(result)) == 1 else result
        if key != last:
            if key in seen:
                return rank, result
            place, last = place + 1, key
            seen.add(key)
        rank[result] = place
    return rank, ""


def _run_that_differs(merges: list[tuple[str, ...]], together: set[str], vocab: Mapping[str, int]) -> str:
    """A run of a character in `together` that merging from the left cuts differently ("" if there is none).

    Where scores are equal, llama.cpp merges from the left. Mixtral's runs of spaces have equal scores.
    """
    places: dict[str, dict[tuple[int, int], int]] = {}
    for place, (left, right) in enumerate(merges):
        if left[0] in together and len(set(left + right)) == 1:
            places.setdefault(left[0], {})[len(left), len(right)] = place
    for char, order in places.items():
        mixed = [piece for piece in vocab if char * 2 in piece and len(set(piece)) > 1]
        if mixed:
            return mixed[0]
        for length in range(2, 3 * max(sum(pair) for pair in order)):
            if _merged(length, order) != _merged(length, dict.fromkeys(order, 0)):
                return char * length
    return ""


def _merged(length: int, places: Mapping[tuple[int, int], int]) -> list[int]:
    """Lengths of the pieces of a run: the pair with the lowest place merges first, of equals the leftmost."""
    parts = [1] * length
    while True:
        pairs = [(places[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in places]
        if not pairs:
            return parts
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _check_cuts(path: Path, content: Mapping[str, Any], merges: set[Any]) -> None:
    """Refuse pieces that llama.cpp could join differently: it merges any two parts whose whole is a piece."""
    vocab = content["model"]["vocab"]
    added = {token["content"] for token in content.get("added_tokens") or []}
    for piece in vocab:
        if piece in added or (len(piece) == 6 and piece.startswith("<0x")):
            continue
        if len(piece) > 1 and not all(char in vocab for char in piece):
            raise _unordered(path, piece)
        for cut in range(1, len(piece)):
            pair = (piece[:cut], piece[cut:])
            if pair not in merges and pair[0] in vocab and pair[1] in vocab:
                raise _unordered(path, piece)


def _unordered(path: Path, piece: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the merges that make {piece!r} cannot be expressed by scores; llama.cpp would give other "
        "ids, so nothing was written"
    )


def _space_before(path: Path, content: Mapping[str, Any], differences: list[str]) -> bool:
    """How the tokenizer marks spaces: only `\u2581` for each, with or without one more before the text."""
    normalizer, splitter = content.get("normalizer"), content.get("pre_tokenizer")
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    kinds = [step["type"] for step in steps]
    if kinds[-1:] == ["Replace"] and (splitter or {}).get("pattern") == {"String": " "}:
        splitter = None  # Gemma's: splits at spaces, of which none is left
    if splitter is None and kinds in (["Prepend", "Replace"], ["Replace"]):
        return kinds[0] == "Prepend"
    if (
        kinds == []
        and splitter is not None
        and splitter.get("type") == "Metaspace"
        and not splitter.get("split", True)
    ):
        scheme = splitter.get("prepend_scheme", "always")
        if scheme == "first":
            differences.append(
                "llama.cpp puts a space after special tokens too, not only at the start of a text"
            )
        return bool(scheme != "never")
    raise CheckpointError(
        f"{path}: marks spaces in a way that llama.cpp does not have, so nothing was written"
    )
