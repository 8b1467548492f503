"""The terminal chat: commands, stopping, pipes, and the same answers from a model here."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.agents.speaker import Sampling
from coterie.agents.terminal import Terminal
from coterie.config.errors import CoterieError
from coterie.text.chat import Message
from tests.agents.fake import Script, calls


def typed(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """Lines for `input`; an exception among them is raised."""
    left: Iterator[Any] = iter([*lines, EOFError()])

    def read(prompt: str = "") -> str:
        line = next(left)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    monkeypatch.setattr(builtins, "input", read)


def texts(terminal: Terminal) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in terminal.messages]


def test_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script("one", "two", "three", "four")
    saved = tmp_path / "talk.jsonl"
    typed(
        monkeypatch,
        "first",
        "/system be brief",
        "second",
        "/retry",
        "/temp 0.25",
        "/effort low",
        "//usr is a folder",
        "/undo",
        f"/save {saved}",
    )
    terminal = Terminal(script, "be kind", Sampling(0.7), interactive=True, colour=False)
    terminal.run()
    assert texts(terminal) == [
        ("system", "be brief"),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("assistant", "three"),
    ]
    assert script.seen[2] == script.seen[1], "a retry asks the same again"
    assert script.seen[3][-1].text == "/usr is a folder" and script.sampling[3].temperature == 0.25
    assert (script.sampling[2].effort, script.sampling[3].effort) == (None, "low")
    assert json.loads(saved.read_text())["messages"][0] == {"role": "system", "content": "be brief"}
    assert "5 tokens, first after 0.10 s, 10.0 tokens/s" in capsys.readouterr().err
    again = Terminal(script, None, Sampling(), interactive=True, colour=False)
    again.take(f"/load {saved}")
    assert again.messages == terminal.messages


@pytest.mark.parametrize(
    "line",
    [
        "/effort hot",
        "/temp hot",
        "/temp -1",
        "/temp inf",
        "/save",
        "/load",
        "/load /nowhere",
        "/undo",
        "/retry",
        "/dance",
    ],
)
def test_a_mistake_is_told_and_changes_nothing(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, line, "hello")
    terminal = Terminal(Script("hi"), None, Sampling(0.5), interactive=True, colour=False)
    terminal.run()
    assert texts(terminal) == [("user", "hello"), ("assistant", "hi")]
    assert f"coterie: {line.split()[-1 if 'nowhere' in line else 0]}" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_not_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(messages: Any, on_piece: Any) -> None:
        on_piece("text", "half an ans")
        raise KeyboardInterrupt

    typed(monkeypatch, "go", "on", KeyboardInterrupt(), "", "never")
    terminal = Terminal(Script(stopped, "whole"), None, Sampling(), interactive=True, colour=False)
    terminal.run()
    assert texts(terminal) == [
        ("user", "go"),
        ("assistant", "half an ans"),
        ("user", "on"),
        ("assistant", "whole"),
    ]
    assert "(stopped)" in capsys.readouterr().err
    typed(monkeypatch, KeyboardInterrupt(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        terminal.run()


def test_reasoning_is_dimmed_and_calls_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Message("assistant", "yes", "because"), calls(("add", {"a": 1}))]
    terminal = Terminal(Script(*turns), None, Sampling(), interactive=True, colour=True)
    terminal.take("why")
    terminal.take("add")
    out = capsys.readouterr().out
    assert "\033[2mbecause\033[0m" in out and "\nyes" in out
    assert '[tool call] add({"a": 1})' in out


def test_a_pipe_gets_the_answers_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "/temp 3", "b", "")
    terminal = Terminal(
        Script(Message("assistant", "A", "think"), "B"), None, Sampling(0.5), interactive=False
    )
    terminal.run()
    captured = capsys.readouterr()
    assert captured.out == "A\nB\n" and captured.err == ""
    assert texts(terminal)[0] == ("user", "/temp 3") and terminal.sampling.temperature == 0.5
    typed(monkeypatch, "x")

    def fails(messages: Any, on_piece: Any) -> None:
        raise CoterieError("broken")

    with pytest.raises(CoterieError):
        Terminal(Script(fails), None, Sampling(), interactive=False).run()
