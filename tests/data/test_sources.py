"""Every kind of source, what is skipped and counted, and one line for everything that cannot be used."""

import json
from pathlib import Path

import pytest

from coterie.config import ConfigError, DataError
from coterie.config.data import DataConfig, SourceConfig
from coterie.data.lint import lint
from coterie.data.sources import Reading, fingerprint, read_sources
from coterie.text import Message


def read(*specs, **options):
    reading = Reading(**options)
    report = reading.report
    found = list(read_sources(specs, reading))
    assert report.documents == len(found) and report.num_bytes == sum(len(d.text.encode()) for d in found)
    return found, +report.skipped


def test_text_file_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    text = "\n".join(f"line {n}" + ("\n" if n % 10 == 0 else "") for n in range(4000))
    (tmp_path / "book.txt").write_text(text)
    found, _ = read(str(tmp_path / "book.txt"))
    assert "".join(d.text for d in found) == text and 10 < len(found) < 30
    lines = text.split("\n")
    for document in found:
        assert document.slice == "book" and document.text.startswith(lines[document.number - 1] + "\n")
    assert all(document.text.endswith("\n\n") for document in found[:-1])


def test_jsonl_fields_messages_and_line_numbers(tmp_path):
    path = tmp_path / "some.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    path.write_text(
        "\n".join([json.dumps({"text": "é"}), "", json.dumps({"text": ""}), json.dumps({"messages": turns})])
    )
    found, skipped = read(SourceConfig(path=str(path), weight=2, name="mine"))
    assert [(d.text, d.number) for d in found[:1]] == [("é", 1)] and skipped == {"empty document": 1}
    assert found[1].number == 4 and found[1].messages == (Message("user", "hi"), Message("assistant", "ho"))
    assert "<|im_start|>user\nhi<|im_end|>" in found[1].text
    assert {(d.slice, d.weight) for d in found} == {("mine", 2.0)}
    path.write_text('{"body": "x"}')
    assert [d.text for d in read(str(path), text_field="body")[0]] == ["x"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pyarrow.table({"text": ["one", "two"], "n": [1, 2]}), path)
    assert [(d.text, d.number, d.slice) for d in read(str(path))[0]] == [("one", 1, "t"), ("two", 2, "t")]
    with pytest.raises(DataError, match=r"no column 'body' or 'messages'; its columns: text, n"):
        read(str(path), text_field="body")
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="not a readable Parquet file") as caught:
        read(str(path))
    assert "\n" not in str(caught.value)


def test_directory_walk_counts_what_it_skips(tmp_path):
    for name in [".git", "pkg/__pycache__", "pkg"]:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / ".git/x").write_text("never")
    (tmp_path / "pkg/__pycache__/y.txt").write_text("never")
    (tmp_path / ".hidden").write_text("never")
    (tmp_path / "pkg/a.py").write_text("x = 1\n")
    (tmp_path / "pkg/b.md").write_text("# title\n")
    (tmp_path / "pkg/e.txt").write_text(" \n")
    (tmp_path / "pkg/z.strange").write_text("odd\n")
    (tmp_path / "pkg/c.bin").write_bytes(b"abc\0def")
    (tmp_path / "pkg/d.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "r.jsonl").write_text('{"text": "record"}\n')
    found, skipped = read(str(tmp_path))
    assert [(d.text, d.slice) for d in found] == [
        ("record", "r"),
        ("x = 1\n", "py"),
        ("# title\n", "text"),
        ("odd\n", "other"),
    ]
    assert skipped == {
        "hidden or cache folder": 2,
        "hidden file": 1,
        "binary file": 1,
        "file not in UTF-8": 1,
        "empty document": 1,
    }


def test_limits_stop_reading_and_are_reported(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name}{n:08}"}) + "\n" for n in range(9))
        )
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    found, skipped = read(SourceConfig(path=a, max_bytes=30), b)
    assert [d.text[0] for d in found] == ["a"] * 3 + ["b"] * 9 and len(skipped) == 1
    found, skipped = read(a, b, max_bytes=100)
    assert [d.text[0] for d in found] == ["a"] * 9 + ["b"] * 2
    assert skipped == {f"everything from {b} on (max_bytes 100)": 1}


