"""Packed text reaches its index whole: documents, conversations and tuning examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.config.data import DataConfig
from coterie.config.errors import DataError
from coterie.contamination.fingerprints import fingerprints
from coterie.contamination.index import ContaminationIndex
from coterie.data.build import INDEX, prepare
from coterie.data.indexed import index_examples, index_sources
from coterie.data.records import Origin
from coterie.data.tokenised import TokenExample, TokenSequence, pack
from coterie.text import Tokenizer
from tests.data.conftest import sentences


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(sentences(number, 4))
    return folder


def test_the_index_has_seen_every_packed_document(corpus: Path, tmp_path: Path):
    prepared = prepare(DataConfig.from_dict({"sources": [str(corpus)], "vocab_size": 300}), tmp_path / "out")
    header = prepared.index.header
    assert header.tokens == prepared.train.num_tokens
    assert header.documents == prepared.train.num_documents
    assert prepared.index.arrays["document_tokens"].tolist() == np.diff(prepared.train.starts).tolist()
    for number in range(header.documents):
        text = prepared.tokenizer.decode(prepared.train.document(number).tolist(), skip_special=True)
        assert prepared.index.has(fingerprints([text]).values).all()
    held_out = [
        prepared.tokenizer.decode(list(one.ids), skip_special=True) for one in prepared.heldout_documents()
    ]
    assert not prepared.index.has(fingerprints(held_out).values).any()  # it is not trained on


def test_prepared_data_without_its_index_is_built_anew(corpus: Path, tmp_path: Path, caplog):
    config = DataConfig.from_dict({"sources": [str(corpus)], "vocab_size": 300})
    first = prepare(config, tmp_path / "out")
    tokens = first.train.num_tokens
    for damage in ("missing", "cut", "other"):
        path = first.directory / INDEX
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-8])
        else:
            index_sources([str(corpus / "1.txt")], "pretrain").write(path)
        again = prepare(config, tmp_path / "out")
        assert not again.reused
        assert (again.train.num_tokens, again.index.header.tokens) == (tokens, tokens)
    assert prepare(config, tmp_path / "out").reused


def test_a_stopped_writer_leaves_no_index(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ContaminationIndex, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(DataConfig.from_dict({"sources": [str(corpus)], "vocab_size": 300}), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.index"))


def examples(tokenizer: Tokenizer) -> list[TokenExample]:
    found = []
    for number in range(12):
        ids = [tokenizer.eos_id, *tokenizer.encode(sentences(number, 3))]
        sequence = TokenSequence(tuple(ids), (True,) * len(ids))
        found.append(TokenExample((sequence,), Origin("rows.jsonl", number + 1)))
    return found


def test_tuning_examples_are_indexed_by_what_their_rows_hold(tokenizer: Tokenizer):
    given = examples(tokenizer)
    rows = pack(given, max(one.positions for one in given) + 7, tokenizer.eos_id)
    index = index_examples(given, rows, tokenizer, "tune")
    assert index.header.tokens == sum(len(one.sequences[0].ids) for one in given)
    assert index.arrays["document_number"].tolist() == list(range(1, 13))
    for number in range(12):
        assert index.has(fingerprints([sentences(number, 3)]).values).all()


def test_rows_with_other_tokens_than_the_examples_are_an_error(tokenizer: Tokenizer):
    given = examples(tokenizer)
    rows = pack(given, 400, tokenizer.eos_id)
    more = TokenSequence((*given[0].sequences[0].ids, 5), (*given[0].sequences[0].learnt, True))
    with pytest.raises(DataError, match="were packed, so it lacks text"):
        index_examples([replace(given[0], sequences=(more,)), *given[1:]], rows, tokenizer, "tune")
