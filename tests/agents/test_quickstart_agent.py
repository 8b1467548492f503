"""The quickstart's mixture of experts, tuned on the lessons that come with coterie, calls a tool: in `coterie
agent`, and in openai-agents through both APIs. Its sums stand neither in the corpus nor in the lessons. About
ten minutes on an idle machine; on a busy one the quickstart, whose time is given, learns too little for the
answers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import coterie
from coterie.agents.transcript import read_conversation
from coterie.primer.arithmetic import reserved
from coterie.sandbox.tools import Calculator
from coterie.text.messages import ToolCall
from tests.cli.support import call
from tests.clients import environment, run

pytestmark = pytest.mark.slow
SUMS = ("159 - 51", "233 + 51", "307 * 273", "381 * 36", "492 + 51", "529 - 36", "714 + 273", "899 * 51")
ENOUGH = 7


@pytest.fixture(scope="module")
def agent_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What docs/agents.md says to do."""
    folder = tmp_path_factory.mktemp("quickstart")
    call("quickstart", "--minutes", "5", "--out", str(folder / "quickstart"))
    base, out = folder / "quickstart" / "moe" / "model", folder / "agent"
    call("tune", str(base), "tools", "-o", str(out), "--method", "full", "--lr", "3e-3", "--epochs", "5")
    return out / "model"


def test_the_sums_were_never_seen() -> None:
    assert all(reserved(text) for text in SUMS)


def test_coterie_agent_calls_the_calculator(
    agent_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called = answered = 0
    for number, text in enumerate(SUMS):
        transcript = tmp_path / f"{number}.jsonl"
        options = ["--temperature", "0", "--transcript", str(transcript), "--json"]
        call("agent", str(agent_model), f"What is {text}?", *options)
        outcome = json.loads(capsys.readouterr().out)
        messages, row = read_conversation(transcript)
        assert [tool["function"]["name"] for tool in row["tools"]] == ["calculator", "python"]
        called += messages[2].tool_calls == (ToolCall("calculator", {"expression": text}),)
        answered += (
            outcome["status"] == "done" and Calculator().call({"expression": text}, 1) in outcome["answer"]
        )
    assert called >= ENOUGH and answered >= ENOUGH


def test_it_does_not_call_for_a_greeting(agent_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("agent", str(agent_model), "Good morning!", "--temperature", "0", "--json")
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["status"] == "done" and outcome["steps"] == 1 and outcome["answer"]


AGENT = """
import asyncio, json, sys
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from agents import function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)
called = []

@function_tool
def calculator(expression: str) -> str:
    '''Work out an arithmetic expression.'''
    called.append(expression)
    return str(eval(expression))

kind = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}[sys.argv[2]]
client = AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key="x")
agent = Agent(
    name="adder", instructions="You are a helpful assistant.", tools=[calculator],
    model=kind("model", client), model_settings=ModelSettings(temperature=0),
)


async def ask():
    return [(await Runner.run(agent, f"What is {text}?", max_turns=4)).final_output for text in sys.argv[3:]]

print(json.dumps({"said": asyncio.run(ask()), "called": called}))
"""


@pytest.mark.net
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_agents_calls_a_tool(agent_model: Path, tmp_path: Path, api: str) -> None:
    python = environment("openai-agents", "openai-agents==0.24.0")
    (tmp_path / "agent.py").write_text(AGENT)
    with coterie.serve_in_thread(coterie.load(agent_model), "model", page=False) as server:
        found = json.loads(run(python, ["agent.py", server.url, api, *SUMS], tmp_path).splitlines()[-1])
    assert sum(text in found["called"] for text in SUMS) >= ENOUGH
    values = (Calculator().call({"expression": text}, 1) for text in SUMS)
    assert sum(value in said for value, said in zip(values, found["said"], strict=True)) >= ENOUGH
