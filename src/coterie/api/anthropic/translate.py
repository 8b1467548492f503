"""A Messages request as the chat request that asks for the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from coterie.api.anthropic.bodies import ClientTool, CountRequest, MessagesRequest, OutputFormat
from coterie.api.anthropic.turns import TurnReader
from coterie.hosting.errors import ApiError, ContextExceeded, invalid
from coterie.hosting.service import Service
from coterie.protocol.conversation import reported
from coterie.protocol.fields import Ignored
from coterie.protocol.requests import ChatRequest
from coterie.protocol.translation import chat_request, in_terms_of, rewriting

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SAME = ("model", "temperature", "top_p", "top_k", "seed", "logit_bias", "cache_salt")
# Names of the chat API in lists of fields without effect, and their places in errors.
_NAMES = {
    "messages.system": "system",
    "messages.tool": "messages.content.tool_result",
    "messages.tool_calls": "messages.content.tool_use",
    "messages.tool_calls.function.arguments": "messages.content.input",
    "messages.reasoning_content": "messages.content.thinking",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
}
_place = rewriting(
    {
        "/response_format/json_schema": "/output_config/format",
        "/response_format": "/output_config/format",
        "/tool_choice/function/name": "/tool_choice/name",
        "/max_completion_tokens": "/max_tokens",
        "/reasoning_effort": "/output_config/effort",
        "/stop": "/stop_sequences",
    }
)


class Translation:
    """A request in the chat API's form.

    `chat`: it; its length is not limited, because the limit depends on the prompt. `ignored`: fields without
    effect. `cached`: whether the request marks places for a cache, in whose terms usage is then given.
    """

    def __init__(self, service: Service, body: CountRequest, named: Sequence[str]) -> None:
        self.ignored = Ignored()
        self.cached = any(name.endswith("cache_control") for name in named)
        self._turns = TurnReader(self.ignored)
        self._tools: list[int] = []  # the places of the functions among the tools
        self._old_format = body.output_format is not None
        self._turns.read(body.system, body.messages)
        self.chat = self._chat(service, body)

    def _chat(self, service: Service, body: CountRequest) -> ChatRequest:
        messages, functions = self._turns.messages, self._functions(body)
        data: dict[str, Any] = {
            "messages": messages,
            "tools": functions or None,
            "continue_final_message": messages[-1]["role"] == "assistant" or None,
            **self._thinking(body),
            **self._output(body),
            **_choice(body, bool(functions)),
            "model": body.model,
        }
        if data["continue_final_message"] and "reasoning_content" in messages[-1]:
            self.ignored.add("messages.content", "thinking")  # the prompt ends in the text
        if isinstance(body, MessagesRequest):
            data |= {name: getattr(body, name) for name in _SAME}
            data["stop"] = body.stop_sequences or None
            data["moe"] = None if body.moe is None else body.moe.model_dump(exclude_none=True)
        chat, more = chat_request(data, self.place, service.settings.strict)
        self.ignored.extend(self.names(more))
        reported(self.ignored, service.settings.strict)
        return chat

    def names(self, chat: Sequence[str]) -> list[str]:
        """Names of the chat API for fields without effect, as this API has them."""
        return list(map(in_terms_of(_NAMES, self.place), chat))

    def translated(self, error: ApiError) -> ApiError:
        """The same error with places in this request."""
        if isinstance(error, ContextExceeded):
            # The form that clients look for, to shorten their history.
            message = f"prompt is too long: {error.num_tokens} tokens > {error.most} maximum"
            return ApiError(400, message, error.code)
        return error.moved(self.place)

    def place(self, text: str) -> str:
        """A text with the places of this request in place of those of the chat request."""

        def tool(found: re.Match[str]) -> str:
            return f"/tools/{self._tools[int(found[1])]}" + ("/input_schema" if found[2] else "")

        text = _place(re.sub(r"/tools/(\d+)/function(/parameters)?", tool, text))
        if self._old_format:
            text = text.replace("/output_config/format", "/output_format")
        return self._turns.translated(text)

    def _functions(self, body: CountRequest) -> list[dict[str, Any]]:
        functions = []
        for index, tool in enumerate(body.tools or ()):
            if not isinstance(tool, ClientTool):
                self.ignored.add("", f"tools/{index}")
                continue
            self._tools.append(index)
            given = {"name": tool.name, "description": tool.description, "strict": tool.strict}
            function = {key: value for key, value in given.items() if value is not None}
            functions.append({"type": "function", "function": {**function, "parameters": tool.input_schema}})
        return functions

    def _thinking(self, body: CountRequest) -> dict[str, Any]:
        """How much to think, in the field of the same name."""
        given = body.thinking
        if given is None:
            return {}
        if given.type == "enabled" and given.budget_tokens is None:
            pointer = "/thinking/budget_tokens"
            raise invalid(f"{pointer}: is missing", pointer, "missing_required_parameter")
        if given.type == "between_tools":
            self.ignored.add("", "thinking")
        if given.display == "updates":
            self.ignored.add("thinking", "display")  # all of it is shown
        if given.type == "disabled":
            return {"thinking": {"type": "disabled"}}
        budget = given.budget_tokens if given.type == "enabled" else None
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}

    def _output(self, body: CountRequest) -> dict[str, Any]:
        config = body.output_config
        effort = None if config is None else config.effort
        form: OutputFormat | None = None if config is None else config.format
        if form is not None and body.output_format is not None:
            raise invalid("/output_format: goes with output_config.format; send one", "/output_format")
        form = form or body.output_format
        return {
            "reasoning_effort": effort,
            "response_format": None
            if form is None
            else {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": form.schema_, "strict": True},
            },
        }


def _choice(body: CountRequest, has_tools: bool) -> dict[str, Any]:
    choice = body.tool_choice
    if choice is None or (not has_tools and choice.type in ("auto", "none")):
        return {}
    single = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    if choice.type != "tool":
        return {"tool_choice": _CHOICES[choice.type], **single}
    if choice.name is None:
        raise invalid("/tool_choice/name: is missing", "/tool_choice/name", "missing_required_parameter")
    return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **single}
