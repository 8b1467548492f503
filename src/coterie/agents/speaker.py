"""Asking a server that speaks the OpenAI API for the next turn of a conversation."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from coterie.config.errors import ConfigError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.reasoning.effort import EFFORTS
from coterie.reasoning.votes import VOTE_RULES
from coterie.remote.client import Endpoint, EndpointError
from coterie.text.chat import Message, ToolCall
from coterie.text.printable import joined, shown

Kind = Literal["text", "reasoning"]
OnPiece = Callable[[Kind, str], None]


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled; None leaves a value to the server (`max_tokens` None: what fits).

    `effort` and `think_budget` (tokens): how much the model may reason. `votes`: sampled replies that elect
    one of them, by `vote_rule`. `process`: also tell the steps of the reply.
    Errors: `ConfigError` for an unknown effort or rule.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    effort: str | None = None
    think_budget: int | None = None
    votes: int | None = None
    vote_rule: str | None = None
    process: bool | None = None

    def __post_init__(self) -> None:
        if self.effort is not None and self.effort not in EFFORTS:
            raise ConfigError(f"effort: unknown value '{self.effort}'; choose one of {', '.join(EFFORTS)}")
        if self.vote_rule is not None and self.vote_rule not in VOTE_RULES:
            known = ", ".join(VOTE_RULES)
            raise ConfigError(f"vote rule: unknown value '{self.vote_rule}'; choose one of {known}")


@dataclass(frozen=True)
class Turn:
    """One reply. Token counts are None if the server does not report them.

    `first_seconds`: until the first piece; `seconds`: in all. `broken`: place of a tool call -> its arguments
    as they came, if they are not a JSON object (the call in `message` then has none). `ignored`: fields of
    the request without effect, where the server names them. `votes` and `process`: as the server of this
    library gives them (docs/reason.md).
    """

    message: Message
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    first_seconds: float
    seconds: float
    broken: Mapping[int, str] = field(default_factory=dict)
    reasoning_tokens: int | None = None
    ignored: tuple[str, ...] = ()
    votes: Mapping[str, Any] | None = None
    process: Mapping[str, Any] | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None without token counts or time to measure."""
        rest = self.seconds - self.first_seconds
        return (self.completion_tokens - 1) / rest if self.completion_tokens and rest > 1e-6 else None


class Speaker(Protocol):
    """Something that gives the assistant's next turn. `name`: how messages to people name it."""

    name: str

    def say(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        sampling: Sampling = Sampling(),
        schema: Mapping[str, Any] | None = None,
        on_piece: OnPiece | None = None,
    ) -> Turn:
        """The next turn. `on_piece` is called with every piece as it comes; the text must fit `schema`.

        Errors: `CoterieError`, one line.
        """
        ...


