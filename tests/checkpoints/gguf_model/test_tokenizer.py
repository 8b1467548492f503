"""The tokenizer rebuilt from a GGUF file gives the ids and texts of the one that was written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_model.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from coterie.checkpoints.gguf_model.tokenizer import WHOLE, TokenKeys, read_tokenizer
from coterie.gguf.vocabulary import vocabulary
from coterie.text.tokenizer import Tokenizer
from tests.gguf.models import describe
from tests.gguf.tokenizers import TEXT, every_kind, gemma, random_texts

_KINDS = cache(every_kind)
_PIECES = ("default", "runs", "gemma", "gemma4")


@cache
def both(kind: str, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer of a kind, and what is read from the keys that an export writes for it."""
    written = _KINDS()[kind]
    directory = folder / kind
    written.save(directory)
    pieces: Literal["llama", "gemma4"] = "gemma4" if kind == "gemma4" else "llama"
    keys = vocabulary(Checkpoint.open(describe(directory, 600)), 600, pieces).keys
    keys.pop(WHOLE, None)
    found = read_tokenizer(TokenKeys("m.gguf", {"general.architecture": "llama"} | keys))
    assert found is not None
    return written, found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Tokenizer, Tokenizer]]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return lambda kind: both(kind, folder)


# Pieces of a text that splits tell apart, and anything else that has a UTF-8 form.
_PARTS = st.lists(
    st.one_of(
        st.sampled_from(TEXT.split(" ")),
        st.sampled_from(["  ", "\n", " \n", "\t", "'S", "'lL", "123456", "1", "²", "<think>", "<|im_end|>"]),
        st.text(st.characters(codec="utf-8"), max_size=6),
    ),
    max_size=8,
)


@pytest.mark.parametrize("kind", _KINDS())
def test_ids_and_texts_are_equal(kind: str, pair: Callable[[str], tuple[Tokenizer, Tokenizer]]) -> None:
    written, found = pair(kind)
    assert found.vocab_size == written.vocab_size and found.eos_id == written.eos_id
    assert found.added_tokens == written.added_tokens
    # Llama's first tokenizers put bos before texts by their class, which tokenizer.json does not say.
    assert found.start_ids == ((1,) if kind in _PIECES else written.start_ids)
    texts = random_texts(120)
    assert found.encode_batch(texts, True) == written.encode_batch(texts, True)
    for ids in written.encode_batch(texts, True):
        assert found.decode(ids) == written.decode(ids)

    @settings(max_examples=40, deadline=None)
    @given(_PARTS, st.booleans())
    def on_any_text(parts: list[str], special: bool) -> None:
        text = "".join(parts)
        if not special:
            text = text.replace("<think>", "")  # a file marks it as a token of any text
        assert found.encode(text, special) == written.encode(text, special)

    on_any_text()


def sentencepiece_ids(text: str, pieces: dict[str, int], scores: list[float], given: set[str]) -> list[int]:
    """The ids of the `sentencepiece` package (compared with version 0.2.3 on 8,000 texts).

    Pieces that its trainer was given are found first and stay. Of other pairs, the one with the best-scored
    result merges, the leftmost of equals.
    """
    text, symbols, at = text.replace(" ", "▁"), list[str](), 0
    while at < len(text):
        found = max((one for one in given if text.startswith(one, at)), key=len, default=text[at])
        symbols.append(found)
        at += len(found)
    while True:
        pairs = [
            (-scores[pieces[left + right]], place)
            for place, (left, right) in enumerate(pairwise(symbols))
            if left + right in pieces and not {left, right, left + right} & given
        ]
        if not pairs:
            break
        place = min(pairs)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    spelled = ([one] if one in pieces else [f"<0x{byte:02X}>" for byte in one.encode()] for one in symbols)
    return [pieces[one] for symbol in spelled for one in symbol]


def test_pieces_that_the_trainer_was_given_are_found_as_sentencepiece_finds_them() -> None:
    """As converters write Gemma 2 and 3: such pieces with spaces in place of marks."""
    content = gemma().content
    ranks: dict[str, int] = {}
    for left, right in content["model"]["merges"]:
        ranks.setdefault(left + right, len(ranks))
    given = {"\n\n", "\n\n\n", "▁▁", "▁▁▁", "the", "▁x"}
    pieces = content["model"]["vocab"] | {"the": len(content["model"]["vocab"])}
    pieces |= {"▁x": len(pieces)} if "▁x" not in pieces else {}
    scores = [-float(ranks.get(piece, 9999)) for piece in pieces]
    types = [
        USER_DEFINED if piece in given else BYTE if piece.startswith("<0x") else NORMAL for piece in pieces
    ]
    types[:3] = [UNKNOWN, CONTROL, CONTROL]
    keys = {
        "tokens": [piece.replace("▁", " ") if piece in given else piece for piece in pieces],
        "scores": scores,
        "token_type": types,
        "model": "llama",
        "add_space_prefix": False,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    tokenizer = read_tokenizer(TokenKeys("m.gguf", {f"tokenizer.ggml.{key}": keys[key] for key in keys}))
    assert tokenizer is not None
    marked = [text.replace(" ", "▁") for text in random_texts(20, seed=1)]
    for text in [*random_texts(300), *marked, "a ▁  x▁▁the   the\n\n\n\n▁", "▁ ▁ ▁x  x"]:
        text = text.replace("<", "").replace("_", "")  # no special tokens among them
        assert tokenizer.encode(text) == sentencepiece_ids(text, pieces, scores, given), repr(text)


def test_pieces_of_equal_scores_are_noted() -> None:
    tokens = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "ba", "aa"]
    kinds = [UNKNOWN, CONTROL, *[BYTE] * 256, *[NORMAL] * 5]
    common = {"model": "llama", "tokens": tokens, "token_type": kinds, "eos_token_id": 1}
    for last, noted in (([0.0, 0.0, -1.0, -2.0, -2.0], False), ([0.0, 0.0, -2.0, -2.0, -1.0], True)):
        values = common | {"scores": [0.0] * 258 + last}
        keys = TokenKeys("m.gguf", {f"tokenizer.ggml.{name}": value for name, value in values.items()})
        assert read_tokenizer(keys) is not None
        assert [("'ab' and 'ba' have equal scores" in note) for note in keys.notes] == [True] * noted
