"""Tokenised examples: which tokens are learnt, faults with their lines, and packing."""

# ruff: noqa: E501  # tables, one case a line

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.examples import read_examples
from coterie.data.findings import examine
from coterie.data.tokenised import TokenExample, TokenSequence, pack, tokenise_all
from coterie.text import Tokenizer


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


GOOD = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}


@pytest.fixture(scope="module")
def chat_tokenizer() -> Tokenizer:
    return Tokenizer.train(["user assistant 1+1? 2 Be brief."] * 5, 320, starts_texts=True)


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


RENDERED = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


def test_names_of_special_tokens_in_plain_text(tmp_path, chat_tokenizer):
    """They are tokens, as the tokenizer reads them, unless the settings say otherwise; lint names them."""
    records = (
        {"prompt": RENDERED, "completion": "2<|im_end|>"},
        {"prompt": "1+1?", "completion": " 2<|endoftext|>"},
    )
    path = write(tmp_path / "rendered.jsonl", *records)
    found = read_examples(path)
    first, second = (e.sequences[0] for e in tokenise_all(found, chat_tokenizer, 200).examples)
    # The same as the conversation, with what the tokenizer puts before a text.
    talk = tokens_of(tmp_path, chat_tokenizer, GOOD).examples[0].sequences[0]
    line_break = 1  # the template writes one after the end of the turn
    assert first.ids == (chat_tokenizer.eos_id, *talk.ids[:-line_break])
    assert learnt_text(chat_tokenizer, first) == "2<|im_end|>"
    assert (
        learnt_text(chat_tokenizer, second) == " 2<|endoftext|>" and second.num_learnt == len(second.ids) - 5
    )
    letters = tokenise_all(found, chat_tokenizer, 200, "text")
    assert chat_tokenizer.token_id("<|im_end|>") not in letters.examples[0].sequences[0].ids
    assert learnt_text(chat_tokenizer, letters.examples[0].sequences[0]) == "2<|im_end|><|endoftext|>"
    refused = tokenise_all(found, chat_tokenizer, 200, "refuse")
    assert [problem.line for problem in refused.problems] == [1, 2] and not refused.examples
    assert "spells the special token <|im_start|>" in refused.problems[0].message
    warnings = examine(found, tokenise_all(found, chat_tokenizer, 200), chat_tokenizer).warnings()
    assert [(warning.line, warning.message.rpartition(": ")[2]) for warning in warnings] == [
        (1, "<|im_start|>"),
        (2, "<|endoftext|>"),
    ]


def test_a_pair_is_encoded_as_one_text(tmp_path):
    """SentencePiece-like tokenizers put a space before every text, so a completion apart would get another."""
    from tests.text.layouts import write as write_layout

    write_layout("pieces, space first", tmp_path / "model", "{{ messages[0].content }}")
    tokenizer = Tokenizer.load(tmp_path / "model")
    pair = {"prompt": "the answer is", "completion": " four"}
    (example,) = tokens_of(tmp_path, tokenizer, pair).examples
    assert example.sequences[0].ids == (*tokenizer.encode("the answer is four"), tokenizer.eos_id)
    assert learnt_text(tokenizer, example.sequences[0]).endswith(" four<|im_end|>")


STRICT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for c in m.tool_calls or [] %}"
    "{% if c.id is not defined or c.id|length != 9 %}{{ raise_exception('ids must have 9 characters') }}{% endif %}"
    "<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id}|tojson }}</tool_call>"
    "{% endfor %}{% if m.role == 'tool' %}{% if m.tool_call_id|length != 9 %}{{ raise_exception('no id') }}{% endif %}"
    "{{ m.tool_call_id }} {% endif %}{{ m.content or '' }}<|im_end|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)
CALL = {"name": "f", "arguments": {"a": 1}}
WITHOUT_IDS = {
    "ShareGPT": {"conversations": [
        {"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "42"}, {"from": "gpt", "value": "ok"}]},
    "messages": {"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]},
        {"role": "tool", "content": "42"}, {"role": "assistant", "content": "ok"}]},
    "preference": {"prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]}],
        "rejected": [{"role": "assistant", "content": "no"}]},
}  # fmt: skip


@pytest.mark.parametrize("form", WITHOUT_IDS)
def test_a_strict_template_gets_ids_for_the_calls_of_rows_without(tmp_path, chat_tokenizer, form):
    strict = Tokenizer(chat_tokenizer._json, chat_tokenizer._config, STRICT)
    found = [tokens_of(tmp_path, strict, WITHOUT_IDS[form], limit=400) for _ in range(2)]
    assert not found[0].problems and found[0].examples == found[1].examples
    text = strict.decode(found[0].examples[0].sequences[0].ids)
    name = text.split('"id": "')[1].split('"')[0]
    assert len(name) == 9 and (form == "preference" or f"<|im_start|>tool\n{name} 42" in text)
