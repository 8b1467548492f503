"""A model in this process that is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.config.kernels import Kernels
from coterie.evaluate.asking import (
    FORMS,
    PLAIN_STOP,
    PLAIN_TEMPLATE,
    TEXT_TEMPLATE,
    Form,
    ReplyOptions,
    continuation_of,
    plain_text,
    tools_of,
    turns_of,
)
from coterie.evaluate.continuations import Continuations, ContinuationScore, score_continuations
from coterie.evaluate.subject import Environment, no_tools, weighed
from coterie.evidence.canonical import digest_bytes, digest_of
from coterie.identity.model import model_identity
from coterie.identity.profile import exec_profile
from coterie.infer.engine import OFFLINE_CHUNK, Engine
from coterie.infer.model import LanguageModel
from coterie.infer.plays import Play, PlayLimits, play_out
from coterie.infer.request import Reply, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.infer.thinking import ThinkingWish, opens_reasoning
from coterie.reasoning.effort import can_reason
from coterie.results.evaluation import ExecProfile, ModelIdentity, PromptFacts
from coterie.sandbox.tools import Tool
from coterie.text.chat import conversation_ids
from coterie.text.messages import Message
from coterie.text.reply_formats import ReplyFormat, format_of
from coterie.text.template_facts import facts_of
from coterie.text.tokenizer import Tokenizer
from coterie.text.tool_turns import ToolTurns

MAX_BATCH = 32
KEPT_BYTES = 2**28  # of keys and values of prompts that begin alike
# Numbers of a model whose prompts native steps read faster, each by itself: 1.4 times for 60 million and 96
# tokens, but 0.7 times for 400 million and 256.
_READ_IN_STEPS = 1 << 27
_PIECE = 32  # tokens that a native step takes


@dataclass(frozen=True)
class _Prompt:
    """The token ids of an item, how replies are read, and how much of one may be reasoning."""

    ids: list[int]
    form: ReplyFormat | None
    opened: bool | None
    wish: ThinkingWish
    longest: int


class LocalSubject:
    """A `LanguageModel` that is scored.

    `exact`: an item has the same result to the last bit whatever else is asked: each sequence is computed by
    itself, and only native steps, which allow it, are shared. Without it sequences share passes, which is
    faster and changes results by rounding. `name`: in the report.
    Errors: `ConfigError` for a model without a tokenizer.
    """

    def __init__(
        self,
        model: LanguageModel,
        name: str = "",
        exact: bool = True,
        identity: ModelIdentity | None = None,
        profile: ExecProfile | None = None,
        max_batch: int = MAX_BATCH,
    ) -> None:
        name = name or (str(model.checkpoint.path) if model.checkpoint is not None else "model")
        if model.tokenizer is None:
            raise ConfigError(
                f"{name}: has no tokenizer.json, so it cannot be asked; add the one that it was trained with"
            )
        self.model = model
        self.exact = exact
        self.tokenizer: Tokenizer = model.tokenizer
        self._engine = _engine(model, exact, max_batch)
        self._turns: dict[str, ToolTurns] = {}
        self.name = name
        self._identity, self._profile = identity, profile

    @cached_property
    def identity(self) -> ModelIdentity:
        """Which model this is, from its tensors in memory."""
        if self._identity is not None:
            return self._identity
        return model_identity(self.model.model, self.tokenizer, self.model.checkpoint, self.name)

    @cached_property
    def profile(self) -> ExecProfile:
        """What runs it."""
        found = self._profile or exec_profile(self.model.model, self._engine.kernels_used)
        return found.model_copy(update={"exact": self.exact})

    def form(self, options: ReplyOptions) -> Form:
        """See `Subject`."""
        if options.form not in FORMS:
            raise ConfigError(f"form: unknown value '{options.form}'; choose one of {', '.join(FORMS)}")
        if options.form == "auto":
            return "chat" if self.tokenizer.chat_template is not None else "plain"
        if options.form == "chat" and self.tokenizer.chat_template is None:
            raise ConfigError(
                f"{self.name}: has no chat template; leave out form=chat, or give one with template="
            )
        return "text" if options.form == "text" else "plain" if options.form == "plain" else "chat"

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        """See `Subject`."""
        form = self.form(options)
        template = TEXT_TEMPLATE if form == "text" else PLAIN_TEMPLATE
        if form == "chat":
            template = digest_bytes((self.tokenizer.chat_template or "").encode())
        return PromptFacts(
            form=form, template=template, system=options.system, extractor=extractor, effort=options.effort,
            max_tokens=options.max_tokens, temperature=options.temperature,
        )  # fmt: skip

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """See `Subject`."""
        positions = self.model.config.max_positions
        found = {}
        for item in items:
            if weigh:
                context, choices = self._weighed(item, options)
                needed, what = len(context) + max(map(len, choices)) - 1, "a prompt with its choices"
            else:
                needed = len(self._prompt(item, options, tools_of(item)).ids) + options.max_tokens
                what = f"a prompt with max_tokens={options.max_tokens}"
            if needed > positions:
                found[item.id] = f"{what} takes {needed} tokens; the model has {positions} positions"
        return found

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`."""
        plays, prompts = [], []
        for item in items:
            tools = environment(item)
            prompt = self._prompt(item, options, tools_of(item, tools))
            limits = PlayLimits(prompt.longest, options.turns, self.model.config.max_positions)
            turns = self._tool_turns(item, options, tools)
            plays.append(Play(prompt.ids, limits, prompt.form, tools, turns, prompt.opened))
            prompts.append(prompt)

        def params(number: int, play: Play) -> SamplingParams:
            seed = options.seed_of(items[number])
            seed = seed if seed is None else seed + play.num_replies
            return self._params(options, seed, play.room)

        def bounds(number: int, play: Play) -> RequestOptions:
            wish, size = prompts[number].wish, self.model.config.vocab_size
            if not wish:
                return RequestOptions()
            return RequestOptions(filter=wish.bound(self.tokenizer, size, play.ids, play.room, True))

        training = self.model.model.training
        self.model.model.eval()
        try:
            play_out(self._engine, plays, params, bounds)
        finally:
            self._engine.prefixes.drop()
            self.model.model.train(training)
        return [_reply(play) for play in plays]

    def write(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Reply]:
        """Replies to prompts that are given as token ids."""
        training = self.model.model.training
        self.model.model.eval()
        try:
            return self._engine.generate(prompts, params)
        finally:
            self._engine.prefixes.drop()
            self.model.model.train(training)

    def choice_logprobs(self, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        """See `Subject`."""
        asked = [self._weighed(item, options) for item in items]
        scores = self.score([Continuations(context, tuple(choices)) for context, choices in asked])
        return [weighed(item, found) for item, found in zip(items, scores, strict=True)]

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
        """See `Subject`."""
        asked = []
        for context, continuation in pairs:
            before, after = self._split(context, continuation)
            asked.append(Continuations(before, (after,)))
        return [found[0] for found in self.score(asked)]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """See `Subject`."""
        start = self.start_ids()
        asked, owners = [], []
        for number, text in enumerate(texts):
            for context, part in windows(start, self.tokenizer.encode(text), self.model.config.max_positions):
                asked.append(Continuations(context, (part,)))
                owners.append(number)
        sums = [0.0] * len(texts)
        for number, (found,) in zip(owners, self.score(asked), strict=True):
            sums[number] += found.logprob
        return sums

    def score(self, asked: Sequence[Continuations]) -> list[list[ContinuationScore]]:
        """Scores of continuations that are given as token ids (`score_continuations`)."""
        training = self.model.model.training
        self.model.model.eval()
        try:
            return score_continuations(self.model.model, asked, alone=self.exact)
        finally:
            self.model.model.train(training)

    def _prompt(self, item: BenchmarkItem, options: ReplyOptions, tools: list[dict[str, Any]]) -> _Prompt:
        form = self.form(options)
        if form != "chat":
            if tools:
                raise ConfigError(
                    f"{self.name}: has no chat template, so it cannot be shown tools; leave out "
                    "tasks that call them"
                )
            ids = self.model.encode(plain_text(item, options))
            return _Prompt(ids, None, None, ThinkingWish(), options.max_tokens)
        wish, longest = self._wish(options, bool(tools))
        ids = self._rendered(item, options, wish, tools)
        form_of_replies = format_of(self.tokenizer.template_for(bool(tools)))
        opened = opens_reasoning(self.tokenizer, form_of_replies, ids)
        return _Prompt(ids, form_of_replies, opened or None, wish, longest)

    def _rendered(
        self, item: BenchmarkItem, options: ReplyOptions, wish: ThinkingWish, tools: list[dict[str, Any]]
    ) -> list[int]:
        variables = wish.variables(self.tokenizer, bool(tools)) if wish else {}
        messages = [Message.from_dict(turn) for turn in turns_of(item, options)]
        return conversation_ids(
            self.tokenizer, messages, add_generation_prompt=True, tools=tools or None, variables=variables
        )

    def _wish(self, options: ReplyOptions, tools: bool) -> tuple[ThinkingWish, int]:
        """How much a reply may reason, and how long it may be in all."""
        template, facts = self.tokenizer.template_for(tools), facts_of(self.tokenizer, tools)
        if options.effort == "none" or not can_reason(template, facts, format_of(template)):
            return ThinkingWish(options.effort), options.max_tokens
        longest = options.max_tokens + options.reasoning_tokens
        if options.effort is not None:
            return ThinkingWish(options.effort), longest
        return ThinkingWish(budget=options.reasoning_tokens), longest

    def _weighed(self, item: BenchmarkItem, options: ReplyOptions) -> tuple[list[int], list[list[int]]]:
        """The ids before the choices of an item, and those of each choice."""
        if self.form(options) != "chat":
            text = plain_text(item, options)
            split = [self._split(text, continuation_of(text, choice)) for choice in item.choices]
            first = split[0][0]
            if any(before != first for before, _ in split):  # a choice that melts into the text before it
                first = self.model.encode(text)
                split = [(first, self.tokenizer.encode(continuation_of(text, c))) for c in item.choices]
            return first, [after for _, after in split]
        effort = ThinkingWish("none") if self._wish(options, False)[0] else ThinkingWish()
        ids = self._rendered(item, options, effort, [])
        form = format_of(self.tokenizer.template_for(False))
        if opens_reasoning(self.tokenizer, form, ids):
            ids = [*ids, *self.tokenizer.encode(f"{form.thinking[1]}\n\n", allow_special=True)]
        return ids, [self.tokenizer.encode(choice) for choice in item.choices]

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, of the whole text tokenised at once; spaces between go to the continuation."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        before = self.model.encode(kept) if kept else self.start_ids()
        whole = (
            self.model.encode(kept + continuation)
            if kept
            else [*before, *self.tokenizer.encode(continuation)]
        )
        return before, whole[len(before) :]

    def start_ids(self) -> list[int]:
        """The token before a text's first."""
        return list(self.model.start_ids or self.tokenizer.document_start)

    def _params(self, options: ReplyOptions, seed: int | None, room: int) -> SamplingParams:
        params = replace(
            self.model.sampling, temperature=options.temperature, max_tokens=room, seed=seed,
            stop_ids=self.model.stop_ids,
        )  # fmt: skip
        stop = {"plain": (PLAIN_STOP,), "text": ("\n",)}.get(self.form(options), ())
        return replace(params, stop=(*params.stop, *stop))

    def _tool_turns(
        self, item: BenchmarkItem, options: ReplyOptions, tools: Sequence[Tool]
    ) -> ToolTurns | None:
        """What the chat template writes around calls of these tools; found once for equal ones."""
        if not tools:
            return None
        described = tools_of(item, tools)
        key = digest_of(described)
        if key not in self._turns:
            head = [Message.from_dict(turn) for turn in turns_of(item, options)]
            self._turns[key] = ToolTurns(self.tokenizer, head, described)
        return self._turns[key]


def _engine(model: LanguageModel, exact: bool, max_batch: int) -> Engine:
    """Exact replies take native steps wherever there are any, for small models too: only these are shared.

    So their prompts are read in pieces that a native step takes, unless long ones would take longer than by
    the module.
    """

    def made(kernels: Kernels, chunk: int = OFFLINE_CHUNK) -> Engine:
        return Engine(
            model.model,
            model.tokenizer,
            max_batch,
            prefill_chunk=chunk,
            deterministic=exact,
            prefix_bytes=KEPT_BYTES,
            kernels=kernels,
        )

    if exact and model.kernels == "auto":
        size = sum(parameter.numel() for parameter in model.model.parameters())
        short = size <= _READ_IN_STEPS and not model.config.has_states
        with suppress(ConfigError):
            return made("native", _PIECE if short else OFFLINE_CHUNK)
    return made(model.kernels)


def windows(
    start: Sequence[int], ids: Sequence[int], positions: int
) -> Iterator[tuple[list[int], list[int]]]:
    """A long text in parts that fit: (what stands before, what is scored), each token scored once.

    The first part follows the start token. A later one follows the token before it, and the last one as much
    of the text before as fits.
    """
    if not ids:
        return
    whole = [*start[-1:], *ids]
    done = 1
    while done < len(whole):
        end = min(len(whole), done + positions)
        first = done - 1 if end < len(whole) or done == 1 else max(0, end - positions - 1)
        yield whole[first:done], whole[done:end]
        done = end


def _reply(play: Play) -> ItemReply:
    """A finished conversation as the answer to its item."""
    last = next(message for message in reversed(play.messages) if message.role == "assistant")
    calls: list[Mapping[str, Any]] = [
        {"name": call.name, "arguments": dict(call.arguments)}
        for message in play.messages
        for call in message.tool_calls
    ]
    return ItemReply(
        text=last.text,
        reasoning=last.reasoning or "",
        calls=tuple(calls),
        truncated=play.ended in ("tokens", "context", "turns"),
        tokens=sum(len(segment.ids) for segment in play.segments if segment.sampled),
        turns=tuple(message.to_dict() for message in play.messages) if play.num_replies > 1 else (),
        failed=play.why if play.ended in ("tool", "template") else "",
    )