def test_primer_documents_carry_their_slices_and_version():
    spec = SourceConfig(path="primer@1", max_bytes=100_000)
    found, _ = read(spec, seed=3)
    assert len({d.slice for d in found}) > 2 and {d.source for d in found} == {"primer"}
    assert 90_000 < sum(len(d.text) for d in found) < 200_000 and any(d.messages for d in found)
    assert (
        [d.text for d in found]
        == [d.text for d in read(spec, seed=3)[0]]
        != [d.text for d in read(spec, seed=4)[0]]
    )
    with pytest.raises(DataError, match="primer@99: this coterie holds primer@1"):
        read("primer@99")


def test_hub_is_streamed_and_offline_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def fake(name, split, streaming):
        asked.append((name, split, streaming))
        return iter([{"text": "one"}, {"text": "two"}])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert [d.text for d in read("hf://owner/name:validation", "hf://owner/name")[0]] == ["one", "two"] * 2
    assert asked == [("owner/name", "validation", True), ("owner/name", "train", True)]

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'owner/name'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match="check the name and the network") as caught:
        read("hf://owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, r"no.txt: no such file or directory"),
        ("b.txt", b"a\0b", r"b.txt: is a binary file; give"),
        ("e.txt", b" \n", r"e.txt: holds no text"),
        ("l.txt", b"ok\n\xe9\n", r"l.txt:2: is not UTF-8 at byte 3"),
        ("j.jsonl", b'{"text": "a"}\n{"text"\n', r"j.jsonl:2: is not valid JSON"),
        ("u.jsonl", b'\n{"text": "\xe9"}\n', r"u.jsonl:2: is not UTF-8 text \(byte 10\)"),
        ("f.jsonl", b'{"body": "a"}', r"f.jsonl:1: has neither 'text' nor 'messages' \(fields: body\)"),
        ("t.jsonl", b'{"text": 3}', r"t.jsonl:1: field 'text' is int"),
        (
            "m.jsonl",
            b'{"messages": [{"role": "x"}]}',
            r"m.jsonl:1: turn 1 of 'messages': role 'x' is not one of",
        ),
        ("l.jsonl", b"[1]", r"l.jsonl:1: holds a list"),
        ("b.jsonl", b'{"text": "a", "messages": []}', r"b.jsonl:1: has 'text' and 'messages'"),
        (
            "w.jsonl",
            b'{"text": "a", "weight": 0}',
            r"w.jsonl:1: has 'weight', which rows of the format 'text'",
        ),
        (
            "o.jsonl",
            b'{"messages": [{"role": "user", "content": "a"}], "tools": [1]}',
            r"o.jsonl:1: has 'tools'",
        ),
        (
            "k.jsonl",
            b'{"messages": [{"role": "gpt", "content": "a", "loss": 0}]}',
            r"k.jsonl:1: marks turn 1",
        ),
        ("s.jsonl", b'{"text": "a\\ud800"}', r"s.jsonl:1: holds a text with half of a surrogate pair"),
        ("n.jsonl", b"[" * 200_000, r"n.jsonl:1: is nested deeper than 100 levels"),
        ("z.jsonl", b"", r"z.jsonl: holds no text"),
    ],
)
def test_faults_are_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_faults_without_files(tmp_path):
    for spec, message in [("prime", "the embedded corpus is called 'primer'"), ("hf://x", "hf://owner/name")]:
        with pytest.raises(DataError, match=message):
            read(spec)
    with pytest.raises(DataError, match="holds no text"):
        read(str(tmp_path))


def test_settings_accept_paths_and_name_wrong_keys():
    config = DataConfig.from_dict({"sources": ["a.txt", {"path": "b", "weight": 0.5}]})
    assert config.sources == (SourceConfig(path="a.txt"), SourceConfig(path="b", weight=0.5))
    assert DataConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        DataConfig.from_dict({"sources": [{"path": "b", "wieght": 2}]})


def test_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    before = fingerprint([str(tmp_path), "primer"])
    assert fingerprint([str(tmp_path), "primer"]) == before
    (tmp_path / "b.txt").write_text("b")
    assert fingerprint([str(tmp_path), "primer"]) != before


def test_unreadable_files_are_one_line_and_do_not_end_the_lint(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("y")
    plain = Path.open

    def deny(path, *args, **kwargs):
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(DataError, match=r"a.txt: cannot be read \(Permission denied\)"):
        read(str(tmp_path / "a.txt"))
    report = lint([str(tmp_path)])
    assert report.documents == 1
    assert [problem.message for problem in report.problems] == ["cannot be read (Permission denied)"]
