"""Lint of text lists every problem and does not stop."""

from coterie.data.lint import lint


def test_lint_lists_every_problem_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "x"}\n{bad\n{"body": 1}\n{"text": ""}\n{"text": " x"}\n{"text": "\xe9"}\n'
    )
    (tmp_path / "b.txt").write_text("fine\n" + "y" * 100_001)
    (tmp_path / "c.bin").write_bytes(b"\0")
    (tmp_path / "d.txt").write_bytes(b"one\ntwo \xff")
    report = lint([str(tmp_path), str(tmp_path / "none")])
    root = tmp_path
    assert [str(problem).replace(f"{root}/", "") for problem in report.problems] == [
        "a.jsonl:2: is not valid JSON "
        "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        "a.jsonl:3: has neither 'text' nor 'messages' (fields: body)",
        "a.jsonl:4: warning: empty text, will be skipped",
        "a.jsonl:5: warning: repeats a.jsonl:1",
        "a.jsonl:6: is not UTF-8 text (byte 10)",
        "b.txt:2: warning: a line of 100,001 characters",
        "c.bin: warning: binary file, will be skipped",
        "d.txt:2: is not UTF-8 at byte 8; convert it (iconv)",
        "none: no such file or directory",
    ]
    assert report.to_text().endswith("5 files, 4 documents, 9 problems")
