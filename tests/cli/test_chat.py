"""`coterie run` and `coterie chat` as a user types them, against a scripted server and in a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.text.chat import parse_reply
from tests.agents.fake import USAGE, FakeServer, chunk
from tests.agents.models import PLAIN, chat_model
from tests.cli.support import call, fails

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_run_streams_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [chunk({"content": '{"a"'}), chunk({"content": ": 1}"}), chunk({}, "stop"), USAGE]
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    with FakeServer(lambda path, body: events) as server:
        call("run", server.url, "hi", "--system", "be brief", "--json-schema", str(tmp_path / "s.json"))
        assert capsys.readouterr().out == '{"a": 1}\n'
        call("run", server.url, "hi", "--json", "--served", "other")
        facts = json.loads(capsys.readouterr().out)
    assert facts["message"] == {"role": "assistant", "content": '{"a": 1}'}
    assert (facts["prompt_tokens"], facts["completion_tokens"], facts["finish_reason"]) == (5, 2, "stop")
    body = server.seen[0][1]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("text", "finish", "said"),
    [("sure!", "stop", "not valid JSON"), ('{"a": 1', "length", "cut off"), ("{}", "stop", "'a'")],
)
def test_a_server_that_ignores_the_schema_is_caught(
    text: str, finish: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    with FakeServer(lambda path, body: [chunk({"content": text}, finish)]) as server:
        assert said in fails(capsys, "run", server.url, "hi", "--json-schema", str(tmp_path / "s.json"))


def test_how_much_to_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """It is sent as the API's fields, and a server's word that it changes nothing is passed on."""
    details = {"completion_tokens_details": {"reasoning_tokens": 1}}
    usage = chunk(usage={"prompt_tokens": 5, "completion_tokens": 2, **details})
    events = [chunk({"content": "x"}), chunk({}, "stop", x_coterie_ignored=["reasoning_effort"]), usage]
    with FakeServer(lambda path, body: events) as server:
        call("run", server.url, "hi", "--effort", "low", "--json")
        said = capsys.readouterr()
        facts = json.loads(said.out)
        assert facts["reasoning_tokens"] == 1 and facts["ignored"] == ["reasoning_effort"]
        assert "--effort has no effect on this model" in said.err
        call("run", server.url, "hi", "--think-budget", "9")
    sent = [body for _, body, _ in server.seen]
    assert sent[0]["reasoning_effort"] == "low" and sent[1]["thinking_token_budget"] == 9
    assert "thinking_token_budget" not in sent[0] and "reasoning_effort" not in sent[1]
    assert "choose one of none, minimal" in fails(capsys, "run", server.url, "hi", "--effort", "hot")


def test_votes_and_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coterie.save(chat_model(PLAIN), tmp_path / "model")
    asked = ["run", str(tmp_path / "model"), "the quick", "--seed", "1", "--max-tokens", "5"]
    call(*asked, "--votes", "3", "--vote-rule", "text", "--process")
    said = capsys.readouterr().out
    assert "votes  share  answer" in said and "of 3 replies" in said and "tokens  log-prob  step" in said
    call(*asked, "--votes", "3", "--vote-rule", "text", "--process", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["votes"]["of"] == 3 and 3 <= facts["completion_tokens"] <= 15
    assert 1 <= sum(step["tokens"] for step in facts["process"]["steps"]) <= 5
    assert "choose one of auto, answer" in fails(capsys, *asked, "--votes", "3", "--vote-rule", "best")
    assert "temperature 0 all replies are the same" in fails(
        capsys, *asked, "--votes", "3", "--temperature", "0"
    )


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is the server running" in fails(capsys, "chat", "http://127.0.0.1:9")
    assert "goes with a server's address" in fails(capsys, "run", str(tmp_path), "x", "--served", "y")
    assert "key file" in fails(
        capsys, "run", "http://127.0.0.1:9", "x", "--api-key-file", str(tmp_path / "no")
    )


def test_a_model_here_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reply equals that of `coterie.load(...).chat`; with a schema, it satisfies the schema."""
    coterie.save(chat_model(PLAIN), tmp_path / "model")
    here = str(tmp_path / "model")
    call("run", here, "the quick", "--seed", "1", "--max-tokens", "5", "--json")
    facts = json.loads(capsys.readouterr().out)
    reply = coterie.load(here).chat(
        [{"role": "user", "content": "the quick"}], seed=1, max_tokens=5, temperature=0.7, top_p=0.95
    )
    assert facts["completion_tokens"] == len(reply.ids)
    assert facts["message"]["content"].strip() == parse_reply(reply.text).text
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    (tmp_path / "s.json").write_text(json.dumps(schema))
    answers, schema_file = [], str(tmp_path / "s.json")
    # A random model may also think, for ever, before its first brace: that is an error then.
    for seed in range(8):
        capsys.readouterr()  # what a reply that was cut short had printed
        with contextlib.suppress(SystemExit):
            call("run", here, "go", "--json-schema", schema_file, "--seed", str(seed), "--max-tokens", "40")
            answers.append(json.loads(capsys.readouterr().out)["a"])
    assert answers and set(answers) <= {"x", "y"}
    long = fails(capsys, "run", here, "fox " * 300)
    assert "maximum context length" in long and here in long and "127.0.0.1" not in long


def test_ctrl_c_in_a_real_terminal() -> None:
    """Ctrl-C interrupts a slow reply and the program continues; an empty line ends it with success."""

    def answer(path: str, body: object) -> Iterator[dict[str, Any]]:
        yield chunk({"content": "slow..."})
        time.sleep(5)
        yield chunk({"content": "late"}, "stop")

    with FakeServer(answer) as server:
        parent, child = pty.openpty()
        command = [sys.executable, "-m", "coterie.cli.main", "chat", server.url]
        process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, start_new_session=True, preexec_fn=heed_ctrl_c
        )
        os.close(child)
        read_until(parent, "> ")
        os.write(parent, b"hello\n")
        read_until(parent, "slow...")
        process.send_signal(signal.SIGINT)
        read_until(parent, "(stopped)")
        os.write(parent, b"/help\n")
        read_until(parent, "/retry")
        os.write(parent, b"\n")
        assert process.wait(20) == 0
        os.close(parent)


def heed_ctrl_c() -> None:
    """Accept Ctrl-C: a program started in the background by a script ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_until(terminal: int, mark: str, seconds: float = 30.0) -> str:
    text, end = "", time.monotonic() + seconds
    while mark not in text:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], (
            f"no {mark!r} in {text!r}"
        )
        text += os.read(terminal, 4096).decode()
    return text


def test_bad_sampling(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(run_dir / "model")
    assert "top_p" in fails(capsys, "generate", model, "x", "--top-p", "1.5")
    assert "bfloat61" in fails(capsys, "generate", model, "x", "--dtype", "bfloat61")
    assert "the model takes 127" in fails(capsys, "generate", model, "the " * 400)
