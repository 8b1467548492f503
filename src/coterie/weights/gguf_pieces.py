"""SentencePiece-like tokenizers (Llama 1 and 2, Mixtral) in a GGUF file: each piece's score decides what merges first.

`tokenizer.json` lists merges in order; llama.cpp merges the pair whose result has the highest score, whatever the pair.
The two agree where the merges stand grouped by their result, every way to cut a piece into two is among them, and all
characters of the pieces are pieces too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config import CheckpointError

_SPACE = "\u2581"


def sentencepiece_scores(
    path: Path, content: Mapping[str, Any], tokens: list[str], differences: list[str]
) -> dict[str, Any]:
    """Scores of all tokens and whether a space is put before a text. Errors: `CheckpointError` where scores cannot say
    what the merges say."""
    model = content["model"]
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in model["vocab"]]
    if missing:
        raise CheckpointError(f"{path}: falls back to bytes but has no piece '<0x{missing[0]:02X}>'")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    rank: dict[str, int] = {}
    last = ""
    for left, right in merges:
        result = left + right
        if result != last and result in rank:
            raise _unordered(path, result)
        rank.setdefault(result, len(rank))
        last = result
    _check_cuts(path, content, set(merges))
    scores = [-float(rank[token]) if token in rank else 0.0 for token in tokens]
    prefix = _space_before(path, content, differences)
    return {"tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": prefix}


def _check_cuts(path: Path, content: Mapping[str, Any], merges: set[Any]) -> None:
    """llama.cpp starts from characters, in the vocabulary or not, and joins any two whose whole is a piece."""
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
        f"{path}: the merges that make {piece!r} cannot be told by scores; llama.cpp would give other ids, so nothing "
        "was written"
    )


def _space_before(path: Path, content: Mapping[str, Any], differences: list[str]) -> bool:
    """How the tokenizer marks spaces: only `\u2581` for each, with or without one more before the text."""
    normalizer, splitter = content.get("normalizer"), content.get("pre_tokenizer")
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    kinds = [step["type"] for step in steps]
    if splitter is None and kinds in (["Prepend", "Replace"], ["Replace"]):
        return kinds[0] == "Prepend"
    if kinds == [] and splitter is not None and splitter.get("type") == "Metaspace" and not splitter.get("split", True):
        scheme = splitter.get("prepend_scheme", "always")
        if scheme == "first":
            differences.append("llama.cpp puts a space after special tokens too, not only at the start of a text")
        return bool(scheme != "never")
    raise CheckpointError(f"{path}: marks spaces in a way that llama.cpp does not have, so nothing was written")
