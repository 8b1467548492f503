"""Several models on one server: loaded when asked for, unloaded to make room, never under a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.hosting.host import Host, HostedModel, Offer, check_memory
from coterie.hosting.metrics import Metrics
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.serve.server import ServerThread
from tests.serve.support import ASK, call, eventually, hang_up, language_model, open_request

SETTINGS = ServeSettings.from_dict({"port": 0, "page": False, "drain": 2, "prefix_cache_mb": 0})


def offer(name: str, seed: int, metrics: Metrics, loads: list[str], wait: Callable[[], Any]) -> Offer:
    made = Service(language_model(seed=seed), name, SETTINGS, (), metrics)

    def load() -> Service:
        loads.append(name)
        wait()
        return Service(language_model(seed=seed), name, SETTINGS, (), metrics)

    return Offer(made.card, made.num_bytes, load)


def hosted(names: str, room: float | None, wait: Callable[[], Any] = lambda: None) -> tuple[Host, list[str]]:
    """A host of models called by letters, with memory for `room` of them."""
    metrics, loads = Metrics(), list[str]()
    offers = [offer(name, seed, metrics, loads, wait) for seed, name in enumerate(names)]
    memory = None if room is None else int(room * offers[0].num_bytes)
    return Host([HostedModel(one) for one in offers], SETTINGS, metrics, memory), loads


def ask(url: str, model: str, **more: Any) -> tuple[int, str]:
    body = {"model": model, "messages": ASK, "max_tokens": 3, "temperature": 0, **more}
    status, _, data = call(url, "POST", "/v1/chat/completions", body)
    return status, data["choices"][0]["message"]["content"] if status == 200 else data["error"]["code"]


def num_engines() -> int:
    return sum(thread.name == "coterie-engine" for thread in threading.enumerate())


def test_models_are_loaded_on_demand_and_the_oldest_makes_room() -> None:
    host, loads = hosted("abc", room=2.5)
    before = num_engines()
    with ServerThread(host) as server:
        listed = call(server.url, "GET", "/v1/models")[2]["data"]
        assert [(one["id"], one["loaded"]) for one in listed] == [("a", False), ("b", False), ("c", False)]
        first = {name: ask(server.url, name) for name in "abc"}
        assert loads == ["a", "b", "c"] and len(set(first.values())) == 3
        assert [place.service is not None for place in host.places] == [False, True, True]
        assert ask(server.url, "a") == first["a"] and loads[3:] == ["a"]
        assert [place.service is not None for place in host.places] == [True, False, True]
        page = call(server.url, "GET", "/metrics")[2]
        assert 'coterie_model_unloads_total{model="b"} 1' in page
        assert 'coterie_running{model="a"} 0' in page
        assert ask(server.url, "d") == (404, "model_not_found")
    assert num_engines() == before


def test_requests_for_one_model_share_its_load() -> None:
    host, loads = hosted("ab", room=None, wait=lambda: time.sleep(0.2))
    with ServerThread(host) as server, ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ask(server.url, "a"), range(4)))) == 1
    assert loads == ["a"]


def test_a_model_in_use_is_never_unloaded() -> None:
    host, loads = hosted("ab", room=1.5)
    with ServerThread(host) as server, ThreadPoolExecutor(1) as pool:
        assert ask(server.url, "a")[0] == 200
        engine = server.service.engine
        step, go = engine.step, threading.Event()
        engine.step = lambda: (go.wait(20), step())[1]  # type: ignore[method-assign]
        held = pool.submit(ask, server.url, "a", max_tokens=2)
        while not host.places[0].num_users:
            time.sleep(0.005)
        waiting = ThreadPoolExecutor(1).submit(ask, server.url, "b")
        time.sleep(0.1)
        assert loads == ["a"] and not waiting.done()
        go.set()
        assert held.result()[0] == 200 and waiting.result()[0] == 200 and loads == ["a", "b"]


@contextmanager
def held(server: ServerThread) -> Iterator[threading.Event]:
    """A request that uses the first model until the event is set, or the block ends."""
    assert ask(server.url, "a")[0] == 200
    engine = server.service.engine
    step, go = engine.step, threading.Event()
    engine.step = lambda: (go.wait(20), step())[1]  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server.url, "a", max_tokens=2)
        eventually(lambda: server.host.places[0].num_users)
        try:
            yield go
        finally:
            go.set()
            assert asked.result()[0] == 200


def test_what_nobody_waits_for_any_longer_is_not_loaded() -> None:
    host, loads = hosted("abc", room=1.5)
    with ServerThread(host) as server, held(server):
        body = {"messages": ASK, "max_tokens": 1}
        leaving = [open_request(server.url, {"model": name, **body}) for name in "bc"]
        eventually(lambda: host.places[1].num_users and host.places[2].num_users)
        for one in leaving:
            hang_up(one)
        eventually(lambda: not (host.places[1].loading or host.places[2].loading))
        assert host.places[0].service is not None
    assert loads == ["a"]


def test_who_waits_for_a_model_is_told_when_the_server_ends() -> None:
    host, loads = hosted("ab", room=1.5)
    host.settings = SETTINGS.model_copy(update={"drain": 30})
    with ServerThread(host) as server, ThreadPoolExecutor(2) as pool, held(server):
        waiting = pool.submit(ask, server.url, "b")
        eventually(lambda: host.places[1].loading)
        pool.submit(server.stop)
        assert waiting.result(15) == (503, "draining")  # at once, not after the time to drain
    assert loads == ["a"]


def test_a_load_does_not_outlast_the_time_to_drain() -> None:
    go = threading.Event()
    host, _ = hosted("a", room=None, wait=lambda: go.wait(20))
    host.settings = SETTINGS.model_copy(update={"drain": 0.1})
    with ServerThread(host) as server, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, server.url, "a")
        eventually(lambda: host.places[0].loading)
        pool.submit(server.stop)
        assert waiting.result(3) == (503, "draining")
        go.set()


def test_a_model_that_fails_to_load_leaves_the_others() -> None:
    def broken() -> None:
        if loads[-1] == "b" and loads.count("b") == 1:
            raise ConfigError("/private/path is damaged")

    host, loads = hosted("ab", room=None, wait=broken)
    with ServerThread(host) as server:
        status, _, data = call(server.url, "POST", "/v1/completions", {"model": "b", "prompt": "x"})
        assert status == 503 and data["error"]["code"] == "model_load_failed" and "private" not in str(data)
        assert ask(server.url, "a")[0] == 200
        assert ask(server.url, "b")[0] == 200  # the next request tries again


def test_a_model_larger_than_the_memory_is_refused_at_the_start() -> None:
    host, _ = hosted("a", room=None)
    with pytest.raises(ConfigError, match="--memory"):
        check_memory([host.places[0].offer], 1000)
