"""The one generator: continuous batching over the training module itself.

Each step is one forward pass over packed tokens: one token of every sequence that is generating its reply,
and a bounded number of prompt tokens of the sequences whose prompt is still being read. New requests join at
the next step; finished ones leave at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from coterie.config import ConfigError, CoterieError
from coterie.config.kernels import Kernels
from coterie.config.speculate import Speculate
from coterie.infer.drawing import Drawn, draw_next
from coterie.infer.forward import Feeding, feed, grouped
from coterie.infer.pace import Pace
from coterie.infer.prefix import BLOCK as MIN_SHARED
from coterie.infer.prefix import PrefixCache
from coterie.infer.reply import ReplyText
from coterie.infer.request import (
    FinishReason,
    Reply,
    Request,
    RequestOptions,
    TokenEvent,
    TokenRouting,
    TopLogprobs,
    check_prompt,
    in_front,
)
from coterie.infer.reuse import is_read_by_another, reuse
from coterie.infer.sampling import SamplingParams
from coterie.infer.speculation import Speculation
from coterie.infer.variant import Variant
from coterie.nn.steering import check_control
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer

# Offline nobody waits for the next token of a running reply, so prompts are read in larger chunks than a
# server's (`ServeSettings.prefill_chunk`).
OFFLINE_CHUNK = 512


class Engine:
    """Generates for many requests at once; a reply does not depend on what else is running.

    `max_batch`: sequences in one forward pass; more wait. `prefill_chunk`: prompt tokens in one forward pass,
    so that long prompts do not hold up running replies. Without a tokenizer, events carry no text.

    `deterministic`: a seeded reply is the same to the last bit whatever else is running. Products over more
    rows may round differently, so each sequence goes through the module alone, in chunks that start at fixed
    positions; they share native steps. Without it, other requests change a reply by rounding alone.

    `prefix_bytes`: how many bytes of keys and values of finished sequences to keep for prompts that begin the
    same way (0: none).

    `kernels`: what decoding steps run on. `max_stall`: seconds that a step should take at most while replies
    are running (`Pace`); then the chunks of prompts, and so the rounding, depend on time. None, and always
    when `deterministic`: whole chunks. `speculate`: what drafts of replies are made from (`Speculation`).
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        max_batch: int = 32,
        prefill_chunk: int = OFFLINE_CHUNK,
        deterministic: bool = False,
        prefix_bytes: int = 0,
        max_stall: float | None = None,
        kernels: Kernels = "auto",
        speculate: Speculate = "off",
    ) -> None:
        if max_batch < 1 or prefill_chunk < 1:
            given = f"max_batch {max_batch} and prefill_chunk {prefill_chunk}"
            raise ConfigError(f"engine: {given} must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk
        self.deterministic = deterministic
        self.prefixes = PrefixCache(prefix_bytes, prefill_chunk if deterministic else MIN_SHARED)
        self._pace = None if deterministic or max_stall is None else Pace(max_stall)
        self.expert_counts: dict[int, Tensor] | None = None
        self.kernels = kernels
        self.speculation = Speculation(model, speculate, deterministic)
        self._variants = {"": Variant(model, 0, kernels)}
        self._next_serial = 1
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether a request is running or waiting."""
        return bool(self._running or self._waiting)

    def add_variant(self, name: str, model: Transformer) -> None:
        """Let requests select another model of the same shape, replacing one of the same name.

        `adapters.apply.apply_shared` makes such a model on the same weights.
        """
        self.remove_variant(name)
        self._variants[name] = Variant(model, self._next_serial, self.kernels, self._variants[""].has_plan)
        self._next_serial += 1

    def variant(self, name: str) -> Transformer:
        """The model of this name. Errors: `ConfigError` when there is none."""
        if name not in self._variants:
            raise ConfigError(f"engine: there is no variant '{name}'; it may just have been removed")
        return self._variants[name].model

    def remove_variant(self, name: str) -> None:
        """Accept no further request for this model; running requests finish with it."""
        gone = self._variants.pop(name, None) if name else None
        if gone is not None:
            self.prefixes.drop(lambda salt: salt[0] == gone.serial)

    def count_experts(self) -> None:
        """Start counting in `expert_counts` how often each expert of each layer is chosen, (E,) int64."""
        self.expert_counts = {
            layer: torch.zeros(router.config.num_experts, dtype=torch.int64)
            for layer, router in self.model.routers()
        }

    def __contains__(self, request_id: int) -> bool:
        return any(request.id == request_id for queue in (self._running, self._waiting) for request in queue)

    @property
    def num_running(self) -> int:
        """Sequences that take part in the next step."""
        return len(self._running)

    @property
    def num_in_front(self) -> int:
        """Running sequences that do not stand behind all others."""
        return len(in_front(list(self._running)))

    @property
    def kernels_used(self) -> str:
        """One line: what decoding steps run on, and why."""
        return self._variants[""].kernels

    @property
    def waiting(self) -> list[Request]:
        """The requests that wait now, also for other threads to read."""
        return list(self._waiting)

    def progress(self) -> list[tuple[int, int, int]]:
        """(request, tokens read, prompt tokens) of each running sequence."""
        return [(request.id, request.cache.length, request.num_prompt) for request in list(self._running)]

    @property
    def cache_bytes(self) -> int:
        """Bytes held by the key/value caches of the running sequences."""
        return sum(request.cache.num_bytes for request in self._running)

    def add(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams | None = None,
        options: RequestOptions | None = None,
    ) -> int:
        """Queue a prompt; returns the request's id.

        The reply ends with a stop token or string, after `max_tokens`, or when prompt and reply fill the
        model's positions.
        Errors: `CoterieError`, one line, for a prompt that is empty, leaves no room for a reply or contains a
        token outside the vocabulary; `ConfigError` for stop strings without a tokenizer.
        """
        params = params or SamplingParams()
        self.model.check_head()
        config = self.model.config
        prompt = [int(i) for i in prompt_ids]
        check_prompt(
            prompt, config.vocab_size, config.max_positions - 1, " (a prompt must leave room for a reply)"
        )
        if params.stop and self.tokenizer is None:
            raise ConfigError("engine: stop strings need a tokenizer; give the engine one, or use stop_ids")
        stop_ids = params.stop_ids
        if stop_ids is None:
            stop_ids = tuple(self.tokenizer.stop_ids) if self.tokenizer is not None else ()
        limit = min(params.max_tokens, config.max_positions - len(prompt))
        options = options or RequestOptions()
        self.variant(options.variant)
        variant = self._variants[options.variant]
        variant.refresh()
        check_control(options.control, variant.routers)
        text = ReplyText(self.tokenizer, params)
        stops = frozenset(stop_ids)
        drafts = self.speculation.begin(options)
        request = Request(
            self._next_id, prompt, params.with_seed(), limit, stops, text, options, variant, drafts
        )
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, request_id: int, keep: bool = False) -> bool:
        """Drop a request. Returns False when it is not here: it may just have finished.

        `keep` its keys and values for later prompts, as those of a finished one.
        """
        for queue in (self._running, self._waiting):
            for request in [one for one in queue if one.id == request_id]:
                if keep and queue is self._running:
                    self._leave(request)
                else:
                    queue.remove(request)
                return True
        return False

    def step(self) -> list[TokenEvent]:
        """Run one forward pass; return the events of the sequences that got a token.

        The list is empty while only prompts are being read. What fails in drawing a token is its event's
        `failure`. A failure of the pass (also Ctrl-C) drops its requests and is raised; others stay usable.
        """
        while self._waiting:
            request = min(self._waiting, key=lambda waiting: (waiting.options.priority, waiting.id))
            if len(self._running if request.behind else in_front(self._running)) >= self.max_batch:
                break
            self._waiting.remove(request)
            request.cache = self.prefixes.new_sequence(self.model.config)
            self._running.append(request)
        plan = self._plan()
        if not plan:
            return []
        begun = time.monotonic()
        # Computed before the pass, which draws tokens.
        reading = [count for request, count in plan if not request.num_drawn]
        try:
            events = self._forward(plan)
        except BaseException:
            for request, _ in plan:
                self.cancel(request.id)
            raise
        if self._pace is not None:
            self._pace.note(time.monotonic() - begun, sum(reading), len(plan) - len(reading))
        return events

    def generate(
        self,
        prompts: Sequence[Iterable[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        options: Sequence[RequestOptions | None] | None = None,
    ) -> list[Reply]:
        """Whole replies, in the order of the prompts. `params`: one for all, or one each; `options`: each.

        Equal prompts with the same seed give equal replies; for different ones pass different seeds, or none.
        """
        each = (
            [params] * len(prompts) if params is None or isinstance(params, SamplingParams) else list(params)
        )
        if len(each) != len(prompts):
            raise ConfigError(f"engine: {len(prompts)} prompts but {len(each)} settings; give one or each")
        self._check_idle()
        replies: dict[int, Reply] = {}
        try:
            for prompt, its_params, its_options in zip(
                prompts, each, options or [None] * len(prompts), strict=True
            ):
                replies[self.add(prompt, its_params, its_options)] = Reply()
            while self.busy:
                for event in self.step():
                    replies[event.request].add(event)
        finally:
            for request_id in replies:
                self.cancel(request_id)
        return list(replies.values())

    def stream(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams | None = None,
        options: RequestOptions | None = None,
    ) -> Iterator[TokenEvent]:
        """The events of one reply as they come. Closing the iterator drops the request.

        The prompt is checked immediately, not at the first token.
        Errors: as `add`.
        """
        self._check_idle()
        return self._events(self.add(prompt_ids, params, options))

    def _events(self, request_id: int) -> Iterator[TokenEvent]:
        try:
            while self.busy:
                for event in self.step():
                    if event.failure is not None:
                        raise event.failure
                    yield event
        finally:
            self.cancel(request_id)

    def _check_idle(self) -> None:
        if self.busy:
            count = len(self._running) + len(self._waiting)
            message = f"engine: {count} other request(s) are under way; use add and step, or another engine"
            raise CoterieError(message)

    def _plan(self) -> Feeding:
        """How many tokens to feed each request: one per running reply; prompts first come, first served."""
        plan: Feeding = []
        budget = self.prefill_chunk
        active = in_front(self._running) or self._running
        if self._pace is not None and any(request.num_drawn for request in active):
            budget = self._pace.budget(budget)
        for request in active:
            request.turn_long()
            if self.prefixes.max_bytes and request.num_drawn == 0:
                multiple = self.prefill_chunk if self.deterministic else 1
                reuse(request, self._running, self.prefixes, multiple, self.deterministic)
                if not self.deterministic and is_read_by_another(request, [one for one, _ in plan]):
                    continue
            pending = len(request.tokens) - request.cache.length
            if pending > 1:
                if self.deterministic:  # whole chunks from fixed positions, or nothing
                    pending = min(pending, self.prefill_chunk - request.cache.length % self.prefill_chunk)
                    pending = pending if budget == self.prefill_chunk or pending <= budget else 0
                else:
                    pending = request.cache.to_border(min(pending, budget), request.num_prompt)
                budget -= pending
            if pending:
                plan.append((request, pending))
        return plan

    def _leave(self, request: Request) -> None:
        """Remove a finished request; keep its keys and values for later prompts."""
        self._running.remove(request)
        request.settle()
        if not self.prefixes.max_bytes:
            return
        tokens = request.tokens
        if self.deterministic:
            whole = request.num_prompt - request.num_prompt % self.prefill_chunk
            if not request.cache.can_go_back(whole):
                return
            request.cache.truncate(whole)
        self.prefixes.keep(request.salt, tokens, request.cache)

    def _forward(self, plan: Feeding) -> list[TokenEvent]:
        plan = self.speculation.drafted(plan)
        result = feed(grouped(plan, self.deterministic), self.expert_counts)
        events: list[TokenEvent] = []
        for fed in result.draws():
            drawn = zip(fed.requests, draw_next(fed), fed.routings, strict=True)
            events += [self._taken(*row) for row in drawn]
        self.speculation.note(plan, result.seconds)
        return events

    def _taken(self, request: Request, drawn: Drawn | Exception, routing: TokenRouting | None) -> TokenEvent:
        """Add a drawn token to its reply. What fails here ends this request alone."""
        try:
            if isinstance(drawn, Exception):
                raise drawn
            return self._take(request, *drawn, routing)
        except Exception as error:
            request.draft.clear()
            self.cancel(request.id)
            return TokenEvent(request.id, -1, 0.0, (), "", "stop", failure=error)

    def _take(
        self, request: Request, token: int, logprob: float, top: TopLogprobs, routing: TokenRouting | None
    ) -> TokenEvent:
        """Add a drawn token to its reply; a finished request leaves the engine."""
        first = request.num_drawn == 0
        request.tokens.append(token)
        predicted = request.drafts is not None and request.drafts.follow(token)
        if request.options.filter is not None:
            request.options.filter.accept(token)
        text, by_string = ("", False) if token in request.stop_ids else request.text.push(token)
        finish: FinishReason | None = None
        if by_string or token in request.stop_ids:
            finish = "stop"
        elif request.num_drawn >= request.limit:
            finish = "length"
        if finish is not None:
            self._leave(request)
            text += request.text.finish()
        cached, scores = (request.cached, request.prompt) if first else (0, None)
        return TokenEvent(
            request.id, token, logprob, top, text, finish, cached, scores, routing, predicted=predicted
        )
