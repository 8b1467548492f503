"""`POST /v1/completions`: text or token ids in, with true `echo` and log-probabilities of the prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.config import CoterieError
from coterie.hosting.engine_thread import Call, Job
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.service import Service
from coterie.infer.request import PromptScores, TokenEvent, TopLogprobs, check_prompt
from coterie.protocol.chunks import chunks
from coterie.protocol.moe import options_of, routing_of
from coterie.protocol.received import receive, respond
from coterie.protocol.replies import Usage, check_grammar, counted_events, finite, prompt_logprobs
from coterie.protocol.requests import CompletionRequest, StreamOptions, choose_tokens
from coterie.protocol.structured import check_end, structure_of
from coterie.protocol.vectors import encode_text, read_as_letters
from coterie.text.infilling import InfillForm, infill_form
from coterie.text.tokenizer import Tokenizer

MAX_PROMPTS = 1024
MAX_REPLIES = 8192
_DEFAULT_TOKENS = 16


async def completions(request: Request) -> Response:
    """Continue one or many prompts, whole or streamed."""
    received = await receive(request, CompletionRequest)
    service, body = received.service, received.body
    texts, letters = await received.prepared(request, lambda: _prepared(service, body, received.variant))
    call = service.thread.submit([text.job for text in texts])
    head = {"object": "text_completion", **received.head("cmpl-")}
    run = Completions(service, body, texts, call, head, received.last(letters))
    return await respond(request, received, call, run.stream, run.whole, letters)


@dataclass
class Continuation:
    """One choice: its prompt and its text so far."""

    index: int
    job: Job
    echo: bool
    limit: int
    names: TokenNames
    text: str = ""
    finish: str | None = None
    events: list[TokenEvent] = field(default_factory=list)
    offset: int = 0  # characters before the next token, for `text_offset`

    def take(self, event: TokenEvent) -> dict[str, Any] | None:
        """Add a token; return its `choices` entry for a stream, or None if there is nothing to send."""
        first = not self.events
        self.events.append(event)
        if self.limit == 0:  # only the prompt was asked for
            added = self.names.text(self.job.prompt) if self.echo else ""
            self.finish = "length"
        else:
            added = (self.names.text(self.job.prompt) if self.echo and first else "") + event.text
            self.finish = event.finish_reason
        self.text += added
        logprobs = None
        if self.names.wanted is not None:
            logprobs = self._prompt_logprobs(event) if first and self.echo else _no_logprobs()
            if self.limit:
                before = self.offset
                self._append(logprobs, event.token, event.logprob, event.top)
                if event.token in self.job.params.hidden_ids:
                    self.offset = before
        if not added and self.finish is None and logprobs is None:
            return None
        return {"index": self.index, "text": added, "logprobs": logprobs, "finish_reason": self.finish}

    def _prompt_logprobs(self, event: TokenEvent) -> dict[str, list[Any]]:
        logprobs = _no_logprobs()
        scores = event.prompt or PromptScores()
        self._append(logprobs, self.job.prompt[0], None, ())
        for token, value, top in zip(self.job.prompt[1:], scores.logprobs, scores.top, strict=True):
            self._append(logprobs, token, value, top[: self.names.wanted])
        return logprobs

    def _append(
        self, logprobs: dict[str, list[Any]], token: int, value: float | None, top: TopLogprobs
    ) -> None:
        name = self.names.name(token)
        logprobs["tokens"].append(name)
        logprobs["token_logprobs"].append(None if value is None else finite(value))
        logprobs["top_logprobs"].append(None if value is None else self.names.top(token, value, top))
        logprobs["text_offset"].append(self.offset)
        self.offset += len(self.names.text([token]))


@dataclass(frozen=True)
class TokenNames:
    """The names of tokens in the answer.

    `wanted`: how many likely tokens to report at each place; None reports no log-probabilities.
    """

    tokenizer: Tokenizer | None
    wanted: int | None
    as_ids: bool

    def text(self, ids: list[int]) -> str:
        """The text of tokens; ids without text are left out."""
        if self.tokenizer is None:
            return ""
        known = self.tokenizer.vocab_size
        return self.tokenizer.decode(token for token in ids if token < known)

    def name(self, token: int) -> str:
        """Text, `bytes:...` for part of a character, or `token_id:N`."""
        if self.as_ids or self.tokenizer is None or token >= self.tokenizer.vocab_size:
            return f"token_id:{token}"
        spelt = self.tokenizer.token_bytes([token])[0]
        try:
            return spelt.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)

    def top(self, token: int, value: float, top: TopLogprobs) -> dict[str, float]:
        """The most likely tokens and the actual one. Of tokens with the same name the likeliest is kept."""
        names: dict[str, float] = {}
        for other, logprob in top:
            names.setdefault(self.name(other), finite(logprob))
        names.setdefault(self.name(token), finite(value))
        return names


def _no_logprobs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _prepared(
    service: Service, body: CompletionRequest, variant: str
) -> tuple[list[Continuation], list[str]]:
    return prepare(service, body, variant), read_as_letters(service, body.prompt, "prompt")


def prepare(service: Service, body: CompletionRequest, variant: str) -> list[Continuation]:
    """Encode, check and count; the jobs go to `variant`. Errors: `ApiError` 400."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise invalid("/best_of: must equal n; choosing among more is not supported", "/best_of")
    form = _infilling(service, body)
    prompts = _prompts(service, body, form)
    if len(prompts) * (body.n or 1) > MAX_REPLIES:
        raise invalid(f"/n: prompts and choices together ask for more than {MAX_REPLIES} replies", "/n")
    structure = structure_of(body)
    kept = None if structure is None else structure.filter(service.grammars, None)
    check_end(body, kept)
    names = TokenNames(service.model.tokenizer, body.logprobs, bool(body.return_tokens_as_token_ids))
    texts: list[Continuation] = []
    for ids in prompts:
        given = body.max_tokens
        default = None if body.is_endless else service.model.reply_limit or _DEFAULT_TOKENS
        ids = body.cut(ids, given or default, service.max_length)
        limit = choose_tokens(given or None, len(ids), service.max_length, default)
        params = body.sampling(service.model, limit, body.logprobs or 0)
        params = replace(params, max_tokens=1 if given == 0 else limit)
        if body.skip_special_tokens:
            params = replace(params, hidden_ids=service.tokenizer.special_ids)
        if form is not None and not body.ignore_eos:
            params = replace(params, stop_ids=(*(params.stop_ids or ()), *form.stops(service.tokenizer)))
        options = options_of(service, body, variant)
        for choice in range(body.n or 1):
            seed = None if params.seed is None else (params.seed + choice) % 2**64
            own = None if kept is None else kept.fresh()
            its = replace(options, filter=own, prompt_logprobs=_scored(body, choice))
            job = Job(list(ids), replace(params, seed=seed), its)
            texts.append(Continuation(len(texts), job, bool(body.echo), 0 if given == 0 else limit, names))
    return texts


