"""The loop with scripted models: every way to end, budgets, approval, transcripts that can be taken up
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.agents.loop import Agent, Budget, resume, unanswered
from coterie.agents.speaker import Sampling, Turn
from coterie.agents.transcript import read_conversation
from coterie.config.errors import CoterieError, DataError
from coterie.sandbox.folder import Folder
from coterie.sandbox.tools import Calculator, ReadFile, Tool, WriteFile
from coterie.text.chat import Message, ToolCall
from tests.agents.fake import Script, calls

TASK = [Message("user", "what is 2 + 3?")]
ADD = calls(("calculator", {"expression": "2 + 3"}))


def test_a_task_is_done(tmp_path: Path) -> None:
    shown: list[tuple[str, str]] = []
    path = tmp_path / "t.jsonl"
    two = calls(
        ("calculator", {"expression": "2 + 3"}), ("calculator", {"expression": "5 * 5"}), content="let me see"
    )
    agent = Agent(
        Script(two, "it is 5"), [Calculator()], transcript=path, show=lambda *args: shown.append(args)
    )
    outcome = agent.run(TASK)
    assert (outcome.status, outcome.answer, outcome.steps, outcome.tokens, outcome.exit_code) == (
        "done",
        "it is 5",
        2,
        30,
        0,
    )
    assert [(m.role, m.text, m.name) for m in agent.messages[2:4]] == [
        ("tool", "5", "calculator"),
        ("tool", "25", "calculator"),
    ]
    assert ("call", 'calculator({"expression": "2 + 3"})') in shown and ("result", "25") in shown
    messages, row = read_conversation(path)
    assert list(messages) == agent.messages
    assert row["tools"] == [Calculator().spec()] and row["agent"]["status"] == "done"


class Sleeper(Tool):
    """A tool that notes its calls."""

    name, description, parameters = "act", "acts", {"type": "object"}
    writes = True

    def __init__(self, result: str = "ok") -> None:
        self.seen: list[tuple[dict[str, Any], float]] = []
        self.result = result

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        self.seen.append((dict(arguments), seconds))
        return self.result


def test_mistakes_are_told_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    turn = calls(
        ("calculator", {"expression": "x"}),
        ("calculator", {}),
        ("fly", {}),
        ("calculator", {"expression": "1"}),
    )
    broken = Turn(turn, "tool_calls", 1, 1, 0.1, 0.2, {3: "{not json"})
    agent = Agent(Script(broken, "done"), [Calculator()], transcript=path)
    assert agent.run(TASK).status == "done"
    results = [m.text for m in agent.messages if m.role == "tool"]
    assert "not arithmetic" in results[0] and "'expression' is a required" in results[1]
    assert "there is no tool 'fly'" in results[2] and "not a usable JSON object: {not json" in results[3]
    assert all(result.startswith("error: ") for result in results)
    assert json.loads(path.read_text())["agent"]["broken_calls"] == 1


def test_writing_needs_approval(tmp_path: Path) -> None:
    write = calls(("write_file", {"path": "a.txt", "content": "x"}))
    asked: list[Any] = []
    for answer in (False, True):
        tool = WriteFile(Folder(tmp_path))
        agent = Agent(
            Script(write, "ok"),
            [tool],
            approve=lambda t, a, yes=answer: asked.append((t.name, dict(a))) or yes,
        )  # type: ignore[misc]
        agent.run(TASK)
        assert (tmp_path / "a.txt").exists() is answer
    assert asked == [("write_file", {"path": "a.txt", "content": "x"})] * 2
    (tmp_path / "a.txt").unlink()
    Agent(Script(write, "ok"), [WriteFile(Folder(tmp_path))]).run(TASK)
    assert not (tmp_path / "a.txt").exists(), "nobody is asked, nothing is allowed"
    bad = calls(("write_file", {"path": 3, "content": "x"}))
    Agent(
        Script(bad, "ok"), [WriteFile(Folder(tmp_path))], approve=lambda t, a: asked.append("late") or True
    ).run(TASK)  # type: ignore[func-returns-value]
    assert asked[-1] != "late", "nobody is asked about a call that cannot be made"


@pytest.mark.parametrize(
    ("changes", "turns", "status", "code"),
    [
        ({"steps": 2}, [ADD, calls(("calculator", {"expression": "1"})), "late"], "steps", 3),
        ({"tokens": 20}, [ADD, calls(("calculator", {"expression": "1"})), "late"], "tokens", 3),
        ({}, [ADD], "loop", 4),
        ({}, [calls(("fly", {}))], "loop", 4),
        ({}, [Message("assistant", "  ")], "empty", 5),
        ({}, [Turn(Message("assistant", "half"), "length", 1, 1, 0.1, 0.2)], "cut", 3),
    ],
)
def test_ways_to_end(changes: dict[str, Any], turns: list[Any], status: str, code: int) -> None:
    outcome = Agent(Script(*turns), [Calculator()], replace(Budget(), **changes)).run(TASK)
    assert (outcome.status, outcome.exit_code, outcome.answer) == (status, code, "")


def test_the_same_call_with_another_result_is_no_loop() -> None:
    class Counting(Sleeper):
        def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
            self.result += "."
            return super().call(arguments, seconds)

    same = calls(("act", {}))
    assert (
        Agent(Script(*[same] * 6, "there"), [Counting()], approve=lambda t, a: True).run(TASK).status
        == "done"
    )


def test_time_is_kept_while_the_model_writes() -> None:
    def endless(messages: Any, on_piece: Any) -> None:
        while True:
            time.sleep(0.02)
            on_piece("text", "x")

    tool = Sleeper()
    outcome = Agent(
        Script(calls(("act", {})), endless), [tool], Budget(seconds=0.4, tool_seconds=9), lambda t, a: True
    ).run(TASK)
    assert outcome.status == "seconds" and outcome.seconds < 2
    assert tool.seen[0][1] <= 0.4, "a tool gets no more than what is left"


def test_a_reply_that_never_ends_spends_the_tokens() -> None:
    def endless(messages: Any, on_piece: Any) -> None:
        while True:
            on_piece("text", "x")

    script = Script(endless)
    assert Agent(script, [Calculator()], Budget(tokens=50)).run(TASK).status == "tokens"
    assert script.sampling[0].max_tokens is None
    script = Script(ADD, "done")
    Agent(script, [Calculator()], Budget(tokens=50), sampling=Sampling(max_tokens=40)).run(TASK)
    assert [sampling.max_tokens for sampling in script.sampling] == [40, 35], "what is left of the budget"


def test_long_results_are_cut_in_the_middle() -> None:
    agent = Agent(
        Script(calls(("act", {})), "ok"), [Sleeper("a" * 99 + "b" * 99)], Budget(result=20), lambda t, a: True
    )
    agent.run(TASK)
    assert agent.messages[2].text == "a" * 10 + "\n... (178 characters left out) ...\n" + "b" * 10


def test_a_server_that_does_not_count_is_refused() -> None:
    with pytest.raises(CoterieError, match="reports no token counts"):
        Agent(Script(Turn(Message("assistant", "x"), "stop", None, None, 0.1, 0.2)), [Calculator()]).run(TASK)
    with pytest.raises(CoterieError, match="two tools are called calculator"):
        Agent(Script("x"), [Calculator(), Calculator()])


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Ctrl-C after the first of two calls: the second is made when it is taken up again, the first is not
    repeated.
    """
    path = tmp_path / "t.jsonl"
    tool = Sleeper()

    class Stopped(Sleeper):
        def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
            if len(self.seen) == 1:
                raise KeyboardInterrupt
            return super().call(arguments, seconds)

    first = Agent(
        Script(calls(("act", {"n": 1}), ("act", {"n": 2}))),
        [Stopped()],
        None,
        lambda t, a: True,
        transcript=path,
    )
    outcome = first.run(TASK)
    assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
    assert json.loads(path.read_text())["agent"]["status"] == "interrupted"
    with pytest.raises(DataError, match="wait for their results"):
        resume(path, [tool], "and now?")
    with pytest.raises(DataError, match="used act, which is not offered"):
        resume(path, [Calculator()], None)
    again = Agent(Script("both done"), [tool], None, lambda t, a: True, transcript=path)
    assert again.run(resume(path, [tool], None)).answer == "both done"
    assert [seen[0] for seen in tool.seen] == [{"n": 2}]
    with pytest.raises(DataError, match="finished"):
        resume(path, [tool], None)
    assert resume(path, [tool], "more")[-1] == Message("user", "more")


def test_a_failure_leaves_the_transcript(tmp_path: Path) -> None:
    def fails(messages: Any, on_piece: Any) -> None:
        raise CoterieError("the server has gone")

    with pytest.raises(CoterieError, match="gone"):
        Agent(Script(ADD, fails), [Calculator()], transcript=tmp_path / "t.jsonl").run(TASK)
    messages, row = read_conversation(tmp_path / "t.jsonl")
    assert len(messages) == 3 and row["agent"]["status"] == "failed"
    assert resume(tmp_path / "t.jsonl", [Calculator()], None) == list(messages)


def test_unanswered() -> None:
    turn = Message("assistant", "", None, (ToolCall("a", {}), ToolCall("b", {})))
    assert [call.name for _, call in unanswered([*TASK, turn, Message("tool", "1")])] == ["b"]
    assert (
        unanswered([*TASK, turn, Message("tool", "1"), Message("tool", "2")])
        == unanswered(TASK)
        == unanswered([])
        == []
    )


def test_reading_needs_no_approval(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    agent = Agent(Script(calls(("read_file", {"path": "a.txt"})), "ok"), [ReadFile(Folder(tmp_path))])
    agent.run(TASK)
    assert agent.messages[2].text == "text"
