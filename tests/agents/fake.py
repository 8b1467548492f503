"""A scripted server that speaks the OpenAI API over a real socket, and a scripted speaker."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from coterie.agents.speaker import Sampling, Turn
from coterie.text.chat import Message, ToolCall

Body = dict[str, Any]


def chunk(delta: Body | None = None, finish: str | None = None, **extra: Any) -> Body:
    """One chunk of a chat completion's stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": choices,
    } | extra


def call_chunks(name: str, arguments: str, index: int = 0) -> list[Body]:
    """A tool call cut in two, as servers send it."""
    head = {
        "index": index,
        "id": f"x{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments[:3]},
    }
    return [
        chunk({"tool_calls": [head]}),
        chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments[3:]}}]}),
    ]


USAGE = chunk(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
Reply = Iterable[Body | str] | tuple[int, Body]


class FakeServer:
    """Answers POSTs by `answer(path, body)`: a list of events is streamed (a str as it is), (status, object)
    is JSON.

    `seen` holds (path, body, headers) of every POST.
    """

    def __init__(self, answer: Callable[[str, Body], Reply], done: bool = True) -> None:
        self.seen: list[tuple[str, Body, Mapping[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._json(200, {"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append((self.path, body, dict(self.headers)))
                reply = answer(self.path, body)
                if isinstance(reply, tuple):
                    self._json(*reply)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for event in reply:
                    text = (
                        event
                        if isinstance(event, str)
                        else f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
                    )
                    self._write(text.encode())
                if done:
                    self._write(b"data: [DONE]\n\n")

            def _write(self, sent: bytes) -> None:
                with contextlib.suppress(ConnectionError):  # the client hung up
                    self.wfile.write(sent)
                    self.wfile.flush()

            def _json(self, status: int, data: Body) -> None:
                sent = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


class Script:
    """A speaker that says what it was given, one turn after the other; a callable is asked with the
    conversation.
    """

    name = "script"

    def __init__(self, *turns: Any) -> None:
        self.turns = list(turns)
        self.seen: list[list[Message]] = []
        self.sampling: list[Sampling] = []

    def say(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        sampling: Sampling = Sampling(),  # noqa: B008
        schema: Mapping[str, Any] | None = None,
        on_piece: Callable[..., None] | None = None,
    ) -> Turn:
        self.seen.append(list(messages))
        self.sampling.append(sampling)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        turn = turn(messages, on_piece) if callable(turn) else turn
        message = Message("assistant", turn) if isinstance(turn, str) else turn
        if isinstance(message, Turn):
            return message
        if on_piece is not None:
            if message.reasoning:
                on_piece("reasoning", message.reasoning)
            for piece in message.text:
                on_piece("text", piece)
        return Turn(message, "tool_calls" if message.tool_calls else "stop", 10, 5, 0.1, 0.5)


def calls(*named: tuple[str, Body], content: str = "") -> Message:
    """An assistant's turn that calls tools."""
    return Message("assistant", content, None, tuple(ToolCall(name, arguments) for name, arguments in named))