def _scored(body: CompletionRequest, choice: int) -> int | None:
    """How many likely tokens to find at each place of a choice's prompt; None: its prompt is not scored."""
    wanted = [body.logprobs if body.echo else None, None if choice else body.prompt_logprobs]
    return max((number for number in wanted if number is not None), default=None)


def _infilling(service: Service, body: CompletionRequest) -> InfillForm | None:
    """How the model writes a prompt with a `suffix`; None where there is none. Errors: `ApiError` 400."""
    if not body.suffix:
        return None
    for name, value in (("echo", body.echo), ("truncate_prompt_tokens", body.truncate_prompt_tokens)):
        if value:
            raise invalid(f"/{name}: cannot go with suffix", f"/{name}")
    form = infill_form(service.tokenizer)
    if form is None:
        message = "/suffix: the model's tokenizer has no tokens for text between a beginning and an end"
        raise ApiError(400, message, "unsupported_parameter", "/suffix")
    return form


def _prompts(service: Service, body: CompletionRequest, form: InfillForm | None) -> list[list[int]]:
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given or len(given) > MAX_PROMPTS:
        raise invalid(f"/prompt: give from 1 to {MAX_PROMPTS} prompts", "/prompt")
    if body.echo and service.model.tokenizer is None:
        raise ApiError(400, "/echo: the model has no tokenizer", "no_tokenizer", "/echo")
    prompts = []
    for place, prompt in enumerate(given):
        pointer = "/prompt" if given[0] is body.prompt else f"/prompt/{place}"
        special = body.add_special_tokens is not False
        if form is not None:
            if not isinstance(prompt, str):
                raise invalid("/suffix: needs a prompt that is text", "/suffix")
            filled = form.prompt(service.tokenizer, prompt, body.suffix or "")
            prompt = [*(service.model.start_ids if special else ()), *filled]
        elif isinstance(prompt, str):
            prompt = encode_text(service, prompt, special)
        try:
            check_prompt(prompt, service.model.config.vocab_size, 2**60)
        except CoterieError as error:
            raise invalid(f"{pointer}: {error}", pointer) from None
        prompts.append(prompt)
    return prompts


