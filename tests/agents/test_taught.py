"""A tiny model that was taught to call a tool does a task end to end in `coterie agent`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.agents.transcript import read_conversation
from coterie.config import BlockConfig, ModelConfig
from coterie.data.examples import read_examples
from coterie.data.formats import ChatExample
from coterie.infer.model import LanguageModel
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.sandbox.tools import Calculator
from coterie.text.chat import Message, ToolCall, render, render_ids
from coterie.text.tokenizer import Tokenizer
from coterie.text.tools import AGENT_SYSTEM
from tests.agents.models import MOE
from tests.cli.support import call
from tests.infer.models import CAUSAL

SUMS = [(2, 3), (4, 1)]


def lessons(system: str) -> list[list[Message]]:
    """Conversations in which a sum is worked out with the calculator and then told."""
    made = []
    for a, b in SUMS:
        asked = [Message("system", system), Message("user", f"what is {a} + {b}?")]
        asked += [Message("assistant", "", None, (ToolCall("calculator", {"expression": f"{a} + {b}"}),))]
        made.append(
            [*asked, Message("tool", str(a + b), name="calculator"), Message("assistant", f"it is {a + b}")]
        )
    return made


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts that has learnt the lessons by heart."""
    ours = Calculator().spec()
    talks = [(talk, [ours]) for talk in lessons(AGENT_SYSTEM)]
    template = Tokenizer.train(["x"], vocab_size=270).chat_template
    assert template is not None
    texts = [render(talk, template, tools=tools) for talk, tools in talks]
    tokenizer = Tokenizer.train([text * 3 for text in texts], vocab_size=700)
    blocks = (BlockConfig(attention=CAUSAL.model_copy(update={"head_dim": 16}), ffn=MOE),) * 2
    torch.manual_seed(0)
    shape = {"vocab_size": tokenizer.vocab_size, "width": 64, "blocks": blocks, "max_positions": 1024}
    model = Transformer(ModelConfig(family="qwen3_moe", **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.08)
    rows = [render_ids(tokenizer, talk, tools=tools) for talk, tools in talks]
    ids_T = torch.tensor([token for ids, _ in rows for token in ids])
    learnt_T = torch.tensor([flag for _, mask in rows for flag in mask])
    context = ForwardContext.packed([len(ids) for ids, _ in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20)
        h_TD = model(ids_T, context)
        logprobs = token_logprobs(h_TD[:-1], model.head_weight, ids_T[1:])
        loss = -logprobs[learnt_T[1:]].mean()
        if loss < 0.01:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02, f"not learnt: {loss.item()} after {step} steps"
    path = tmp_path_factory.mktemp("taught") / "model"
    coterie.save(LanguageModel(model.eval(), tokenizer), path)
    return path


def test_coterie_agent_calls_the_tool(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for a, b in SUMS:
        transcript = tmp_path / f"{a}.jsonl"
        options = ["--no-python", "--temperature", "0", "--transcript", str(transcript), "--json"]
        call("agent", str(taught), f"what is {a} + {b}?", *options)
        outcome = json.loads(capsys.readouterr().out)
        assert (outcome["status"], outcome["answer"]) == ("done", f"it is {a + b}")
        messages, row = read_conversation(transcript)
        assert messages[2].tool_calls == (ToolCall("calculator", {"expression": f"{a} + {b}"}),)
        call_id = messages[2].tool_calls[0].id
        assert call_id is not None
        assert messages[3] == Message("tool", str(a + b), name="calculator", tool_call_id=call_id)
        assert row["tools"] == [Calculator().spec()]


def test_a_transcript_renders_as_what_was_learnt(taught: Path, tmp_path: Path) -> None:
    """What the agent writes down is tuning data: the very tokens the model was taught."""
    transcript = tmp_path / "t.jsonl"
    call(
        "agent",
        str(taught),
        "what is 2 + 3?",
        "--no-python",
        "--temperature",
        "0",
        "--transcript",
        str(transcript),
    )
    read = read_examples(str(transcript))
    (example,) = read.examples
    assert not read.problems and isinstance(example, ChatExample)
    tokenizer = Tokenizer.load(taught)
    assert render_ids(tokenizer, example.messages, tools=example.tools) == render_ids(
        tokenizer, lessons(AGENT_SYSTEM)[0], tools=[Calculator().spec()]
    )
