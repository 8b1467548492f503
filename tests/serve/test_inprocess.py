"""The real `openai` client in this process: what it says is what the model says; streams stream; leaving cancels."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import coterie
from coterie.config import ConfigError
from coterie.serve.inprocess import async_openai_client
from tests.agents.models import PLAIN, chat_model

openai = pytest.importorskip("openai")
ASK: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "the quick"}]}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with coterie.openai_client(chat_model(PLAIN)) as made:
        yield made


def expected(tokens: int) -> str:
    return chat_model(PLAIN).chat(ASK["messages"], temperature=0, max_tokens=tokens).text


def test_it_says_what_the_model_says(client: Any) -> None:
    reply = client.chat.completions.create(**ASK, temperature=0, max_tokens=12)
    assert reply.choices[0].message.content.strip() == expected(12).strip()
    assert reply.usage.completion_tokens <= 12
    assert [model.id for model in client.models.list()] == ["model"]
    assert len(client.embeddings.create(model="model", input="fox").data[0].embedding) == 32


def test_streams_stream(client: Any) -> None:
    pieces, times = [], []
    for chunk in client.chat.completions.create(**ASK, temperature=0, max_tokens=40, stream=True):
        times.append(time.perf_counter())
        pieces.append(chunk.choices[0].delta.content or "")
    assert "".join(pieces).strip() == expected(40).strip()
    assert len(times) > 5 and times[-1] - times[0] > 0.005, "the pieces do not come all at once"


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**(ASK | {"model": "gone"}))
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(**ASK, max_tokens=10**6)


def test_leaving_a_stream_cancels_it(client: Any) -> None:
    stream = client.chat.completions.create(**ASK, max_tokens=200, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    started = time.perf_counter()
    client.chat.completions.create(**ASK, max_tokens=1)
    assert time.perf_counter() - started < 5


def test_the_asynchronous_client() -> None:
    async def work() -> list[str]:
        async with async_openai_client(chat_model(PLAIN), "mine") as made:
            asked = ASK | {"model": "mine"}
            replies = await asyncio.gather(
                *(made.chat.completions.create(**asked, temperature=0, max_tokens=12) for _ in range(3))
            )
            stream = await made.chat.completions.create(**asked, temperature=0, max_tokens=12, stream=True)
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return [*(reply.choices[0].message.content for reply in replies), streamed]

    assert {text.strip() for text in asyncio.run(work())} == {expected(12).strip()}


def test_closing_ends_its_threads() -> None:
    before = threading.active_count()
    made = coterie.openai_client(chat_model(PLAIN))
    made.chat.completions.create(**ASK, max_tokens=2)
    assert threading.active_count() > before
    made.close()
    assert threading.active_count() <= before


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install openai"):
        coterie.openai_client(chat_model(PLAIN))


def test_settings_that_are_none() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        coterie.openai_client(chat_model(PLAIN), nonsense=1)
