"""A second encoder, for text in which some names of control tokens are only text.

`tokenizers` makes a token of every name it finds. Here each control token has a secret name instead. A text
is encoded in one call after the occurrences that are meant as tokens were given their secret names, so all
other text gets the ids, spaces at the start and `lstrip` included, that the tokenizer itself gives.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import tokenizers


class Encoded(NamedTuple):
    """Token ids, and the characters [start, end) of the text that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@functools.lru_cache(maxsize=64)
def names_pattern(names: frozenset[str]) -> re.Pattern[str]:
    """Matches any of `names`, the longest first, as `tokenizers` does; nothing without names."""
    ordered = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


class GuardedEncoder:
    """Encodes text with a chosen set of its names as control tokens.

    `tokenizer_json`: what `tokenizers` writes. `control`: names of control tokens. `added`: every added token
    with its id.
    """

    def __init__(self, tokenizer_json: str, control: Collection[str], added: Mapping[str, int]) -> None:
        import tokenizers

        # People cannot guess a secret name, so they cannot write a control token with it.
        secret = secrets.token_hex(8)
        self._secret = {name: f"\U0010fffd{secret}{index}\U0010fffd" for index, name in enumerate(control)}
        content = json.loads(tokenizer_json)
        for token in content["added_tokens"]:
            token["content"] = self._secret.get(token["content"], token["content"])
        content["post_processor"] = content["truncation"] = content["padding"] = None
        _rename(content["model"], self._secret)
        self._rust: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._pattern = names_pattern(frozenset(added))
        # Renamed tokens may have got other ids; those of the vocabulary are the same.
        new = ((self._rust.token_to_id(self._secret.get(name, name)), old) for name, old in added.items())
        self._id_of = {found: old for found, old in new if found is not None and found != old}

    def encode_batch(self, texts: Sequence[str], tokens: Collection[str]) -> list[list[int]]:
        """Ids of plain texts. Of the control tokens, only the names in `tokens` are read as such."""
        if tokens:
            texts = [self._with_secrets(text, lambda name, _: name in tokens)[0] for text in texts]
        encodings = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._ids(encoding.ids) for encoding in encodings]

    def encode(self, text: str, is_token: Callable[[str, int], bool]) -> Encoded:
        """Ids of a text; `is_token(name, place)`: whether the control token there is meant as one."""
        hidden, ours, theirs = self._with_secrets(text, is_token)
        encoding = self._rust.encode(hidden, add_special_tokens=False)

        def place(at: int) -> int:
            """Where a place of `hidden` is in `text`; `theirs` and `ours` are the edges of the pieces."""
            piece = bisect_right(theirs, at) - 1
            last = piece + 1 == len(theirs)
            return min(ours[piece] + at - theirs[piece], len(text) if last else ours[piece + 1])

        return Encoded(self._ids(encoding.ids), [(place(a), place(b)) for a, b in encoding.offsets])

    def _with_secrets(
        self, text: str, is_token: Callable[[str, int], bool]
    ) -> tuple[str, list[int], list[int]]:
        """The text with secret names, and the edges of its pieces before and after."""
        parts: list[str] = []
        ours, theirs, done, size = [0], [0], 0, 0
        for found in self._pattern.finditer(text):
            name, start = found[0], found.start()
            if name not in self._secret or not is_token(name, start):
                continue
            for part in (text[done:start], self._secret[name]):
                parts.append(part)
                size += len(part)
                theirs.append(size)
            done = found.end()
            ours += [start, done]
        return "".join((*parts, text[done:])), ours, theirs

    def _ids(self, ids: list[int]) -> list[int]:
        return [self._id_of.get(token, token) for token in ids] if self._id_of else ids


def _rename(model: dict[str, Any], secret: Mapping[str, str]) -> None:
    """Rename vocabulary entries too, or a model of whole words or pieces would find them in plain text."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        model["vocab"] = [[secret.get(entry[0], entry[0]), *entry[1:]] for entry in vocabulary]
    elif isinstance(vocabulary, dict):
        merges = (
            merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ()
        )
        kept = {part for pair in merges for part in (*pair, "".join(pair)) if part in secret}
        kept.add(model.get("unk_token"))
        model["vocab"] = {
            name if name in kept else secret.get(name, name): number for name, number in vocabulary.items()
        }
