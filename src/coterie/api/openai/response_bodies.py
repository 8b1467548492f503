"""Bodies of the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from coterie.protocol.body import MAX_TOKENS, Body, Name, Probability, Text, Whole
from coterie.protocol.requests import MAX_MESSAGES, MoeOptions, StreamOptions
from coterie.protocol.tool_bodies import MAX_TOOLS


class TextFormat(Body):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Name | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: Text | None = None


class TextOptions(Body):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    """`reasoning`."""

    place = "reasoning"
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ConversationName(Body):
    """`conversation` as an object."""

    id: Name


Input = Text | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)]


class InputRequest(Body):
    """`POST /v1/responses/input_tokens`: all that the prompt is made of."""

    place = "/v1/responses/input_tokens"
    model: Name | None = None
    input: Input | None = None
    instructions: Text | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled", "auto"] | None = None
    previous_response_id: str | None = None
    conversation: Name | ConversationName | None = None


class ResponsesRequest(InputRequest):
    """`POST /v1/responses`."""

    place = "/v1/responses"
    model: Name
    input: Input
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: Any = None  # given back and named as ignored, as the three below are
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    user: Any = None
    max_output_tokens: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    seed: Whole | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include: list[str] | None = None
    cache_salt: Name | None = None
    moe: MoeOptions | None = None
