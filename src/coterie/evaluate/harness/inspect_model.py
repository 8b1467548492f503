"""A subject as a model of inspect_ai: its requests in messages, answered several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolCall

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.subject import Subject
from coterie.text.tools import function

AT_ONCE = 64
_GATHER = 0.005  # seconds in which further samples may ask, so that their replies are made together
_REFUSED = ("num_choices", "logprobs", "top_logprobs", "response_schema", "logit_bias")


@dataclass
class _WaitingSample:
    item: BenchmarkItem
    options: ReplyOptions
    reply: ItemReply | None = None


def inspect_model(subject: Subject, options: ReplyOptions) -> Model:
    """`subject` as inspect_ai's model, which is asked as `options` say where a task says nothing."""

    @modelapi(name="coterie")  # type: ignore[untyped-decorator]
    def coterie() -> type[ModelAPI]:
        class Bound(SubjectModel):
            def __init__(self, model_name: str, **kwargs: Any) -> None:
                super().__init__(model_name, subject, options)

        return Bound

    return get_model("coterie/model", memoize=False)


def no_grader() -> Model:
    """The model of the role `grader`, which says that there is none."""

    @modelapi(name="coterie-grader")  # type: ignore[untyped-decorator]
    def grader() -> type[ModelAPI]:
        return AbsentGrader

    return get_model("coterie-grader/none", memoize=False)


class AbsentGrader(ModelAPI):  # type: ignore[misc]
    """Stands where a scorer wants a model to grade: a model must not grade itself."""

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(model_name)

    def should_retry(self, ex: BaseException) -> bool:
        """Never."""
        return False

    async def generate(self, *given: Any, **named: Any) -> ModelOutput:
        """Errors: always `ConfigError`."""
        raise ConfigError(
            "its scorer asks a model to grade replies, and there is none; use a scorer that works by rules"
        )


class SubjectModel(ModelAPI):  # type: ignore[misc]
    """Answers inspect_ai's requests with a `Subject`."""

    def __init__(self, model_name: str, subject: Subject, options: ReplyOptions) -> None:
        super().__init__(model_name)
        self.subject, self.options = subject, options
        self._waiting: list[_WaitingSample] = []
        self._busy = anyio.Lock()

    def max_connections(self) -> int:
        """Samples that are asked at the same time."""
        return AT_ONCE

    def should_retry(self, ex: BaseException) -> bool:
        """Never: the same request fails again."""
        return False

    async def generate(
        self, input: list[Any], tools: list[Any], tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        """The reply to a conversation. Errors: `CoterieError` for what this model cannot do."""
        for name in _REFUSED:
            value = getattr(config, name, None)
            if value and not (name == "num_choices" and value == 1):
                raise ConfigError(f"asks for {name}, which replies here do not have")
        options = replace(
            self.options,
            max_tokens=config.max_tokens or self.options.max_tokens,
            temperature=self.options.temperature if config.temperature is None else config.temperature,
        )
        shown = () if tool_choice == "none" else tuple(_described(tool) for tool in tools)
        item = BenchmarkItem("", tuple(turn_of(message) for message in input), None, tools=shown)
        long = self.subject.too_long([item], options, False)
        if long:
            raise ConfigError(long[item.id])
        return _output(await self._answer(item, options), config.stop_seqs or ())

    async def _answer(self, item: BenchmarkItem, options: ReplyOptions) -> ItemReply:
        mine = _WaitingSample(item, options)
        self._waiting.append(mine)
        await anyio.sleep(_GATHER)
        async with self._busy:
            if mine.reply is None:
                some = [one for one in self._waiting if one.options == options]
                self._waiting = [one for one in self._waiting if one.options != options]
                replies = self.subject.replies([one.item for one in some], options)
                for one, reply in zip(some, replies, strict=True):
                    one.reply = reply
        assert mine.reply is not None
        return mine.reply


def turn_of(message: Any) -> dict[str, Any]:
    """A message of inspect_ai in the OpenAI form. Errors: `ConfigError` for images and the like."""
    parts = [] if isinstance(message.content, str) else message.content
    odd = next((part.type for part in parts if part.type not in ("text", "reasoning")), None)
    if odd is not None:
        raise ConfigError(f"has a message with {odd}, and text alone is read here")
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.role == "assistant" and message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        turn |= {"tool_call_id": message.tool_call_id, "name": message.function}
        if message.error is not None:
            turn["content"] = message.error.message
    return turn


def _described(tool: Any) -> dict[str, Any]:
    return function(tool.name, tool.description, tool.parameters.model_dump(exclude_none=True))


def _output(reply: ItemReply, stops: Sequence[str]) -> ModelOutput:
    text = reply.text
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    calls = [_call(number, call) for number, call in enumerate(reply.calls)]
    message = ChatMessageAssistant(content=text, tool_calls=calls or None, model="coterie", source="generate")
    ended = "max_tokens" if reply.truncated else "tool_calls" if calls else "stop"
    return ModelOutput(
        model="coterie",
        choices=[ChatCompletionChoice(message=message, stop_reason=ended)],
        usage=ModelUsage(output_tokens=reply.tokens, total_tokens=reply.tokens),
    )


def _call(number: int, call: Mapping[str, Any]) -> ToolCall:
    given = call["arguments"]
    known = isinstance(given, Mapping)
    return ToolCall(
        id=f"call_{number}",
        function=str(call["name"]),
        arguments=dict(given) if known else {},
        parse_error=None if known else "the arguments are not a JSON object",
    )
