"""A tokenizer with further tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence

from coterie.config import DataError
from coterie.text.tokenizer import Tokenizer


def extended(tokenizer: Tokenizer, tokens: Sequence[str], special: bool) -> Tokenizer:
    """The tokenizer with `tokens` as added tokens, which get the next ids in this order.

    `special`: they are control tokens, which text from users never becomes.
    Errors: `DataError` for an empty token, one that is given twice or that the vocabulary has already.
    """
    import tokenizers

    if not tokens:
        raise DataError("tokens: none was given; name one at least")
    rust = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.content))
    known = rust.get_vocab(with_added_tokens=True)
    for number, token in enumerate(tokens):
        shown = repr(token[:60])
        if not token.strip():
            raise DataError(f"tokens: {shown} is empty; a token needs a character that is no space")
        if token in tokens[:number]:
            raise DataError(f"tokens: {shown} is given twice; give it once")
        if token in known:
            raise DataError(f"tokens: {shown} is in the vocabulary already, as id {known[token]}")
    first = tokenizer.vocab_size
    added = [tokenizers.AddedToken(token, special=special, normalized=False) for token in tokens]
    (rust.add_special_tokens if special else rust.add_tokens)(added)
    found = [rust.token_to_id(token) for token in tokens]
    if found != list(range(first, first + len(tokens))):
        raise DataError(
            f"tokens: the tokenizer gave them ids {found[:4]} and not those from {first} on; its vocabulary "
            "has gaps"
        )
    config = dict(tokenizer.config)
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        named = {str(first + n): {"content": t, "special": special} | flags for n, t in enumerate(tokens)}
        config["added_tokens_decoder"] = decoder | named
    return Tokenizer(rust.to_str(), config, tokenizer.templates)
