"""`coterie agent` as a user types it, against a scripted server: tools, calls, output and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coterie.data.examples import read_examples
from coterie.data.formats import ChatExample
from coterie.sandbox.outside import Sandbox, SandboxError
from tests.agents.fake import USAGE, FakeServer, call_chunks, chunk
from tests.cli.support import call, fails


def scripted(*turns: list[dict[str, Any]]) -> Callable[[str, dict[str, Any]], list[dict[str, Any]]]:
    """One turn for every tool result that has come so far."""
    return lambda path, body: [
        *turns[min(sum(m["role"] == "tool" for m in body["messages"]), len(turns) - 1)],
        USAGE,
    ]


def calling(name: str, **arguments: Any) -> list[dict[str, Any]]:
    return [*call_chunks(name, json.dumps(arguments)), chunk({}, "tool_calls")]


def saying(text: str) -> list[dict[str, Any]]:
    return [chunk({"content": text}), chunk({}, "stop")]


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    return int(stop.value.code or 0)


def test_a_task_with_files_and_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Sandbox().probe()
    except SandboxError as error:
        pytest.skip(str(error))
    (tmp_path / "work").mkdir()
    (tmp_path / "work/n.txt").write_text("20")
    answer = scripted(
        calling("read_file", path="n.txt"),
        calling("python", code="print(20 * 2 + 2)"),
        calling("write_file", path="out.txt", content="42"),
        saying("It is \x1b[31m42."),
    )
    transcript = tmp_path / "t.jsonl"
    with FakeServer(answer) as server:
        call(
            "agent",
            server.url,
            "double it",
            "--dir",
            str(tmp_path / "work"),
            "--approve",
            "all",
            "--transcript",
            str(transcript),
        )
        out = capsys.readouterr()
        assert out.out == "It is \x1b[31m42.\n" and (tmp_path / "work/out.txt").read_text() == "42"
        assert "-> python" in out.err and "<- 42" in out.err and "done: 4 replies, 28 tokens" in out.err
        assert "\x1b" not in out.err, "what a model writes cannot steer the terminal"
        assert "finished" in fails(
            capsys, "agent", server.url, "--resume", str(transcript), "--dir", str(tmp_path)
        )
    row = json.loads(transcript.read_text())
    (learnt,) = read_examples(str(transcript)).examples  # it is tuning data as it is
    assert isinstance(learnt, ChatExample) and list(learnt.tools) == row["tools"]
    assert [m.tool_calls[0].name for m in learnt.messages if m.tool_calls] == [
        "read_file",
        "python",
        "write_file",
    ]
    assert [m["role"] for m in row["messages"]] == ["system", "user", *["assistant", "tool"] * 3, "assistant"]
    assert row["agent"]["sandbox"] and {t["function"]["name"] for t in row["tools"]} >= {
        "calculator",
        "python",
        "write_file",
    }
    offered = [tool["function"]["name"] for tool in server.seen[0][1]["tools"]]
    assert offered == ["calculator", "python", "list_files", "read_file", "write_file"]


def test_without_a_terminal_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer(scripted(calling("write_file", path="a", content="x"), saying("could not"))) as server:
        call("agent", server.url, "write", "--dir", str(tmp_path), "--no-python", "--json")
    assert json.loads(capsys.readouterr().out)["answer"] == "could not"
    assert not (tmp_path / "a").exists()
    assert "did not allow" in server.seen[1][1]["messages"][-1]["content"]
    assert [tool["function"]["name"] for tool in server.seen[0][1]["tools"]][0:2] == [
        "calculator",
        "list_files",
    ]


@pytest.mark.parametrize(
    ("turn", "options", "code"),
    [
        (calling("calculator", expression="1"), [], 4),
        (calling("calculator", expression="1"), ["--max-steps", "1"], 3),
        (saying(""), [], 5),
        ([chunk({"content": "half"}), chunk({}, "length")], [], 3),
    ],
)
def test_exit_codes(turn: list[dict[str, Any]], options: list[str], code: int) -> None:
    with FakeServer(scripted(turn)) as server:
        assert ended("agent", server.url, "x", "--no-python", *options) == code


def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:9"
    assert "give a task" in fails(capsys, "agent", url)
    assert "'maybe' is not one of 'ask', 'all', 'none'" in fails(
        capsys, "agent", url, "x", "--approve", "maybe"
    )
    assert "not a folder" in fails(capsys, "agent", url, "x", "--no-python", "--dir", str(tmp_path / "no"))
    assert "leave out" in fails(capsys, "agent", url, "--resume", "x", "--transcript", "y")
    assert "mcpServers" in fails(
        capsys, "agent", url, "x", "--no-python", "--mcp", str(write(tmp_path / "m.json", "{}"))
    )

    def refuse(self: Sandbox) -> tuple[str, ...]:
        raise SandboxError("sandbox: this machine lacks Landlock")

    monkeypatch.setattr(Sandbox, "probe", refuse)
    assert "lacks Landlock; --no-python works without it" in fails(capsys, "agent", url, "x")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