class RemoteSpeaker(Speaker):
    """A server that speaks the OpenAI API. It always streams: silence would look like a lost connection."""

    def __init__(self, endpoint: Endpoint, model: str | None = None) -> None:
        self.endpoint = endpoint
        names = endpoint.models()
        if model is not None and model not in names:
            raise ConfigError(f"{endpoint.label}: serves no '{model}'; it has {', '.join(names)}")
        self.model = model or names[0]
        self.name = endpoint.label if endpoint.label != endpoint.root else f"{self.model} at {endpoint.root}"

    def say(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        sampling: Sampling = Sampling(),
        schema: Mapping[str, Any] | None = None,
        on_piece: OnPiece | None = None,
    ) -> Turn:
        body = {"model": self.model, "messages": wire_messages(messages), "stream": True}
        body |= {"stream_options": {"include_usage": True}} | _set(sampling)
        if tools:
            body["tools"] = list(tools)
        if schema is not None:
            named = {"name": "reply", "schema": dict(schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        reply = StreamedReply(on_piece)
        for event in self.endpoint.events("/v1/chat/completions", body):
            reply.feed(event)
        if reply.finish_reason is None:
            raise EndpointError(f"{self.endpoint.label}: the stream ended before the reply was complete")
        return reply.turn()


class StreamedReply:
    """Puts a reply together from the chunks of a chat completion's stream.

    Unlike `text.replies.Delta`, a chunk holds pieces of a call's arguments, so calls are whole only in
    `turn`.
    """

    def __init__(self, on_piece: OnPiece | None = None) -> None:
        self.finish_reason: str | None = None
        self.first_seconds = 0.0
        self._on_piece = on_piece
        self._started = time.perf_counter()
        self._texts: dict[Kind, list[str]] = {"text": [], "reasoning": []}
        self._held: dict[Kind, str] = {}
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: Mapping[str, Any] = {}
        self._ignored: list[str] = []
        self._votes: Mapping[str, Any] | None = None
        self._process: Mapping[str, Any] | None = None

    def feed(self, event: Any) -> None:
        """Take in one chunk. Errors: `EndpointError` for an event that is not a chunk."""
        if not isinstance(event, Mapping) or not isinstance(event.get("choices"), list):
            raise EndpointError(f"a chunk of the stream has no list of choices: {json.dumps(event)[:200]}")
        self._usage = _object(event.get("usage")) or self._usage
        names = event.get("x_coterie_ignored")
        self._ignored += [str(name) for name in names] if isinstance(names, list) else []
        for choice in map(_object, event["choices"]):
            delta = _object(choice.get("delta"))
            # Servers use one of two names for reasoning; one that sends both sends the same text twice.
            self._piece("reasoning", delta.get("reasoning_content") or delta.get("reasoning"))
            self._piece("text", delta.get("content"))
            calls = delta.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                self._call(_object(call))
            votes = _object(choice.get("votes"))
            self._votes = votes if "table" in votes else self._votes
            self._process = _object(choice.get("process")) or self._process
            reason = choice.get("finish_reason")
            self.finish_reason = reason if isinstance(reason, str) else self.finish_reason

    def turn(self) -> Turn:
        """The whole reply."""
        calls, broken = [], {}
        for number, index in enumerate(sorted(self._calls)):
            call = self._calls[index]
            try:
                arguments = parse_json_object(call["arguments"] or "{}", JsonLimits(repeated_keys=True))
            except JsonError as error:
                broken[number], arguments = f"it {error}: {joined(call['arguments'][:200])}", {}
            calls.append(ToolCall(joined(call["name"]), arguments, joined(call["id"]) or None))
        while self._held:
            kind, half = self._held.popitem()
            self._add(kind, joined(half))
        text, reasoning = "".join(self._texts["text"]), "".join(self._texts["reasoning"])
        message = Message("assistant", text, reasoning or None, tuple(calls))
        found = [self._usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        found.append(_object(self._usage.get("completion_tokens_details")).get("reasoning_tokens"))
        counts = [count if isinstance(count, int) and count >= 0 else None for count in found]
        seconds = time.perf_counter() - self._started
        return Turn(
            message,
            self.finish_reason or "stop",
            counts[0],
            counts[1],
            self.first_seconds,
            seconds,
            broken,
            counts[2],
            tuple(self._ignored),
            self._votes,
            self._process,
        )

    def _piece(self, kind: Kind, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        self._tick()
        # Servers that count in UTF-16 may cut a character in two; the first half waits for the second.
        text = self._held.pop(kind, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._held[kind] = text[:-1], text[-1]
        self._add(kind, joined(text))

    def _add(self, kind: Kind, text: str) -> None:
        if not text:
            return
        self._texts[kind].append(text)
        if self._on_piece is not None:
            self._on_piece(kind, text)

    def _call(self, delta: Mapping[str, Any]) -> None:
        self._tick()
        index = delta.get("index")
        if not isinstance(index, int):
            raise EndpointError("a tool call in the stream has no index, so its pieces cannot be told apart")
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = _object(delta.get("function"))
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str | None) or not isinstance(arguments, str | None):
            raise EndpointError("a tool call in the stream has a name or arguments that are not text")
        call["name"] = call["name"] or name or ""
        call["arguments"] += arguments or ""
        call["id"] = call["id"] or str(delta.get("id") or "")

    def _tick(self) -> None:
        self.first_seconds = self.first_seconds or time.perf_counter() - self._started


def note_ignored(turn: Turn) -> None:
    """Say on standard error which of our settings changed nothing, once the reply has come."""
    options = {"reasoning_effort": "--effort", "thinking_token_budget": "--think-budget"}
    for name in (name for name in options if name in turn.ignored):
        why = "its chat template knows no reasoning"
        print(f"coterie: {options[name]} has no effect on this model: {why}", file=sys.stderr)


def turn_lines(turn: Turn) -> list[str]:
    """The votes and the process of a reply for people; nothing where it has none."""
    lines = []
    if turn.votes is not None:
        lines += ["", f"{'votes':>5}  {'share':>5}  answer"]
        for row in turn.votes["table"]:
            lines.append(f"{row['count']:5}  {row['share']:5.0%}  {shown(str(row['answer']))[:100]}")
        if turn.votes["unanswered"]:
            lines.append(f"{turn.votes['unanswered']:5}         (no answer)")
        lines.append(shown(str(turn.votes["says"])))
    if turn.process is not None:
        lines += ["", "tokens  log-prob  step"]
        for step in turn.process["steps"]:
            words = shown(" ".join(str(step["text"]).split()))
            part = "" if step["part"] == "content" else f"[{step['part']}] "
            lines.append(f"{step['tokens']:6}  {step['mean_logprob']:8.2f}  {part}{words}")
            for check in step["checks"]:
                verdict = "right" if check["right"] else f"WRONG, the left side is {check['value']}"
                lines.append(f"{'':18}{shown(check['text'])}: {verdict}")
    return lines


def _object(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one: servers leave fields out or send null."""
    return value if isinstance(value, Mapping) else {}


def wire_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the OpenAI API's form: arguments as JSON text, an id that ties each result to its call.

    Calls keep the ids that the server gave them. Results that name no call belong to the calls before them,
    in order. Errors: `ConfigError` for a result without a call.
    """
    wired: list[dict[str, Any]] = []
    waiting: list[str] = []
    for number, message in enumerate(messages):
        data = message.to_dict()
        if message.role == "assistant":
            waiting = [call.id or f"call_{number}_{index}" for index, call in enumerate(message.tool_calls)]
            for id, call in zip(waiting, data.get("tool_calls", ()), strict=True):
                call["id"] = id
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        elif message.role == "tool":
            if not waiting:
                raise ConfigError(f"message {number + 1}: a tool's result without a call before it")
            own = message.tool_call_id if message.tool_call_id in waiting else waiting[0]
            waiting.remove(own)
            data["tool_call_id"] = own
        wired.append(data)
    return wired


def _set(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    fields |= {"max_tokens": sampling.max_tokens, "seed": sampling.seed}
    fields |= {"reasoning_effort": sampling.effort, "thinking_token_budget": sampling.think_budget}
    fields |= {"votes": sampling.votes, "vote_rule": sampling.vote_rule, "process": sampling.process}
    return {name: value for name, value in fields.items() if value is not None}
