"""What a model offers as tools: chat, score, route_explain. Their arguments, results and the work itself.

Nothing here knows a protocol: `serve.mcp` lists these tools, calls them and reports their progress.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from coterie.config import CoterieError
from coterie.config.base import suggest
from coterie.hosting.errors import ApiError
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.protocol.body import AS_WHOLE, Text, read
from coterie.protocol.conversation import Conversation, prepare
from coterie.protocol.replies import Replies
from coterie.protocol.requests import ChatRequest

REPLY_TOKENS = 512  # of a reply whose caller names no number
_ALIVE = 1.0  # seconds after which a call that has not advanced reports that it still runs
_CRUMB = 0.001  # by which such a report advances, because every report must
_UNREAD = 0.9  # progress at the end of the prompt; the first token is 1


class Arguments(BaseModel):
    """The arguments of a tool: no conversion between types, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ChatResult(BaseModel):
    """The model's reply."""

    reply: str = Field(description="The text of the reply, without its reasoning.")
    reasoning: str = Field(description="What the model wrote before its reply; empty for most models.")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: the model ended its reply; length: max_tokens cut it."
    )
    prompt_tokens: int
    reply_tokens: int = Field(description="Tokens written, reasoning included.")


class ScoreResult(BaseModel):
    """How likely a text is."""

    tokens: int
    logprob: float = Field(description="Natural log-probability of all tokens that follow another.")
    bits_per_byte: float


class LayerRoutes(BaseModel):
    """The experts of one layer: a row for each token, best expert first."""

    experts: list[list[int]]
    weights: list[list[float]] = Field(description="The weights of these experts, to four decimals.")


class RoutesResult(BaseModel):
    """The experts of a text."""

    tokens: list[str]
    layers: dict[str, LayerRoutes] = Field(description="By number of the layer; empty for a dense model.")


@dataclass(frozen=True)
class Seen:
    """How far a call is: a number that grows, the number at its end if that is known, and a line."""

    value: float
    total: float | None
    message: str


@dataclass
class CallProgress:
    """What a waiting client learns. Every report is larger than the one before, as MCP demands.

    The work sets `look`. Of a chat it counts the tokens written; between 0 and 1 the prompt is read.
    """

    look: Callable[[], Seen] = lambda: Seen(0, None, "preparing")
    _last: float = -1.0
    _when: float = field(default_factory=time.monotonic)

    def news(self) -> Seen | None:
        """The report that is due now, or None."""
        seen, now = self.look(), time.monotonic()
        if seen.value <= self._last:
            if now - self._when < _ALIVE:
                return None
            seen = replace(seen, value=self._last + _CRUMB)
        self._last, self._when = seen.value, now
        return seen


@dataclass(frozen=True)
class ModelTool:
    """A tool of the model. `work` gives the text for the caller and the result that holds all of it."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    result: type[BaseModel]
    work: Callable[[dict[str, Any], CallProgress], Awaitable[tuple[str, BaseModel]]]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that were given, checked. A null is as good as an argument that is left out.

        Errors: `CoterieError`, one line that names the tool and the argument.
        """
        known = self.arguments.model_fields
        for name in given:
            if name not in known:
                hint = suggest(name, known)
                raise CoterieError(
                    f"{self.name}: '{name[:60]}' is not an argument{hint}; it takes {', '.join(known)}"
                )
        kept = {name: value for name, value in given.items() if value is not None}
        try:
            return self.arguments.model_validate(kept).model_dump(exclude_unset=True)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            what = "is missing" if problem["type"] == "missing" else problem["msg"]
            raise CoterieError(f"{self.name}: {problem['loc'][0]}: {what}") from None


def model_tools(host: Host) -> list[ModelTool]:
    """The tools of a running host's default model, with the model's own limits in their arguments."""
    service = host.default
    positions = service.max_length
    longest = min(service.model.reply_limit or REPLY_TOKENS, positions)
    usual = service.model.sampling.temperature
    message = Annotated[Text, Field(min_length=1, description="What the user says.")]
    system = Annotated[Text, Field(description="A system message before it.")]
    about = "Tokens that the reply may have; without it, no more than what fits after the prompt."
    most = Field(ge=1, le=positions, description=about)
    temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token each time.")]
    chat = create_model(
        "chat",
        __base__=Arguments,
        message=(message, ...),
        system=(system, ""),
        max_tokens=(Annotated[int, most, AS_WHOLE], longest),
        temperature=(temperature, min(usual, 2.0)),
    )
    text: Any = (Annotated[Text, Field(min_length=1, description=f"At most {positions} tokens.")], ...)
    return [
        ModelTool(
            "chat",
            "Ask the model",
            "Ask the model: one message, one answer.",
            chat,
            ChatResult,
            partial(_chat, host, longest),
        ),
        ModelTool(
            "score",
            "Score a text",
            "How likely the model finds a text: tokens, log-probability in all, and bits per byte.",
            create_model("score", __base__=Arguments, text=text),
            ScoreResult,
            partial(_of_text, host, score_ids, ScoreResult),
        ),
        ModelTool(
            "route_explain",
            "Show the experts of a text",
            "Which experts the model chooses for each token of a text, layer by layer, with their weights.",
            create_model("route_explain", __base__=Arguments, text=text),
            RoutesResult,
            partial(_of_text, host, explain_ids, RoutesResult),
        ),
    ]


