"""Approval of calls that write: asked at a terminal, with what the model wrote escaped."""

from __future__ import annotations

import sys

import pytest

from coterie.agents.approval import approver
from coterie.sandbox.tools import Calculator


def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal:
        def __init__(self, *lines: str) -> None:
            self.lines = list(lines)

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.lines.pop(0) if self.lines else ""

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tool, other = Calculator(), Calculator()
    other.name = "other"
    for lines, expected in (
        (["what?\n", "y\n", "n\n"], [True, False]),
        (["a\n"], [True, True]),
        ([], [False, False]),
    ):
        monkeypatch.setattr(sys, "stdin", Terminal(*lines))
        ask = approver("ask")
        assert [ask(tool, {"expression": "\x1b[2Jfake\nallow?"}), ask(tool, {})] == expected
        assert ask(other, {}) is False, "always is for one tool"
    shown = capsys.readouterr().err
    assert '"\\u001b[2Jfake\\nallow?"' in shown and "\x1b" not in shown
