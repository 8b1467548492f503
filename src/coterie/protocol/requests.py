"""Request bodies. Each field is honoured, listed in `x-coterie-ignored`, or refused with a pointer to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from coterie.config.speculate import Speculate
from coterie.hosting.errors import invalid, too_long
from coterie.infer.model import LanguageModel
from coterie.infer.sampling import SamplingParams
from coterie.protocol.body import MAX_TOKENS, Body, Ids, Name, Probability, Text, Whole
from coterie.protocol.tool_bodies import MAX_TOOLS, AnyCall, AnyTool, Choice
from coterie.reasoning.effort import Effort
from coterie.reasoning.votes import MOST_VOTES, VoteRule

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_MESSAGES = 10_000
_ONE_TOKEN = 1e-9  # `top_p` 0 keeps the likeliest token, as this does


Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Form = Annotated[str, Field(min_length=1, max_length=2**16)]
Choices = Annotated[list[Text], Field(min_length=1, max_length=1024)]
Keep = Annotated[Whole, Field(ge=-1, le=MAX_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


def _unless_endless(given: Any) -> Any:
    """None for -1, by which clients of llama.cpp, LM Studio and Ollama mean that there is no limit."""
    return None if given == -1 else given


class StreamOptions(Body):
    """`stream_options`."""

    place = "stream_options"
    include_usage: bool = False
    continuous_usage_stats: bool = False


class MoeOptions(Body):
    """A request's control of the experts. Numbers of layers and experts are text, as JSON keys are."""

    routing: Literal["off", "summary", "full"] = "off"
    top_k: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    mask: dict[str, list[int]] | None = None
    bias: dict[str, dict[str, Annotated[float, Field(ge=-1e4, le=1e4)]]] | None = None
    profile: Name | None = None


class JsonSchema(Body):
    """`response_format.json_schema`."""

    name: Name
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """`structured_outputs` of vLLM: one of its fields says the form of the reply."""

    place = "structured_outputs"
    json_: dict[str, Any] | Text | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: Form | None = None
    choice: Choices | None = None
    grammar: Form | None = None


class Generation(Body):
    """The fields that chat and completions share."""

    model: Name
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[
        Annotated[Whole, Field(ge=0, le=MAX_TOKENS)] | None, BeforeValidator(_unless_endless)
    ] = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None
    ) = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Name | None = None
    priority: Annotated[Whole, Field(ge=-1000, le=1000)] | None = None
    return_token_ids: bool | None = None
    moe: MoeOptions | None = None
    speculate: Speculate | None = None
    response_format: ResponseFormat | None = None
    min_tokens: Annotated[Whole, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[Whole], Field(max_length=1024)] | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    truncate_prompt_tokens: Keep | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | Text | None = None
    guided_regex: Form | None = None
    guided_choice: Choices | None = None
    guided_grammar: Form | None = None

    @property
    def is_endless(self) -> bool:
        """Whether the request says that there is no limit, by a `max_tokens` of -1."""
        return self.max_tokens is None and "max_tokens" in self.model_fields_set

    @property
    def routing(self) -> str:
        """`off`, `summary` or `full`."""
        return "off" if self.moe is None else self.moe.routing

    def sampling(self, model: LanguageModel, num_tokens: int, logprobs: int) -> SamplingParams:
        """The engine's settings: the request's, else those that the model's directory recommends.

        Errors: `ApiError` 400 for a token that does not exist, or a least length that the reply cannot have.
        """
        own = model.sampling
        if self.prompt_logprobs is not None and self.stream:
            raise invalid("/prompt_logprobs: cannot go with 'stream'", "/prompt_logprobs")
        if self.min_tokens is not None and self.min_tokens > num_tokens:
            raise invalid(f"/min_tokens: the reply has at most {num_tokens} tokens", "/min_tokens")
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        return SamplingParams(
            temperature=own.temperature if self.temperature is None else self.temperature,
            top_k=own.top_k if self.top_k is None else max(0, self.top_k),
            top_p=own.top_p if self.top_p is None else max(self.top_p, _ONE_TOKEN),
            min_p=own.min_p if self.min_p is None else self.min_p,
            repetition_penalty=self.repetition_penalty or own.repetition_penalty,
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=max(1, num_tokens),
            stop=own.stop if stops is None else tuple(stops),
            stop_ids=_stop_ids(self, model),
            logprobs=logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_bias(self.logit_bias, model.config.vocab_size),
            min_tokens=self.min_tokens or 0,
            include_stop=bool(self.include_stop_str_in_output),
        )

    def cut(self, prompt: list[int], asked: int | None, most: int) -> list[int]:
        """The prompt as `truncate_prompt_tokens` asks, before a reply of `asked` tokens.

        `most`: tokens of prompt and reply together. Errors: `ApiError` 400.
        """
        return cut_prompt(prompt, self.truncate_prompt_tokens, most - max(1, asked or 1))


