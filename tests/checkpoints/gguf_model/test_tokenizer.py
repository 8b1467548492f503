"""The tokenizer rebuilt from a GGUF file gives the ids and texts of the one that was written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_model.tokenizer import WHOLE, TokenKeys, read_tokenizer
from coterie.gguf.vocabulary import vocabulary
from coterie.text.tokenizer import Tokenizer
from tests.gguf.models import describe
from tests.gguf.tokenizers import TEXT, every_kind, random_texts

_KINDS = cache(every_kind)


@cache
def both(kind: str, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer of a kind, and what is read from the keys that an export writes for it."""
    written = _KINDS()[kind]
    directory = folder / kind
    written.save(directory)
    keys = vocabulary(Checkpoint.open(describe(directory, 600)), 600).keys
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
    assert found.start_ids == ((1,) if kind in ("default", "runs") else written.start_ids)
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
