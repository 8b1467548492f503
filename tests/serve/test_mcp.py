"""A model as an MCP server, through the official client: in memory, and over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

import coterie
from coterie.agents.mcp_tools import McpServers
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.sandbox.tools import ToolError
from coterie.serve.mcp import build
from coterie.serve.model_tools import explain_ids
from tests.agents.models import PLAIN, chat_model
from tests.agents.test_mcp_tools import config
from tests.arithmetic import approx_model

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

import mcp
from mcp.shared.exceptions import MCPError

T = TypeVar("T")
LONG = {"message": "fox", "temperature": 0, "max_tokens": 3000}  # greedy, this model never ends a reply
MODES = ("legacy", "auto")  # the handshake over streams with JSON-RPC, and the protocol of 2026


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    running = Host.of(Service(chat_model(positions=4096), "tiny"))
    running.start()
    yield running
    running.stop()


def with_client(host: Host, work: Callable[[mcp.Client], Awaitable[T]], mode: str = "legacy") -> T:
    async def run() -> T:
        async with mcp.Client(build(host), mode=mode) as client:
            return await work(client)

    return asyncio.run(run())


async def until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.002)


def said(result: Any) -> str:
    assert not result.is_error, result.content[0].text
    return str(result.content[0].text)


def test_a_model_as_a_server(tmp_path: Path) -> None:
    """`coterie mcp` through the official client: the numbers are those of the model in this process."""
    coterie.save(chat_model(), tmp_path / "model")
    template = tmp_path / "plain.jinja"
    template.write_text(PLAIN.replace("assistant", "robot"))
    model, text = coterie.load(tmp_path / "model", template=str(template)), "the quick brown fox"
    running = McpServers(config(tmp_path, model=command(tmp_path / "model", "--template", str(template))))
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
        assert routes == json.loads(json.dumps(explain_ids(model, ids, text)))
        answer = running.call("model", "chat", {"message": "fox", "temperature": 0, "max_tokens": 5}, 60)
        reply = model.chat([{"role": "user", "content": "fox"}], temperature=0, max_tokens=5)
        assert answer.strip() == reply.text.strip() != ""
        with pytest.raises(ToolError, match="the model takes 256"):
            running.call("model", "score", {"text": text * 100}, 60)
    finally:
        running.close()


def command(model: Path, *options: str) -> dict[str, Any]:
    return {
        "command": sys.executable,
        "args": ["-m", "coterie.cli.main", "mcp", str(model), *options],
        "env": {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_a_call_that_nobody_waits_for_leaves_the_engine(host: Host, mode: str, how: str) -> None:
    engine, thread = host.default.engine, host.default.thread
    before = thread.num_cancelled

    async def work(client: mcp.Client) -> str:
        if how == "cancelled":
            call = asyncio.create_task(client.call_tool("chat", LONG))
            await until(lambda: engine.num_running == 1)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
        else:
            with pytest.raises(MCPError, match=r"(?i)timed out"):
                await client.call_tool("chat", LONG, read_timeout_seconds=0.5)
        await until(lambda: engine.num_running == 0 and thread.num_cancelled == before + 1, 1.0)
        return said(await client.call_tool("chat", {"message": "fox", "temperature": 0, "max_tokens": 5}))

    assert with_client(host, work, mode)


def test_a_call_that_is_cancelled_while_it_waits_never_starts(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, held, entered = host.default.model, threading.Event(), threading.Event()
    seen: list[int] = []

    def slow(ids: list[int]) -> Any:
        seen.append(len(ids))
        entered.set()
        held.wait(10)
        return {}

    monkeypatch.setattr(model, "routing", slow)

    async def work(client: mcp.Client) -> None:
        first = asyncio.create_task(client.call_tool("route_explain", {"text": "the quick"}))
        await until(entered.is_set)
        second = asyncio.create_task(client.call_tool("route_explain", {"text": "a"}))
        await until(lambda: len(host.default.thread.listening) == 2)
        second.cancel()
        await asyncio.wait({second})
        await until(lambda: len(host.default.thread.listening) == 1)
        held.set()
        said(await first)

    with_client(host, work)
    assert seen == [len(model.encode("the quick"))]


def test_calls_run_at_one_time(host: Host) -> None:
    """Two chats are in the engine together, a score comes in between, and each answer is its own."""
    engine, asks = host.default.engine, [LONG | {"message": m, "max_tokens": 120} for m in ("fox", "dog")]

    async def work(client: mcp.Client) -> None:
        alone = [said(await client.call_tool("chat", ask)) for ask in asks]
        score = said(await client.call_tool("score", {"text": "the lazy dog"}))
        chats = [asyncio.create_task(client.call_tool("chat", ask)) for ask in asks]
        await until(lambda: engine.num_running == 2)
        assert said(await client.call_tool("score", {"text": "the lazy dog"})) == score
        assert engine.num_running == 2
        assert [said(await chat) for chat in chats] == alone

    with_client(host, work)


def test_forward_passes_run_on_the_thread_of_the_engine(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, threads = host.default.model, []

    def noted(name: str, function: Callable[[list[int]], Any]) -> Any:
        def call(ids: list[int]) -> Any:
            threads.append((name, threading.current_thread().name))
            return function(ids)

        return call

    for name in ("routing", "logprobs"):
        monkeypatch.setattr(model, name, noted(name, getattr(model, name)))

    async def work(client: mcp.Client) -> None:
        for tool in ("route_explain", "score"):
            said(await client.call_tool(tool, {"text": "fox"}))

    with_client(host, work)
    assert threads == [("routing", "coterie-engine"), ("logprobs", "coterie-engine")]


@pytest.mark.parametrize("mode", MODES)
def test_progress_grows_to_the_tokens_of_the_reply(host: Host, mode: str) -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async def work(client: mcp.Client) -> Any:
        result = await client.call_tool("chat", LONG | {"max_tokens": 200}, progress_callback=note)
        # The client reports in tasks of its own, so the last may come after the result.
        await until(lambda: bool(reports) and reports[-1][0] == 200)
        return result

    result = with_client(host, work, mode)
    values = [progress for progress, _, _ in reports]
    assert len(values) > 2 and values == sorted(set(values)) and values[0] < 1
    assert {total for _, total, _ in reports[1:]} == {200}
    assert reports[-1][2] == "200 of at most 200 tokens written"
    assert result.structured_content["reply_tokens"] == 200


def test_results_hold_what_the_text_leaves_out(host: Host) -> None:
    async def work(client: mcp.Client) -> None:
        cut = await client.call_tool("chat", LONG | {"max_tokens": 7})
        assert cut.structured_content == {
            "reply": said(cut),
            "reasoning": "",
            "finish_reason": "length",
            "prompt_tokens": len(host.default.model.render([{"role": "user", "content": "fox"}])),
            "reply_tokens": 7,
        }
        for tool in ("score", "route_explain"):
            result = await client.call_tool(tool, {"text": "the fox"})
            assert json.loads(said(result)) == result.structured_content

    with_client(host, work)


def test_tools_state_their_limits(host: Host) -> None:
    """Closed objects with the model's own bounds; the client checks results by the output schemas."""
    listed = with_client(host, lambda client: client.list_tools())
    assert [tool.name for tool in listed.tools] == ["chat", "score", "route_explain"]
    for tool in listed.tools:
        assert tool.input_schema["additionalProperties"] is False and tool.output_schema
        hints = tool.annotations
        assert hints is not None and hints.title == tool.title != ""
        assert hints.read_only_hint and hints.idempotent_hint
        assert hints.open_world_hint is hints.destructive_hint is False
    chat = listed.tools[0].input_schema
    assert chat["required"] == ["message"]
    fields = chat["properties"]
    assert (fields["max_tokens"]["minimum"], fields["max_tokens"]["maximum"]) == (1, 4096)
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 2)
    assert fields["message"]["minLength"] == 1 and fields["message"]["maxLength"] == 16 * 2**20


