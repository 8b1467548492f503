"""Stop strings and text pieces, against a reference that reads one character at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.infer.engine import Engine
from coterie.infer.reply import ReplyText
from coterie.infer.request import Reply
from coterie.infer.sampling import SamplingParams
from coterie.text.tokenizer import StreamDecoder, Tokenizer
from tests.infer.models import tiny_model
from tests.text.test_stop_strings import cut_at_first_stop

TEXTS = ["the cat sat on the mat. naïve café 北京 🙂🙃 1234\n"] * 3
TOKENIZER = Tokenizer.train(TEXTS, vocab_size=300)


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_what_is_said_is_never_taken_back(text: str, stop: str) -> None:
    """At every moment the text out so far is a beginning of the final text, in whole characters."""
    reply = ReplyText(TOKENIZER, SamplingParams(stop=(stop,)))
    final, stopped_at_all = cut_at_first_stop(text, [stop])
    said = ""
    stopped = False
    for token in TOKENIZER.encode(text):
        piece, stopped = reply.push(token)
        said += piece
        assert final.startswith(said)
        if stopped:
            break
    if not stopped:
        said += reply.finish()
    assert (said, stopped) == (final, stopped_at_all)


def test_half_a_character_at_the_end_and_rows_without_a_token() -> None:
    reply = ReplyText(TOKENIZER, SamplingParams())
    smile = TOKENIZER.encode("😀")
    assert len(smile) > 1
    assert [reply.push(token)[0] for token in smile[:-1]] == [""] * (len(smile) - 1)
    assert reply.finish() == "\ufffd"
    assert reply.push(TOKENIZER.vocab_size + 7) == ("", False)
    without = ReplyText(None, SamplingParams())
    assert without.push(3) == ("", False) and without.finish() == ""


def test_half_a_character_behind_a_stop_string_is_gone_too() -> None:
    tokenizer = Tokenizer.train(["aé aè aê aë aà aâ "] * 9, vocab_size=266)
    token = tokenizer.encode("aé")[0]
    assert tokenizer.token_bytes([token]) == [b"a\xc3"]
    reply = ReplyText(tokenizer, SamplingParams(stop="a"))
    assert reply.push(token) == ("", True)
    assert reply.finish() == ""


def test_engine_text_and_stop_strings() -> None:
    """A stop string chosen from the middle of a free reply cuts its text there, wherever its tokens end."""
    model = tiny_model("moe", vocab_size=TOKENIZER.vocab_size)
    for seed in range(6):
        params = SamplingParams(seed=seed, max_tokens=30, stop_ids=())
        free = Engine(model, TOKENIZER).generate([[5, 6]], params)[0]
        assert free.text == TOKENIZER.decode(free.ids)
        stop = free.text[9:12]
        stopping = SamplingParams(seed=seed, max_tokens=30, stop=stop, stop_ids=())
        reply = Reply()
        for event in Engine(model, TOKENIZER).stream([5, 6], stopping):
            reply.add(event)
        assert reply.text == free.text[: free.text.index(stop)]
        assert reply.finish_reason == "stop" and reply.ids == free.ids[: len(reply.ids)]
        decoder = StreamDecoder(TOKENIZER)
        pieces = [decoder.feed(token) for token in reply.ids]
        assert stop in "".join(pieces) and stop not in "".join(pieces[:-1])


@pytest.mark.parametrize("min_tokens", [0, 4, 9])
def test_a_stop_string_counts_after_the_fewest_tokens_and_may_stay(min_tokens: int) -> None:
    model = tiny_model("moe", vocab_size=TOKENIZER.vocab_size)
    for seed in range(4):
        params = SamplingParams(seed=seed, max_tokens=30, stop_ids=())
        free = Engine(model, TOKENIZER).generate([[5, 6]], params)[0]
        decoder = StreamDecoder(TOKENIZER)
        early = "".join(decoder.feed(token) for token in free.ids[:min_tokens])
        stop = next((char for char in early if char in free.text[len(early) :]), free.text[len(early)])
        cut = free.text.index(stop, len(early))
        for include in (False, True):
            given = replace(params, stop=stop, min_tokens=min_tokens, include_stop=include)
            reply = Engine(model, TOKENIZER).generate([[5, 6]], given)[0]
            assert reply.text == free.text[: cut + include]
            assert reply.finish_reason == "stop" and len(reply.ids) > min_tokens


def test_the_tokenizer_own_stop_ids_are_the_default() -> None:
    model = tiny_model("dense", vocab_size=TOKENIZER.vocab_size)
    replies = [
        Engine(model, TOKENIZER).generate([[9]], SamplingParams(seed=seed, max_tokens=90, temperature=3.0))[0]
        for seed in range(12)
    ]
    ended = [reply for reply in replies if reply.finish_reason == "stop"]
    assert ended
    for reply in ended:
        assert reply.ids[-1] in TOKENIZER.stop_ids
        assert reply.text == TOKENIZER.decode(reply.ids[:-1])
