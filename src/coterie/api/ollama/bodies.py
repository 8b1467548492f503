"""Request bodies of Ollama's API (https://docs.ollama.com/api)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from coterie.protocol.body import MAX_TOKENS, Body, Name, Probability, Text, Whole
from coterie.protocol.requests import MAX_MESSAGES, MAX_STOPS, MoeOptions, Stop
from coterie.protocol.tool_bodies import MAX_TOOLS, ToolDefinition

# Clients of Ollama add its default tag to names.
Model = Annotated[Name, AfterValidator(lambda name: name.removesuffix(":latest") or name)]
Think = bool | Literal["low", "medium", "high", "max"]


class Options(Body):
    """`options`: the settings of the reply."""

    place = "options"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    num_predict: Annotated[Whole, Field(ge=-2, le=MAX_TOKENS)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class OllamaFunction(Body):
    """Name and arguments of a call."""

    place = "/api/chat messages.tool_calls.function"
    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)


class OllamaCall(Body):
    """A call in an assistant's turn."""

    place = "/api/chat messages.tool_calls"
    id: Name | None = None
    type: Literal["function"] | None = None
    function: OllamaFunction


class OllamaMessage(Body):
    """One turn of a conversation."""

    place = "/api/chat messages"
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: Name | None = None
    tool_call_id: Name | None = None


class OllamaReply(Body):
    """The fields that chat and generate share."""

    model: Model
    stream: bool = True
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: Options | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    moe: MoeOptions | None = None


class OllamaChat(OllamaReply):
    """`POST /api/chat`."""

    place = "/api/chat"
    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list)
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None


class OllamaGenerate(OllamaReply):
    """`POST /api/generate`. `raw`: the prompt goes to the model as it is, without the template."""

    place = "/api/generate"
    prompt: Text = ""
    suffix: Text | None = None
    system: Text | None = None
    raw: bool = False
    images: Annotated[list[str], Field(max_length=0)] | None = None


class OllamaEmbed(Body):
    """`POST /api/embed`."""

    place = "/api/embed"
    model: Model
    input: Text | list[Text]
    truncate: bool | None = None
    dimensions: Annotated[Whole, Field(ge=1, le=2**20)] | None = None
    options: Options | None = None


class OllamaEmbedding(Body):
    """`POST /api/embeddings`, the older form for one text."""

    place = "/api/embeddings"
    model: Model
    prompt: Text
    options: Options | None = None


class OllamaShow(Body):
    """`POST /api/show`."""

    place = "/api/show"
    model: Model
