"""The choices of one request as they grow: streams send each step, plain answers add them up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.hosting.engine_thread import Call, CallEvents, Job
from coterie.hosting.errors import invalid
from coterie.hosting.keys import spend
from coterie.hosting.service import Service
from coterie.infer.request import PromptScores, TokenEvent
from coterie.protocol.conversation import Conversation
from coterie.protocol.customs import CustomCalls
from coterie.protocol.moe import routing_of
from coterie.protocol.requests import StreamOptions
from coterie.reasoning.steps import ProcessReader, step_parts
from coterie.text.replies import CallPart, Delta, NumberedCall
from coterie.text.tokenizer import Tokenizer


@dataclass
class ChoiceStep:
    """What one token added to one choice. `written`: its text, which `delta` may have only later, or never.

    `finish` is set on the last step only; so are `stop`, the stop string that ended the content, `schema`
    (see `demands.SchemaCheck.of`) and `process`. `votes`: of an election (`protocol.elections`).
    """

    index: int
    delta: Delta
    token: int
    logprobs: list[dict[str, Any]] | None
    written: str
    finish: str | None = None
    moe: dict[str, Any] | None = None
    stop: str | None = None
    schema: str | None = None
    logprob: float = 0.0
    process: dict[str, Any] | None = None
    votes: dict[str, Any] | None = None


@dataclass
class Usage:
    """Token counts of one request.

    `predicted`: tokens of the client's predictions (None: it sent none); `accepted`: those in the reply.
    """

    prompt: int
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    predicted: int | None = None
    accepted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The `usage` object of chat and completions."""
        details = {"reasoning_tokens": self.reasoning}
        if self.predicted is not None:
            details["accepted_prediction_tokens"] = self.accepted
            details["rejected_prediction_tokens"] = max(0, self.predicted - self.accepted)
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": details,
        }

    def so_far(self, options: StreamOptions) -> dict[str, Any]:
        """What each event of a stream says of the usage."""
        if options.continuous_usage_stats:
            return {"usage": self.to_dict()}
        return {"usage": None} if options.include_usage else {}


class Timer:
    """Records the times to the first and between further tokens, and token counts, in the metrics."""

    def __init__(self, service: Service) -> None:
        self._metrics = service.metrics
        self._last = time.monotonic()
        self._begun = False

    def note(self, events: CallEvents, usage: Usage) -> None:
        """Count newly arrived tokens."""
        now = time.monotonic()
        name = "coterie_tpot_seconds" if self._begun else "coterie_ttft_seconds"
        if not self._begun:
            self._begun = True
            usage.cached = events[0][1].cached
            self._metrics.add("coterie_prompt_tokens_total", usage.prompt - usage.cached, cached="false")
            self._metrics.add("coterie_prompt_tokens_total", usage.cached, cached="true")
            spend("prompt", usage.prompt)
        tokens = max(Counter(index for index, _ in events).values()) if len(events) > 1 else 1
        self._metrics.observe(name, (now - self._last) / tokens, tokens)
        self._last = now
        self._metrics.add("coterie_generation_tokens_total", len(events))
        spend("completion", len(events))
        usage.completion += len(events)
        usage.accepted += sum(event.predicted for _, event in events)

    def leave(self, num_read: int) -> None:
        """Count for the key what was read of a prompt whose first token was never awaited."""
        if not self._begun:
            spend("prompt", num_read)


async def counted_events(service: Service, call: Call, usage: Usage) -> AsyncGenerator[CallEvents, None]:
    """The events of a call as they come, recorded in the metrics and counted in `usage`.

    Close the generator to cancel the call.
    Errors: as `Call.batches`.
    """
    timer = Timer(service)
    async with aclosing(call.batches(service.deadline())) as batches:
        try:
            async for events in batches:
                if events:
                    timer.note(events, usage)
                    yield events
        finally:
            timer.leave(service.thread.progress(call)[0])