@dataclass
class Completions:
    """A running request."""

    service: Service
    body: CompletionRequest
    texts: list[Continuation]
    call: Call
    head: dict[str, Any]
    last: dict[str, Any]  # what a stream's last choice says besides

    def __post_init__(self) -> None:
        distinct = self.texts[:: self.body.n or 1]
        self.usage = Usage(sum(len(text.job.prompt) for text in distinct))

    def stream(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events."""
        options = self.body.stream_options or StreamOptions()
        return chunks(self.head, self._choices(), self.usage, options, self.last)

    async def whole(self) -> dict[str, Any]:
        """The plain answer."""
        merged: list[dict[str, Any]] = [{} for _ in self.texts]
        async with aclosing(self._choices()) as batches:
            async for choices in batches:
                for choice in choices:
                    _merge(merged[choice["index"]], choice)
        for choice, text in zip(merged, self.texts, strict=True):
            if self.body.return_token_ids:
                choice["token_ids"] = [event.token for event in text.events]
                choice["prompt_token_ids"] = text.job.prompt
            if self.body.prompt_logprobs is not None:
                choice["prompt_logprobs"] = self._prompt_logprobs(text)
            if self.body.routing != "off":
                choice["moe"] = routing_of(self.body.routing, text.events)
        return {**self.head, "choices": merged, "usage": self.usage.to_dict()}

    def _prompt_logprobs(self, text: Continuation) -> list[dict[str, Any] | None]:
        """Of the prompt of a choice; the first choice of each prompt has its scores."""
        first = self.texts[text.index - text.index % (self.body.n or 1)]
        scores, most = first.events[0].prompt or PromptScores(), self.body.prompt_logprobs or 0
        return prompt_logprobs(self.service.model.tokenizer, text.job.prompt, scores, most)

    async def _choices(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Choices with what each token added, those of one step together."""
        async with aclosing(counted_events(self.service, self.call, self.usage)) as batches:
            async for events in batches:
                choices = [self._choice(index, event) for index, event in events]
                yield [choice for choice in choices if choice is not None]

    def _choice(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """One token's entry of `choices`, or None when it adds nothing to show."""
        text = self.texts[index]
        check_grammar(text.job)
        choice = text.take(event)
        if text.limit == 0:  # only the prompt was asked for: the token drawn to score it is not part of it
            self.usage.completion -= 1
        if not self.body.stream:
            return choice
        moe = routing_of(self.body.routing, [event])
        if moe is not None:
            choice = choice or {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            choice["moe"] = moe
        if choice is not None and self.body.return_token_ids:
            choice["token_ids"] = [event.token]
        return choice


def _merge(into: dict[str, Any], choice: dict[str, Any]) -> None:
    """Append a choice's next entry to the whole choice."""
    if not into:
        into.update(choice)
        return
    into["text"] += choice["text"]
    into["finish_reason"] = choice["finish_reason"]
    for key, values in (choice["logprobs"] or {}).items():
        into["logprobs"][key] += values
