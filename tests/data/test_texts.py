"""Plain text as tuning examples: what is text, what is a record, and that nothing is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.config import DataError
from coterie.config.tune import TuneConfig
from coterie.data.examples import read_all, read_examples
from coterie.data.formats import TextExample
from coterie.data.sources import read_sources
from coterie.data.split import split_examples
from coterie.data.texts import is_plain_text
from coterie.data.tokenised import tokenise_all
from coterie.data.tuning_rows import prepare_examples
from coterie.text.tokenizer import Tokenizer

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
TEXT = "A quiet river ran by the old mill.\n\nNobody had ever seen it frozen.\n"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", TEXT, True),
        ("a.md", "# Title\n" + TEXT, True),
        ("a.py", "print(1)\n", True),
        ("README", TEXT, True),
        ("a.txt", '{"not closed": \n', True),
        ("a.txt", "[1, 2]\n", True),
        ("a.txt", '"quoted"\n', True),
        ("a.txt", "\n\n" + ROW + "\n", False),  # JSON lines under another name
        ("a", ROW, False),
        ("a.jsonl", TEXT, False),
        ("a.json", "[]", False),
        ("a.unknown", ROW, False),
    ],
)
def test_a_file_is_text_or_records(name: str, content: str, text: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert is_plain_text(str(tmp_path / name)) == text


@pytest.mark.parametrize("source", ["-", "starter", "tools", "hf://a/b", "nowhere"])
def test_other_sources_are_not_text(source: str) -> None:
    assert not is_plain_text(source)


def test_a_folder_gives_the_documents_of_training(tmp_path: Path) -> None:
    for name, content in (("b.md", TEXT * 40), ("a.txt", "Unlike it. " * 30), ("sub/c.py", "x = 1\n" * 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "again.txt").write_text(TEXT * 40)
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "photo.txt").write_bytes(b"\0\1\2")
    found = read_examples(str(tmp_path))
    assert found.format == "text" and not found.problems
    kept = [document for document in read_sources([str(tmp_path)]) if not document.source.endswith("b.md")]
    assert [e.text for e in found.examples if isinstance(e, TextExample)] == [d.text for d in kept]
    assert len(read_examples(f"{tmp_path}#2").examples) == 2


def test_a_folder_with_records_names_the_texts_it_does_not_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW + "\n")
    (tmp_path / "README.md").write_text(TEXT)
    assert read_examples(str(tmp_path)).format == "messages"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "1 text files are not used" in line and "README.md" in line


def test_faults_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Caf\xe9 ".encode("latin-1") * 9)
    (tmp_path / "empty.txt").write_text(" \n")
    for name, said in (("latin.txt", "is not UTF-8 at byte 3"), ("empty.txt", "holds no text")):
        with pytest.raises(DataError, match=said) as caught:
            read_all([str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_a_document_is_on_one_side_and_learnt_whole(tmp_path: Path) -> None:
    for index in range(40):
        words = [f"w{(index * 31 + at * at) % 89}" for at in range(120)]
        (tmp_path / f"{index}.txt").write_text(" ".join(words))
    tokenizer = Tokenizer.train([file.read_text() for file in tmp_path.iterdir()], 300)
    found = tokenise_all(read_all([str(tmp_path)]), tokenizer, 64)
    assert len(found.examples) > 2 * 40, "every text has several parts"
    train, held = split_examples(found.examples, 0.3)
    files = [{example.origin.file for example in side} for side in (train, held)]
    assert held and not files[0] & files[1] and len(files[0] | files[1]) == 40
    settings = {"model": "m", "data": [str(tmp_path)], "row_length": 64, "eval": 0.3}
    data = prepare_examples(TuneConfig.from_dict(settings), tokenizer, 256)
    assert data.objective == "pretrain" and data.held_out
    learnt = sum(float(row.weights.sum()) for row in data.rows)
    assert learnt == sum(len(example.sequences[0].ids) - 1 for example in train)