@dataclass
class Replies:
    """The replies to one conversation. After `steps` has ended, `usage` is complete.

    `prompt_scores`: of the prompt, once the first token has come, if the request asked for them.
    """

    service: Service
    talk: Conversation
    call: Call
    usage: Usage = field(init=False)
    prompt_scores: PromptScores | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        predicted = sum(len(job.options.prediction) for job in self.talk.jobs) or None
        self.usage = Usage(len(self.talk.prompt), predicted=predicted)
        self._parsers = [self.talk.parser() for _ in self.talk.jobs]
        self._called = [Called(self.talk) for _ in self.talk.jobs]
        self._drawn = [0 for _ in self.talk.jobs]
        self._readers = [ProcessReader() for _ in self.talk.jobs]
        self._ended: set[int] = set()

    async def steps(self) -> AsyncGenerator[list[ChoiceStep], None]:
        """The steps as they come."""
        async with aclosing(counted_events(self.service, self.call, self.usage)) as batches:
            async for events in batches:
                steps = [self._step(index, event) for index, event in events if self._counts(index, event)]
                for step in steps:
                    await self._check(step)
                yield steps

    def _counts(self, index: int, event: TokenEvent) -> bool:
        """Whether a choice goes on: one step may draw tokens beyond the end that its text has reached."""
        if index not in self._ended:
            return True
        self.usage.completion -= 1
        self.usage.accepted -= event.predicted
        return False

    async def _check(self, step: ChoiceStep) -> None:
        """Say in the last step of a whole reply what became of a schema that no grammar enforced."""
        if self.talk.check is not None and step.finish in ("stop", "tool_calls"):
            message = self._parsers[step.index].finish()
            step.schema = await self.talk.check.of(
                replace(message, tool_calls=()) if self.talk.hide_calls else message
            )

    def _step(self, index: int, event: TokenEvent) -> ChoiceStep:
        parser = self._parsers[index]
        job = self.talk.jobs[index]
        check_grammar(job)
        self._drawn[index] += 1
        parser.arm(self._drawn[index] > job.params.min_tokens)
        if event.prompt is not None:
            self.prompt_scores = event.prompt
        thinking = parser.reasoning
        called = self._called[index]
        delta = called.kept(parser.feed(event.text))
        self.usage.reasoning += thinking or parser.reasoning
        finish: str | None = event.finish_reason
        if finish is None and (parser.stopped or called.enough):
            self.call.drop(index)
            finish = "stop"
        if finish is not None:
            self._ended.add(index)
            delta.add(called.kept(parser.flush(cut=finish == "length" or called.enough)))
            finish = "stop" if parser.stopped else finish
        if finish == "stop" and called.any:
            finish = "tool_calls"
        entries = None
        if self.talk.num_logprobs is not None:
            entries = [logprob_entry(self.service.tokenizer, event)]
        routing = routing_of(self.talk.routing, [event])
        step = ChoiceStep(index, delta, event.token, entries, event.text, finish, routing, parser.stop_string)
        step.logprob = event.logprob
        if self.talk.process:
            self._read(step, called.any)
        return step

    def _read(self, step: ChoiceStep, inside: bool) -> None:
        """Add a token to the process of its reply, which comes with the last one."""
        reader = self._readers[step.index]
        reader.add(step.logprob, step_parts(step.delta, inside))
        if step.finish is not None:
            step.process = reader.process().to_dict()


