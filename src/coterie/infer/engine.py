"""The one generator: continuous batching over the training module itself.

Each step is one forward pass over packed tokens: one token of every sequence that is already talking, and a bounded
number of prompt tokens of those that are not yet. New requests join at the next step, finished ones leave at once.

Legend: T packed tokens, B sequences that get a token in this step, D width, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from coterie.config import ConfigError, CoterieError
from coterie.infer.cache import SequenceCache
from coterie.infer.reply import ReplyText
from coterie.infer.sampling import SamplingParams, sample
from coterie.nn.layout import Layout
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]
TopLogprobs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one reply. `text`: what became certain by it (may be empty, or end before the token's own text).

    `logprob` is the model's own, before any penalty, temperature or filter. `finish_reason` is set on the last event.
    """

    request: int
    token: int
    logprob: float
    top: TopLogprobs
    text: str
    finish_reason: FinishReason | None


@dataclass(slots=True)
class Reply:
    """A whole reply. `ids` and `logprobs` include the token that stopped it, `text` does not."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None

    def add(self, event: Event) -> None:
        """Take in the next event."""
        self.ids.append(event.token)
        self.logprobs.append(event.logprob)
        self.top.append(event.top)
        self.text += event.text
        self.finish_reason = event.finish_reason


class _Request:
    """A sequence in the engine. `tokens` is prompt and reply; those from `cache.length` on wait to be fed."""

    __slots__ = ("cache", "id", "limit", "num_prompt", "params", "stop_ids", "text", "tokens")

    def __init__(
        self, id: int, prompt: list[int], params: SamplingParams, limit: int, stop_ids: frozenset[int], text: ReplyText
    ) -> None:
        self.id = id
        self.tokens = prompt
        self.num_prompt = len(prompt)
        self.params = params
        self.limit = limit
        self.stop_ids = stop_ids
        self.text = text
        self.cache: SequenceCache


class Engine:
    """Generates for many requests at once; a reply does not depend on what else is running.

    `max_batch`: sequences in one forward pass; more wait. `prefill_chunk`: prompt tokens in one forward pass, so that
    long prompts do not hold up the sequences already talking. Without a tokenizer, events carry no text.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer | None = None, max_batch: int = 32, prefill_chunk: int = 512
    ) -> None:
        if max_batch < 1 or prefill_chunk < 1:
            raise ConfigError(f"engine: max_batch {max_batch} and prefill_chunk {prefill_chunk} must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether a request is running or waiting."""
        return bool(self._running or self._waiting)

    @property
    def cache_bytes(self) -> int:
        """Bytes held by the key/value caches of the running sequences."""
        return sum(request.cache.num_bytes for request in self._running)

    def add(self, prompt_ids: Iterable[int], params: SamplingParams | None = None) -> int:
        """Queue a prompt; returns the request's id.

        The reply ends with a stop token or string, after `max_tokens`, or when prompt and reply fill the model's
        positions. Errors: `CoterieError`, one line, for a prompt that is empty, leaves no room for a reply or holds a
        token the model does not know; `ConfigError` for stop strings without a tokenizer.
        """
        params = params or SamplingParams()
        config = self.model.config
        prompt = [int(i) for i in prompt_ids]
        check_prompt(prompt, config.vocab_size, config.max_positions - 1, " (a prompt must leave room for a reply)")
        if params.stop and self.tokenizer is None:
            raise ConfigError("engine: stop strings need a tokenizer; give the engine one, or use stop_ids")
        stop_ids = params.stop_ids
        if stop_ids is None:
            stop_ids = tuple(self.tokenizer.stop_ids) if self.tokenizer is not None else ()
        limit = min(params.max_tokens, config.max_positions - len(prompt))
        text = ReplyText(self.tokenizer, params.stop)
        request = _Request(self._next_id, prompt, params.with_seed(), limit, frozenset(stop_ids), text)
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, request_id: int) -> bool:
        """Drop a request. False when it is not here (any more): it may just have finished."""
        for queue in (self._running, self._waiting):
            for request in queue:
                if request.id == request_id:
                    queue.remove(request)
                    return True
        return False

    def step(self) -> list[Event]:
        """One forward pass; the events of the sequences that got a token (none while only prompts are being read).

        A failure (also Ctrl-C) drops the requests that were in the pass and goes up; the others stay usable.
        """
        while self._waiting and len(self._running) < self.max_batch:
            request = self._waiting.popleft()
            request.cache = SequenceCache(self.model.config)
            self._running.append(request)
        plan = self._plan()
        if not plan:
            return []
        try:
            return self._forward(plan)
        except BaseException:
            for request, _ in plan:
                self.cancel(request.id)
            raise

    def generate(
        self, prompts: Sequence[Iterable[int]], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Reply]:
        """Whole replies, in the order of the prompts. `params`: one for all, or one each.

        Equal prompts with one seed give equal replies: pass settings with different seeds, or none, for a variety.
        """
        each = [params] * len(prompts) if params is None or isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise ConfigError(f"engine: {len(prompts)} prompts but {len(each)} settings; give one, or one for each")
        self._check_idle()
        replies: dict[int, Reply] = {}
        try:
            for prompt, its_params in zip(prompts, each, strict=True):
                replies[self.add(prompt, its_params)] = Reply()
            while self.busy:
                for event in self.step():
                    replies[event.request].add(event)
        finally:
            for request_id in replies:
                self.cancel(request_id)
        return list(replies.values())

    def stream(self, prompt_ids: Iterable[int], params: SamplingParams | None = None) -> Iterator[Event]:
        """The events of one reply as they come. Closing the iterator drops the request.

        The prompt is checked at once, not at the first token.
        """
        self._check_idle()
        return self._events(self.add(prompt_ids, params))

    def _events(self, request_id: int) -> Iterator[Event]:
        try:
            while self.busy:
                yield from self.step()
        finally:
            self.cancel(request_id)

    def _check_idle(self) -> None:
        if self.busy:
            count = len(self._running) + len(self._waiting)
            raise CoterieError(f"engine: {count} other request(s) are under way; use add and step, or another engine")

    def _plan(self) -> list[tuple[_Request, int]]:
        """Who is fed how many tokens: one for each that is talking, prompts first come first served."""
        plan = []
        budget = self.prefill_chunk
        for request in self._running:
            pending = len(request.tokens) - request.cache.length
            if pending > 1:
                pending = min(pending, budget)
                budget -= pending
            if pending:
                plan.append((request, pending))
        return plan

    @torch.inference_mode()
    def _forward(self, plan: list[tuple[_Request, int]]) -> list[Event]:
        device = self.model.embed.weight.device
        ids: list[int] = []
        starts: list[int] = []
        lengths: list[int] = []
        last_rows: list[int] = []
        talking: list[_Request] = []
        for request, count in plan:
            start = request.cache.length
            ids += request.tokens[start : start + count]
            starts.append(start)
            lengths.append(count)
            if start + count == len(request.tokens):
                talking.append(request)
                last_rows.append(len(ids) - 1)
        layout = Layout.packed(lengths, starts, device=device)
        h_TD = self.model(torch.tensor(ids, device=device), layout, caches=[request.cache for request, _ in plan])
        if not talking:
            return []
        h_BD = h_TD if len(talking) == len(ids) else h_TD[last_rows]
        sampled = sample(
            self.model.logits(h_BD),
            [request.params for request in talking],
            [len(request.tokens) - request.num_prompt for request in talking],
            [request.tokens for request in talking],
        )
        return [self._take(*row) for row in zip(talking, sampled.ids, sampled.logprobs, sampled.top, strict=True)]

    def _take(self, request: _Request, token: int, logprob: float, top: TopLogprobs) -> Event:
        """Add a token to its reply; a finished request leaves the engine."""
        request.tokens.append(token)
        text, by_string = ("", False) if token in request.stop_ids else request.text.push(token)
        finish: FinishReason | None = None
        if by_string or token in request.stop_ids:
            finish = "stop"
        elif len(request.tokens) - request.num_prompt >= request.limit:
            finish = "length"
        if finish is not None:
            self._running.remove(request)
            text += request.text.finish()
        return Event(request.id, token, logprob, top, text, finish)


def check_prompt(ids: Sequence[int], vocab_size: int, most: int, why: str = "") -> None:
    """Errors: `CoterieError`, one line, for token ids that are none, more than `most`, or not below `vocab_size`."""
    if not ids:
        raise CoterieError("prompt: it is empty; give at least one token")
    if len(ids) > most:
        raise CoterieError(f"prompt: it has {len(ids)} tokens and the model takes {most}; shorten it{why}")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise CoterieError(
            f"prompt: token id {wrong} is outside the model's vocabulary of {vocab_size}; use the model's own tokenizer"
        )