async def _chat(
    host: Host, longest: int, given: dict[str, Any], progress: CallProgress
) -> tuple[str, ChatResult]:
    """One reply. A cancelled caller cancels the generation in the engine."""
    service = host.default
    size = sum(len(given.get(name, "")) for name in ("message", "system"))
    talk = await host.preparations.run(lambda: _conversation(service, longest, given), size)
    replies = Replies(service, talk, service.thread.submit(talk.jobs))
    progress.look = partial(_written, service, replies)
    texts, reasoning, finish = [], [], "stop"
    try:
        async with aclosing(replies.steps()) as batches:
            async for steps in batches:
                for step in steps:
                    texts.append(step.delta.content)
                    reasoning.append(step.delta.reasoning)
                    finish = step.finish or finish
    finally:
        replies.call.cancel()  # a generator that never began does not cancel its call
    usage, reply, thought = replies.usage, "".join(texts), "".join(reasoning)
    if finish == "length" and thought and not reply.strip():
        raise CoterieError(
            f"chat: max_tokens: the {usage.completion} tokens ended before the reasoning did; give more"
        )
    return reply, ChatResult(
        reply=reply,
        reasoning=thought,
        finish_reason="length" if finish == "length" else "stop",
        prompt_tokens=usage.prompt,
        reply_tokens=usage.completion,
    )


def _conversation(service: Service, longest: int, given: dict[str, Any]) -> Conversation:
    """The prepared chat. Errors: `ApiError`, one line, also for a system message that would be lost."""
    system = [{"role": "system", "content": given["system"]}] if given.get("system") else []
    data = {"model": service.name, "messages": [*system, {"role": "user", "content": given["message"]}]}
    data |= {name: given[name] for name in ("max_tokens", "temperature") if name in given}
    try:
        talk = prepare(service, read(ChatRequest, data)[0], "")
    except ApiError as error:
        if error.code != "no_chat_template":
            raise
        raise CoterieError("chat: the model has no chat template; start with --template") from None
    if talk.ignored:  # nothing else of these requests can be lost
        raise CoterieError("chat: system: the model's template does not show it; put it into the message")
    if "max_tokens" in given:
        return talk
    jobs = [
        replace(job, params=replace(job.params, max_tokens=min(longest, job.params.max_tokens)))
        for job in talk.jobs
    ]
    return replace(talk, jobs=jobs)


def _written(service: Service, replies: Replies) -> Seen:
    """How far a reply is."""
    most, written = replies.talk.jobs[0].params.max_tokens, replies.usage.completion
    if written:
        return Seen(written, most, f"{written} of at most {most} tokens written")
    done, total = service.thread.progress(replies.call)
    if not done:
        return Seen(0, most, f"waiting to read {total} tokens of the prompt")
    return Seen(_UNREAD * done / total, most, f"{done} of {total} tokens of the prompt read")


async def _of_text(
    host: Host,
    measure: Callable[[LanguageModel, list[int], str], dict[str, Any]],
    result: type[BaseModel],
    given: dict[str, Any],
    progress: CallProgress,
) -> tuple[str, BaseModel]:
    """What one forward pass over a text shows, between two steps of the engine."""
    service, text = host.default, given["text"]
    ids = await host.preparations.run(lambda: service.model.encode(text), len(text))
    progress.look = lambda: Seen(0, 1, f"reading {len(ids)} tokens")
    found = await service.thread.run(lambda: measure(service.model, ids, text), service.deadline())
    progress.look = lambda: Seen(1, 1, f"{len(ids)} tokens read")
    return json.dumps(found, ensure_ascii=False), result.model_validate(found)


def score_ids(model: LanguageModel, ids: list[int], text: str) -> dict[str, Any]:
    """Tokens, their summed natural log-probability, and bits per byte of the text that they spell.

    The first token counts only if the model puts a start token before texts.
    Errors: `CoterieError`.
    """
    logprob = float(model.logprobs(ids).double().sum())
    if not math.isfinite(logprob):
        raise CoterieError(f"score: the model's log-probability of this text is {logprob}")
    bits = -logprob / math.log(2) / len(text.encode())
    return {"tokens": len(ids), "logprob": logprob, "bits_per_byte": bits}


def explain_ids(model: LanguageModel, ids: list[int], text: str) -> dict[str, Any]:
    """The text of each token and, for each MoE layer, the experts chosen for it with their weights.

    Errors: `CoterieError`.
    """
    layers = {
        str(layer): {
            "experts": routing.ids_TK.tolist(),
            "weights": [[round(float(weight), 4) for weight in row] for row in routing.weights_TK],
        }
        for layer, routing in model.routing(ids).items()
    }
    tokens = [model.tokenizer.decode([token]) for token in ids] if model.tokenizer is not None else []
    return {"tokens": tokens, "layers": layers}
