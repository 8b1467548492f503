"""The records that go into the engine and come out: a request, its events, its whole reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from coterie.config import CoterieError
from coterie.config.speculate import Speculate
from coterie.infer.cache import SequenceCache
from coterie.infer.drafts import Drafts
from coterie.infer.penalties import TokenCounts
from coterie.infer.reply import ReplyText
from coterie.infer.sampling import SamplingParams, score
from coterie.infer.variant import Variant
from coterie.nn.steering import RouterControl

FinishReason = Literal["stop", "length"]
TopLogprobs = tuple[tuple[int, float], ...]
LOWEST = 10_000  # the first priority of work that rests while other work runs
_SCORED_ROWS = 64  # prompt positions whose log-probabilities are worked out at once


class TokenFilter(Protocol):
    """Decides which tokens may come next in one reply: a grammar, or a bound on reasoning."""

    @property
    def failure(self) -> str | None:
        """Why no further token can be allowed; None while the reply can go on."""
        ...

    def allowed(self) -> Tensor | None:
        """bool (V,), or None when every token may come."""
        ...

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        ...


@dataclass(frozen=True, slots=True)
class PromptScores:
    """For each prompt token but the first: its log-probability, the likeliest tokens at its place, its rank.

    The rank is 1 for the most likely token.
    """

    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TokenRouting:
    """The experts at the position that a token was drawn from.

    `layers`: for each MoE layer its number, the chosen experts, best first, and their weights. Masked experts
    are left out.
    """

    layers: tuple[tuple[int, list[int], list[float]], ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one reply.

    `text`: the text that this token made certain; it may be empty, or end before the token's own text.
    `logprob`: the model's own, before any penalty, temperature or filter. `finish_reason` is set on the last
    event only; `failure` is why the reply could not go on. `cached` (prompt tokens that were not read again)
    and `prompt` (if requested) come with the first event. `predicted`: it was the next token of the client's
    prediction.
    """

    request: int
    token: int
    logprob: float
    top: TopLogprobs
    text: str
    finish_reason: FinishReason | None
    cached: int = 0
    prompt: PromptScores | None = None
    routing: TokenRouting | None = None
    failure: Exception | None = None
    predicted: bool = False


