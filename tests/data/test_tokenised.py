"""Tokenised examples: which tokens are learnt, faults with their lines, and packing."""

# ruff: noqa: E501  # tables, one case a line

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.examples import read_examples
from coterie.data.tokenised import TokenExample, TokenSequence, pack, tokenise_all
from coterie.text import Tokenizer


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


GOOD = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}


@pytest.fixture(scope="module")
def chat_tokenizer() -> Tokenizer:
    return Tokenizer.train(["user assistant 1+1? 2 Be brief."] * 5, 320)


def tokens_of(tmp_path, tokenizer, *records, limit=200):
    return tokenise_all(read_examples(write(tmp_path / "t.jsonl", *records)), tokenizer, limit)


def learnt_text(tokenizer, sequence):
    return tokenizer.decode(
        [token for token, learnt in zip(sequence.ids, sequence.learnt, strict=True) if learnt]
    )


def test_what_is_learnt(tmp_path, chat_tokenizer):
    found = tokens_of(tmp_path, chat_tokenizer, GOOD)
    assert learnt_text(chat_tokenizer, found.examples[0].sequences[0]) == "2<|im_end|>"
    pair = (
        tokens_of(tmp_path, chat_tokenizer, {"prompt": "1+1?", "completion": " 2"}).examples[0].sequences[0]
    )
    assert learnt_text(chat_tokenizer, pair) == " 2<|endoftext|>"
    assert chat_tokenizer.decode(pair.ids) == "<|endoftext|>1+1? 2<|endoftext|>"
    bare = Tokenizer(chat_tokenizer._json, chat_tokenizer._config, None)
    assert tokens_of(tmp_path, bare, {"prompt": "1+1?", "completion": " 2"}).examples[0].sequences[0] == pair
    assert "no chat template" in tokens_of(tmp_path, bare, GOOD).problems[0].message
    both = tokens_of(tmp_path, chat_tokenizer, {"prompt": "1+1?", "chosen": "2", "rejected": "3"})
    assert both.judged and [learnt_text(chat_tokenizer, sequence) for sequence in both.examples[0].sequences] == ["2<|endoftext|>", "3<|endoftext|>"]  # fmt: skip
    text = tokens_of(tmp_path, chat_tokenizer, {"text": "abc " * 30}, limit=20)
    joined = [token for example in text.examples for token in example.sequences[0].ids[:-1]] + [
        chat_tokenizer.eos_id
    ]
    assert chat_tokenizer.decode(joined) == "<|endoftext|>" + "abc " * 30 + "<|endoftext|>"
    assert all(example.positions <= 20 for example in text.examples)


def test_faults_of_tokens_have_their_lines(tmp_path, chat_tokenizer):
    start = chat_tokenizer.eos_id
    found = tokens_of(
        tmp_path, chat_tokenizer,
        {"input_ids": [5, 6], "labels": [-100, -100]}, {"input_ids": [5, 99999]}, {"input_ids": [start, start, 5]},
        {"input_ids": [5, start, start]}, {"input_ids": [5] * 300}, {"input_ids": [5, 6]},
    )  # fmt: skip
    said = ["nothing to learn", "outside the tokenizer", "twice", "twice", "positions"]
    assert [problem.line for problem in found.problems] == [1, 2, 3, 4, 5]
    assert all(part in problem.message for part, problem in zip(said, found.problems, strict=True))
    assert [example.origin.line for example in found.examples] == [6]
    nothing = {"messages": [{"role": "user", "content": "1+1?"}]}
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    assert "nothing to learn" in tokens_of(tmp_path, chat_tokenizer, nothing).problems[0].message
    assert "nothing to prefer" in tokens_of(tmp_path, chat_tokenizer, same).problems[0].message


sizes = st.lists(st.integers(2, 12), min_size=1, max_size=12)


@given(sizes=sizes, together=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_packed_rows_hold_every_example_once(sizes, together, seed):
    from coterie.data.records import Origin

    rng = np.random.default_rng(seed)
    examples = []
    for number, size in enumerate(sizes):
        ids = tuple(int(token) for token in rng.integers(1, 1000, size))
        examples.append(
            TokenExample(
                (TokenSequence(ids, tuple(bool(mark) for mark in rng.integers(0, 2, size))),),
                Origin("f", number),
            )
        )
    rows = pack(examples, 16, 0, together=together)
    assert together or len(rows) == len(examples)
    seen = []
    for row in rows:
        at = 0
        for length in row.lengths[: len(row.lengths) - (row.num_padding > 0)]:
            ids = (*row.ids[at : at + length].tolist(), int(row.targets[at + length - 1]))
            assert row.ids[at + 1 : at + length].tolist() == row.targets[at : at + length - 1].tolist()
            seen.append((ids, tuple(row.weights[at : at + length].astype(bool).tolist())))
            at += length
        assert not row.weights[at:].any() and row.num_padding == 16 - at
    assert sorted(seen) == sorted(
        (example.sequences[0].ids, example.sequences[0].learnt[1:]) for example in examples
    )
