"""Round trips, special tokens as text, streaming, and transformers reading what is saved."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config.errors import DataError
from coterie.text import SPECIALS, StreamDecoder, Tokenizer
from coterie.text.tokenizer import CHATML

CORPUS = [
    "The cat sat on the mat; it's 1234 o'clock.\n\n    def f(x):\n        return x + 10\n",
    "été naïve 日本語 🙂",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 400, starts_texts=True)


special_or_text = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(SPECIALS)), max_size=8).map(
    "".join
)


@given(text=special_or_text)
@settings(max_examples=300, deadline=None)
def test_round_trip_of_any_text_without_special_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.special_ids
    assert tokenizer.num_bytes(ids) == len(text.encode())
    assert b"".join(tokenizer.token_bytes(ids)) == text.encode()


@given(ids=st.lists(st.integers(0, 264), max_size=40), skip=st.booleans())
@settings(max_examples=300, deadline=None)
def test_stream_emits_whole_characters_and_equals_decode(tokenizer, ids, skip):
    stream = StreamDecoder(tokenizer, skip)
    parts = [stream.feed(token) for token in ids]
    whole = b"".join(tokenizer.token_bytes(t for t in ids if not (skip and t in tokenizer.special_ids)))
    assert (
        "".join(parts) + stream.finish()
        == tokenizer.decode(ids, skip)
        == whole.decode("utf-8", errors="replace")
    )
    assert stream.finish() == ""


def test_stream_holds_back_an_unfinished_character(tokenizer):
    ids = tokenizer.encode("🤖")
    assert len(ids) > 1  # this emoji is not in the corpus
    stream = StreamDecoder(tokenizer)
    assert [stream.feed(token) for token in ids] == [""] * (len(ids) - 1) + ["🤖"]
    stream.feed(ids[0])
    assert stream.finish() == "\ufffd"


def test_digits_are_single_and_bytes_complete(tokenizer):
    assert [tokenizer.decode([t]) for t in tokenizer.encode("1234567")] == list("1234567")
    every = {bytes([byte]) for byte in range(256)}
    assert every <= set(tokenizer.token_bytes(range(tokenizer.vocab_size)))
    assert len(set(tokenizer.token_bytes(range(tokenizer.vocab_size)))) == tokenizer.vocab_size


def test_specials_have_the_first_ids(tokenizer):
    assert [tokenizer.encode(name, allow_special=True) for name in SPECIALS] == [
        [n] for n in range(len(SPECIALS))
    ]
    assert tokenizer.eos_id == 0 and tokenizer.stop_ids == {0, 2}
    ids = tokenizer.encode("a<|im_end|>b", allow_special=True)
    assert (
        ids[1] == 2
        and tokenizer.decode(ids) == "a<|im_end|>b"
        and tokenizer.decode(ids, skip_special=True) == "ab"
    )


def test_batch_equals_one_by_one(tokenizer):
    assert tokenizer.encode_batch([*CORPUS[:2], ""]) == [*map(tokenizer.encode, CORPUS[:2]), []]


def test_save_load_keeps_ids_and_hash(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.sha256 == tokenizer.sha256 and again.chat_template == tokenizer.chat_template
    assert again.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0]) and again.vocab_size == tokenizer.vocab_size
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))  # other white space, same tokenizer
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    assert Tokenizer.train(CORPUS, 300).sha256 != tokenizer.sha256


def test_transformers_reads_the_directory(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (0, 0, 0)
    assert theirs.chat_template.strip() == CHATML.read_text().strip()
    text = "<|im_start|>user\n" + CORPUS[0] + CORPUS[1] + "<|im_end|>"
    assert theirs(text).input_ids == [0, *tokenizer.encode(text, allow_special=True)]
    assert tokenizer.start_ids == (0,) and theirs.decode(theirs(text).input_ids[1:]) == text


def test_sentencepiece_style_bytes_and_leading_space(tmp_path):
    rust = pytest.importorskip("tokenizers")
    vocab = {"<unk>": 0, "</s>": 1, "\u2581": 2, "\u2581a": 3, "b": 4, "<0xC3>": 5, "<0xA9>": 6, "a": 7}
    model = rust.Tokenizer(rust.models.BPE(vocab, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    model.normalizer = rust.normalizers.Sequence(
        [rust.normalizers.Prepend("\u2581"), rust.normalizers.Replace(" ", "\u2581")]
    )
    steps = [rust.decoders.Replace("\u2581", " "), rust.decoders.ByteFallback(), rust.decoders.Fuse()]
    model.decoder = rust.decoders.Sequence([*steps, rust.decoders.Strip(" ", 1, 0)])
    model.add_special_tokens(["</s>"])
    ours = Tokenizer(model.to_str(), {"eos_token": {"content": "</s>"}})
    for text in ["a", "ab aé", " a", "é"]:
        assert ours.decode(ours.encode(text)) == text == model.decode(model.encode(text).ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: Tokenizer.load(path / "no"), "has no tokenizer.json"),
        (lambda path: Tokenizer.train(CORPUS, 100), "too small; bytes and specials need 265"),
        (lambda path: Tokenizer.train(CORPUS, 300).encode("a\ud800"), "cannot be encoded"),
        (lambda path: Tokenizer.train(CORPUS, 300).decode([100000]), "100000 is not in the vocabulary"),
        (
            lambda path: (path / "tokenizer.json").write_text("{") and Tokenizer.load(path),
            "not a usable tokenizer",
        ),
        (
            lambda path: (path / "tokenizer.json").write_text("[]") and Tokenizer.load(path),
            "not a usable tokenizer",
        ),
    ],
)
def test_errors_are_one_line(make, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_stated_id_beyond_the_vocabulary(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    top = {"id": 1000, "content": "<top>", "special": True}
    data["added_tokens"].append({**data["added_tokens"][0], **top})
    path.write_text(json.dumps(data))
    again = Tokenizer.load(tmp_path)
    # `tokenizers` gives a name that the vocabulary lacks the next free id, whatever the file says.
    assert again.added_tokens["<top>"] == tokenizer.vocab_size == again.vocab_size - 1


def test_what_stands_before_a_text_and_before_a_document(tokenizer, tmp_path):
    """What the post-processor adds; before a document `<|endoftext|>` if that is nothing, or else the eos."""
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())

    def loaded(single: list, eos: str = "<|im_end|>") -> Tokenizer:
        content["post_processor"]["single"] = single
        path.write_text(json.dumps(content))
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": eos, "bos_token": "<|im_start|>"})
        )
        return Tokenizer.load(tmp_path)

    text = {"Sequence": {"id": "A", "type_id": 0}}
    start = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    assert (loaded([text]).start_ids, loaded([text]).document_start) == ((), (0,))
    assert (loaded([start, text]).start_ids, loaded([start, start, text]).document_start) == ((0,), (0, 0))
    assert loaded([text, start]).start_ids == ()
    bare = Tokenizer.train(CORPUS, 300, ["</s>"])
    assert bare.document_start == (0,) and bare.start_ids == ()


def test_lengths_that_a_file_asks_for_cut_nothing(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {
        "strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    for special in (False, True):
        assert Tokenizer.load(tmp_path).encode(CORPUS[0], special) == tokenizer.encode(CORPUS[0])
