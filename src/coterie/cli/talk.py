"""`coterie chat`, `coterie run` and `coterie generate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coterie.config.errors import CoterieError, DataError


def generate(path: str, prompt: str, sampling: dict[str, Any], dtype: str, as_json: bool) -> None:
    """Print the continuation as it comes, or one JSON object."""
    from coterie.infer.model import load
    from coterie.infer.sampling import SamplingParams

    params = SamplingParams(**sampling)
    text = _text_of(prompt)
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


def chat(target: str, system: str | None, sampling: dict[str, Any], opening: dict[str, Any]) -> None:
    """Read a line, print the reply, until an empty line or the end of input. `opening`: how to open the
    model.
    """
    from coterie.agents.speaker import Sampling
    from coterie.agents.terminal import Terminal
    from coterie.cli.opening import speaking

    with speaking(target, **opening) as speaker:
        interactive = sys.stdin.isatty()
        if interactive:
            print(f"{speaker.name}. /help lists the commands; an empty line or Ctrl-D ends.", file=sys.stderr)
        Terminal(speaker, system, Sampling(**sampling), interactive).run()


def run(
    target: str,
    prompt: str,
    system: str | None,
    sampling: dict[str, Any],
    opening: dict[str, Any],
    schema_file: str | None,
    as_json: bool,
) -> None:
    """One answer to one message, streamed, or as one JSON object. With a schema, the answer is proved to keep
    it.
    """
    from coterie.agents.speaker import Kind, Sampling
    from coterie.cli.opening import speaking
    from coterie.sandbox.schemas import check_text, read_schema
    from coterie.text.chat import Message

    schema = read_schema(Path(schema_file)) if schema_file else None
    text = _text_of(prompt)

    def show(kind: Kind, piece: str) -> None:
        if kind == "text":
            print(piece, end="", flush=True)

    messages = [Message("system", system)] if system else []
    messages.append(Message("user", text))
    with speaking(target, **opening) as speaker:
        turn = speaker.say(
            messages, sampling=Sampling(**sampling), schema=schema, on_piece=None if as_json else show
        )
    if not as_json:
        print()
    if schema is not None:
        if turn.finish_reason == "length":
            more = (
                "give --max-tokens more"
                if sampling.get("max_tokens")
                else "it filled what the model has room for"
            )
            raise CoterieError(f"the reply was cut off inside the JSON: {more}")
        check_text(turn.message.text, schema)
    if as_json:
        facts = {key: value for key, value in asdict(turn).items() if key not in ("message", "broken")}
        print(json.dumps({"message": turn.message.to_dict()} | facts, ensure_ascii=False))


def _text_of(prompt: str) -> str:
    """The prompt itself, or standard input for '-'."""
    if prompt != "-":
        return prompt
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text; give text as the prompt") from None
    if not text:
        raise DataError("standard input is empty; give some text, or the prompt as an argument")
    return text
