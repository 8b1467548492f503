"""Documents become the same token ids wherever they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from coterie.data.documents import Document, document_ids
from coterie.data.rows import PackedRows
from coterie.data.shards import write_shards
from coterie.data.sources import Reading, read_sources
from coterie.text import Message, Tokenizer
from coterie.text.chat import render_ids

TURNS = (Message("user", "hi <|im_end|>"), Message("assistant", "ho"))


def test_conversations_are_rendered_by_the_template_and_texts_are_encoded():
    tokenizer = Tokenizer.train(["user assistant hi ho plain"] * 5, 320)
    documents = [Document("one rendering", "s", messages=TURNS), Document("plain", "s")]
    chat = render_ids(tokenizer, TURNS)[0]
    eos, plain = tokenizer.eos_id, tokenizer.encode("one rendering")
    assert document_ids(documents, tokenizer) == [[eos, *chat], [eos, *tokenizer.encode("plain")]]
    assert document_ids(documents[:1], tokenizer, plain=True) == [[eos, *plain]]
    tokenizer.chat_template = None
    assert document_ids(documents[:1], tokenizer) == [[eos, *plain]]


def test_a_known_tokenizer_renders_once_when_the_document_is_read(tmp_path, monkeypatch):
    tokenizer = Tokenizer.train(["user assistant hi ho"] * 5, 320)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    path = tmp_path / "talk.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'
    )
    (document,) = read_sources([str(path)], Reading(tokenizer=tokenizer))
    assert document.text == "[user]hi\n[assistant]ho\n"
    tokenizer.chat_template = "broken {{"  # no second rendering would succeed
    assert document_ids([document], tokenizer) == [[tokenizer.eos_id, *(document.ids or ())]]
    assert tokenizer.decode(document.ids or ()) == document.text


def layout(folder: Path, before: list[str], after: list[str]) -> Tokenizer:
    """A byte-level tokenizer whose post-processor puts tokens before and after a text."""
    plain = Tokenizer.train(["user assistant hi ho plain"] * 5, 320)
    plain.save(folder)
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens(["<s>", "</s>"])
    names = {name: rust.token_to_id(name) for name in ("<s>", "</s>")}
    single = " ".join([*before, "$A", *after])
    rust.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=list(names.items())
    )
    rust.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["bos_token"]
    config |= {"eos_token": "</s>"} | ({"bos_token": "<s>"} if before else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("before", "after", "start", "end"),
    [
        ([], [], ["<|endoftext|>"], []),
        (["<s>"], [], ["<s>"], ["</s>"]),
        (["<s>"], ["</s>"], ["<s>"], ["</s>"]),
        ([], ["</s>"], ["<|endoftext|>"], []),
    ],
    ids=["no start", "a start", "start and end", "an end"],
)
def test_a_document_starts_as_the_tokenizer_starts_texts(
    before: list[str], after: list[str], start: list[str], end: list[str], tmp_path: Path
) -> None:
    tokenizer = layout(tmp_path, before, after)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    )
    number = {name: tokenizer.token_id(name) for name in ("<s>", "</s>", "<|endoftext|>")}
    documents = [Document("plain", "s"), Document("", "s", messages=TURNS), Document("ho", "s")]
    found = document_ids(documents, tokenizer)
    first, last = [number[name] for name in start], [number[name] for name in end]
    assert found[0] == [*first, *tokenizer.encode("plain"), *last]
    chat = render_ids(tokenizer, TURNS).ids
    assert found[1] == (chat if before else [*first, *chat]), "the template's own start token came twice"
    # The stream: every document begins with its start, which is also the target after the last token.
    shards = write_shards(documents, tokenizer, tmp_path / "shards")
    assert [shards.document(index).tolist() for index in range(3)] == found
    row = PackedRows(shards, sum(map(len, found)))[0]
    stream = [token for ids in found for token in ids]
    assert row.ids.tolist() == stream and row.lengths == tuple(map(len, found))
    assert row.targets.tolist() == [*stream[1:], shards.eos_id] and [shards.eos_id] == first
    # `LanguageModel.encode` and `tune` put `start_ids` before a text.
    assert list(tokenizer.start_ids) == (first if before else [])
