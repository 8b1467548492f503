"""Documents become the same token ids wherever they are read."""

from coterie.data.documents import Document, document_ids
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
