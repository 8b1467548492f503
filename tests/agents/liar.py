"""Our server with something changed on the way, as a server that breaks a promise would answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coterie.agents.checks import CHECKS, Client, Stream
from coterie.agents.grading import Finding, run_check
from coterie.remote.client import Answer, Endpoint


class Liar(Client):
    """Changes the bodies of requests, the JSON or the text of answers, or `skip`s requests of a method."""

    def __init__(
        self,
        url: str,
        body: Callable[[dict[str, Any]], None] = lambda body: None,
        answer: Callable[[Any], Any] = lambda data: data,
        stream: Callable[[Stream], Stream] = lambda stream: stream,
        status: int | None = None,
        text: Callable[[str], str] = lambda text: text,
        reply: Callable[[str, Answer], Answer] = lambda method, answer: answer,
        skip: str = "",
    ) -> None:
        super().__init__(Endpoint(url), "tiny")
        self.body, self.answer, self.changed, self.status = body, answer, stream, status
        self.text, self.reply, self.skip = text, reply, skip

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if method == self.skip:
            return Answer(200, {}, "{}", {})
        body = copy.deepcopy(body)
        if body is not None:
            self.body(body)
        answer = super().send(method, path, body, content, headers)
        data = self.answer(copy.deepcopy(answer.data))
        changed = answer.text if data == answer.data else json.dumps(data)
        text = self.text(answer.text) if data is None else changed
        status = answer.status if self.status is None or answer.status == 200 else self.status
        return self.reply(method, replace(answer, data=data, text=text, status=status))

    def stream(self, body: Mapping[str, Any]) -> Stream:
        body = copy.deepcopy(dict(body))
        self.body(body)
        return self.changed(super().stream(body))


def verdict(client: Client, name: str) -> Finding:
    return run_check(client, next(check for check in CHECKS if check.name == name))


def changing(*path: Any, to: Any) -> Callable[[Any], Any]:
    def change(data: Any) -> Any:
        place = data
        try:
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = to(place[path[-1]]) if callable(to) else to
        except (KeyError, IndexError, TypeError):
            pass
        return data

    return change