def test_failures_are_results_of_one_line(host: Host) -> None:
    """The calling model can read and mend them; a tool that does not exist is a fault of the protocol."""

    async def work(client: mcp.Client) -> None:
        wrong = {"message": "fox", "max_token": 3}
        result: Any = await client.call_tool("chat", wrong)
        assert result.is_error and result.content[0].text == (
            "chat: 'max_token' is not an argument (did you mean 'max_tokens'?); "
            "it takes message, system, max_tokens, temperature"
        )
        result = await client.call_tool("score", {"text": "fox " * 5000})
        assert result.is_error and "the model takes 4096" in result.content[0].text
        with pytest.raises(MCPError, match="unknown tool 'sing'; known: chat, score, route_explain"):
            await client.call_tool("sing", {})

    with_client(host, work)


def test_a_fault_of_ours_shows_no_details(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LanguageModel, ids: list[int]) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(LanguageModel, "logprobs", broken)
    result: Any = with_client(host, lambda client: client.call_tool("score", {"text": "fox"}))
    assert result.is_error and result.content[0].text == "the server failed to answer this request"


@contextlib.asynccontextmanager
async def over_pipes(model: Path) -> AsyncIterator[tuple[mcp.Client, psutil.Process]]:
    """A client of `coterie mcp`, and the process of the server."""
    me = psutil.Process()
    before = set(me.children())
    async with mcp.Client(mcp.StdioServerParameters(**command(model))) as client:
        (process,) = set(me.children()) - before
        yield client, process


@pytest.mark.slow
def test_cancelling_over_pipes_ends_the_work(tmp_path: Path) -> None:
    """The server needs the processor while it writes, and no longer a second after the call is cancelled."""
    coterie.save(chat_model(positions=8192), tmp_path / "model")

    async def seconds(process: psutil.Process) -> float:
        times = process.cpu_times()
        before = times.user + times.system
        await asyncio.sleep(2)
        times = process.cpu_times()
        return times.user + times.system - before

    async def work() -> None:
        async with over_pipes(tmp_path / "model") as (client, process):
            call = asyncio.create_task(client.call_tool("chat", LONG | {"max_tokens": 8000}))
            await asyncio.sleep(1)
            assert await seconds(process) > 0.5
            call.cancel()
            await asyncio.sleep(1)
            assert await seconds(process) < 0.2
            begun = time.monotonic()
            said(await client.call_tool("chat", LONG | {"max_tokens": 3}))
            assert time.monotonic() - begun < 2

    asyncio.run(work())
