"""No row, line or file of data ends in a traceback: each fault is one line with its file."""

import gzip
from pathlib import Path

import pytest

from coterie.config.errors import DataError
from coterie.data.examples import read_examples
from coterie.data.records import MAX_LINE
from tests.data.hostile_rows import read_many


def test_damaged_rows_end_in_named_problems(tmp_path: Path) -> None:
    counts = read_many(60, 0, tmp_path)
    assert counts["files"] == 60 and counts["problems"] > 20 and counts["usable"] > 20


@pytest.mark.slow
def test_many_damaged_rows_end_in_named_problems(tmp_path: Path) -> None:
    for seed in range(1, 11):
        counts = read_many(1000, seed, tmp_path)
        assert counts["problems"] > 500 and counts["usable"] > 500


FILES = [
    ("a.jsonl", gzip.compress(b'{"text": "x"}', mtime=0), "is compressed"),
    ("a.json", gzip.compress(b"[]", mtime=0), "is compressed"),
    ("b.jsonl", '{"text": "x"}'.encode("utf-16"), "is in UTF-16"),
    ("c.jsonl", '{"text": "x"}'.encode("utf-16-le"), "holds binary data"),
    ("d.jsonl", b"PAR1xx", "name it .parquet"),
    ("e.csv", b"text\nx\n", "tables of text are not read"),
    ("f.jsonl", b"", "holds no example"),
    ("g.json", b" ", "holds no example"),
    ("h.json", b"[[", "is not valid JSON"),
    ("i.parquet", b"PAR1", "is not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_files_of_another_kind_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_lines_of_every_end_and_json_lines_under_another_name(tmp_path: Path) -> None:
    lines = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n{"text": "c"}'
    for name in ("a.jsonl", "a.json", "a.ndjson"):
        (tmp_path / name).write_bytes(lines)
        found = read_examples(str(tmp_path / name))
        assert [(e.text, e.origin.line) for e in found.examples] == [("a", 1), ("b", 3), ("c", 4)]


def test_a_line_beyond_the_limit_is_a_problem_and_the_rest_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "' + b"x" * MAX_LINE + b'"}\n{"text": "b"}\n')
    found = read_examples(str(tmp_path / "a.jsonl"))
    assert [str(p) for p in found.problems] == [
        f"{tmp_path}/a.jsonl:1: is longer than 64 MiB; split this record"
    ]
    assert [(e.text, e.origin.line) for e in found.examples] == [("b", 2)]
