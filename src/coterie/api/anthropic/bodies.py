"""Request bodies of the Messages API (https://platform.claude.com/docs/en/api/messages)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from coterie.protocol.body import MAX_TOKENS, Body, Name, Probability, Text, Whole
from coterie.protocol.requests import MAX_MESSAGES, MAX_STOPS, MoeOptions, Stop
from coterie.protocol.tool_bodies import MAX_TOOLS

_CONTENT = "/v1/messages messages.content"


def _unread(kind: str) -> str:
    raise PydanticCustomError(
        "block_type", "blocks of type '{kind}' are not read here; models here read text", {"kind": kind[:40]}
    )


def _kind_of(known: tuple[str, ...]) -> Discriminator:
    """Chooses the model of a block by its type: one of `known`, else `other`."""

    def find(given: Any) -> str | None:
        kind = given.get("type") if isinstance(given, Mapping) else None
        return None if not isinstance(given, Mapping) else kind if kind in known else "other"

    return Discriminator(find, custom_error_type="dict_type")


class TextBlock(Body):
    """Text."""

    place = _CONTENT
    type: Literal["text"]
    text: Text


class SystemBlock(TextBlock):
    """A part of the system prompt."""

    place = "/v1/messages system"


class ToolReference(Body):
    """The name of a tool that a client's search has found."""

    place = _CONTENT
    type: Literal["tool_reference"]
    tool_name: Name


class ThinkingBlock(Body):
    """Reasoning of an earlier reply."""

    place = _CONTENT
    type: Literal["thinking"]
    thinking: Text
    signature: Text = ""


class RedactedThinking(Body):
    """Reasoning that only the server that made it can read."""

    place = _CONTENT
    type: Literal["redacted_thinking"]
    data: Text


class ToolUse(Body):
    """A call of a tool in an assistant's turn."""

    place = _CONTENT
    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]


class OtherBlock(BaseModel):
    """Any other block."""

    model_config = ConfigDict(extra="ignore")
    type: Annotated[str, AfterValidator(_unread)]


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolReference, Tag("tool_reference")]
    | Annotated[OtherBlock, Tag("other")],
    _kind_of(("text", "tool_reference")),
]


class ToolResult(Body):
    """What a call returned."""

    place = _CONTENT
    type: Literal["tool_result"]
    tool_use_id: Name
    content: Text | list[ResultBlock] = ""
    is_error: bool = False


ContentBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinking, Tag("redacted_thinking")]
    | Annotated[ToolUse, Tag("tool_use")]
    | Annotated[ToolResult, Tag("tool_result")]
    | Annotated[OtherBlock, Tag("other")],
    _kind_of(("text", "thinking", "redacted_thinking", "tool_use", "tool_result")),
]


class InputMessage(Body):
    """One message of a conversation."""

    place = "/v1/messages messages"
    role: Literal["user", "assistant", "system"]
    content: Text | list[ContentBlock] = ""
    clear_at: Literal["next_user_message", "never"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> InputMessage:
        if self.role != "system" and "content" not in self.model_fields_set:
            raise ValueError("'content' is missing")
        if self.role != "system" and self.clear_at is not None:
            raise ValueError("'clear_at' is for system messages")
        return self


class ClientTool(Body):
    """A tool that the client runs."""

    place = "/v1/messages tools"
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.-]+$")]
    description: Text | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class OtherTool(BaseModel):
    """A tool that another server runs, or whose use its models have learnt."""

    model_config = ConfigDict(extra="ignore")
    type: str


def _kind_of_tool(given: Any) -> str | None:
    if not isinstance(given, Mapping):
        return None
    return "client" if given.get("type") in (None, "custom") else "other"


AnyTool = Annotated[
    Annotated[ClientTool, Tag("client")] | Annotated[OtherTool, Tag("other")],
    Discriminator(_kind_of_tool, custom_error_type="dict_type"),
]


class ToolChoice(Body):
    """`tool_choice`."""

    place = "/v1/messages tool_choice"
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """`thinking`."""

    place = "/v1/messages thinking"
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None

    @property
    def hidden(self) -> bool:
        """Whether reasoning is not shown."""
        return self.display == "omitted"


class OutputFormat(Body):
    """`output_config.format`."""

    place = "/v1/messages output_format"
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """`output_config`."""

    place = "/v1/messages output_config"
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(Body):
    """`POST /v1/messages/count_tokens`: what the prompt is made of."""

    place = "/v1/messages/count_tokens"
    model: Name
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | list[SystemBlock] | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`."""

    place = "/v1/messages"
    max_tokens: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)]
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[Whole, Field(ge=0, le=2**31)] | None = None
    # Ours, as in the chat API.
    seed: Whole | None = None
    logit_bias: dict[str, float] | None = None
    cache_salt: Name | None = None
    moe: MoeOptions | None = None
