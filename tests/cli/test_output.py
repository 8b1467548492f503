"""How verbs print: one JSON object or lines, and notes elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from coterie.cli.messages import show_messages
from coterie.cli.output import answer, note


def never() -> Iterator[str]:
    raise AssertionError("lines are read only when they are printed")
    yield ""


def test_json_reads_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    answer({"a": "\u00e9"}, True, never())
    answer({"a": "\u00e9"}, True, never(), ensure_ascii=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first == '{"a": "\\u00e9"}' and json.loads(first) == json.loads(second) == {"a": "\u00e9"}


def test_lines_on_standard_output_notes_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=False)
    answer({}, False, ["one", "two"])
    note("half way")
    assert capsys.readouterr() == ("one\ntwo\n", "half way\n")