class ContentPart(Body):
    """A part of a message's content."""

    place = "messages.content"
    type: Literal["text", "input_text", "output_text"]
    text: Text


class ChatMessage(Body):
    """One turn of a conversation."""

    place = "messages"
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    name: Name | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    tool_calls: list[AnyCall] | None = None
    tool_call_id: Name | None = None


class PredictedContent(Body):
    """`prediction`: a text that the reply is expected to repeat for the most part."""

    place = "/v1/chat/completions prediction"
    type: Literal["content"]
    content: Text | list[ContentPart]

    @property
    def text(self) -> str:
        """The whole of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ThinkingSwitch(Body):
    """`thinking`, as GLM, Kimi and DeepSeek have it."""

    place = "/v1/chat/completions thinking"
    type: Literal["enabled", "disabled", "adaptive", "auto"]
    budget_tokens: Annotated[Whole, Field(ge=0, le=MAX_TOKENS)] | None = None


class ReasoningWish(Body):
    """`reasoning`, as OpenRouter has it."""

    place = "/v1/chat/completions reasoning"
    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Annotated[Whole, Field(ge=0, le=MAX_TOKENS)] | None = None


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    place = "/v1/chat/completions"
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[
        Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None, BeforeValidator(_unless_endless)
    ] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None
    reasoning: ReasoningWish | None = None
    thinking_token_budget: Annotated[Whole, Field(ge=0, le=MAX_TOKENS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: PredictedContent | None = None
    votes: Annotated[Whole, Field(ge=2, le=MOST_VOTES)] | None = None
    vote_rule: VoteRule | None = None
    process: bool | None = None


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    place = "/v1/completions"
    prompt: Text | Ids | list[Text] | list[Ids]
    echo: bool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    suffix: Text | None = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    add_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    skip_special_tokens: bool | None = None


def cut_prompt(prompt: list[int], keep: int | None, room: int) -> list[int]:
    """The last `keep` tokens of a prompt: all for None, for -1 as many as there is room for.

    Errors: `ApiError` 400 for 0.
    """
    if keep is None:
        return prompt
    if keep == 0:
        pointer = "/truncate_prompt_tokens"
        raise invalid(f"{pointer}: give how many tokens to keep, or -1 for all that fit", pointer)
    return prompt[-(max(1, room) if keep == -1 else keep) :]


def _stop_ids(body: Generation, model: LanguageModel) -> tuple[int, ...]:
    """The tokens that end the reply: the model's own unless `ignore_eos`, and those of the request."""
    vocab_size = model.config.vocab_size
    for index, token in enumerate(body.stop_token_ids or ()):
        if not 0 <= token < vocab_size:
            pointer = f"/stop_token_ids/{index}"
            raise invalid(f"{pointer}: is not a token id below {vocab_size}", pointer)
    return (*(() if body.ignore_eos else model.stop_ids), *(body.stop_token_ids or ()))


def _bias(given: Mapping[str, float] | None, vocab_size: int) -> tuple[tuple[int, float], ...]:
    pairs = []
    for key, value in (given or {}).items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else vocab_size
        if token >= vocab_size or str(token) != key:  # "007" could name a token twice
            raise invalid(f"/logit_bias/{key[:20]}: is not a token id below {vocab_size}", "/logit_bias")
        pairs.append((token, value))
    return tuple(pairs)


def choose_tokens(given: int | None, num_prompt: int, most: int, default: int | None = None) -> int:
    """How many tokens a reply may have: the requested number, else `default` or all remaining positions.

    A requested number must fit after the prompt; the default is reduced to what fits.
    Errors: `ApiError` 400 `context_length_exceeded`.
    """
    left = most - num_prompt
    if left < 1 or (given is not None and given > left):
        raise too_long(num_prompt, given, most)
    if given is not None:
        return given
    return left if default is None else min(default, left)
