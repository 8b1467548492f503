"""A model as an MCP server, through the official client over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.agents.mcp_tools import McpServers
from coterie.sandbox.tools import ToolError
from coterie.serve.inprocess import endpoint
from coterie.serve.mcp import build, explain_routes, score_text
from tests.agents.models import chat_model
from tests.agents.test_mcp_tools import config
from tests.arithmetic import approx_model

DECIMALS = 2 * 0.5e-4 + 1e-9  # two weights, each given to four decimals

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")


def test_a_model_as_a_server(tmp_path: Path) -> None:
    """`coterie mcp` through the official client: the numbers are those of the model in this process."""
    coterie.save(chat_model(), tmp_path / "model")
    model, text = coterie.load(tmp_path / "model"), "the quick brown fox"
    command = {"command": sys.executable, "args": ["-m", "coterie.cli.main", "mcp", str(tmp_path / "model")]}
    command["env"] = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}  # type: ignore[assignment]
    running = McpServers(config(tmp_path, model=command))
    try:
        assert sorted(tool.name for tool in running.tools) == [
            "model__chat",
            "model__route_explain",
            "model__score",
        ]
        scored = json.loads(running.call("model", "score", {"text": text}, 60))
        ids = model.encode(text)
        expected = model.logprobs(ids).double().sum().item()
        assert scored["tokens"] == len(ids) and scored["logprob"] == approx_model(
            model.config, expected, len(ids)
        )
        bits = -expected / math.log(2) / len(text)
        assert scored["bits_per_byte"] == approx_model(model.config, bits, len(ids))
        routes = json.loads(running.call("model", "route_explain", {"text": text}, 60))
        assert routes == json.loads(json.dumps(explain_routes(model, text)))
        said = running.call("model", "chat", {"message": "fox", "temperature": 0, "max_tokens": 5}, 60)
        reply = model.chat([{"role": "user", "content": "fox"}], temperature=0, max_tokens=5)
        assert said.strip() == reply.text.strip() or not reply.text.strip()
        with pytest.raises(ToolError, match="the model takes 256"):
            running.call("model", "score", {"text": text * 100}, 60)
    finally:
        running.close()


def test_calls_at_one_time_do_not_meet_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs tools in threads: each must answer about its own text."""
    model, texts = chat_model(), ("the quick brown fox", "jumps over")
    expected = [explain_routes(model, text) for text in texts]
    routing, both = model.routing, threading.Barrier(2)

    def together(ids: list[int]) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return routing(ids)

    monkeypatch.setattr(model, "routing", together)
    client = endpoint(model)
    server = build(model, client, "tiny")

    async def ask() -> list[Any]:
        return list(
            await asyncio.gather(*(server.call_tool("route_explain", {"text": text}) for text in texts))
        )

    answers = [json.loads(answer.content[0].text) for answer in asyncio.run(ask())]
    client.close()
    assert answers == json.loads(json.dumps(expected))


def test_routes_are_those_of_the_forward_pass() -> None:
    model = chat_model()
    routes = explain_routes(model, "the fox")
    assert set(routes["layers"]) == {"0", "1"} and "".join(routes["tokens"]).endswith("the fox")
    for layer in routes["layers"].values():
        assert len(layer["experts"]) == len(routes["tokens"])
        for experts, weights in zip(layer["experts"], layer["weights"], strict=True):
            assert len(set(experts)) == 2 and sum(weights) == pytest.approx(1.0, abs=DECIMALS)
    assert score_text(model, "a")["tokens"] == len(model.encode("a"))
