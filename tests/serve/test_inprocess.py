"""Clients in this process: replies equal the model's, streams arrive in pieces, closing one cancels it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import coterie
from coterie.config import ConfigError
from coterie.remote.client import EndpointError
from coterie.serve import inprocess
from coterie.serve.inprocess import async_openai_client
from tests.agents.models import PLAIN, chat_model
from tests.serve.support import eventually, language_model

openai = pytest.importorskip("openai")
ASK: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "the quick"}]}
ENDLESS: dict[str, Any] = ASK | {"max_tokens": 150, "logit_bias": {str(token): -100 for token in range(4)}}


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
    ended_by = time.monotonic() + 10  # threads of other tests come and go
    while threading.active_count() > before and time.monotonic() < ended_by:
        time.sleep(0.02)
    assert threading.active_count() <= before


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Services of the clients that the test makes; each step of theirs takes at least 50 ms."""
    made, make = [], inprocess._host

    def slowed(*given: Any) -> Any:
        host = make(*given)
        service = host.default
        step = service.engine.step
        service.engine.step = lambda: (time.sleep(0.05), step())[1]
        made.append(service)
        return host

    monkeypatch.setattr(inprocess, "_host", slowed)
    return made


def busy(services: list[Any]) -> bool:
    return bool(services[-1].engine.num_running)


def test_a_task_that_is_cancelled_before_its_answer_begins_cancels_the_reply(slow: list[Any]) -> None:
    async def work() -> None:
        async with async_openai_client(chat_model(PLAIN)) as made:
            asking = asyncio.create_task(made.chat.completions.create(**ENDLESS))
            while not busy(slow):
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            async with asyncio.timeout(3):
                while busy(slow):
                    await asyncio.sleep(0.01)
            assert slow[-1].thread.num_cancelled == 1

    asyncio.run(work())


def test_an_interrupted_call_cancels_the_reply(slow: list[Any]) -> None:
    def interrupt() -> None:
        while not busy(slow):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with coterie.openai_client(chat_model(PLAIN)) as made:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            made.chat.completions.create(**ENDLESS)
        # Counted a moment after the sequence has left the engine.
        eventually(lambda: not busy(slow) and slow[-1].thread.num_cancelled == 1, 3)


@pytest.mark.parametrize("stream", [True, False])
def test_the_clients_own_time_limit_holds(slow: list[Any], stream: bool) -> None:
    with coterie.openai_client(chat_model(PLAIN)) as made:
        hurried = made.with_options(timeout=0.2, max_retries=0)
        if stream:  # it begins at once, and then nothing comes
            step, slow[-1].engine.step = slow[-1].engine.step, lambda: (time.sleep(0.6), step())[1]
        with pytest.raises(openai.APITimeoutError):
            list(hurried.chat.completions.create(**ENDLESS, stream=stream))
        eventually(lambda: not busy(slow), 3)


@pytest.mark.parametrize("stream", [True, False])
def test_closing_tells_who_waits_in_another_thread(
    slow: list[Any], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(inprocess, "_LAST_READ", 20.0)
    made = coterie.openai_client(chat_model(PLAIN))
    told: list[BaseException] = []

    def ask() -> None:
        try:
            list(made.with_options(max_retries=0).chat.completions.create(**ENDLESS, stream=stream))
        except BaseException as error:
            told.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    eventually(lambda: busy(slow))
    made.close()
    asking.join(5)
    assert "shutting down" in str(told[0])


def test_closing_ends_an_answer_that_nobody_reads(slow: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "_LAST_READ", 0.1)
    before = threading.active_count()
    made = coterie.openai_client(chat_model(PLAIN))
    stream = iter(made.chat.completions.create(**ENDLESS, stream=True))
    next(stream)
    made.close()
    assert threading.active_count() <= before
    with pytest.raises(openai.APIConnectionError):
        list(stream)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install openai"):
        coterie.openai_client(chat_model(PLAIN))


def test_settings_that_are_none() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        coterie.openai_client(chat_model(PLAIN), nonsense=1)


def test_our_own_client_reaches_the_model() -> None:
    model = chat_model(PLAIN)
    with contextlib.closing(inprocess.endpoint(model, label="here")) as client:
        assert client.models() == ["model"]
        body = ASK | {"temperature": 0, "max_tokens": 12, "stream": True}
        events = list(client.events("/v1/chat/completions", body))
        said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        assert said.strip() == expected(12).strip()
        with pytest.raises(EndpointError, match=r"^here: 400 invalid_value"):
            client.post("/v1/chat/completions", ASK | {"temperature": "hot"})


def test_responses_are_kept_only_when_asked_for(tmp_path):
    with coterie.openai_client(language_model(), "tiny") as client:
        assert client.responses.create(model="tiny", input="Hello", max_output_tokens=2).store is False
    kept = []
    for _ in range(2):  # the second client is another server on the same state
        with coterie.openai_client(language_model(), "tiny", store=True, state_dir=str(tmp_path)) as client:
            previous = {"previous_response_id": kept[-1].id} if kept else {}
            kept += [client.responses.create(model="tiny", input="Hello", max_output_tokens=2, **previous)]
    assert kept[1].usage.input_tokens > kept[0].usage.input_tokens and kept[1].store