class Called:
    """What of a reply's calls is kept: none where they are hidden, one where only one is wanted.

    A reply that must call ends before it repeats a call. So the parts of a further call are held back until
    they differ from every earlier one. `any`: whether there are calls. `enough`: the reply ends here.
    """

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._customs = CustomCalls(talk.customs)
        self._earlier: set[tuple[str, str]] = set()
        self._held: list[CallPart] = []
        self.enough = False

    @property
    def any(self) -> bool:
        return bool(self._earlier)

    def kept(self, delta: Delta) -> Delta:
        """The delta with those of its calls that are kept."""
        kept = Delta(delta.reasoning, delta.content)
        for part, ended in delta.written():
            self._add(kept, part, ended)
        return self._customs.turned(kept)

    def _add(self, kept: Delta, part: CallPart | None, ended: NumberedCall | None) -> None:
        """The next part of the call that is being written, and the call if it ends with it."""
        if self._talk.hide_calls or self.enough:
            return
        self._held += [] if part is None else [part]
        again = self._talk.forced and self._may_repeat(ended)
        if not again:
            kept.parts += self._held
            self._held = []
        if ended is None:
            return
        self.enough = again or self._talk.one_call
        if not again:
            self._earlier.add((ended.call.name, ended.arguments))
            kept.calls.append(ended)

    def _may_repeat(self, ended: NumberedCall | None) -> bool:
        """Whether the call that is held back is, or may become, one of the earlier ones."""
        if not self._held:  # it is known to differ
            return False
        if ended is not None:
            return (ended.call.name, ended.arguments) in self._earlier
        written = "".join(part.arguments for part in self._held)
        return any(name == self._held[0].name and text.startswith(written) for name, text in self._earlier)


def check_grammar(job: Job) -> None:
    """Check that the grammar of a reply can go on. Errors: `ApiError` 400."""
    grammar = job.options.filter
    if grammar is not None and grammar.failure is not None:
        # The schema's fault: it asks for what this vocabulary cannot write, or costs too much to follow.
        raise invalid(f"the reply cannot satisfy its grammar ({grammar.failure})", None, "grammar_failed")


def prompt_logprobs(
    tokenizer: Tokenizer | None, prompt: Sequence[int], scores: PromptScores, num_top: int
) -> list[dict[str, Any] | None]:
    """The prompt's log-probabilities in vLLM's form: null, then each token's own and the `num_top` best.

    Each is an object from a token's id to its `logprob`, `rank` (1: the likeliest) and `decoded_token`.
    """
    entries: list[dict[str, Any] | None] = [None]
    for token, value, rank, top in zip(prompt[1:], scores.logprobs, scores.ranks, scores.top, strict=True):
        found = {token: (value, rank)} | {
            other: (logprob, place) for place, (other, logprob) in enumerate(top[:num_top], 1)
        }
        entries.append({str(one): _ranked(tokenizer, one, *pair) for one, pair in found.items()})
    return entries


def _ranked(tokenizer: Tokenizer | None, token: int, logprob: float, rank: int) -> dict[str, Any]:
    known = tokenizer is not None and token < tokenizer.vocab_size
    text = tokenizer.token_bytes([token])[0].decode("utf-8", "replace") if tokenizer and known else ""
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": text}


def call_object(numbered: NumberedCall) -> dict[str, Any]:
    """A tool call in the form of the chat API; arguments are JSON text."""
    return part_object(
        CallPart(numbered.index, numbered.id, numbered.call.name, numbered.arguments, numbered.custom)
    )


def part_object(part: CallPart) -> dict[str, Any]:
    """A part of a tool call in the form of the chat API's stream; the first one names the call."""
    if part.custom:
        custom = {"name": part.name, "input": part.arguments}
        return {"index": part.index, "id": part.id, "type": "custom", "custom": custom}
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}


def logprob_entry(tokenizer: Tokenizer, event: TokenEvent) -> dict[str, Any]:
    """One entry of a chat choice's `logprobs.content`."""
    top = [_named(tokenizer, token, value) for token, value in event.top]
    return {**_named(tokenizer, event.token, event.logprob), "top_logprobs": top}


def _named(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    if token >= tokenizer.vocab_size:  # a row of the model that the tokenizer has no text for
        return {"token": "", "logprob": finite(logprob), "bytes": []}
    spelt = tokenizer.token_bytes([token])[0]
    return {"token": spelt.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(spelt)}


def finite(logprob: float) -> float:
    """JSON lacks infinity; clients read -9999 as such."""
    return max(logprob, -9999.0)
