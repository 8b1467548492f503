"""Token shards: their format, several files as one stream, and damage."""

import json
import struct

import numpy as np
import pytest

from coterie.config import DataError
from coterie.data.documents import Document
from coterie.data.shards import open_shards, write_shards
from coterie.text import Message, Tokenizer, render_ids
from tests.data.conftest import documents


def test_shards_hold_documents_tokens_slices_and_bytes(tokenizer, tmp_path):
    corpus = documents(50, slices=3)
    shards = write_shards(corpus, tokenizer, tmp_path)
    assert shards.num_documents == 50 and shards.num_tokens == sum(len(shards.document(n)) for n in range(50))
    for number, document in enumerate(corpus):
        ids = shards.document(number).tolist()
        assert ids[0] == tokenizer.eos_id and tokenizer.decode(ids[1:]) == document.text
        assert shards.slice_names[shards.slices[number]] == document.slice
        assert shards.num_bytes[number] == len(document.text.encode())


def test_files_are_megatron_indexed_datasets(tokenizer, tmp_path):
    shards = write_shards(documents(7), tokenizer, tmp_path)
    raw = (tmp_path / "shard-00000.idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, count, marks = struct.unpack("<QBQQ", raw[9:34])
    assert (version, code, count, marks) == (1, 8, 7, 8)
    lengths = np.frombuffer(raw, "<i4", 7, 34)
    pointers = np.frombuffer(raw, "<i8", 7, 34 + 28)
    assert np.frombuffer(raw, "<i8", 8, 34 + 28 + 56).tolist() == list(range(8))
    data = (tmp_path / "shard-00000.bin").read_bytes()
    for number in range(7):
        tokens = np.frombuffer(data, "<u2", lengths[number], pointers[number])
        assert tokens.tolist() == shards.document(number).tolist()


def test_several_shards_read_as_one(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.data.shards._BATCH", 4)
    corpus = documents(30)
    one = write_shards(corpus, tokenizer, tmp_path / "one")
    many = write_shards(corpus, tokenizer, tmp_path / "many", tokens_per_shard=200)
    assert len(many.tokens) > 3 and one.slice_names == many.slice_names
    assert np.array_equal(one.read(0, one.num_tokens), many.read(0, many.num_tokens))
    assert np.array_equal(one.starts, many.starts) and np.array_equal(one.slices, many.slices)
    with pytest.raises(DataError, match="asked for"):
        one.read(0, one.num_tokens + 1)


def test_conversations_are_rendered_with_special_tokens(tokenizer, tmp_path):
    turns = (Message("user", "a <|im_end|> b"), Message("assistant", "c"))
    shards = write_shards(
        [Document("rendered", "s", messages=turns), Document("plain", "s")], tokenizer, tmp_path
    )
    assert shards.document(0).tolist() == [tokenizer.eos_id, *render_ids(tokenizer, turns)[0]]
    assert shards.document(1).tolist() == [tokenizer.eos_id, *tokenizer.encode("plain")]


def test_damage_and_foreign_tokenizers_are_found(tokenizer, tmp_path):
    write_shards(documents(9), tokenizer, tmp_path)
    with pytest.raises(DataError, match="written with another tokenizer"):
        open_shards(tmp_path, Tokenizer.train(["abc"], 265))
    with pytest.raises(DataError, match=r"shard.json: cannot be read .*; prepare the data again"):
        open_shards(tmp_path / "none")
    data = tmp_path / "shard-00000.bin"
    good = data.read_bytes()
    data.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    open_shards(tmp_path)
    with pytest.raises(DataError, match="content has changed"):
        open_shards(tmp_path, verify=True)
    data.write_bytes(good[:-2])
    with pytest.raises(DataError, match="bytes"):
        open_shards(tmp_path)
    data.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_shards(tmp_path)
    data.write_bytes(good)
    sidecar = tmp_path / "shard.json"
    whole = json.loads(sidecar.read_text())
    for change, said in (
        (
            {"format": "coterie-shards-1"},
            "'format': Input should be 'coterie-shards-2', got 'coterie-shards-1'",
        ),
        ({"files": {"shard-00000.bin": 3}}, "'files.shard-00000.bin'"),
        ({"shards": ["../other"]}, "names '../other', which is not a file next to it"),
        ({"slices": []}, "document table and index disagree"),
        ({"later": 1}, "unknown key 'later'"),
    ):
        sidecar.write_text(json.dumps(whole | change))
        with pytest.raises(DataError, match="prepare the data again") as caught:
            open_shards(tmp_path)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    sidecar.write_text("{")
    with pytest.raises(DataError, match=r"is not valid JSON .*; prepare the data again"):
        open_shards(tmp_path)