@dataclass(slots=True)
class Reply:
    """A whole reply. `ids` and `logprobs` include the token that stopped it, `text` does not."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    cached: int = 0
    prompt: PromptScores | None = None

    def add(self, event: TokenEvent) -> None:
        """Append the next event. Errors: its `failure`."""
        if event.failure is not None:
            raise event.failure
        if not self.ids:
            self.cached, self.prompt = event.cached, event.prompt
        self.ids.append(event.token)
        self.logprobs.append(event.logprob)
        self.top.append(event.top)
        self.text += event.text
        self.finish_reason = event.finish_reason


@dataclass(frozen=True)
class RequestOptions:
    """The options of a request other than sampling.

    `prompt_logprobs`: score the prompt and report this many likely tokens at each place (None: do not).
    `filter`: a grammar for the reply. `control`: which experts its tokens may use. `routing`: report the
    experts used. `priority`: the waiting request with the lowest number starts first; from `LOWEST` on it
    rests while any other runs, and takes no place from them. `salt`: requests with equal salts share prompts
    in the prefix cache. `variant`: which of the engine's models answers. `speculate`: what drafts are made
    from (None: as the engine's). `prediction`: tokens that the client expects as the reply.
    """

    prompt_logprobs: int | None = None
    filter: TokenFilter | None = None
    control: RouterControl = field(default_factory=RouterControl)
    routing: bool = False
    priority: int = 0
    salt: str = ""
    variant: str = ""
    speculate: Speculate | None = None
    prediction: tuple[int, ...] = ()


class Request:
    """A sequence in the engine. `tokens`: prompt and reply; those from `cache.length` on are not yet fed.

    `draft`: tokens that may come next, fed in the same pass; `drafts` makes them (`infer.speculation`).
    """

    __slots__ = (
        "cache",
        "cached",
        "counts",
        "draft",
        "drafts",
        "id",
        "limit",
        "num_prompt",
        "options",
        "params",
        "prompt",
        "stop_ids",
        "text",
        "tokens",
        "variant",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        prompt: list[int],
        params: SamplingParams,
        limit: int,
        stop_ids: frozenset[int],
        text: ReplyText,
        options: RequestOptions,
        variant: Variant,
        drafts: Drafts | None = None,
    ) -> None:
        self.id = id
        self.tokens = prompt
        self.num_prompt = len(prompt)
        self.params = params
        self.limit = limit
        self.stop_ids = stop_ids
        self.text = text
        self.options = options
        self.variant = variant
        self.cached = 0
        self.counts = TokenCounts(len(prompt)) if params.changes_scores else None
        self.draft: list[int] = []
        self.drafts = drafts
        self.prompt = PromptScores() if options.prompt_logprobs is not None else None
        self.cache: SequenceCache

    @property
    def salt(self) -> tuple[Any, ...]:
        """Sequences with equal salts may share keys and values."""
        return self.variant.serial, self.options.salt, self.options.control, self.cache.long

    @property
    def behind(self) -> bool:
        """Whether it rests while others run."""
        return self.options.priority >= LOWEST

    @property
    def scored(self) -> bool:
        """Whether the tokens that are fed next are scored: those of a prompt, where it asked for that."""
        return self.prompt is not None and not self.num_drawn

    @property
    def num_drawn(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - self.num_prompt

    def upcoming(self, count: int) -> list[int]:
        """The next `count` tokens to feed: its own, then those of its draft."""
        own = self.tokens[self.cache.length : self.cache.length + count]
        return own + self.draft[: count - len(own)]

    def follows_draft(self) -> bool:
        """Whether the token just drawn was the next of its draft; another one ends the draft."""
        if self.draft and self.draft[0] == self.tokens[-1]:
            del self.draft[0]
            return True
        self.draft.clear()
        return False

    def settle(self) -> None:
        """Forget the draft, and what the cache keeps of tokens that the reply does not have."""
        self.draft.clear()
        if self.cache.length >= len(self.tokens):
            self.cache.truncate(len(self.tokens) - 1)

    def allowed(self, vocab_size: int) -> Tensor | None:
        """bool (V,): what its filter allows, without stop tokens while the reply is too short; None: all."""
        mask_V = None if self.options.filter is None else self.options.filter.allowed()
        stops = [token for token in self.stop_ids if token < vocab_size]
        if self.num_drawn >= self.params.min_tokens or not stops:
            return mask_V
        mask_V = torch.ones(vocab_size, dtype=torch.bool) if mask_V is None else mask_V.clone()
        mask_V[stops] = False
        return mask_V

    def turn_long(self) -> None:
        """Empty the cache of a sequence that has grown beyond the length at which rotations change.

        Its kept keys have the rotations of short sequences, so all its tokens are read again.
        """
        beyond = self.variant.rope_switch
        if beyond is not None and not self.cache.long and len(self.tokens) > beyond:
            self.cache = SequenceCache(self.cache.config, long=True)

    def score_prompt(self, h_TD: Tensor, start: int) -> None:
        """Score the prompt tokens that follow positions `start ...`, if the request asked for it."""
        if not self.scored or self.prompt is None:  # a reply's tokens, or read again (`Engine._plan`)
            return
        following = self.tokens[start + 1 : min(start + 1 + h_TD.shape[0], self.num_prompt)]
        for first in range(0, len(following), _SCORED_ROWS):
            ids = following[first : first + _SCORED_ROWS]
            logits_TV = self.variant.model.logits(h_TD[first : first + len(ids)])
            logprobs, top, ranks = score(logits_TV, ids, self.options.prompt_logprobs or 0)
            self.prompt.logprobs.extend(logprobs)
            self.prompt.top.extend(top)
            self.prompt.ranks.extend(ranks)


def check_prompt(ids: Sequence[int], vocab_size: int, most: int, why: str = "") -> None:
    """Check token ids: at least one, at most `most`, each from 0 to `vocab_size` - 1.

    `why` is appended to the message about length.
    Errors: `CoterieError`, one line.
    """
    if not ids:
        raise CoterieError("prompt: it is empty; give at least one token")
    if len(ids) > most:
        raise CoterieError(f"prompt: it has {len(ids)} tokens and the model takes {most}; shorten it{why}")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise CoterieError(
            f"prompt: token id {wrong} is outside the model's vocabulary of {vocab_size}; "
            "use the model's own tokenizer"
        )


def id_list(ids: Sequence[int] | Tensor) -> list[int]:
    """Token ids as a list. Errors: `CoterieError`, one line, for anything else."""
    if isinstance(ids, Tensor):
        if ids.dim() != 1 or ids.is_floating_point():
            shape = tuple(ids.shape)
            raise CoterieError(
                f"prompt: token ids must be one row of whole numbers, got {ids.dtype} of shape {shape}"
            )
        return [int(i) for i in ids.tolist()]
    if isinstance(ids, str) or not all(hasattr(i, "__index__") for i in ids):
        raise CoterieError(
            "prompt: give token ids (whole numbers); model.encode(text) makes them from a text"
        )
    return [int(i) for i in ids]


def in_front(requests: Sequence[Request]) -> list[Request]:
    """Those that do not stand behind all others."""
    return [request for request in requests if not request.behind]
