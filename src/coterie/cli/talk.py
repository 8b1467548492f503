"""`coterie chat` and `coterie generate`."""

from __future__ import annotations

import json
import sys
from typing import Any

from coterie.config import DataError
from coterie.infer.model import LanguageModel, load
from coterie.infer.sampling import SamplingParams
from coterie.text.chat import Message, parse_reply


def generate(path: str, prompt: str, sampling: dict[str, Any], dtype: str, as_json: bool) -> None:
    """Print the continuation as it comes, or one JSON object."""
    params = SamplingParams(**sampling)
    text = _standard_input() if prompt == "-" else prompt
    model = load(path, dtype=dtype)
    if as_json:
        reply = model.generate(text, params)
        print(
            json.dumps(
                {
                    "text": reply.text,
                    "ids": list(reply.ids),
                    "logprobs": list(reply.logprobs),
                    "finish_reason": reply.finish_reason,
                }
            )
        )
        return
    for piece in model.stream(text, params):
        print(piece, end="", flush=True)
    print()


def chat(path: str, system: str | None, sampling: dict[str, Any], dtype: str) -> None:
    """Read a line, print the reply, until an empty line or the end of input."""
    params = SamplingParams(**sampling)
    model = load(path, dtype=dtype)
    messages = [Message("system", system)] if system else []
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{path}: {model.num_parameters:,} parameters. An empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        line = _ask(interactive)
        if not line:
            return
        messages.append(Message("user", line))
        messages.append(parse_reply(_answer(model, messages, params)))


def _answer(model: LanguageModel, messages: list[Message], params: SamplingParams) -> str:
    pieces = []
    for piece in model.stream(model.render(messages), params):
        pieces.append(piece)
        print(piece, end="", flush=True)
    print()
    return "".join(pieces)


def _ask(interactive: bool) -> str:
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return ""


def _standard_input() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text; give text as the prompt") from None
    if not text:
        raise DataError("standard input is empty; give some text, or the prompt as an argument")
    return text
