"""The choices of one chat request as they grow: what streams send piece by piece and plain answers add up."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from coterie.infer.request import Event
from coterie.serve.core.engine_thread import Call
from coterie.serve.core.errors import ApiError
from coterie.serve.core.service import Service
from coterie.serve.endpoints.assemble import Piece
from coterie.serve.endpoints.conversation import Conversation
from coterie.serve.endpoints.moe import routing_of
from coterie.text.tokenizer import Tokenizer


@dataclass
class Delta:
    """What one choice gained by one token. `finish` is set once, last."""

    index: int
    piece: Piece
    ids: list[int]
    logprobs: list[dict[str, Any]] | None
    finish: str | None = None
    moe: dict[str, Any] | None = None


@dataclass
class Usage:
    """Tokens of one request."""

    prompt: int
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The `usage` object of chat and completions."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


class Timer:
    """Times of the first and of further tokens, and token counts, into the metrics."""

    def __init__(self, service: Service) -> None:
        self._metrics = service.metrics
        self._last = time.monotonic()
        self._begun = False

    def note(self, events: list[tuple[int, Event]], usage: Usage) -> None:
        """Some tokens came."""
        now = time.monotonic()
        name = "coterie_tpot_seconds" if self._begun else "coterie_ttft_seconds"
        if not self._begun:
            self._begun = True
            usage.cached = events[0][1].cached
            self._metrics.add("coterie_prompt_tokens_total", usage.prompt - usage.cached, cached="false")
            self._metrics.add("coterie_prompt_tokens_total", usage.cached, cached="true")
        self._metrics.observe(name, now - self._last)
        self._last = now
        self._metrics.add("coterie_generation_tokens_total", len(events))
        usage.completion += len(events)


@dataclass
class Replies:
    """The replies to one conversation. After `deltas` has ended, `usage` is complete."""

    service: Service
    talk: Conversation
    call: Call
    usage: Usage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(len(self.talk.prompt))
        self._readers = [self.talk.assembler() for _ in self.talk.jobs]

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """What came, step by step; an empty list when nothing has come for a while (a moment for a ping)."""
        timer = Timer(self.service)
        batches = self.call.batches(self.service.settings.ping, self.service.deadline())
        try:
            async for events in batches:
                if events:
                    timer.note(events, self.usage)
                yield [self._delta(index, event) for index, event in events]
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    def _delta(self, index: int, event: Event) -> Delta:
        reader = self._readers[index]
        grammar = self.talk.jobs[index].wishes.filter
        if grammar is not None and grammar.failure is not None:
            raise ApiError(
                500, f"the reply could not be kept to its grammar ({grammar.failure})", "grammar_failed"
            )
        thinking = reader.reasoning
        piece = reader.feed(event.text)
        self.usage.reasoning += thinking or reader.reasoning
        finish: str | None = event.finish_reason
        if finish is None and self.talk.one_call and reader.num_calls:
            self.call.drop(index)
            finish = "stop"
        if finish is not None:
            rest = reader.finish()
            piece.reasoning += rest.reasoning
            piece.content += rest.content
            piece.calls += rest.calls
        if finish == "stop" and reader.num_calls:
            finish = "tool_calls"
        entries = None
        if self.talk.num_logprobs is not None:
            entries = [] if event.token in self._stop_ids else [logprob_entry(self.service.tokenizer, event)]
        return Delta(index, piece, [event.token], entries, finish, routing_of(self.talk.routing, [event]))

    @property
    def _stop_ids(self) -> tuple[int, ...]:
        return self.service.model.stop_ids


def logprob_entry(tokenizer: Tokenizer, event: Event) -> dict[str, Any]:
    """One entry of a chat choice's `logprobs.content`."""
    top = [_named(tokenizer, token, value) for token, value in event.top]
    return {**_named(tokenizer, event.token, event.logprob), "top_logprobs": top}


def _named(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    if token >= tokenizer.vocab_size:  # a row of the model that stands for no text
        return {"token": "", "logprob": finite(logprob), "bytes": []}
    spelt = tokenizer.token_bytes([token])[0]
    return {"token": spelt.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(spelt)}


def finite(logprob: float) -> float:
    """JSON has no infinity; clients take -9999 for it."""
    return max(logprob, -9999.0)
