"""Replies of a random model, without the model: random tokens that a grammar allows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from coterie.hosting.constraints.grammar import GrammarFilter, Grammars
from coterie.text.reply_formats import format_of
from tests.serve.support import tokenizer

MARKS = {b'"', b"}", b"]", b",", b":", b"{", b"["}


@cache
def grammars() -> Grammars:
    form = format_of(None)
    return Grammars(tokenizer(), tokenizer().vocab_size, tuple(tokenizer().stop_ids), form)


def written(kept: GrammarFilter, seed: int, most: int = 150) -> str | None:
    """A random reply; None when it has not ended after `most` tokens."""
    chance, text = random.Random(seed), b""
    for _ in range(most):
        mask_V = kept.allowed()
        assert kept.failure is None, kept.failure
        allowed = [i for i in mask_V.nonzero().flatten().tolist() if i not in THINK]
        ends = [i for i in allowed if i in tokenizer().stop_ids]
        if ends and (chance.random() < 0.4 or len(ends) == len(allowed)):
            return text.decode()
        rest = [i for i in allowed if i not in ends]
        short = [i for i in rest if tokenizer().token_bytes([i])[0] in MARKS]
        token = chance.choice(short if short and chance.random() < 0.6 else rest)
        kept.accept(token)
        text += tokenizer().token_bytes([token])[0]
    return None


THINK = {tokenizer().token_id("<think>")}


def answers(schema: Mapping[str, Any], strict: bool = True, seeds: int = 6) -> list[str]:
    """Random replies to a schema that ended."""
    found = [written(grammars().of_schema(schema, "/s", False, (), strict), seed) for seed in range(seeds)]
    return [text for text in found if text is not None]
