"""Prompts with an end, against ids put together by hand."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Rust

from coterie.text.infilling import FORMS, infill_form
from coterie.text.tokenizer import SPECIALS, Tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "print(add(1, 2))\n"] * 3


def with_tokens(*names: str) -> Tokenizer:
    return Tokenizer.train(TEXTS, 300, (*SPECIALS, *names))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"), (0, "p", 2, "s", 1)),
        (("<fim_prefix>", "<fim_middle>", "<fim_suffix>"), (0, "p", 2, "s", 1)),
        (("<fim-prefix>", "<fim-middle>", "<fim-suffix>"), (0, "p", 2, "s", 1)),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), (0, "p", 1, "s", 2)),
        (("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"), (0, "p", 2, "s", 1)),
        (("[PREFIX]", "[SUFFIX]"), (1, "s", 0, "p")),
    ],
)
def test_each_family_is_written_in_its_order(names: tuple[str, ...], order: tuple[int | str, ...]) -> None:
    tokenizer = with_tokens(*names)
    form = infill_form(tokenizer)
    assert form is not None and form in FORMS
    before, after = "def add(a, b):\n    return ", f" + b\n# {names[0]}\n"
    texts = {"p": tokenizer.encode(before), "s": tokenizer.encode(after)}
    expected: list[int] = []
    for part in order:
        token = None if isinstance(part, str) else tokenizer.token_id(names[part])
        expected += texts[str(part)] if token is None else [token]
    assert form.prompt(tokenizer, before, after) == expected
    assert set(form.stops(tokenizer)) == {tokenizer.token_id(name) for name in names}
    assert expected.count(tokenizer.token_id(names[0]) or -1) == 1  # a name in a text stays text


def test_a_tokenizer_without_all_tokens_has_no_form() -> None:
    assert infill_form(with_tokens()) is None
    assert infill_form(with_tokens("<fim_prefix>", "<fim_suffix>", "[SUFFIX]")) is None


def test_an_end_does_not_begin_with_the_space_that_begins_a_text() -> None:
    """SentencePiece puts a space before a text; the text after the gap must come back as it was given."""
    rust = Rust(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    rust.decoder = decoders.Metaspace(prepend_scheme="first")
    marks = ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]
    special = [AddedToken(name, special=True, normalized=False) for name in ("</s>", *marks)]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False,
                                  initial_alphabet=["☺"])  # fmt: skip
    rust.train_from_iterator(TEXTS, trainer)
    tokenizer = Tokenizer(rust.to_str(), {"eos_token": "</s>"})
    form = infill_form(tokenizer)
    assert form is not None
    ids = form.prompt(tokenizer, "def add", "return a")
    cut = ids.index(tokenizer.added_tokens["▁<SUF>"])
    spelt = [b"".join(tokenizer.token_bytes(part)) for part in (ids[1:cut], ids[cut + 1 : -1])]
    assert spelt == [b" def add", b"return a"]
