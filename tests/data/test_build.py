"""The whole preparation: reuse, damage, interruption, mixture weights, the card, held-out documents."""

import json

import pytest

from coterie.config import DataError
from coterie.config.data import DataConfig
from coterie.data import build
from coterie.data.build import prepare
from coterie.data.card import DataCard
from coterie.data.split import place
from tests.data.conftest import documents, sentences


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    for name, seed in [("a", 1), ("b", 2)]:
        lines = [json.dumps({"text": document.text}) for document in documents(150, seed)]
        (path / f"{name}.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    return path


def config(corpus, **settings):
    sources = settings.pop("sources", [str(corpus / "a.jsonl"), str(corpus / "b.jsonl")])
    return DataConfig.from_dict({"sources": sources, "vocab_size": 320, "heldout_fraction": 0.1, **settings})


def test_prepare_then_reuse(corpus, tmp_path, caplog):
    caplog.set_level("INFO", "coterie")
    first = prepare(config(corpus), tmp_path / "out")
    assert len(caplog.messages) == 4 and not first.reused
    assert first.card.dropped == {"exact duplicate": 2, "near duplicate": 0}
    again = prepare(config(corpus, row_length=64), tmp_path / "out")
    assert again.reused and again.directory == first.directory and len(caplog.messages) == 5
    assert again.card == first.card and again.train_rows().row_length == 64
    assert [path.name for path in (tmp_path / "out").iterdir()] == [first.directory.name]


def test_card_counts_agree_with_the_shards(corpus, tmp_path):
    prepared = prepare(config(corpus), tmp_path)
    card = prepared.card
    train, heldout = card.total("train"), card.total("heldout")
    assert card.read_documents == 302 == train.documents + heldout.documents + 2
    repeated = sum(len(documents(1, seed)[0].text.encode()) for seed in (1, 2))
    assert card.read_bytes == train.num_bytes + heldout.num_bytes + repeated
    assert (train.tokens, heldout.tokens) == (prepared.train.num_tokens, prepared.heldout.num_tokens)
    assert set(card.train) == set(card.heldout) == {"a", "b"}
    data = json.loads((prepared.directory / "card.json").read_text())
    assert DataCard.from_dict(data) == card and data["bytes_per_token"] == heldout.num_bytes / heldout.tokens
    text = card.to_text()
    assert "2 exact duplicate" in text and f"{train.tokens:,} tokens" in text


def test_heldout_documents_are_the_ones_the_hash_chose(corpus, tmp_path):
    prepared = prepare(config(corpus), tmp_path)
    chosen = {
        (name, document.text)
        for name, seed in [("a", 1), ("b", 2)]
        for document in documents(150, seed)
        if place(document.text) < 0.1
    }
    decode = prepared.tokenizer.decode
    found = {(d.slice, decode(d.ids[1:])): d.num_bytes for d in prepared.heldout_documents()}
    assert found.keys() == chosen and all(size == len(text.encode()) for (_, text), size in found.items())
    train = {decode(prepared.train.document(n)[1:]) for n in range(prepared.train.num_documents)}
    assert not train & {text for _, text in chosen} and len(train) == 300 - len(chosen)


def test_weights_repeat_and_thin_out_training_only(corpus, tmp_path):
    plain = prepare(config(corpus), tmp_path).card
    sources = [
        {"path": str(corpus / "a.jsonl"), "weight": 2.5},
        {"path": str(corpus / "b.jsonl"), "weight": 0.25},
    ]
    mixed = prepare(config(corpus, sources=sources), tmp_path).card
    assert mixed.heldout["a"].documents == plain.heldout["a"].documents
    assert 2.3 < mixed.train["a"].documents / plain.train["a"].documents < 2.7
    assert 0.12 < mixed.train["b"].documents / plain.train["b"].documents < 0.4


def test_order_is_seeded_and_mixes_the_slices(corpus, tmp_path):
    runs = [prepare(config(corpus, seed=seed), tmp_path / str(n)) for n, seed in enumerate([0, 0, 1])]
    streams = [run.train.read(0, run.train.num_tokens).tolist() for run in runs]
    assert streams[0] == streams[1] != streams[2]
    slices = runs[0].train.slices
    assert 90 < (slices[1:] != slices[:-1]).sum() < 180  # about half of 270 when mixed, 1 when not


def test_changed_source_or_damage_is_built_anew(corpus, tmp_path, caplog):
    caplog.set_level("INFO", "coterie")
    out = tmp_path / "out"
    first = prepare(config(corpus), out)
    data = next(first.directory.glob("train/*.bin"))
    raw = bytearray(data.read_bytes())
    raw[10] ^= 1
    data.write_bytes(raw)
    caplog.clear()
    second = prepare(config(corpus), out)
    assert not second.reused and "content has changed" in caplog.messages[0]
    assert second.directory == first.directory and second.card == first.card
    with (corpus / "a.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": sentences(99, 3)}) + "\n")
    assert prepare(config(corpus), out).card.read_documents == 303


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_build_leaves_nothing(corpus, tmp_path, monkeypatch, failure):
    def fail(*args):
        raise failure

    monkeypatch.setattr(build, "count_slices", fail)
    expected = DataError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        prepare(config(corpus), tmp_path / "out")
    if expected is DataError:
        assert "No space left on device" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_given_tokenizer_is_used(corpus, tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tok")
    prepared = prepare(config(corpus, tokenizer=str(tmp_path / "tok")), tmp_path / "out")
    assert prepared.tokenizer.sha256 == tokenizer.sha256 == prepared.card.tokenizer_sha256
    with pytest.raises(DataError, match=r"has no tokenizer.json"):
        prepare(config(corpus, tokenizer=str(tmp_path / "none")), tmp_path / "out")


def test_too_little_text_is_said_or_noted(corpus, tmp_path):
    one = corpus / "one.txt"
    one.write_text("just one line\n")
    with pytest.raises(DataError, match="one document cannot be split"):
        prepare(config(corpus, sources=[str(one)]), tmp_path / "out")
    one.write_text("\n\n".join(sentences(n, 8) for n in range(10)))
    prepared = prepare(config(corpus, sources=[str(one)], heldout_fraction=1e-6), tmp_path / "out")
    assert prepared.heldout.num_documents == 1 and "moved to fill" in prepared.card.to_text()
